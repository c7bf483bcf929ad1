"""Quadrature, Hermite coefficients and covariances of functions that break anywhere, against their exact moments.

The functions are piecewise polynomials. Their breaks lie also beside ends of panels and beside each other, at distances
down to 1e-16, where a rule sees them neither in a panel nor in its halves. References are closed forms at 60 digits.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bsnn.bridge.meanfield import asymptote, curvature, slope_jumps
from bsnn.gpn import GPN, gaussian_poincare_constants
from bsnn.quadrature import gaussian_moments
from bsnn.shrinkage.covariance import covariance_of
from bsnn.theory.hermite import hermite_coefficients


class Pieces:
    """phi = value + slope (x - knot) right of each knot, and left of the first one with the first row's."""

    def __init__(self, knots: Sequence[float], rows: Sequence[tuple[float, float]]) -> None:
        self.knots, self.rows, self.origins = knots, rows, [knots[0], *knots]
        self._knots = torch.tensor(knots, dtype=torch.float64)
        self._rows = torch.tensor(rows, dtype=torch.float64)
        self._origins = torch.tensor(self.origins, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        piece = torch.bucketize(x.detach(), self._knots, right=True)
        return self._rows[piece, 0] + self._rows[piece, 1] * (x - self._origins[piece])

    def hermite(self, degree: int) -> list[mp.mpf]:
        """a_0, ..., a_degree: phi' is steps and phi'' is unit masses, so with jumps h_i and bends J_i at k_i, by parts,
        a_k = density(k_i) (h_i H_(k-1) / sqrt(k) + J_i H_(k-2) / sqrt(k (k - 1))) summed, for k >= 2."""
        mean, slope = mp.mpf(0), mp.mpf(0)
        for (low, high), row, origin in zip(self._intervals(), self.rows, self.origins, strict=True):
            mass, first = mp.ncdf(high) - mp.ncdf(low), mp.npdf(low) - mp.npdf(high)
            value, steep = mp.mpf(row[0]) - mp.mpf(row[1]) * mp.mpf(origin), mp.mpf(row[1])
            second = (
                mass
                + (low * mp.npdf(low) if mp.isfinite(low) else 0)
                - (high * mp.npdf(high) if mp.isfinite(high) else 0)
            )
            mean += value * mass + steep * first
            slope += value * first + steep * second
        found = [mean, slope] + [mp.mpf(0)] * (degree - 1)
        for knot, (height, bend) in zip(self.knots, self.breaks(), strict=True):
            H = [mp.mpf(1), mp.mpf(knot)]
            for k in range(1, degree):
                H.append((knot * H[k] - mp.sqrt(k) * H[k - 1]) / mp.sqrt(k + 1))
            for k in range(2, degree + 1):
                found[k] += mp.npdf(knot) * (height * H[k - 1] / mp.sqrt(k) + bend * H[k - 2] / mp.sqrt(k * (k - 1)))
        return found[: degree + 1]

    def breaks(self) -> list[tuple[mp.mpf, mp.mpf]]:
        """How much phi and phi' jump at each knot."""
        found = []
        for number, knot in enumerate(self.knots):
            (value, slope), (after, steep) = self.rows[number], self.rows[number + 1]
            before = mp.mpf(value) + mp.mpf(slope) * (mp.mpf(knot) - mp.mpf(self.origins[number]))
            found.append((mp.mpf(after) - before, mp.mpf(steep) - mp.mpf(slope)))
        return found

    def moments(self) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
        """E phi, E phi^2, E phi'^2."""
        total = [mp.mpf(0)] * 3
        for (low, high), row, origin in zip(self._intervals(), self.rows, self.origins, strict=True):
            mass, first = mp.ncdf(high) - mp.ncdf(low), mp.npdf(low) - mp.npdf(high)
            second = (
                mass
                + (low * mp.npdf(low) if mp.isfinite(low) else 0)
                - (high * mp.npdf(high) if mp.isfinite(high) else 0)
            )
            value, slope = mp.mpf(row[0]) - mp.mpf(row[1]) * mp.mpf(origin), mp.mpf(row[1])
            parts = (
                value * mass + slope * first,
                value**2 * mass + 2 * value * slope * first + slope**2 * second,
                slope**2 * mass,
            )
            total = [sum_ + part for sum_, part in zip(total, parts, strict=True)]
        return total[0], total[1], total[2]

    def _intervals(self) -> list[tuple[mp.mpf, mp.mpf]]:
        return list(itertools.pairwise([-mp.inf, *map(mp.mpf, self.knots), mp.inf]))


def drawn(seed: int, continuous: bool | None = None) -> Pieces:
    """Up to eight breaks: on or beside whole numbers, ends of panels and each other, and anywhere; steps and kinks."""
    r = random.Random(seed)
    knots: set[float] = set()
    for _ in range(r.randint(1, 8)):
        beside = r.choice([-1, 1]) * r.uniform(0, 1e-12)
        kind = r.randrange(5)
        knots.add(
            r.choice(sorted(knots)) + beside
            if kind == 0 and knots
            else r.randint(-4, 4) + beside
            if kind == 1
            else r.randint(-24, 24) / 8
            if kind == 2
            else r.randint(-5, 5) + 10 ** r.uniform(-16, -1) * r.choice([-1, 1])
            if kind == 3
            else r.gauss(0, 1.5)
        )
    places = sorted(knots)
    rows = [(r.gauss(0, 1), r.gauss(0, 1)) for _ in range(len(places) + 1)]
    if continuous or (continuous is None and r.random() < 0.6):
        rows[1] = rows[0][0], rows[1][1]
        for number in range(2, len(rows)):
            value, slope = rows[number - 1]
            rows[number] = value + slope * (places[number - 1] - places[number - 2]), rows[number][1]
    return Pieces(places, rows)


@pytest.mark.parametrize("seeds", [range(0, 10), range(10, 20)])
def test_constants_of_functions_with_breaks_anywhere(seeds: range) -> None:
    with mp.workdps(60):
        for seed in seeds:
            phi = drawn(seed)
            mean, second, slope = phi.moments()
            disc = 1 - (second - mean**2) / slope
            if disc < 1e-8:
                with pytest.raises(ValueError, match="jumps"):
                    gaussian_poincare_constants(phi)
                continue
            a, b = gaussian_poincare_constants(phi)
            assert a == pytest.approx(float(1 / mp.sqrt(slope)), rel=1e-10), seed
            assert b == pytest.approx(float(-mean / mp.sqrt(slope) + mp.sqrt(disc)), rel=0, abs=1e-10), seed


def test_a_small_jump_counts_where_it_moves_b() -> None:
    """1e-9 high, at a density of 0.045, in a function near a line: left out, b would be off by 6e-10."""
    phi = Pieces([-2.0898445454094627], [(0.7678552934246788, 0.671328657598779), (0.7678552945532512, 0.85734287407)])
    with mp.workdps(60):
        mean, second, slope = phi.moments()
        expected = float(-mean / mp.sqrt(slope) + mp.sqrt(1 - (second - mean**2) / slope))
    assert gaussian_poincare_constants(phi)[1] == pytest.approx(expected, rel=0, abs=1e-11)


def test_hermite_coefficients_of_functions_with_breaks_anywhere() -> None:
    with mp.workdps(60):
        for seed in range(15):
            phi = drawn(seed)
            found, expected = hermite_coefficients(phi, 9).tolist(), [float(a) for a in phi.hermite(9)]
            assert found == pytest.approx(expected, rel=0, abs=1e-13 * float(mp.sqrt(phi.moments()[1]))), seed


def covariance_rates(bends: Sequence[tuple[float, float]], distance: float) -> tuple[float, float]:
    """int_0^d M and int_0^d (d - t) M dt, M(t) = E phi''(x) phi''(y) at 1 - rho = t: by Stein, slope_gap(d), and what
    gap(d) lacks of d E phi'^2. With t = w^2, on panels that shrink by sqrt(2) towards 0, where breaks meet."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    ends = np.array([0.0, *(math.sqrt(distance) * 2.0 ** (k / 2) for k in range(-170, 1))])
    half = np.diff(ends) / 2
    w = (ends[:-1, None] + half[:, None] * (1 + nodes)).ravel()
    t, dt = w**2, (half[:, None] * weights).ravel() * 2 * w
    density = sum(
        J
        * K
        * np.exp(-((j - k) ** 2 / (2 * t) + (j + k) ** 2 / (2 * (2 - t))) / 2)
        / (2 * math.pi * np.sqrt(t * (2 - t)))
        for (j, J), (k, K) in itertools.product(bends, bends)
    )
    return float((dt * density).sum()), float((dt * (distance - t) * density).sum())


def test_covariances_of_functions_with_kinks_anywhere() -> None:
    for seed in range(8):
        phi = drawn(seed, continuous=True)
        found, slope = covariance_of(phi), float(phi.moments()[2])
        bends = [(knot, float(bend)) for knot, (_, bend) in zip(phi.knots, phi.breaks(), strict=True)]
        for d in (1e-9, 1e-3, 0.7, 1.9):
            rate, lost = covariance_rates(bends, d)
            at = torch.tensor(d, dtype=torch.float64)
            assert float(found.gap(at)) == pytest.approx(slope * d - lost, rel=1e-9), (seed, d)
            assert float(found.slope_gap(at)) == pytest.approx(rate, rel=1e-9, abs=1e-12 * slope), (seed, d)


@pytest.mark.parametrize("k", [0.3, 0.9999, 1 + 1e-12])
def test_clamps_have_covariances(k: float) -> None:
    """Named or not, and by the closed form of E (phi(x) - phi(y))^2 / 2 at distance 1, the variance."""
    density, mass = math.exp(-(k**2) / 2) / math.sqrt(2 * math.pi), math.erf(k / math.sqrt(2))
    for kinks in ((), (-k, k)):
        variance = float(covariance_of(nn.Hardtanh(-k, k), kinks).gap(1.0))  # type: ignore[arg-type]
        assert variance == pytest.approx(mass - 2 * k * density + k**2 * (1 - mass), rel=1e-11)


def test_kinks_just_beside_the_ends_of_panels() -> None:
    """relu(x - k) + k has b = -sqrt(...) computed at 30 digits; hardtanh in closed form."""
    assert gaussian_poincare_constants(lambda x: x.clamp(min=1e-4))[1] == pytest.approx(-7.07179305468e-05, abs=1e-15)
    a, _ = gaussian_poincare_constants(nn.Hardtanh(-0.9999, 0.9999))
    assert a == pytest.approx(math.erf(0.9999 / math.sqrt(2)) ** -0.5, rel=1e-13)


@pytest.mark.parametrize("size", [1e-280, 1e-160, 1e160, 1e300])
def test_sizes_do_not_matter(size: float) -> None:
    a, b = gaussian_poincare_constants(lambda x: size * torch.tanh(x))
    expected = gaussian_poincare_constants(torch.tanh)
    assert (a * size, b) == pytest.approx(expected, rel=1e-14)
    with pytest.raises(ValueError, match="float64 cannot hold"):
        gaussian_moments(lambda x: size * torch.tanh(x))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (np.tanh, "made of torch's operations"),
        (lambda x: 1 + 1e-12 * torch.tanh(x), "nearly constant"),
        (lambda x: 1e-300 * torch.tanh(x), "loses digits"),
        (lambda x: ((x - 1) * 1e12).clamp(0, 1), "the places of its kinks in `kinks`"),
    ],
)
def test_what_float64_cannot_tell_is_refused(phi: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPN(phi)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_scripted_modules_work() -> None:
    assert gaussian_poincare_constants(torch.jit.script(nn.ELU())) == gaussian_poincare_constants(nn.ELU())


def test_growth_that_the_covariance_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="grows too fast"):
        covariance_of(lambda x: torch.exp(x**2 / 5))


def test_slope_jumps_are_found_wherever_they_are() -> None:
    """Hardtanh's two: their signs cancel in E phi'' - E x phi', and there is none at 0."""
    phi = GPN(nn.Hardtanh())
    assert slope_jumps(phi) == pytest.approx({-1.0: phi.a, 1.0: -phi.a}, rel=1e-6)
    assert curvature(phi) == math.inf
    constant, power = asymptote(phi)
    c = math.sqrt(2) / (3 * math.pi) * 2 * phi.a**2 * math.exp(-0.5)
    assert (constant, power) == (pytest.approx(4 / c**2, rel=1e-6), 2)
