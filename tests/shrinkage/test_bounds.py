"""bsnn.shrinkage.bounds and its networks: bounds against exact maps, properties on random functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.shrinkage.bounds import (
    Convex,
    ResidualMap,
    cropped,
    excess_bound,
    excess_convexity,
    jacobian_bound,
    nonlinearity,
    residual_nonlinearity,
    shrinkage_bound,
    upper_bound,
)
from bsnn.shrinkage.correlation import CorrelationMap, critical
from bsnn.shrinkage.networks import (
    NormalisedLayer,
    NormalisedResidualBlock,
    distance,
    farthest_pair,
    jacobians,
    linearised,
    normalised,
    pairs,
    states,
)
from bsnn.shrinkage.skimming import (
    accuracy,
    alternating_network,
    displacement_correlation,
    infinite_distances,
    skim,
    train,
)


def power_series(seed: int) -> tuple[Convex, float]:
    """A random power series with coefficients >= 0, g(0) = 0, g(1) = 1, and g'(1)."""
    weights = np.random.default_rng(seed).dirichlet(np.full(12, 0.3))
    degrees = np.arange(1, 13)
    return lambda t: float(weights @ np.power(t, degrees)), float(weights @ degrees)


# ---- excess convexity -----------------------------------------------------------------------------------------------


def test_excess_convexity_of_known_functions() -> None:
    """The identity has none. Of t^2: t = (1 - t)^2 gives t = (3 - sqrt 5) / 2, e = 1/t - 2. Property 1's pieces: C."""
    assert excess_convexity(lambda t: t) == pytest.approx(0, abs=1e-8)
    assert excess_convexity(lambda t: t * t) == pytest.approx(2 / (3 - math.sqrt(5)) - 2, rel=1e-12)
    for C in (0.1, 3.0, 50.0):
        pieces = excess_convexity(lambda t, C=C: max(t / (1 + C), (1 + C) * t - C))
        assert pieces == pytest.approx(C, rel=1e-9)


def test_properties_4_5_and_7_on_random_power_series() -> None:
    """Steepness, superadditivity under composition, cropping (its general form, property 6)."""
    for seed in range(40):
        (g, slope), (h, _) = power_series(seed), power_series(seed + 1000)
        e_g, e_h = excess_convexity(g), excess_convexity(h)
        assert slope >= 1 + e_g - 1e-9
        assert excess_convexity(lambda t, g=g, h=h: h(g(t))) >= e_g + e_h - 1e-9
        a, weights = 0.3, np.random.default_rng(seed).dirichlet(np.full(12, 0.3))
        e = excess_convexity(lambda t, g=g, a=a: (g(a + (1 - a) * t) - g(a)) / (1 - g(a)))
        assert e * (2 + e) / (1 + e) >= (1 - a) ** 2 / (1 - g(a)) * weights[1:].sum() - 1e-9


def test_property_8_has_a_denominator() -> None:
    """e(p id + q g) >= q e(g) / (1 + p e(g)) holds, q e(g) alone does not: which Theorem 2's proof takes it for."""
    steep: Convex = lambda t: max(0.0, 50 * t - 49)  # noqa: E731
    e = excess_convexity(steep)
    for p in (0.2, 0.5, 0.9):
        mixed = excess_convexity(lambda t, p=p: p * t + (1 - p) * steep(t))
        assert mixed >= (1 - p) * e / (1 + p * e) - 1e-9
        assert mixed < (1 - p) * e


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_constants_in_closed_form() -> None:
    r"""|LReLU_a - lin|^2 = (1 - a)^2 (pi - 2) / (4 pi), |LReLU_a'|^2 = (1 + a^2) / 2; erf: appendix B."""
    for a in (0.0, 0.3, 0.9):
        expected = (1 - a) ** 2 * (math.pi - 2) / (2 * math.pi * (1 + a**2))
        assert nonlinearity(nn.LeakyReLU(a)) == pytest.approx(expected, rel=1e-11)
    printed = math.atan(2 / math.sqrt(5)) - 2 / 3
    assert nonlinearity(torch.erf) == pytest.approx(math.sqrt(5) / 2 * printed, rel=1e-11)
    # inequalities 4.1 (a = 0), 4.2 and 4.3
    assert shrinkage_bound(100 * nonlinearity(torch.relu)) == pytest.approx(
        4 * math.sqrt(math.pi / (math.pi - 2)) / 10, rel=1e-11
    )
    assert shrinkage_bound(100 * nonlinearity(torch.erf)) == pytest.approx(
        4 / math.sqrt(printed * math.sqrt(5)) / 10, rel=1e-11
    )
    norm = math.sqrt(jacobian_bound(100 * nonlinearity(torch.erf), 1 - 0.25))
    assert norm == pytest.approx(math.sqrt(printed * math.sqrt(5)) / 4 * 0.75 * 10, rel=1e-11)


