"""bsnn.propagation against a network written out for autograd, and against what can be derived with pen and paper."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.gpn import GPN
from bsnn.propagation import (
    Draw,
    SlopeHistogram,
    batch_gradient_norm,
    draw,
    propagate,
    ratio,
    slope_histogram,
)

DEPTH = 200


@pytest.fixture(scope="module")
def deep() -> Draw:
    """The paper's depth and width for 4 samples; orthogonal to float32 rounding, computed on in float64."""
    return draw(DEPTH, 500, 4, seed=0, dtype=torch.float32).to(torch.float64)


@pytest.mark.parametrize("gpn", [False, True])
@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_norms_are_those_of_autograd(name: str, gpn: bool) -> None:
    depth, width, samples = 6, 5, 3
    phi = GPN(PAPER_ACTIVATIONS[name]()) if gpn else PAPER_ACTIVATIONS[name]()
    drawn = draw(depth, width, samples, seed=3)
    weights = [W.clone().requires_grad_() for W in drawn.weights]

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        signals = [x]
        for W in weights:
            signals.append(phi(W @ signals[-1]))
        return signals

    signals = [forward(x) for x in drawn.input]
    energies = [s[-1] @ error for s, error in zip(signals, drawn.error, strict=True)]
    gradients_SL = [torch.autograd.grad(E, weights, retain_graph=True) for E in energies]
    of_the_mean = torch.autograd.grad(sum(energies) / samples, weights)
    norms_LS = torch.stack([torch.stack([g[layer].norm() for g in gradients_SL]) for layer in range(depth)])
    signal_LS = torch.stack([torch.stack([s[layer].detach().norm() for s in signals]) for layer in range(depth)])

    profile = propagate(phi, drawn)
    exactly = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(profile.gradient_mean, norms_LS.mean(1), **exactly)
    torch.testing.assert_close(profile.gradient_std, norms_LS.std(1), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(profile.signal_mean, signal_LS.mean(1) / math.sqrt(width), **exactly)
    torch.testing.assert_close(profile.signal_std, signal_LS.std(1) / math.sqrt(width), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(profile.batch_gradient, torch.stack([g.norm() for g in of_the_mean]), **exactly)


@pytest.mark.parametrize(("samples", "width"), [(4, 8), (4, 9), (1, 50), (30, 3)])
def test_batch_gradient_is_the_same_either_way(samples: int, width: int) -> None:
    x, y = torch.randn(2, samples, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explicit = torch.einsum("bi,bj->ij", y, x).norm() / samples
    torch.testing.assert_close(batch_gradient_norm(x, y), explicit, rtol=1e-12, atol=0.0)


def test_a_linear_network_keeps_norms_exactly() -> None:
    """phi(x) = x: Definition 2 holds as it stands, so gradient norms are equal (Proposition 1), at any width."""
    profile = propagate(torch.nn.Identity(), draw(DEPTH, 32, 7, seed=1))
    for norms in (profile.signal_mean, profile.gradient_mean):
        torch.testing.assert_close(norms, norms[:1].expand(DEPTH), rtol=1e-11, atol=0.0)
    assert ratio(profile.gradient_mean) == pytest.approx(1, abs=1e-11)


@pytest.mark.xdist_group("deep")
def test_plain_relu_halves_the_square_norm_in_every_layer(deep: Draw) -> None:
    """Wx has random signs, so ||x'||^2 / ||x||^2 has mean 1/2 and variance sum h_i^4 / 4 = 3 / (4 (d + 2)).

    So log(||x||^2 2^l) walks: over L layers by -L v / 2 with standard deviation sqrt(L v), v = 3 / (d + 2).
    """
    signal = propagate(torch.relu, deep).signal_mean
    v = 3 / (deep.input.shape[1] + 2)
    walk = 2 * signal.log() + math.log(2) * torch.arange(DEPTH)
    assert bool((walk.abs() < DEPTH * v / 2 + 4 * math.sqrt(DEPTH * v)).all())
    assert 1e-32 < signal[-1] < 1e-28


@pytest.mark.xdist_group("deep")
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_gpn_keeps_the_norm_at_depth_200(deep: Draw, name: str) -> None:
    """q = ||x||^2 / d is drawn back to 1: q' - 1 = chi (q - 1) + noise, with chi = E z phi phi'
    and noise of variance Var phi^2 / d.

    In the stationary state q's variance is that of the noise / (1 - chi^2); 5 standard deviations in all layers, and
    the input's own 5 sqrt(2 / d) at the start.
    """
    phi = GPN(PAPER_ACTIVATIONS[name]())
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    z, weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    value, slope = value_and_slope(phi, z)
    chi = float((weights * z * value * slope).sum())
    variance = float((weights * value**4).sum()) - float((weights * value**2).sum()) ** 2
    assert chi < 1
    width = deep.input.shape[1]
    deviation = max(math.sqrt(variance / width / (1 - chi**2)), math.sqrt(2 / width))
    profile = propagate(phi, deep)
    assert bool(((profile.signal_mean**2 - 1).abs() < 5 * deviation).all())
    assert ratio(profile.gradient_mean) < 10


@pytest.mark.xdist_group("deep")
def test_plain_tanh_shrinks_the_signal_like_one_over_sqrt_2l(deep: Draw) -> None:
    """q' = E tanh(sqrt(q) z)^2 = q - 2 q^2 + O(q^3), hence q = 1 / (2 l) for large l: 0.05 at l = 200 (Fig. 1)."""
    assert float(propagate(torch.tanh, deep).signal_mean[-1]) == pytest.approx(1 / math.sqrt(2 * DEPTH), rel=0.03)


def test_float32_gives_the_ratio_of_float64() -> None:
    """Fig. 3 is computed in float32. What differs most: a slope that flips where h rounds through a kink.

    One flip changes ||y||^2 of one sample by about 1 / width, so the mean norm by 1 / (2 width samples) = 4e-4; few
    flips are expected among 200 x 64 x 20 units whose rounding error is about 1e-6.
    """
    drawn = draw(DEPTH, 64, 20, seed=2)
    for name, make in PAPER_ACTIVATIONS.items():
        phi = GPN(make())
        exact, rounded = (propagate(phi, drawn.to(dtype)) for dtype in (torch.float64, torch.float32))
        assert ratio(rounded.gradient_mean) == pytest.approx(ratio(exact.gradient_mean), rel=5e-3), name


def test_a_draw_is_named_by_seed_index_width_and_layer() -> None:
    drawn = draw(4, 6, 3, seed=0)
    again, deeper = draw(4, 6, 3, seed=0, workers=3), draw(5, 6, 3, seed=0)
    for one, other in pairwise((drawn, again, Draw(deeper.input, deeper.error, deeper.weights[:4]))):
        assert torch.equal(one.input, other.input)
        assert torch.equal(one.error, other.error)
        assert torch.equal(one.weights, other.weights)
    for other in (draw(4, 6, 3, seed=1), draw(4, 6, 3, seed=0, index=1)):
        assert not torch.allclose(drawn.input, other.input)
        assert not torch.allclose(drawn.weights, other.weights)
    flat = torch.cat([drawn.weights[0].flatten(), drawn.weights[1].flatten()])
    assert len(flat.unique()) == len(flat), "layers must differ"


def test_a_histogram_counts_everything() -> None:
    histogram = SlopeHistogram(left=0.0, bin_width=0.5, bins=2)
    histogram.add(torch.tensor([-math.inf, -0.1, 0.0, 0.49, 0.5, 0.99, 1.0, math.inf]))
    assert (histogram.below, histogram.counts, histogram.above) == (2, [2, 2], 2)
    with pytest.raises(ValueError, match="nan"):
        histogram.add(torch.tensor([math.nan]))


def test_slopes_of_relu_are_0_and_1() -> None:
    drawn = draw(10, 8, 6, seed=0)
    histogram = slope_histogram(torch.relu, drawn, left=-0.25, bin_width=0.5, bins=3)
    assert histogram.counts[1] == histogram.below == histogram.above == 0
    assert sum(histogram.counts) == 10 * 8 * 6


def test_value_and_slope_of_a_closed_form() -> None:
    h = torch.linspace(-3, 3, 13, dtype=torch.float64)
    with torch.no_grad():
        value, slope = value_and_slope(torch.tanh, h)
    torch.testing.assert_close(slope, 1 - h.tanh() ** 2)
    torch.testing.assert_close(value, h.tanh())
    assert not slope.requires_grad
    assert torch.equal(value_and_slope(torch.nn.ReLU(inplace=True), h)[1], (h > 0).double())


def test_ratio_tells_zero_from_nothing() -> None:
    assert ratio(torch.tensor([2.0, 8.0])) == 4
    assert ratio(torch.tensor([0.0, 1.0])) == math.inf
    assert math.isnan(ratio(torch.tensor([0.0, 0.0])))
