"""bsnn.shrinkage.correlation against wide networks, exact iteration and the series of equation 2.4."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.shrinkage.correlation import CorrelationMap, critical, series_map
from bsnn.shrinkage.networks import NormalisedLayer, distance, pairs
from bsnn.theory.hermite import hermite_coefficients

RHO = torch.linspace(-1, 1, 9, dtype=torch.float64)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_gpn_functions_are_critical_without_biases(name: str) -> None:
    layer = CorrelationMap(GPN(PAPER_ACTIVATIONS[name]()))
    assert layer.slope == pytest.approx(1, abs=1e-12)
    assert layer.phase == "critical"
    assert layer.fixed_point() == 1.0
    assert float(layer(1.0)) == 1.0
    sigma_w, sigma_b = critical(GPN(PAPER_ACTIVATIONS[name]()))
    assert (sigma_w, sigma_b) == (pytest.approx(1, abs=1e-12), 0.0)


@pytest.mark.parametrize("phi", [torch.erf, torch.relu, torch.tanh, nn.ELU(), nn.LeakyReLU(0.2)])
def test_critical_initialisation_has_slope_one_and_unit_variance(phi: nn.Module) -> None:
    sigma_w, sigma_b = critical(phi)
    layer = CorrelationMap(phi, sigma_w, sigma_b)
    assert layer.slope == pytest.approx(1, abs=1e-12)
    assert sigma_b**2 + sigma_w**2 * layer.covariance.second == pytest.approx(1, abs=1e-12)


def test_critical_erf_is_the_printed_one() -> None:
    sigma_w, sigma_b = critical(torch.erf)
    printed = 2 / math.pi * (2 / math.sqrt(5) - math.atan(2 / math.sqrt(5)))
    assert (sigma_b / sigma_w) ** 2 == pytest.approx(printed, abs=1e-12)


def test_the_map_is_convex_and_increasing_on_the_unit_interval() -> None:
    """Observation 1, and P' against central differences: their error is h^2 / 6 P''' < 1e-6 where P''' < 6."""
    rho, h = torch.linspace(0, 0.9, 10, dtype=torch.float64), 1e-3
    for layer in (CorrelationMap(torch.erf, 1.0, 0.3), CorrelationMap(nn.ReLU()), CorrelationMap(torch.tanh, 1.5, 0.1)):
        slopes = layer.derivative(rho)
        assert bool((slopes >= 0).all())
        assert bool((slopes.diff() > 0).all())
        torch.testing.assert_close((layer(rho + h) - layer(rho - h)) / (2 * h), slopes, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("phi", "sigma_b"), [(torch.erf, 0.4), (nn.ReLU(), 0.2), (GPN(nn.SELU()), 0.0)])
def test_a_wide_network_follows_the_map(phi: nn.Module, sigma_b: float) -> None:
    """One layer, 1,000 units in and out, three times. The mean over n units of a product of unit variance has the
    standard error c / sqrt(n), c = 1 for Gaussian units, 1.5 for ReLU's: over units in and out together at most
    1.5 sqrt(2 / 3000); 4 of them."""
    stream = torch.Generator().manual_seed(3)
    rho, width = [-0.5, 0.3, 0.9], 1000
    measured = torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        x, y = pairs(rho, width, stream, torch.float32)
        layer = NormalisedLayer(width, width, phi, 1.0, sigma_b, stream).requires_grad_(False)
        measured += (1 - distance(layer(x), layer(y))) / 3
    expected = CorrelationMap(phi, 1.0, sigma_b)(torch.tensor(rho, dtype=torch.float64))
    assert float((measured - expected).abs().max()) <= 4 * 1.5 * math.sqrt(2 / (3 * width))


def test_iteration_near_one_keeps_its_digits() -> None:
    """Critical erf: 1 - P(1 - d) = d - 0.4 d^2 + O(d^3), since P''(1) / P'(1) = 4 rho / (9 - 4 rho^2) = 4 / 5."""
    layer = CorrelationMap(torch.erf, *critical(torch.erf))
    for d in (1e-3, 1e-5):
        lost = d - float(layer.distance(d))
        assert lost == pytest.approx(0.4 * d**2, rel=2 * d + 1e-15 / d**2)
    layers = layer.iterate_distance(1e-12, 50)
    torch.testing.assert_close(layers, torch.full_like(layers, 1e-12), rtol=1e-9, atol=0.0)


def test_relu_loses_the_power_three_halves() -> None:
    """1 - P(1 - d) = d - 2 sqrt 2 / (3 pi) d^(3/2) + O(d^(5/2)): so 1 - rho_l ~ 9 pi^2 / (2 l^2)."""
    layer = CorrelationMap(torch.relu, *critical(torch.relu))
    d = 1e-6
    lost = d - float(layer.distance(d))
    assert lost == pytest.approx(2 * math.sqrt(2) / (3 * math.pi) * d**1.5, rel=1e-5)
    last = float(layer.iterate_distance(1.0, 2000)[-1])
    assert last * 2000**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.02)


def test_phases_and_fixed_points() -> None:
    sigma_w, sigma_b = critical(torch.erf)
    ordered, chaotic = CorrelationMap(torch.erf, sigma_w, 2 * sigma_b), CorrelationMap(torch.erf, sigma_w, sigma_b / 2)
    assert (ordered.phase, chaotic.phase) == ("ordered", "chaotic")
    assert ordered.fixed_point() == 1.0
    fixed = chaotic.fixed_point()
    assert 0 < fixed < 1
    assert float(chaotic(fixed)) == pytest.approx(fixed, abs=1e-12)
    assert float(chaotic.derivative(fixed)) < 1
    for start in (-1.0, 0.0, 1 - 1e-6):
        assert float(chaotic.iterate(start, 400)[-1]) == pytest.approx(fixed, abs=1e-9)
    assert CorrelationMap(torch.erf, 1.0, 0.0).fixed_point() == 0.0
    # where the attracting fixed point is very near to 1 it is still found: 1 - rho_fp ~ (P'(1) - 1) / 0.4
    nearly = CorrelationMap(torch.erf, sigma_w, sigma_b * (1 - 1e-6))
    assert 1 - nearly.fixed_point() == pytest.approx((nearly.slope - 1) / 0.4, rel=0.01)


def test_shapes_and_layers() -> None:
    layer = CorrelationMap(nn.ReLU())
    layers = layer.iterate(RHO.view(3, 3), 4)
    assert layers.shape == (5, 3, 3)
    torch.testing.assert_close(layers[0], RHO.view(3, 3))
    torch.testing.assert_close(layers[2], layer(layer(RHO.view(3, 3))), rtol=0.0, atol=1e-14)


def test_the_series_is_the_map() -> None:
    """tanh's coefficients fall exponentially: degree 200 leaves less than 1e-12."""
    layer = CorrelationMap(torch.tanh, 1.3, 0.2)
    series = series_map(hermite_coefficients(torch.tanh, 200), RHO, 1.3, 0.2)
    torch.testing.assert_close(series, layer(RHO), rtol=0.0, atol=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match="every correlation is a fixed point"):
        CorrelationMap(nn.Identity()).fixed_point()
    with pytest.raises(ValueError, match="sigma_w > 0"):
        CorrelationMap(torch.relu, 0.0)
    with pytest.raises(ValueError, match="no critical initialisation"):
        critical(lambda x: torch.tanh(x) + 3)
    with pytest.raises(ValueError, match=r"1 - rho in \[0, 2\]"):
        CorrelationMap(torch.relu).distance(2.5)
