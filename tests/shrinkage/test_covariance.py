"""bsnn.shrinkage.covariance: the numerical route against closed forms, and both against what they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.quadrature import gaussian_moments
from bsnn.shrinkage.covariance import (
    covariance_of,
    erf_covariance,
    gaussian_covariance,
    leaky_relu_covariance,
    relu_covariance,
)
from bsnn.theory.hermite import hermite_coefficients

DISTANCES = torch.tensor([1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.9, 1.0, 1.1, 1.9, 2.0], dtype=torch.float64)
RHO = torch.tensor([-1.0, -0.9, -0.3, 0.0, 0.4, 0.95, 1 - 1e-9, 1.0], dtype=torch.float64)
CLOSED = {"relu": torch.relu, "leaky_relu": nn.LeakyReLU(0.3), "erf": torch.erf, "relu_gpn": GPN(nn.ReLU())}


@pytest.mark.parametrize("name", CLOSED)
def test_both_routes_agree(name: str) -> None:
    """In relative terms: near distance 0 the numerical one differs two values at points about sqrt(2 d) = 1e-6 apart,
    which rounding knows to 1e-10."""
    closed, numerical = covariance_of(CLOSED[name]), covariance_of(CLOSED[name], closed_forms=False)
    assert closed.second == pytest.approx(numerical.second, rel=1e-12)
    assert closed.slope_second == pytest.approx(numerical.slope_second, rel=1e-12)
    for one, other in ((closed.gap, numerical.gap), (closed.slope_gap, numerical.slope_gap)):
        small = DISTANCES < 1e-4
        torch.testing.assert_close(one(DISTANCES[small]), other(DISTANCES[small]), rtol=1e-9, atol=0.0)
        torch.testing.assert_close(one(DISTANCES[~small]), other(DISTANCES[~small]), rtol=1e-11, atol=1e-14)


def test_closed_forms_at_known_values() -> None:
    """C = 1/2, 1/(2 pi), 0 for ReLU at 1, 0, -1; slope 1 and 0 of leaky ReLU are the identity and ReLU."""
    known = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 1 / (2 * math.pi), 0.0], dtype=torch.float64)
    torch.testing.assert_close(relu_covariance(known), expected, rtol=0.0, atol=1e-15)
    torch.testing.assert_close(leaky_relu_covariance(RHO, 1.0), RHO, rtol=0.0, atol=1e-15)
    torch.testing.assert_close(leaky_relu_covariance(RHO, 0.0), relu_covariance(RHO), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(erf_covariance(RHO), gaussian_covariance(torch.erf, RHO), rtol=0.0, atol=1e-15)


FUNCTIONS = {
    **{name: GPN(make()) for name, make in PAPER_ACTIVATIONS.items()},
    "steep": lambda x: torch.tanh(20 * x),
    "sine": lambda x: torch.sin(3 * x),
    "kinked": lambda x: (x - 0.1).abs() + torch.relu(x + 1.3) - 2 * torch.relu(x - 2.2),
    "cubic": lambda x: x**3 - x**2,
    "jumping": lambda x: torch.sign(x - 0.5) + 0.1 * x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_are_those_of_monte_carlo(name: str) -> None:
    """Within 4 standard errors of the mean of phi(x) phi(y) over 400,000 pairs."""
    phi, n = FUNCTIONS[name], 400_000
    stream = torch.Generator().manual_seed(5)
    x, z = torch.randn(2, n, generator=stream, dtype=torch.float64)
    for rho in (-0.7, 0.2, 0.9):
        with torch.no_grad():
            products = phi(x) * phi(rho * x + math.sqrt(1 - rho**2) * z)
        expected = float(gaussian_covariance(phi, rho))
        assert abs(float(products.mean()) - expected) <= 4 * float(products.std()) / math.sqrt(n)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exact_values_at_the_ends(name: str) -> None:
    """C[phi|0] = (E phi)^2, C[phi|1] = E phi^2, C[phi|-1] = E phi(x) phi(-x): the even part's less the odd part's."""
    phi = FUNCTIONS[name]
    moments = gaussian_moments(phi)
    even = gaussian_moments(lambda x: (phi(x) + phi(-x)) / 2).second
    found = gaussian_covariance(phi, torch.tensor([0.0, 1.0, -1.0]))
    expected = torch.tensor([moments.mean**2, moments.second, 2 * even - moments.second], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * moments.second)


@pytest.mark.parametrize("name", ["tanh", "sine", "cubic", "gelu"])
def test_series_of_smooth_functions(name: str) -> None:
    """sum a_k^2 rho^k to degree 150: |rho| <= 0.9 leaves less than 0.9^150 = 1e-7 of what the coefficients leave."""
    phi = FUNCTIONS[name]
    a = hermite_coefficients(phi, 150)
    rho = torch.tensor([-0.9, -0.4, 0.3, 0.9], dtype=torch.float64)
    series = (rho[:, None] ** torch.arange(151)) @ a.square()
    missing = gaussian_moments(phi).second - float(a.square().sum())
    found = gaussian_covariance(phi, rho)
    assert float((found - series).abs().max()) <= 1e-11 + 0.9**151 * max(missing, 0.0)


def test_derivative_is_the_covariance_of_the_derivative() -> None:
    """Stein: C[phi|.]' = C[phi'|.], by central differences (error h^2 / 6 times the third derivative, about 1e-7)."""
    phi = FUNCTIONS["elu"]
    found, rho, h = covariance_of(phi), torch.tensor([-0.5, 0.0, 0.6], dtype=torch.float64), 1e-3
    numerical = (gaussian_covariance(phi, rho + h) - gaussian_covariance(phi, rho - h)) / (2 * h)
    torch.testing.assert_close(numerical, found.slope_second - found.slope_gap(1 - rho), rtol=0.0, atol=1e-6)


def test_small_distances_have_the_slope_of_the_map() -> None:
    """gap(d) / d -> E phi'^2; the next term is of relative order sqrt(d) for a kink, d for a smooth function."""
    for name, order in (("relu", 0.5), ("selu", 0.5), ("tanh", 1.0), ("gelu", 1.0)):
        found = covariance_of(FUNCTIONS[name])
        for d in (1e-12, 1e-8, 1e-4):
            relative = float(found.gap(torch.tensor(d, dtype=torch.float64))) / d / found.slope_second - 1
            assert abs(relative) <= 2 * d**order + 1e-9, (name, d)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"expected a correlation in \[-1, 1\], found 1.5"):
        gaussian_covariance(torch.relu, 1.5)
    with pytest.raises(ValueError, match="elementwise"):
        gaussian_covariance(nn.Softmax(dim=0), 0.5)
    with pytest.raises(ValueError, match="too rough"):
        gaussian_covariance(lambda x: torch.sin(40 * x), 0.5)
