"""Gradients explode or representations shrink: the bounds of Theorems 1 and 2, and the excess convexity behind them.

"Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission). Notation: phi~ is phi's
linearisation (Hermite degrees 0 and 1), |.| the Gaussian norm, rho_max = max_l min_{a,b} rho_l: in some layer all pairs
of inputs have at least this correlation. As widths go to infinity,

    |dz_L/dz_0|_op^2 >= (1 - rho_max)^2 / 8  sum_l |phi_l - phi_l~|^2 / |phi_l'|^2                     (Theorem 1)
    |dz_L/dz_0|_op^2 >= (1 - rho_max)^2 / 8  sum_l s_l^2 |phi_l - phi_l~|^2 / (1 + s_l^2 |phi_l'|^2)    (Theorem 2)

The proof bounds less than the operator norm: (P_L o ... o P_1)'(1), the mean square gain of one direction. That is the
left side wherever we set "infinite width" beside a bound. Terms of a sum are `nonlinearity` and
`residual_nonlinearity`; the functions below take the sum.

    total = 100 * nonlinearity(torch.erf)
    shrinkage_bound(total)                 # no 100 critical erf layers can keep 1 - rho_max above this
    jacobian_bound(total, 1 - 0.5)         # squared gain at least, if some pair stays at rho <= 0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from bsnn.quadrature import Phi, gaussian_moments
from bsnn.shrinkage.covariance import Covariance, correlations, covariance_of, distances
from bsnn.theory.hermite import linearisation_error

CONSTANT = 8.0
"""Factor of both theorems: 2 by property 7 of the excess convexity, 4 by 1 - P..P(0) >= (1 - rho_max) / 2, squared."""

Convex = Callable[[float], float]
"""A non-decreasing convex function from [0, 1] onto [0, 1]."""


def nonlinearity(phi: Phi, kinks: Sequence[float] = ()) -> float:
    """Compute |phi - phi~|^2 / |phi'|^2, one layer's term in Theorem 1: 0 for a linear phi, at most 1/2.

    Leaky ReLU of slope a: (1 - a)^2 (pi - 2) / (2 pi (1 + a^2)). erf: sqrt 5 / 2 (arctan(2 / sqrt 5) - 2 / 3).
    """
    return _error(phi, kinks) / gaussian_moments(phi, kinks).derivative_second


def residual_nonlinearity(phi: Phi, sigma: float, kinks: Sequence[float] = ()) -> float:
    """Compute sigma^2 |phi - phi~|^2 / (1 + sigma^2 |phi'|^2), one block's term in Theorem 2.

    The denominator has phi' only after the proof's last step. The step before, from property 8, would need
    e(p id + q g) >= q e(g), but the property has q e(g) / (1 + p e(g)). The theorem holds nevertheless: property 6 of
    the whole power series P_l, identity included, gives the same term directly.
    """
    slope = gaussian_moments(phi, kinks).derivative_second
    return sigma**2 * _error(phi, kinks) / (1 + sigma**2 * slope)


def _error(phi: Phi, kinks: Sequence[float]) -> float:
    """Compute |phi - phi~|^2; return 0 if it is the square of a rounding error."""
    error, size = linearisation_error(phi, kinks), gaussian_moments(phi, kinks).second
    return error if error > 1e-26 * size else 0.0


def jacobian_bound(total: float, distance: float) -> float:
    """Compute distance^2 / 8 total: the least squared gain if the layers' terms sum to total (Theorems 1 and 2).

    distance: 1 - rho_max, in [0, 2].
    """
    return float(distances(distance)) ** 2 * total / CONSTANT


def shrinkage_bound(total: float, gain: float = 1.0) -> float:
    """Compute sqrt(8 gain / total): the largest 1 - rho_max that Theorem 1 or 2 allows for squared gain `gain`.

    For critical layers, gain 1, these are inequalities 4.1 and 4.2. A value above 2 is no bound; inf for linear layers.
    """
    return math.sqrt(CONSTANT * gain / total) if total > 0 else math.inf


def excess_convexity(g: Convex) -> float:
    """Compute e(g) = 1/t - 2 with g(1 - t) = t (appendix A.3): 0 for the identity, larger for a more convex g.

    g is convex and non-decreasing on [0, 1], g(0) = 0, g(1) = 1. It is computed to about 1e-12 of 1/t.
    """
    if not (abs(g(0.0)) < 1e-9 and abs(g(1.0) - 1) < 1e-9):
        raise ValueError(f"expected g(0) = 0 and g(1) = 1, found {g(0.0)} and {g(1.0)}")
    # t <= 1/2 by convexity; the bracket ends beyond it to leave room for rounding, if g is the identity
    crossing = brentq(lambda t: g(1 - t) - t, 0.0, 0.5 + 1e-9, xtol=1e-16, rtol=1e-14)
    return 1 / float(crossing) - 2


def cropped(P: Callable[[Tensor], Tensor], low: float = 0.0) -> Convex:
    """Move and stretch P on [low, 1] so that it maps 0 to 0 and 1 to 1 (the proof's P~); P(1) = 1, P(low) < 1."""
    floor = float(P(torch.tensor(low, dtype=torch.float64, device="cpu")))

    def stretched(t: float) -> float:
        return (float(P(torch.tensor(low + (1 - low) * t, dtype=torch.float64, device="cpu"))) - floor) / (1 - floor)

    return stretched


def upper_bound(rho: Tensor | float, floor: float, excess: float) -> Tensor:
    """Bound P_L o ... o P_1 on [0, 1] from above; its value at 0 is `floor` (remark 2, property 1).

    excess: a lower bound of the cropped map's excess convexity, `excess_bound`. The bound consists of two straight
    pieces that meet at 1 - rho = 1 / (2 + excess). For rho < 0 the bound at |rho| holds, since the series' coefficients
    aren't negative.
    """
    t = correlations(rho).abs()
    flat, steep = t / (1 + excess), (1 + excess) * t - excess
    return floor + (1 - floor) * torch.maximum(flat, steep)


def excess_bound(total: float, floor: float) -> float:
    """Compute (1 - floor) / 2 total <= e(P_L~ o ... o P_1~), floor = max_l P_l o ... o P_1(0) (A.5 and A.6)."""
    return (1 - floor) / 2 * total


class ResidualMap:
    """The map P of a residual block, (rho + sigma^2 C[phi|rho]) / (1 + sigma^2 C[phi|1]) (equation A.10).

    The block adds sigma V phi(U z), V and U Gaussian, to z and normalises the sum.
    """

    def __init__(self, phi: Phi, sigma: float, kinks: Sequence[float] = ()) -> None:
        self.sigma = sigma
        self.covariance: Covariance = covariance_of(phi, kinks)
        self._variance = 1 + sigma**2 * self.covariance.second

    def __call__(self, rho: Tensor | float) -> Tensor:
        return 1 - self.distance(1 - correlations(rho))

    def distance(self, distance: Tensor | float) -> Tensor:
        """Compute 1 - P(1 - distance)."""
        d = distances(distance)
        return (d + self.sigma**2 * self.covariance.gap(d)) / self._variance

    @property
    def slope(self) -> float:
        """The slope P'(1), the mean square gain of a small difference in one block."""
        return (1 + self.sigma**2 * self.covariance.slope_second) / self._variance

    def iterate_distance(self, distance: Tensor | float, depth: int) -> Tensor:
        """Compute 1 - rho after 0, 1, ..., depth blocks: (depth + 1, *distance.shape)."""
        layers = [distances(distance)]
        for _ in range(depth):
            layers.append(self.distance(layers[-1]))
        return torch.stack(layers)