def test_linear_layers_say_nothing() -> None:
    assert nonlinearity(nn.Identity()) == 0
    assert nonlinearity(lambda x: 3 - 2 * x) == 0
    assert shrinkage_bound(0.0) == math.inf
    assert jacobian_bound(0.0, 2.0) == 0


def test_theorem_1_for_mixed_layers() -> None:
    """P_L .. P_1 of random layers, each with its own function and biases: its slope against the bound, the map itself
    against remark 2's piecewise bound, its excess convexity against (A.5), (A.6)."""
    choices = [torch.erf, torch.relu, torch.tanh, GPN(nn.ELU()), nn.LeakyReLU(0.4)]
    rng = np.random.default_rng(0)
    starts = torch.tensor([2.0, 1.5, 1.0, 0.6, 0.3, 0.05], dtype=torch.float64)
    for _ in range(3):
        layers = [CorrelationMap(choices[rng.integers(5)], 1.0, float(rng.choice([0.0, 0.2, 0.5]))) for _ in range(6)]
        total = sum(nonlinearity(layer.phi) for layer in layers)
        distances = [starts]
        for layer in layers:
            distances.append(layer.distance(distances[-1]))
        farthest = min(float(one.max()) for one in distances[1:])
        gain = math.prod(layer.slope for layer in layers)
        # the chain rule: at rho = 1 the slopes multiply
        assert gain >= jacobian_bound(total, farthest)
        floors = [1 - float(one[2]) for one in distances[1:]]
        excess = excess_bound(total, max(floors))
        bound = upper_bound(1 - starts[2:], floors[-1], excess)
        assert bool((1 - distances[-1][2:] <= bound + 1e-12).all())

        def composed(rho: torch.Tensor, layers: list[CorrelationMap] = layers) -> torch.Tensor:
            for layer in layers:
                rho = layer(rho)
            return rho

        assert excess_convexity(cropped(composed)) >= excess


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_theorem_2(sigma: float) -> None:
    for phi in (torch.erf, torch.relu):
        layer, term = ResidualMap(phi, sigma), residual_nonlinearity(phi, sigma)
        for depth in (1, 10, 100):
            distances = layer.iterate_distance(torch.tensor([2.0, 1.0]), depth)
            farthest = float(distances[1:].amax(1).min())
            assert layer.slope**depth >= jacobian_bound(depth * term, farthest)
            one = excess_convexity(cropped(layer))
            assert one >= term / 2 * float(1 - layer(0.0)) - 1e-12


# ---- networks -------------------------------------------------------------------------------------------------------


def test_layers_normalise_and_pairs_are_exact() -> None:
    stream = torch.Generator().manual_seed(0)
    x, y = pairs([-1.0, 0.0, 0.4], 50, stream, torch.float64)
    torch.testing.assert_close(1 - distance(x, y), torch.tensor([-1.0, 0.0, 0.4], dtype=torch.float64))
    layers = [
        NormalisedLayer(50, 30, torch.erf, 1.3, 0.4, stream, torch.float64),
        NormalisedResidualBlock(30, 20, torch.relu, 0.7, stream, torch.float64),
    ]
    *_, z = states(layers, x)
    torch.testing.assert_close(z.square().mean(1), torch.ones(3, dtype=torch.float64))


