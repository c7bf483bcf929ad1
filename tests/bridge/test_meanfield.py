"""bsnn.bridge.meanfield: closed forms, Monte Carlo, Hermite series, and what layers do in the end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.bridge.meanfield import LayerMap, asymptote, curvature, passage, slope_jump
from bsnn.gpn import GPN
from bsnn.shrinkage.correlation import CorrelationMap
from bsnn.theory.hermite import hermite_coefficients

KINKS = [0.0]
GAPS = torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)


def test_relu_is_known() -> None:
    """E ReLU(sqrt(q) z)^2 = q / 2; correlations don't depend on the length, nor on the factor that makes it GPN."""
    plain, normalised = (passage(phi, GAPS, 12, length=3.0) for phi in (nn.ReLU(), GPN(nn.ReLU())))
    assert plain.length.tolist() == pytest.approx([3 * 0.5**layer for layer in range(13)], rel=1e-12)
    assert normalised.length.tolist() == pytest.approx([3.0] * 13, rel=1e-12)
    expected = CorrelationMap(nn.ReLU()).iterate_distance(GAPS, 12)
    for found in (plain, normalised):
        assert torch.allclose(found.gap, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("name", "length"), [("tanh", 2.5), ("selu", 0.3), ("gelu", 4.0)])
def test_a_layer_is_what_samples_say(name: str, length: float) -> None:
    """Length, correlation and slope of one layer, within 4 standard errors of a million pairs; slope = P'(1) is
    E phi'^2 q / E phi^2."""
    phi, rho, n = PAPER_ACTIVATIONS[name](), 0.4, 1_000_000
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, n, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * z
    a, b = (phi(math.sqrt(length) * side) for side in (x, y))
    layer = passage(phi, torch.tensor([1 - rho]), 1, length, KINKS)

    def agree(samples: Tensor, expected: float) -> None:
        assert abs(float(samples.mean()) - expected) < 4 * float(samples.std()) / math.sqrt(n)

    following = float(layer.length[1])
    agree(a.square(), following)
    agree((a - b).square() / 2, float(layer.gap[1, 0]) * following)
    h = (math.sqrt(length) * x).requires_grad_()
    (slope,) = torch.autograd.grad(phi(h).sum(), h)
    agree(slope.square() * length, float(layer.slope[0]) * following)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_gpn_functions_are_critical_in_every_layer(name: str) -> None:
    """And nonlinear in every layer: e_l from the Hermite series, to what its tail leaves (a_k^2 ~ k^-2.5 for a kink:
    below 2 / 3 sum 400^-1.5 = 1e-4)."""
    phi = GPN(PAPER_ACTIVATIONS[name]())
    found = passage(phi, torch.ones(1), 30, kinks=KINKS)
    assert (found.jacobian - 1).abs().max() < 1e-10
    assert (found.length - 1).abs().max() < 1e-10
    series = float(hermite_coefficients(phi, 400)[2:].square().sum())
    assert (found.total_error / 30)[-1].item() == pytest.approx(series, abs=1e-4)
    assert (found.error == found.error[0]).all()


def test_the_slope_is_the_derivative() -> None:
    """(1 - P(1 - g)) / g -> P'(1), with an error of P''(1) / 2 g."""
    layer = LayerMap.of(torch.tanh, 2.0)
    gap = torch.tensor([1e-6], dtype=torch.float64)
    assert float(layer.gap(gap) / gap) == pytest.approx(layer.slope, rel=1e-5)


def test_plain_gelu_goes_linear() -> None:
    """phi(x) ~ x / 2 at 0: lengths fall by 4 a layer, terms vanish, correlations stay."""
    found = passage(PAPER_ACTIVATIONS["gelu"](), GAPS, 40)
    assert float(found.length[-1] / found.length[-2]) == pytest.approx(0.25, rel=1e-8)
    assert found.error[-1] < 1e-12
    assert torch.allclose(found.gap[-1], found.gap[-5], rtol=1e-6)
    assert found.gap[-1].min() > 0.1


def test_a_line_changes_nothing() -> None:
    found = passage(nn.Identity(), GAPS, 5)
    assert torch.allclose(found.gap, GAPS.expand(6, -1), rtol=1e-12)
    assert found.total_error[-1] < 1e-12
    assert asymptote(nn.Identity()) == (math.inf, 0)


def test_kinks_and_curvatures() -> None:
    selu = nn.SELU()
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    assert slope_jump(selu) == pytest.approx(scale * (1 - alpha), abs=1e-6)
    assert slope_jump(nn.ELU()) == slope_jump(nn.Tanh()) == 0
    assert curvature(GPN(selu)) == math.inf
    for phi in (GPN(nn.Tanh()), GPN(nn.ELU())):  # P''(1) / 2 = sum k (k - 1) a_k^2 / 2
        a = hermite_coefficients(phi, 2000)
        k = torch.arange(2001, dtype=torch.float64)
        series = float((k * (k - 1) * a.square()).sum() / 2)
        # ELU's phi'' jumps: a_k^2 ~ k^-3.5 leaves a tail of the order of 2000^-0.5 / 10
        assert curvature(phi) == pytest.approx(series, rel=1e-8 if isinstance(phi.phi, nn.Tanh) else 0.02)
        assert curvature(phi) >= series * (1 - 1e-9)


def test_asymptotes_are_reached() -> None:
    """ReLU: A = 9 pi^2 / 2. At layer l what is left of the transient is of the order of 1 / sqrt(l) or log(l) / l."""
    constant, power = asymptote(GPN(nn.ReLU()))
    assert power == 2
    assert constant == pytest.approx(4.5 * math.pi**2, rel=1e-6)
    gap = CorrelationMap(GPN(nn.ReLU())).iterate_distance(1.0, 4000)[-1]
    assert float(gap) * 4000**2 == pytest.approx(constant, rel=0.02)
    smooth = GPN(torch.erf)
    constant, power = asymptote(smooth)
    assert power == 1
    gap = CorrelationMap(smooth).iterate_distance(1.0, 4000)[-1]
    assert float(gap) * 4000 == pytest.approx(constant, rel=0.02)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a GPN function"):
        asymptote(nn.Tanh())
    with pytest.raises(ValueError, match="isn't constant"):
        passage(lambda x: 0 * x, GAPS, 2)
    with pytest.raises(ValueError, match="1 - rho"):
        passage(torch.tanh, torch.tensor([2.5]), 2)
