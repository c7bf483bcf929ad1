"""bsnn.theory.hermite against closed forms, Monte Carlo, bsnn.quadrature's moments and autograd's slopes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.gpn import GPN
from bsnn.quadrature import gaussian_moments
from bsnn.theory.hermite import hermite_coefficients, hermite_polynomials, hermite_series, linearisation_error

EXACT = 1e-12  # the accuracy promised is 1e-13 of sqrt(E phi^2), which is of order 1 here


def density(c: float) -> float:
    return math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi)


def at(c: float, degree: int) -> Tensor:
    return hermite_polynomials(torch.tensor(c, dtype=torch.float64), degree)


def test_polynomials_are_numpys() -> None:
    """numpy's He_k is H_k without the 1 / sqrt(k!); relative to the size that H_k has between its zeros."""
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    H = hermite_polynomials(x, 20)
    for k in range(21):
        theirs = np.polynomial.hermite_e.hermeval(x.numpy(), [0.0] * k + [1 / math.sqrt(math.factorial(k))])
        np.testing.assert_allclose(H[k], theirs, rtol=0, atol=1e-13 * np.abs(theirs).max())
    assert hermite_polynomials(x.float(), 3).dtype == torch.float32


def test_polynomials_are_orthonormal_to_degree_300() -> None:
    """By Gauss-Hermite quadrature with 320 nodes, exact to degree 639; weights below 1e-300 are lost, which costs
    nothing while H_j H_k is below 1e280 there."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(320)
    keep = weights > 0
    H = hermite_polynomials(torch.from_numpy(nodes[keep]), 300).numpy()
    gram = (H * (weights[keep] / math.sqrt(2 * math.pi))) @ H.T
    np.testing.assert_allclose(gram[:200, :200], np.eye(301)[:200, :200], atol=1e-10)


@pytest.mark.parametrize("c", [0.0, 0.1234, -1.7])
def test_relu_and_step_in_closed_form(c: float) -> None:
    """phi'' of (x - c)_+ and phi' of the step are a unit mass at c, so E phi H_k follows by parts: with the density
    rho, step: rho(c) H_(k-1)(c) / sqrt(k); ReLU: rho(c) H_(k-2)(c) / sqrt(k (k - 1)). Degree 1000 does not overflow."""
    degree = 1000
    H = at(c, degree)
    k = torch.arange(degree + 1, dtype=torch.float64)
    tail = math.erfc(c / math.sqrt(2)) / 2
    step = torch.cat([torch.tensor([tail], dtype=torch.float64), density(c) * H[:-1] / k[1:].sqrt()])
    relu = torch.cat([
        torch.tensor([density(c) - c * tail, tail], dtype=torch.float64),
        density(c) * H[:-2] / (k[2:] * (k[2:] - 1)).sqrt(),
    ])  # fmt: skip
    torch.testing.assert_close(hermite_coefficients(lambda x: (x > c).double(), degree), step, rtol=0, atol=EXACT)
    torch.testing.assert_close(hermite_coefficients(lambda x: torch.relu(x - c), degree), relu, rtol=0, atol=EXACT)


def test_polynomials_and_erf_in_closed_form() -> None:
    """x^2 = 1 + sqrt(2) H_2; erf(x / sqrt(2)) has slope 2 rho, and E rho(z) H_2m(z) = (-1)^m sqrt((2m)!) / (m! 2^(2m+1)
    sqrt(pi)), from the generating function exp(t x - t^2 / 2)."""
    square = hermite_coefficients(torch.square, 5)
    torch.testing.assert_close(square, torch.tensor([1, 0, math.sqrt(2), 0, 0, 0.0]).double(), rtol=0, atol=1e-6)
    assert float((square - torch.tensor([1, 0, 2**0.5, 0, 0, 0], dtype=torch.float64)).abs().max()) < EXACT
    erf = hermite_coefficients(lambda x: torch.erf(x / math.sqrt(2)), 41)
    expected = torch.zeros(42, dtype=torch.float64)
    for m in range(21):
        mean = (
            (-1) ** m * math.sqrt(math.factorial(2 * m)) / (math.factorial(m) * 2 ** (2 * m + 1) * math.sqrt(math.pi))
        )
        expected[2 * m + 1] = 2 * mean / math.sqrt(2 * m + 1)
    torch.testing.assert_close(erf, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
@pytest.mark.parametrize("gpn", [False, True])
def test_parseval_and_the_slope(name: str, gpn: bool) -> None:
    """sum a_k^2 <= E phi^2 and sum k a_k^2 <= E phi'^2; what is missing falls as K^(-3/2) and K^(-1/2) at worst (ReLU).

    With J the jump of phi' at 0, a_k^2 ~ J^2 / (2 pi) sqrt(2 / (pi k)) / k^2 for even k (half of the degrees).
    """
    phi = GPN(PAPER_ACTIVATIONS[name]()) if gpn else PAPER_ACTIVATIONS[name]()
    a = hermite_coefficients(phi, 200)
    moments = gaussian_moments(phi)
    degrees = torch.arange(201, dtype=torch.float64)
    missing = moments.second - float(a.square().sum())
    missing_slope = moments.derivative_second - float((degrees * a.square()).sum())
    jump = float(value_and_slope(phi, torch.tensor([-1e-9, 1e-9]).double())[1].diff())
    tail = jump**2 / (2 * math.pi) * math.sqrt(2 / math.pi)
    assert -EXACT < missing < 1.1 * tail * 200**-1.5 / 3 + 1e-6
    assert -EXACT < missing_slope < 1.1 * tail * 200**-0.5 + 3e-4
    assert missing_slope > 0.9 * tail * 200**-0.5 - EXACT
    assert float(a[0]) == pytest.approx(moments.mean, abs=EXACT)

    def slope(x: Tensor) -> Tensor:
        return value_and_slope(phi, x)[1]

    derived = hermite_coefficients(slope, 199)  # a'_k = sqrt(k + 1) a_(k+1)
    torch.testing.assert_close(derived, a[1:] * degrees[1:].sqrt(), rtol=0, atol=1e-11)


def test_gelu_coefficients_by_monte_carlo() -> None:
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    phi = PAPER_ACTIVATIONS["gelu"]()
    samples = hermite_polynomials(z, 4) * phi(z)
    error = samples.std(1) / math.sqrt(len(z))
    assert bool(((samples.mean(1) - hermite_coefficients(phi, 4)).abs() < 4 * error).all())


def test_series_is_the_function() -> None:
    """Tanh's coefficients fall as exp(-pi/2 sqrt(2k) ...): 200 of them leave less than 1e-8 where |x| <= 3."""
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    a = hermite_coefficients(torch.tanh, 400)
    torch.testing.assert_close(hermite_series(a, x), torch.tanh(x), rtol=0, atol=1e-8)
    b = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(hermite_coefficients(lambda x: hermite_series(b, x), 3), b, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (lambda x: 3 - 2 * x, 0.0),
        (torch.square, 2.0),
        (torch.relu, 0.5 - 0.25 - 1 / (2 * math.pi)),
        (lambda x: x + 1e-6 * (x**2 - 1) / math.sqrt(2), 1e-12),
    ],
)
def test_linearisation_error(phi: Callable[[Tensor], Tensor], expected: float) -> None:
    """E phi^2 - a_0^2 - a_1^2 in closed form; the last is lost in rounding if taken as this difference."""
    assert linearisation_error(phi) == pytest.approx(expected, rel=1e-9, abs=1e-28)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_linearisation_error_is_the_rest_of_the_moments(name: str) -> None:
    phi = PAPER_ACTIVATIONS[name]()
    a = hermite_coefficients(phi, 1)
    rest = gaussian_moments(phi).second - float(a.square().sum())
    assert linearisation_error(phi) == pytest.approx(rest, abs=EXACT)


def test_a_narrow_feature_needs_its_kinks_listed() -> None:
    """A spike of width 1e-7 between the nodes: E phi = density times its area."""

    def spike(x: Tensor) -> Tensor:
        return torch.relu(1e-7 - (x - 0.3).abs()) * 1e7

    (mean,) = hermite_coefficients(spike, 0, kinks=(0.3 - 1e-7, 0.3, 0.3 + 1e-7))
    assert float(mean) == pytest.approx(1e-7 * density(0.3), rel=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match="degree >= 0, found -1"):
        hermite_coefficients(torch.tanh, -1)
    with pytest.raises(ValueError, match="infinite"):
        hermite_coefficients(lambda x: torch.exp(x**2 / 3), 2)
    with pytest.raises(ValueError, match=r"infinite|converge"):
        linearisation_error(lambda x: (x - 0.3).abs() ** -0.5)
    with pytest.raises(ValueError, match=r"nan: expected a number"):
        hermite_coefficients(torch.log, 2)
    with pytest.raises(ValueError, match="not one elementwise function"):
        hermite_coefficients(lambda x: x.softmax(0), 2)
    with pytest.raises(ValueError, match="kinks to be finite"):
        hermite_coefficients(torch.tanh, 2, kinks=(math.nan,))