def test_equations_written_out() -> None:
    """Both layers against their equations, index by index."""
    stream = torch.Generator().manual_seed(1)
    z = normalised(torch.randn(6, generator=stream, dtype=torch.float64))
    layer = NormalisedLayer(6, 4, torch.tanh, 1.5, 0.3, stream, torch.float64).requires_grad_(False)
    assert layer.bias is not None
    y = [sum(layer.weight[i, j] * math.tanh(z[j]) for j in range(6)) / math.sqrt(6) + layer.bias[i] for i in range(4)]
    length = math.sqrt(sum(float(one) ** 2 for one in y))
    expected = torch.tensor([2 * float(one) / length for one in y], dtype=torch.float64)
    torch.testing.assert_close(layer(z), expected)
    block = NormalisedResidualBlock(6, 5, torch.tanh, 0.8, stream, torch.float64)
    inner = block.inner @ z
    outer = z + block.outer @ torch.tanh(math.sqrt(5) * inner / inner.norm()) / math.sqrt(5)
    torch.testing.assert_close(block(z), math.sqrt(6) * outer / outer.norm())


def test_variances_of_the_weights() -> None:
    """Of n = 10^5 draws the variance is known to sqrt(2 / n) of itself; 4 standard errors."""
    stream = torch.Generator().manual_seed(2)
    layer = NormalisedLayer(1000, 100, torch.relu, 1.7, 0.0, stream).requires_grad_(False)
    assert float(layer.weight.var()) == pytest.approx(1.7**2, rel=4 * math.sqrt(2 / 1e5))
    assert layer.bias is None
    block = NormalisedResidualBlock(1000, 100, torch.relu, 0.3, stream).requires_grad_(False)
    assert float(block.outer.var()) == pytest.approx(0.09, rel=4 * math.sqrt(2 / 1e5))
    assert float(block.inner.var()) == pytest.approx(1, rel=4 * math.sqrt(2 / 1e5))


def test_jacobians_are_those_of_autograd() -> None:
    stream = torch.Generator().manual_seed(3)
    layers = [
        NormalisedLayer(n, m, phi, 1.2, 0.3, stream, torch.float64)
        for n, m, phi in ((7, 5, nn.Identity()), (5, 6, torch.relu), (6, 4, torch.erf))
    ]
    z = normalised(torch.randn(7, generator=stream, dtype=torch.float64))
    for depth, found in enumerate(jacobians(layers, z), start=1):
        expected = torch.autograd.functional.jacobian(nn.Sequential(*layers[:depth]), z)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_linearised_agrees_to_second_order() -> None:
    """Value and slope at the centre; what is left a distance t away is of order t^2."""
    stream = torch.Generator().manual_seed(4)
    block = [NormalisedLayer(8, 8, torch.erf, 1.3, 0.4, stream, torch.float64) for _ in range(3)]
    centre, direction = torch.randn(2, 8, generator=stream, dtype=torch.float64)
    flat = linearised(block, centre)
    errors = [
        float((flat(centre + t * direction) - nn.Sequential(*block)(centre + t * direction)).detach().norm())
        for t in (0.0, 1e-3, 1e-2)
    ]
    assert errors[0] < 1e-13
    assert errors[2] / errors[1] == pytest.approx(100, rel=0.1)


def test_the_search_finds_a_farther_pair_and_no_impossible_one() -> None:
    """From random inputs it finds what is at least as far; in one linear layer opposite inputs, 1 - rho = 2."""
    stream = torch.Generator().manual_seed(5)
    net = nn.Sequential(*(NormalisedLayer(20, 20, torch.erf, 1.3, 0.4, stream) for _ in range(4)))
    x, y = pairs([0.0, 0.0, 0.5], 20, stream, torch.float32)
    start = distance(net(x), net(y)).detach()
    found = farthest_pair(net, x, y, 30, 0.05)
    assert bool((found > start).all())
    assert bool((found <= 2).all())
    linear = NormalisedLayer(20, 20, nn.Identity(), generator=stream)
    assert float(farthest_pair(linear, x, y, 200, 0.1).max()) == pytest.approx(2, abs=0.05)


