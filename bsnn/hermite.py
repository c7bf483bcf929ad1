"""Hermite expansions under the Gaussian measure (appendix of the paper, equations 23-35).

With the normalised probabilists' polynomials H_0 = 1, H_1 = x, H_2 = (x^2 - 1) / sqrt(2), ..., orthonormal under
N(0, 1), a function with E phi^2 < inf is phi = sum_k a_k H_k, a_k = E H_k(z) phi(z), and

    E phi = a_0,   E phi^2 = sum a_k^2,   E phi'^2 = sum k a_k^2,   E phi'^2 - Var phi = sum_{k >= 2} (k - 1) a_k^2.

The last sum is what the Gaussian-Poincaré inequality (Theorem 1) says is >= 0, and what Proposition 2 says is 0 for a
linear function alone. The coefficients of a function with kinks fall slowly (for ReLU a_k^2 ~ k^(-5/2)): the sums
converge, but to get E phi^2 or E phi'^2 of such a function use `bsnn.quadrature.gaussian_moments`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bsnn.quadrature import Phi, float64_phi, name_of

_RANGE = 38.0  # the density at 38 is 1e-314, where float64 ends
_NODES = 16
_TOLERANCE = 1e-14
_MAX_BISECTIONS = 60
_MAX_PANELS = 2**16


def hermite_polynomials(x: Tensor, degree: int) -> Tensor:
    """H_0(x), ..., H_degree(x): (degree + 1, *x.shape), in x's dtype.

    By the three-term recurrence sqrt(k + 1) H_(k+1) = x H_k - sqrt(k) H_(k-1), which is stable. |H_k(x)| is at most
    about exp(x^2 / 4): up to |x| = 50 nothing overflows float64, whatever the degree.
    """
    _at_least_zero(degree)
    return torch.stack(list(_recurrence(torch.ones_like(x), x, degree)))


def hermite_series(coefficients: Tensor, x: Tensor) -> Tensor:
    """sum_k a_k H_k(x), elementwise: the expansion cut off after the given coefficients, (degree + 1,)."""
    terms = _recurrence(torch.ones_like(x), x, len(coefficients) - 1)
    return torch.stack([a * H for a, H in zip(coefficients.to(x.dtype), terms, strict=True)]).sum(0)


def hermite_coefficients(phi: Phi, degree: int, kinks: Sequence[float] = ()) -> Tensor:
    """a_0, ..., a_degree of an elementwise phi: float64 (degree + 1,), each to about 1e-13 of sqrt(E phi^2).

    By Gauss-Legendre quadrature on panels that are bisected until phi is resolved; phi as for
    `bsnn.quadrature.gaussian_moments`, of which no derivative is taken here, so that jumps are welcome. Kinks and jumps
    are found; `kinks` is for features narrower than about 0.01, which the first grid can step over.

    Raises ValueError if degree < 0, or phi is not an elementwise function, gives nan, or has an infinite E phi^2.
    """
    _at_least_zero(degree)
    x, weight, y = _rule(phi, degree, kinks)
    # Half of the density goes to H_k: the Hermite functions H_k sqrt(density) stay below 1 for every k and x.
    root = _root_density(x)
    integrand = weight * y * root
    return torch.stack([integrand @ function for function in _recurrence(root, x, degree)])


def linearisation_error(phi: Phi, kinks: Sequence[float] = ()) -> float:
    """min over lines of E (phi(z) - c_0 - c_1 z)^2 = E phi^2 - a_0^2 - a_1^2 = sum_{k >= 2} a_k^2.

    Computed as the square that it is, without the cancellation of the difference: 0 only for a line. phi, kinks and
    errors as for `hermite_coefficients`.
    """
    x, weight, y = _rule(phi, 1, kinks)
    measure = weight * _root_density(x).square()
    residual = y - measure @ y - (measure @ (x * y)) * x
    # What rounding leaves of a_0 and a_1 in the residual goes too.
    return float(measure @ (residual - measure @ residual - (measure @ (x * residual)) * x).square())


def _recurrence(first: Tensor, x: Tensor, degree: int) -> Iterator[Tensor]:
    """first H_0(x), ..., first H_degree(x)."""
    before, now = torch.zeros_like(first), first
    for k in range(degree + 1):
        yield now
        before, now = now, (x * now - math.sqrt(k) * before) / math.sqrt(k + 1)


def _rule(phi: Phi, degree: int, kinks: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, weights of dx and phi at the nodes, each (M,): good for E phi^2 and E phi H_k, k <= degree."""
    with torch.no_grad(), torch.device("cpu"):
        function = float64_phi(phi)
        lo, hi = _panels(degree, kinks)
        xs, weights, ys = [], [], []
        total: Tensor | None = None
        for _ in range(_MAX_BISECTIONS):
            x, weight = _nodes(lo, hi)
            y = _checked(phi, function(x.flatten()), x).view_as(x)
            whole = _test_integrals(x, weight, y, lo, hi)
            mid = (lo + hi) / 2
            fine_x, fine_weight = _nodes(torch.cat([lo, mid]), torch.cat([mid, hi]))
            fine_y = _checked(phi, function(fine_x.flatten()), fine_x).view_as(fine_x)
            parents = torch.cat([lo, lo]), torch.cat([hi, hi])
            left, right = _test_integrals(fine_x, fine_weight, fine_y, *parents).chunk(2)
            if total is None:
                total = whole.sum(0)
                if not bool(total.isfinite().all()) or float(whole[[0, -1], -1].sum()) > 1e-12 * float(total[-1]):
                    raise ValueError(
                        f"{name_of(phi)} has an infinite E phi^2, or one that has not died out at |x| = {_RANGE:g}; "
                        "expected no pole, and growth slower than exp(x^2/4)"
                    )
            second = float(total[-1])
            scale = torch.tensor([math.sqrt(second)] * 3 + [second], dtype=torch.float64)
            rough = ((whole - left - right).abs() > _TOLERANCE * scale).any(1)
            keep = torch.cat([~rough, ~rough])
            xs.append(fine_x[keep].flatten())
            weights.append(fine_weight[keep].flatten())
            ys.append(fine_y[keep].flatten())
            if not rough.any():
                return torch.cat(xs), torch.cat(weights), torch.cat(ys)
            if 2 * int(rough.sum()) > _MAX_PANELS:
                break
            lo, hi = torch.cat([lo[rough], mid[rough]]), torch.cat([mid[rough], hi[rough]])
    raise ValueError(
        f"{name_of(phi)}: E phi^2 is infinite, or phi too rough to integrate: it does not converge near "
        f"x = {float(lo[0]):.6g}; expected a function with finite E phi^2"
    )


