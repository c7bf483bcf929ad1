"""The speed at which norms concentrate: the laws behind Theorems 2 and 3, Definition 4 and Lemmas 1 and 3.

For x on the sphere of radius sqrt(d) and W Haar-uniform, u = W x is uniform on that sphere, and for a fixed y with
||y||^2 = d the theorems are about

    F = 1/d sum_i phi(u_i)^2        B = 1/d sum_i y_i^2 phi'(u_i)^2.

The paper proves that both tend to 1 in probability. Their law to first order: u = sqrt(d) z / ||z||, z ~ N(0, I_d), so
the H_2 component of g = phi^2 (or phi'^2), c_2 = E g(z) H_2(z), drops out with the radius:

    d Var -> m_4 Var g(z) - c_2^2,    m_4 = 1/d sum y_i^4 (1 for F),

and F, B are asymptotically normal around E g: P{|F - 1| >= eps} ~ 2 Phi(-eps sqrt(d) / sigma), sub-Gaussian in eps and
exponentially small in d. With x ~ N(0, I_d) instead, W x is standard Gaussian and the term c_2^2 is absent. These laws
are not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.quadrature import Phi
from bsnn.theory.hermite import hermite_coefficients

Numbers = NDArray[np.float64]

LEMMA_3_CONSTANT = 1.5 - math.log(2)
"""The largest c with P{| ||z|| - sqrt(d) | > delta sqrt(d)} <= 2 exp(-c d delta^2) for all d and 0 < delta <= 1.

It is 0.807, see `chi_tails`.
"""


@dataclass(frozen=True)
class ShellLaw:
    """The limit law of 1/d sum_i y_i^2 g(u_i): normal with mean E g and variance `variance` / d."""

    mean: float  # E g(z)
    spread: float  # Var g(z)
    radial: float  # c_2 = E g(z) H_2(z) = E z g'(z) / sqrt(2)

    @property
    def gain(self) -> float:
        """The factor of a layer on a small error of ||x||^2 / d: d/dv E phi(sqrt(v) z)^2 at v = 1, for g = phi^2.

        Below 1 the norm is restored layer by layer; at 1 its errors add up; above 1 they grow exponentially with depth.
        """
        return self.radial / math.sqrt(2)

    def variance(self, fourth: float = 1.0, on_sphere: bool = True) -> float:
        """Compute d Var in the limit; fourth: 1/d sum y_i^4, with 1/d sum y_i^2 = 1; on_sphere False: x ~ N(0, I)."""
        return max(fourth * self.spread - (self.radial**2 if on_sphere else 0.0), 0.0)

    def outside(self, eps: float, d: int, variance: float) -> float:
        """Compute P{|N(mean, variance / d) - 1| >= eps}."""
        if variance == 0:
            return float(abs(self.mean - 1) >= eps)
        scale = math.sqrt(variance / d)
        above, below = (1 + eps - self.mean) / scale, (1 - eps - self.mean) / scale
        return float(stats.norm.sf(above) + stats.norm.cdf(below))


def forward_law(phi: Phi) -> ShellLaw:
    """Compute the law for g = phi^2 (Theorem 2), for any phi with a finite E phi^4."""
    return _law(lambda x: phi(x) ** 2)


def backward_law(phi: Phi) -> ShellLaw:
    """Compute the law for g = phi'^2 (Theorem 3); phi' from autograd, jumps of phi' (ReLU) included."""
    return _law(lambda x: value_and_slope(phi, x)[1] ** 2)


def radial_slope(f: Phi) -> float:
    """Compute E z f'(z) = E f(z) (z^2 - 1): the change of E f(r z), to first order, when the radius r leaves 1."""
    return math.sqrt(2) * float(hermite_coefficients(f, 2)[2])


def log_moment_generating(phi: Phi, rate: float) -> float:
    """Compute ln E exp(rate (phi(z) - E phi(z))), z ~ N(0, 1), which shows if phi(z) is sub-Gaussian (Lemma 1).

    For a phi with Lipschitz constant K it is at most rate^2 K^2 / 2, with equality for phi(x) = K x (Gaussian
    concentration). For a phi with values in an interval of length R it is at most rate^2 R^2 / 8 (Hoeffding).
    """
    mean = float(hermite_coefficients(phi, 0)[0])
    return math.log(float(hermite_coefficients(lambda x: torch.exp(rate * (phi(x) - mean)), 0)[0]))