def test_residual_networks_follow_their_map() -> None:
    """Width 1000: the mean of n products has the standard error 1.5 / sqrt(n) at most; 4, for U and V together."""
    stream = torch.Generator().manual_seed(6)
    rho, width = [-0.5, 0.0, 0.8], 1000
    for phi, sigma in ((torch.relu, 1.0), (torch.erf, 2.0)):
        x, y = pairs(rho, width, stream, torch.float32)
        block = NormalisedResidualBlock(width, width, phi, sigma, stream).requires_grad_(False)
        expected = ResidualMap(phi, sigma)(torch.tensor(rho, dtype=torch.float64))
        measured = 1 - distance(block(x), block(y))
        assert float((measured - expected).abs().max()) <= 4 * 1.5 * math.sqrt(2 / width)


# ---- skimming -------------------------------------------------------------------------------------------------------


def test_skimming_replaces_the_block_and_keeps_the_rest() -> None:
    stream = torch.Generator().manual_seed(7)
    full = alternating_network(12, 3, 16, 10, stream)
    assert [getattr(layer.phi, "__name__", "identity") for layer in full][:4] == ["identity", "relu", "erf", "relu"]
    x = normalised(torch.randn(40, 12, generator=stream))
    skimmed = skim(full, slice(4, 7), x)
    assert (len(full), len(skimmed)) == (10, 8)
    for layer, twin in ((0, 0), (3, 3), (7, 5), (9, 7)):
        assert torch.equal(full[layer].weight, skimmed[twin].weight)
        assert full[layer].weight.data_ptr() != skimmed[twin].weight.data_ptr()
    centre = normalised(full[:4](x).mean(0))
    torch.testing.assert_close(skimmed[4](centre), full[4:7](centre), rtol=1e-4, atol=1e-5)


def test_alternating_layers_are_critical_and_so_is_their_map() -> None:
    """infinite_distances by the correlation maps, in the network's order."""
    maps = {phi: CorrelationMap(phi, *critical(phi)) for phi in (torch.relu, torch.erf)}
    d = 2.0
    expected = [d, d]
    for phi in (torch.relu, torch.erf, torch.relu):
        d = float(maps[phi].distance(d))
        expected.append(d)
    assert infinite_distances(5) == pytest.approx(expected, rel=1e-14)
    full = alternating_network(12, 3, 400, 6, torch.Generator().manual_seed(8)).requires_grad_(False)
    z = normalised(torch.randn(5, 12, generator=torch.Generator().manual_seed(9)))
    for layer in full[:-1]:
        # pre-activations of variance 1, before they are normalised: 400 squares, each of standard deviation sqrt 2
        assert float(layer.affine(layer.phi(z)).square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 400))
        z = layer(z)


def test_training_learns_and_displacements_correlate_with_themselves() -> None:
    stream = torch.Generator().manual_seed(10)
    x = torch.randn(200, 6, generator=stream)
    label = (x[:, 0] > 0).long()
    network = alternating_network(6, 2, 32, 5, stream)
    before = [parameter.clone() for parameter in network[1].parameters()]
    start = accuracy(network, x, label)
    losses = list(train(network, [(x, label)] * 60, 0.1, 0.9))
    assert losses[-1] < losses[0] / 2
    assert accuracy(network, x, label) > max(start, 0.9)
    after = list(network[1].parameters())
    assert displacement_correlation(before, after, after) == pytest.approx(1)
    back = [2 * start - moved for moved, start in zip(after, before, strict=True)]
    assert displacement_correlation(before, after, back) == pytest.approx(-1)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_gpn_functions_shrink_by_their_nonlinearity(name: str) -> None:
    """With E phi^2 = E phi'^2 = 1 the term is 1 - (E phi)^2 - (E z phi)^2: Theorem 1 in GPN's own moments."""
    phi = GPN(PAPER_ACTIVATIONS[name]())
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    with torch.no_grad():
        mean, line = float((weight * phi(z)).sum()), float((weight * z * phi(z)).sum())
    assert nonlinearity(phi) == pytest.approx(1 - mean**2 - line**2, abs=1e-7)
