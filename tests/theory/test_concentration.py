"""bsnn.theory.concentration against mpmath, Monte Carlo and closed forms."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.gpn import GPN
from bsnn.haar import haar_orthogonal
from bsnn.theory.concentration import (
    LEMMA_3_CONSTANT,
    backward_law,
    bingham_p,
    chi_tails,
    error_peak,
    forward_law,
    log_moment_generating,
    normal_distance,
    radial_slope,
    rayleigh_p,
    sphere_coordinate_cdf,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_relu_laws_in_closed_form() -> None:
    """g = 2 x^2 [x > 0]: E g = 1, E g^2 = 4 * 3 / 2 = 6, E g (x^2 - 1) = 3 - 1 = 2. Of phi'^2 = 2 [x > 0]: 1, 2, 0."""
    phi = GPN(torch.nn.ReLU())
    forward, backward = forward_law(phi), backward_law(phi)
    assert (forward.mean, forward.spread, forward.radial) == pytest.approx((1, 5, math.sqrt(2)), abs=1e-11)
    assert (backward.mean, backward.spread, backward.radial) == pytest.approx((1, 1, 0), abs=1e-11)
    assert forward.gain == pytest.approx(1, abs=1e-11)  # ReLU is homogeneous
    assert forward.variance() == pytest.approx(3, abs=1e-11)
    assert forward.variance(on_sphere=False) == pytest.approx(5, abs=1e-11)


def test_a_line_keeps_norms_exactly() -> None:
    law = forward_law(lambda x: -x)
    assert law.variance() == pytest.approx(0, abs=1e-11)
    assert law.outside(0.1, 10, 0.0) == 0


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
@pytest.mark.parametrize("weighed", [False, True])
def test_laws_by_monte_carlo(name: str, weighed: bool) -> None:
    """4000 Haar vectors of width 400: a variance has a relative standard error of sqrt(2 / 4000) = 2.2 % for a normal
    law, and the limit is off by a few / d, 1 %. So 4 standard errors and 2 %."""
    d, n = 400, 4000
    phi = GPN(PAPER_ACTIVATIONS[name]())
    z = torch.randn(n, d, generator=generator(1), dtype=torch.float64)
    u = z * (math.sqrt(d) / z.norm(dim=1, keepdim=True))
    weight = torch.linspace(-1, 1, d, dtype=torch.float64).square() if weighed else torch.ones(d, dtype=torch.float64)
    weight = weight / weight.mean()
    fourth = float(weight.square().mean())
    value, slope = value_and_slope(phi, u)
    for squares, law in ((value.square(), forward_law(phi)), (slope.square(), backward_law(phi))):
        measured = squares @ weight / d
        variance = law.variance(fourth) / d
        assert float(measured.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 0.02)
        assert float(measured.mean()) == pytest.approx(law.mean, abs=4 * math.sqrt(variance / n) + 5 / d)
        eps = 1.5 * math.sqrt(variance)
        share = float(((measured - 1).abs() >= eps).double().mean())
        expected = law.outside(eps, d, law.variance(fourth))
        # the normal law is off by its skewness, of order 1 / sqrt(d): 5 % of the probability here
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / n) + 0.05 * expected)


@pytest.mark.parametrize(("root", "stable"), [("-", True), ("+", False)])
def test_gain_is_the_slope_of_the_variance_map(root: str, stable: bool) -> None:
    """Finite differences of v -> E phi(sqrt(v) z)^2, of order h^2; the other root of GELU is the one that explodes."""
    h = 1e-4
    phi = GPN(PAPER_ACTIVATIONS["gelu"](), root)
    above, below = (forward_law(lambda x, r=r: phi(r * x)).mean for r in ((1 + h) ** 0.5, (1 - h) ** 0.5))  # type: ignore[misc]
    gain = forward_law(phi).gain
    assert gain == pytest.approx((above - below) / (2 * h), abs=1e-7)
    assert (gain < 1) == stable


def test_radial_slope_by_parts() -> None:
    """E z (z^4)' = 4 E z^4 = 12."""
    assert radial_slope(lambda x: x**4) == pytest.approx(12, abs=1e-10)


@pytest.mark.parametrize("rate", [-2.0, 0.5, 3.0])
def test_moment_generating_functions(rate: float) -> None:
    """phi(x) = 2 x: 2 rate^2. A step up at 0 by 1: cosh(rate / 2). ReLU: E exp(t z+) = 1/2 + exp(t^2 / 2) Phi(t)."""
    assert log_moment_generating(lambda x: 2 * x, rate) == pytest.approx(2 * rate**2, rel=1e-10)
    step = log_moment_generating(lambda x: (x > 0).double(), rate)
    assert step == pytest.approx(math.log(math.cosh(rate / 2)), rel=1e-10)
    relu = math.log(0.5 + math.exp(rate**2 / 2) * stats.norm.cdf(rate)) - rate / math.sqrt(2 * math.pi)
    assert log_moment_generating(torch.relu, rate) == pytest.approx(relu, rel=1e-10)