def _panels(degree: int, kinks: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Ends of the first panels, from a grid that includes 0, and the listed kinks.

    H_k sqrt(density) oscillates with frequency sqrt(k) at most: a panel holds no more than 2 radians of it.
    """
    if not all(math.isfinite(kink) for kink in kinks):
        raise ValueError(f"expected kinks to be finite numbers, found {list(kinks)}")
    per_unit = max(8, math.ceil(math.sqrt(degree) / 2))
    grid = torch.linspace(-_RANGE, _RANGE, int(2 * _RANGE * per_unit) + 1, dtype=torch.float64)
    inside = [float(kink) for kink in kinks if abs(kink) < _RANGE]
    edges = torch.tensor(sorted({*grid.tolist(), *inside}), dtype=torch.float64)
    return edges[:-1], edges[1:]


def _nodes(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights of the panels: lo, hi (P,) -> (P, nodes) each."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_NODES))
    half = ((hi - lo) / 2).unsqueeze(1)
    return lo.unsqueeze(1) + half * (1 + nodes), half * weights


def _test_integrals(x: Tensor, weight: Tensor, y: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Of v, v t, v t^2 and v^2 over each panel, (P, 4): v = phi sqrt(density), t from -1 at lo to 1 at hi."""
    v = y * _root_density(x)
    t = (2 * x - (lo + hi).unsqueeze(1)) / (hi - lo).unsqueeze(1)
    return (torch.stack([v, v * t, v * t**2, v**2], dim=-1) * weight.unsqueeze(-1)).sum(1)


def _root_density(x: Tensor) -> Tensor:
    root: Tensor = torch.exp(-(x**2) / 4) / (2 * math.pi) ** 0.25
    return root


def _checked(phi: Phi, y: Tensor, x: Tensor) -> Tensor:
    bad = ~y.isfinite()
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(
            f"{name_of(phi)}: phi({float(x.flatten()[at]):.6g}) = {float(y[at])}; expected a number for every |x| <= "
            f"{_RANGE:g}"
        )
    return y


def _at_least_zero(degree: int) -> None:
    if degree < 0:
        raise ValueError(f"expected a degree >= 0, found {degree}")