def chi_tails(d: int, delta: float) -> tuple[float, float]:
    """Compute P{||z|| < (1 - delta) sqrt(d)} and P{||z|| > (1 + delta) sqrt(d)}, z ~ N(0, I_d): exact, 0 below 1e-300.

    Lemma 3 says that their sum is at most 2 exp(-d delta^2). By Cramér's theorem the upper one is exp(-d I(delta) +
    o(d)), I = delta + delta^2 / 2 - ln(1 + delta) = delta^2 - delta^3 / 3 + ... This is below delta^2 for every delta >
    0, so for each delta the lemma fails from some d on. I / delta^2 falls with delta, to 3/2 - ln 2 at delta = 1.
    Chernoff's bound is exp(-d I) for the upper tail and less than exp(-d delta^2) for the lower one; hence
    `LEMMA_3_CONSTANT`.
    """
    if d < 1 or not 0 < delta < 1:
        raise ValueError(f"expected d >= 1 and 0 < delta < 1, found d = {d}, delta = {delta}")
    lower = special.gammainc(d / 2, d * (1 - delta) ** 2 / 2)
    upper = special.gammaincc(d / 2, d * (1 + delta) ** 2 / 2)
    return float(lower), float(upper)


def sphere_coordinate_cdf(t: Numbers, d: int) -> Numbers:
    """Compute P{sqrt(d) theta_1 <= t} for theta uniform on the unit sphere in R^d, d >= 2.

    The law is theta_1^2 ~ Beta(1/2, (d - 1) / 2).
    """
    inside: Numbers = special.betainc(0.5, (d - 1) / 2, np.clip(t**2 / d, 0, 1))
    return 0.5 + 0.5 * np.sign(t) * inside


def normal_distance(d: int) -> float:
    """Compute sup_t |P{sqrt(d) theta_1 <= t} - Phi(t)|: a coordinate of W x against the normal law. Falls as 1 / d."""
    t = np.linspace(0, 8, 160_001)
    return float(np.abs(sphere_coordinate_cdf(t, d) - stats.norm.cdf(t)).max())


def rayleigh_p(x_BN: Tensor) -> float:
    """Compute the p-value of Rayleigh's test of uniformity on the sphere, against a preferred direction.

    d B ||mean x||^2 is chi^2 with d degrees of freedom for many unit vectors x (B, d).
    """
    samples, d = x_BN.shape
    return float(stats.chi2.sf(d * samples * float(x_BN.mean(0).square().sum()), d))


def bingham_p(x_BN: Tensor) -> float:
    """Compute the p-value of Bingham's test of uniformity on the sphere, against a preferred or avoided axis.

    B d (d + 2) / 2 (tr S^2 - 1 / d), S = 1/B sum x x^T, is chi^2 with (d - 1) (d + 2) / 2 degrees of freedom.
    """
    samples, d = x_BN.shape
    S_NN = x_BN.T @ x_BN / samples
    statistic = samples * d * (d + 2) / 2 * (float(S_NN.square().sum()) - 1 / d)
    return float(stats.chi2.sf(statistic, (d - 1) * (d + 2) // 2))


def _law(g: Callable[[Tensor], Tensor]) -> ShellLaw:
    mean, _, radial = hermite_coefficients(g, 2).tolist()
    second = float(hermite_coefficients(lambda x: g(x) ** 2, 0)[0])
    return ShellLaw(mean, max(second - mean**2, 0.0), radial)


def error_peak(phi: Phi, width: int) -> float:
    r"""E max_i |y_i| for `width` independent y_i = phi'(z_i) e_i, z_i and e_i ~ N(0, 1): equation (2)'s errors.

    It is the integral over t > 0 of 1 - (1 - P{|y| > t})^width, P{|y| > t} = E_z 2 (1 - Phi(t / |phi'(z)|)), by the
    trapezoidal rule. For large widths it grows like max |phi'| sqrt(2 ln width). phi(z) = z gives a normal vector's.
    """
    z = np.linspace(-10, 10, 2001)
    weights = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    slopes = np.abs(value_and_slope(phi, torch.from_numpy(z))[1].numpy())
    t = np.linspace(0, 10 * float(slopes.max()), 1001)
    scaled = np.divide(t[:, None], slopes, out=np.full((len(t), len(z)), np.inf), where=slopes > 0)
    beyond = 2 * special.ndtr(-scaled) @ weights
    return float(np.trapezoid(-np.expm1(width * np.log1p(-np.minimum(beyond, 1 - 1e-16))), t))