@pytest.mark.parametrize(("d", "delta"), [(1, 0.3), (24, 0.95), (500, 0.1), (500, 0.6), (2000, 0.2)])
def test_chi_tails_against_mpmath(d: int, delta: float) -> None:
    with mpmath.workdps(40):
        half = mpmath.mpf(d) / 2
        low, high = (half * (1 + sign * mpmath.mpf(delta)) ** 2 for sign in (-1, 1))
        below = mpmath.gammainc(half, 0, low, regularized=True)
        above = mpmath.gammainc(half, high, mpmath.inf, regularized=True)
    assert chi_tails(d, delta) == pytest.approx((float(below), float(above)), rel=1e-9)


def test_lemma_3_fails_and_its_correction_holds() -> None:
    """The printed bound at the smallest d where it fails for delta = 0.95, in 40 digits; then a grid."""
    with mpmath.workdps(40):
        above = mpmath.gammainc(12, 12 * mpmath.mpf("1.95") ** 2, mpmath.inf, regularized=True)
        assert above > 2 * mpmath.exp(-24 * mpmath.mpf("0.95") ** 2)
    for delta in np.linspace(0.02, 0.98, 25):
        for d in (1, 2, 3, 10, 24, 100, 300, 1000):
            tails = sum(chi_tails(d, float(delta)))
            assert tails <= 2 * math.exp(-LEMMA_3_CONSTANT * d * delta**2)
    with pytest.raises(ValueError, match=r"0 < delta < 1, found d = 3, delta = 1"):
        chi_tails(3, 1.0)


def test_coordinate_of_a_uniform_vector() -> None:
    """d = 3: uniform on [-sqrt(3), sqrt(3)] (Archimedes). d = 2: arcsine law. Large d: normal, at distance ~ 1 / d."""
    t = np.linspace(-2, 2, 81)
    np.testing.assert_allclose(sphere_coordinate_cdf(t, 3), np.clip(0.5 + t / math.sqrt(12), 0, 1), atol=1e-14)
    arcsine = 0.5 + np.arcsin(np.clip(t / math.sqrt(2), -1, 1)) / math.pi
    np.testing.assert_allclose(sphere_coordinate_cdf(t, 2), arcsine, atol=1e-7)  # steep as sqrt at the ends
    assert normal_distance(1000) * 1000 == pytest.approx(normal_distance(4000) * 4000, rel=0.01)


def test_uniformity_tests_have_the_right_size_and_power() -> None:
    """400 p-values each under uniformity are uniform (Kolmogorov-Smirnov, p > 0.001); a shifted and a stretched law are
    told from it."""
    shape = (400, 300, 4)
    x = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    x = x / x.norm(dim=2, keepdim=True)
    for test in (rayleigh_p, bingham_p):
        assert stats.kstest([test(one) for one in x], "uniform").pvalue > 0.001
    shifted = torch.randn(2000, 4, generator=generator(3), dtype=torch.float64) + torch.tensor([0.3, 0, 0, 0])
    stretched = torch.randn(2000, 4, generator=generator(3), dtype=torch.float64) * torch.tensor([1.3, 1, 1, 1])
    assert rayleigh_p(shifted / shifted.norm(dim=1, keepdim=True)) < 1e-6
    assert bingham_p(stretched / stretched.norm(dim=1, keepdim=True)) < 1e-6
    assert rayleigh_p(stretched / stretched.norm(dim=1, keepdim=True)) > 0.001


def test_haar_product_has_the_coordinate_law() -> None:
    """The route that the study takes instead of matrices: 2000 W, x = (1, ..., 1), against the exact law at d = 8."""
    h = haar_orthogonal(2000, 8, 8, generator=generator(4), dtype=torch.float64).sum(-1)
    assert stats.kstest(h[:, 3].numpy(), lambda t: sphere_coordinate_cdf(np.asarray(t), 8)).pvalue > 0.001


def test_the_largest_of_normal_numbers() -> None:
    def peak(width: int) -> float:
        return error_peak(lambda z: z, width)

    assert peak(1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-4)
    assert peak(2) == pytest.approx(2 / math.sqrt(math.pi), rel=1e-4)  # E max(|a|, |b|)
    assert peak(10**6) == pytest.approx(math.sqrt(2 * math.log(10**6)), rel=0.07)


@pytest.mark.parametrize("name", ["relu", "gelu", "selu"])
def test_the_largest_of_errors(name: str) -> None:
    phi, random = GPN(PAPER_ACTIVATIONS[name]()), generator()
    z, e = torch.randn(2, 20_000, 300, generator=random, dtype=torch.float64)
    draws = (value_and_slope(phi, z)[1] * e).abs().amax(dim=1)
    assert error_peak(phi, 300) == pytest.approx(
        float(draws.mean()), abs=5 * float(draws.std()) / math.sqrt(len(draws))
    )
