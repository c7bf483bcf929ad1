"""Hermite expansions under the Gaussian measure (appendix of the paper, equations 23-35).

With the normalised probabilists' polynomials H_0 = 1, H_1 = x, H_2 = (x^2 - 1) / sqrt(2), ..., orthonormal under
N(0, 1), a function with E phi^2 < inf is phi = sum_k a_k H_k, a_k = E H_k(z) phi(z), and

    E phi = a_0,   E phi^2 = sum a_k^2,   E phi'^2 = sum k a_k^2,   E phi'^2 - Var phi = sum_{k >= 2} (k - 1) a_k^2.

The Gaussian-Poincaré inequality (Theorem 1) says that the last sum is >= 0, and Proposition 2 that it is 0 for a linear
function alone. The coefficients of a function with kinks fall slowly (for ReLU a_k^2 ~ k^(-5/2)). The sums converge,
but for E phi^2 or E phi'^2 of such a function use `bsnn.quadrature.gaussian_moments`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bsnn.panels import NotResolvedError, first_edges, gauss, integrate, panel_integrals
from bsnn.quadrature import Phi, checked, in_float64, infinite_moment, normalised_phi, root_density, unresolved

# A panel may leave this share of sqrt(E phi^2) in doubt.
_TOLERANCE = 1e-15


def hermite_polynomials(x: Tensor, degree: int) -> Tensor:
    """Compute H_0(x), ..., H_degree(x): (degree + 1, *x.shape), in x's dtype.

    It uses the three-term recurrence sqrt(k + 1) H_(k+1) = x H_k - sqrt(k) H_(k-1), which is stable. |H_k(x)| is at
    most about exp(x^2 / 4): up to |x| = 50 nothing overflows float64, whatever the degree.
    """
    _at_least_zero(degree)
    return torch.stack(list(_recurrence(torch.ones_like(x), x, degree)))


def hermite_series(coefficients: Tensor, x: Tensor) -> Tensor:
    """Compute sum_k a_k H_k(x), elementwise: the expansion cut off after the given coefficients, (degree + 1,)."""
    terms = _recurrence(torch.ones_like(x), x, len(coefficients) - 1)
    return torch.stack([a * H for a, H in zip(coefficients.to(x.dtype), terms, strict=True)]).sum(0)


def hermite_coefficients(phi: Phi, degree: int, kinks: Sequence[float] = ()) -> Tensor:
    """Compute a_0, ..., a_degree of an elementwise phi: float64 (degree + 1,), each to about 1e-13 of sqrt(E phi^2).

    It uses Gauss-Legendre quadrature on the bisected panels of `bsnn.panels`. phi and kinks are as for
    `bsnn.quadrature.gaussian_moments`, but no derivative is taken here, so phi may have jumps.

    Raises ValueError if degree < 0, or phi is not an elementwise function, gives nan, or has an infinite E phi^2.
    """
    _at_least_zero(degree)
    x, weight, y, exponent = _rule(phi, degree, kinks)
    # Half of the density goes to H_k: the Hermite functions H_k sqrt(density) stay below 1 for every k and x.
    root = root_density(x)
    integrand = weight * y * root
    return 2.0**exponent * torch.stack([integrand @ function for function in _recurrence(root, x, degree)])


def linearisation_error(phi: Phi, kinks: Sequence[float] = ()) -> float:
    """Compute the least E (phi(z) - c_0 - c_1 z)^2 of all lines: E phi^2 - a_0^2 - a_1^2 = sum_{k >= 2} a_k^2.

    It is computed as that square, without the cancellation of the difference: 0 only for a line. phi, kinks and errors
    as for `hermite_coefficients`.
    """
    x, weight, y, exponent = _rule(phi, 1, kinks)
    measure = weight * root_density(x).square()
    residual = y - measure @ y - (measure @ (x * y)) * x
    # This also removes the rounding of a_0 and a_1 that is left in the residual.
    error = float(measure @ (residual - measure @ residual - (measure @ (x * residual)) * x).square())
    return in_float64(phi, "E (phi - c_0 - c_1 x)^2", error, 2 * exponent)


def _recurrence(first: Tensor, x: Tensor, degree: int) -> Iterator[Tensor]:
    """Yield first H_0(x), ..., first H_degree(x)."""
    before, now = torch.zeros_like(first), first
    for k in range(degree + 1):
        yield now
        before, now = now, (x * now - math.sqrt(k) * before) / math.sqrt(k + 1)


def _rule(phi: Phi, degree: int, kinks: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, int]:
    """Compute nodes, weights of dx, phi / 2^n at the nodes, (M,) each, and n: for E phi^2 and E phi H_k, k <= degree.

    H_k sqrt(density) oscillates with frequency sqrt(k) at most: a panel holds no more than 2 radians of it. It stays
    below 1, so phi sqrt(density) is resolved, in the mean, to the accuracy of the coefficients.
    """
    edges = first_edges(kinks, max(8, math.ceil(math.sqrt(degree) / 2)))
    with torch.no_grad():
        function, exponent = normalised_phi(phi)

        def value(x: Tensor) -> Tensor:
            return checked(phi, "phi", x, function(x.clone()))  # the clone lets an in-place phi work

        def integrands(x: Tensor) -> Tensor:
            v = value(x) * root_density(x)
            return torch.stack([v, v**2], dim=1)

        second = panel_integrals(integrands, edges[:-1], edges[1:])[:, 1]
        if float(second[[0, -1]].sum()) > 1e-12 * float(second.sum()):
            raise ValueError(infinite_moment(phi, "phi^2"))
        try:
            scale = torch.tensor([0.5, 1.0], dtype=torch.float64, device="cpu")
            found = integrate(integrands, edges, lambda total: total[1].clamp_min(0) ** scale, _TOLERANCE, kinks)
        except NotResolvedError as error:
            raise ValueError(unresolved(phi, error, ("E phi", "E phi^2"), "phi^2")) from None
        x, weight = (part.flatten() for part in gauss(found.lo, found.hi))
        return x, weight, value(x), exponent


def _at_least_zero(degree: int) -> None:
    if degree < 0:
        raise ValueError(f"expected a degree >= 0, found {degree}")
