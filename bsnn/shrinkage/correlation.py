"""The correlation of two inputs in wide random layers: the map P, its phases and its fixed point.

Equations 2.2-2.4 and observation 1 of "Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022
submission). A layer y = W phi(z) / sqrt(N) + b, entries of W and b of variance sigma_w^2 and sigma_b^2, followed by a
normalisation of its length, takes correlation rho to

    P(rho) = (sigma_b^2 + sigma_w^2 C[phi|rho]) / (sigma_b^2 + sigma_w^2 C[phi|1])                   (2.3)

as its width goes to infinity. P(1) = 1; P is a power series with coefficients >= 0, so non-decreasing and convex on
[0, 1]. The slope at 1 decides: below 1 (ordered) all inputs end up alike exponentially quickly, at 1 (critical)
polynomially quickly, above 1 (chaotic) correlations go to a fixed point below 1. For a GPN function without biases
P'(1) = E phi'^2 / E phi^2 = 1: critical.

    layer = CorrelationMap(torch.erf, *critical(torch.erf))
    layer.iterate_distance(1.0, depth=100)[-1]     # 1 - rho after 100 layers, for orthogonal inputs
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from bsnn.quadrature import ROUNDING, Phi, gaussian_moments, name_of
from bsnn.shrinkage.covariance import correlations, covariance_of, distances, gaussian_covariance

__all__ = ["CorrelationMap", "critical", "gaussian_covariance", "series_map"]

PHASE_TOLERANCE = 1e-9
"""P'(1) counts as 1 if it is nearer to 1 than this."""


class CorrelationMap:
    """The map P of one layer (equation 2.3).

    phi, kinks: as for `bsnn.shrinkage.covariance.covariance_of`, which also takes GPN modules.

    Tensors are float64 on the CPU, of the argument's shape. Where rho is near 1, `distance` and `iterate_distance` work
    with 1 - rho, to a relative error of about 1e-9 down to 1e-12; `__call__` and `iterate` can't be better than 1e-16.
    """

    def __init__(
        self,
        phi: Phi,
        sigma_w: float = 1.0,
        sigma_b: float = 0.0,
        kinks: Sequence[float] = (),
        closed_forms: bool = True,
    ) -> None:
        self.phi, self.sigma_w, self.sigma_b = phi, sigma_w, sigma_b
        self.covariance = covariance_of(phi, kinks, closed_forms)
        variance = sigma_b**2 + sigma_w**2 * self.covariance.second
        if not (sigma_w > 0 and sigma_b >= 0 and variance > 0):
            raise ValueError(
                f"expected sigma_w > 0, sigma_b >= 0 and a phi that isn't 0, found sigma_w={sigma_w}, "
                f"sigma_b={sigma_b}, E phi^2={self.covariance.second} of {name_of(phi)}"
            )
        self._scale = sigma_w**2 / variance

    def __call__(self, rho: Tensor | float) -> Tensor:
        """Compute P(rho)."""
        return 1 - self.distance(1 - correlations(rho))

    def distance(self, distance: Tensor | float) -> Tensor:
        """Compute 1 - P(1 - distance)."""
        return self._scale * self.covariance.gap(distances(distance))

    def derivative(self, rho: Tensor | float) -> Tensor:
        """Compute P'(rho) = sigma_w^2 C[phi'|rho] / (sigma_b^2 + sigma_w^2 C[phi|1])."""
        lost = self.covariance.slope_gap(1 - correlations(rho))
        return self._scale * (self.covariance.slope_second - lost)

    @property
    def slope(self) -> float:
        """The slope P'(1), the mean square gain of a small difference in one layer."""
        return self._scale * self.covariance.slope_second

    @property
    def phase(self) -> str:
        """The phase, ordered, critical or chaotic: P'(1) below, at or above 1."""
        if abs(self.slope - 1) <= PHASE_TOLERANCE:
            return "critical"
        return "ordered" if self.slope < 1 else "chaotic"

    def fixed_point(self) -> float:
        """Find the attracting fixed point in [0, 1] (observation 1): 1 unless chaotic.

        Raises ValueError for the identity map, which leaves every correlation as it is.
        """
        if float(self(0.0)) <= PHASE_TOLERANCE and self.phase == "critical":
            raise ValueError(
                f"{name_of(self.phi)} is linear and has no bias: every correlation is a fixed point of P(rho) = rho"
            )
        if self.phase != "chaotic":
            return 1.0

        def excess(distance: float) -> float:
            return float(self.distance(distance)) / distance - 1

        if excess(1.0) >= -1e-15:  # P(0) = 0: phi has no mean and there is no bias
            return 0.0
        nearest = 1e-12  # a fixed point nearer to 1 equals 1 within the rounding of P'(1)
        return 1.0 if excess(nearest) <= 0 else 1 - float(brentq(excess, nearest, 1.0, xtol=1e-15, rtol=1e-13))

    def iterate(self, rho: Tensor | float, depth: int) -> Tensor:
        """Compute correlations after 0, 1, ..., depth layers: (depth + 1, *rho.shape)."""
        return 1 - self.iterate_distance(1 - correlations(rho), depth)

    def iterate_distance(self, distance: Tensor | float, depth: int) -> Tensor:
        """Compute 1 - rho after 0, 1, ..., depth layers: (depth + 1, *distance.shape)."""
        layers = [distances(distance)]
        for _ in range(depth):
            layers.append(self.distance(layers[-1].clamp(max=2.0)))
        return torch.stack(layers)


def critical(phi: Phi, kinks: Sequence[float] = ()) -> tuple[float, float]:
    """Compute (sigma_w, sigma_b) with P'(1) = 1 and pre-activations of variance 1: sigma_w^2 = 1 / E phi'^2.

    sigma_b^2 / sigma_w^2 = E phi'^2 - E phi^2: 0 for ReLU and leaky ReLU, 2 / pi (2 / sqrt 5 - arctan(2 / sqrt 5)) for
    erf, 0 for every GPN function, where sigma_w = 1 as well.

    Raises ValueError if there are none: E phi^2 > E phi'^2 (phi has a large mean), or phi' = 0.
    """
    moments = gaussian_moments(phi, kinks)
    second, slope = moments.second, moments.derivative_second
    if slope == 0 or second > slope * (1 + ROUNDING):
        raise ValueError(
            f"{name_of(phi)} has no critical initialisation: expected E phi^2 <= E phi'^2, found {second:.6g} > "
            f"{slope:.6g}"
        )
    share = 1 - second / slope
    return slope**-0.5, math.sqrt(share) if share > ROUNDING else 0.0


def series_map(coefficients: Tensor, rho: Tensor | float, sigma_w: float = 1.0, sigma_b: float = 0.0) -> Tensor:
    """Compute P(rho) from normalised Hermite coefficients a_0, ..., a_K of phi (`bsnn.theory.hermite`), equation 2.4.

        P(rho) = (sigma_b^2 + sigma_w^2 sum_k a_k^2 rho^k) / (sigma_b^2 + sigma_w^2 sum_k a_k^2)

    Truncation after degree K errs by at most 2 sum_{k > K} a_k^2, relative to the denominator.
    """
    powers = correlations(rho)[..., None] ** torch.arange(len(coefficients), dtype=torch.float64, device="cpu")
    squares = coefficients.double().square()
    return (sigma_b**2 + sigma_w**2 * (powers @ squares)) / (sigma_b**2 + sigma_w**2 * squares.sum())
