"""The Gaussian covariance C[phi|rho] = E phi(x) phi(y), x and y standard normal with correlation rho, for any phi.

Defined in section 2.1 of "Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission),
with closed forms in its appendix B. In deep networks rho is near 1, where C[phi|1] - C[phi|rho] loses all its digits.
So every route here computes that gap as a function of the distance 1 - rho:

    gap(d) = C[phi|1] - C[phi|1 - d] = E (phi(x) - phi(y))^2 / 2,      d in [0, 2]

to 1e-9 of itself, or 1e-12 of E phi^2 where breaks cancel. C is E phi^2 minus it. By Stein's lemma
C[phi|.]' = C[phi'|.].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.activations import value_and_slope
from bsnn.gpn import GPN
from bsnn.panels import NotResolvedError, breaks, cuts, first_edges, gauss
from bsnn.quadrature import Phi, analyse, float64_phi, gaussian_moments, name_of, root_density

_RANGE = 10.0  # the density there is 1e-22: enough for phi of polynomial growth
_SMOOTH = 1e-7  # a panel's polynomial may miss by this, relative; the integrals' error is its square
_MAX_BREAKS = 48
_SHIFT = 0.01287  # of the first panels, so that bends at round numbers lie inside one
_AGREE = 1e-11  # gap(1) must be the variance to this accuracy


@dataclass(frozen=True)
class Covariance:
    """C[phi|.] and C[phi'|.] of one phi: second = C[phi|1], slope_second = C[phi'|1], and the loss with distance.

    gap: d -> C[phi|1] - C[phi|1 - d]; slope_gap: d -> C[phi'|1] - C[phi'|1 - d]. Both map float64 tensors elementwise.
    """

    second: float
    slope_second: float
    gap: Phi
    slope_gap: Phi


def gaussian_covariance(
    phi: Phi, rho: Tensor | float, kinks: Sequence[float] = (), closed_forms: bool = True
) -> Tensor:
    """Compute C[phi|rho] for an elementwise phi, to about 1e-12 of E phi^2: float64, rho's shape, rho in [-1, 1].

    kinks: see `covariance_of`. closed_forms=False takes the numerical route for every phi.
    """
    found = covariance_of(phi, kinks, closed_forms)
    return found.second - found.gap(1 - correlations(rho))


def covariance_of(phi: Phi, kinks: Sequence[float] = (), closed_forms: bool = True) -> Covariance:
    """Compute phi's covariance: closed form for ReLU, leaky ReLU, erf, identity and GPN versions of them, else numbers.

    phi: as for `bsnn.quadrature.gaussian_moments`, of at most polynomial growth. Kinks and jumps of phi are found. List
    only those where phi changes and returns within much less than 0.1. A distance costs milliseconds.

    Raises ValueError for anything but such a function.
    """
    if isinstance(phi, GPN):  # a f + b
        inner, scale, moments = covariance_of(phi.phi, kinks, closed_forms), phi.a**2, gaussian_moments(phi, kinks)
        return Covariance(
            moments.second,
            moments.derivative_second,
            lambda distance: scale * inner.gap(distance),
            lambda distance: scale * inner.slope_gap(distance),
        )
    closed = _closed_form(phi) if closed_forms else None
    return _numerical(phi, kinks) if closed is None else closed


def correlations(rho: Tensor | float) -> Tensor:
    """Return rho as a float64 tensor on the CPU. Raises ValueError outside of [-1, 1]."""
    return _within(rho, -1.0, 1.0, "a correlation")


def distances(distance: Tensor | float) -> Tensor:
    """Return 1 - rho as a float64 tensor on the CPU. Raises ValueError outside of [0, 2]."""
    return _within(distance, 0.0, 2.0, "1 - rho")


def relu_covariance(rho: Tensor | float) -> Tensor:
    """Compute (sin t + (pi - t) cos t) / (2 pi) with t = arccos rho."""
    return 0.5 - relu_gap(1 - correlations(rho))


def leaky_relu_covariance(rho: Tensor | float, slope: float) -> Tensor:
    """Compute slope rho + (1 - slope)^2 C[ReLU|rho].

    Leaky ReLU is slope x + (1 - slope) ReLU(x), and E x ReLU(y) = rho / 2.
    """
    return slope * correlations(rho) + (1 - slope) ** 2 * relu_covariance(rho)


def erf_covariance(rho: Tensor | float) -> Tensor:
    """Compute 2 / pi arcsin(2 rho / 3) = 2 / pi arctan(2 rho / sqrt(9 - 4 rho^2))."""
    return 2 / math.pi * torch.asin(2 * correlations(rho) / 3)


def relu_gap(distance: Tensor | float) -> Tensor:
    """Compute C[ReLU|1] - C[ReLU|1 - d] = d / 2 - (sin t - t cos t) / (2 pi)."""
    d = distances(distance)
    t = _angle(d)
    # sin t - t cos t ~ t^3 / 3 cancels; its series, sum_n (-1)^(n+1) 2n t^(2n+1) / (2n+1)!, doesn't
    series = sum((-1) ** (n + 1) * 2 * n / math.factorial(2 * n + 1) * t ** (2 * n + 1) for n in range(1, 8))
    return d / 2 - torch.where(t < 0.5, series, torch.sin(t) - t * torch.cos(t)) / (2 * math.pi)


def relu_slope_gap(distance: Tensor | float) -> Tensor:
    """Compute C[step|1] - C[step|1 - d] = t / (2 pi)."""
    return _angle(distances(distance)) / (2 * math.pi)


def erf_gap(distance: Tensor | float) -> Tensor:
    """Compute C[erf|1] - C[erf|1 - d] = 2 / pi (A - B) with sin A = 2 / 3, sin B = 2 (1 - d) / 3.

    sin A - sin B = 2 cos((A + B) / 2) sin((A - B) / 2) gives A - B without cancellation.
    """
    d = distances(distance)
    mean = (math.asin(2 / 3) + torch.asin(2 * (1 - d) / 3)) / 2
    return 4 / math.pi * torch.asin(d / (3 * torch.cos(mean)))


def erf_slope_gap(distance: Tensor | float) -> Tensor:
    """Compute C[erf'|1] - C[erf'|1 - d], C[erf'|rho] = 4 / (pi sqrt(9 - 4 rho^2))."""
    d = distances(distance)
    root = torch.sqrt(9 - 4 * (1 - d) ** 2)
    # 1 / sqrt 5 - 1 / root, over a common denominator: root^2 - 5 = 4 d (2 - d)
    return 4 / math.pi * 4 * d * (2 - d) / (math.sqrt(5) * root * (root + math.sqrt(5)))


def _closed_form(phi: Phi) -> Covariance | None:
    if phi in (torch.erf, torch.special.erf):
        return Covariance(2 / math.pi * math.asin(2 / 3), 4 / (math.pi * math.sqrt(5)), erf_gap, erf_slope_gap)
    if isinstance(phi, nn.Identity):
        slope = 1.0
    elif isinstance(phi, nn.ReLU) or phi in (torch.relu, F.relu):
        slope = 0.0
    elif isinstance(phi, nn.LeakyReLU):
        slope = phi.negative_slope
    else:
        return None
    bend = (1 - slope) ** 2
    return Covariance(
        (1 + slope**2) / 2,
        (1 + slope**2) / 2,
        lambda distance: slope * distances(distance) + bend * relu_gap(distance),
        lambda distance: bend * relu_slope_gap(distance),
    )


def _numerical(phi: Phi, kinks: Sequence[float]) -> Covariance:
    found = analyse(phi, kinks)  # raises an error if phi is unsuitable
    moments = found.of(phi)
    function = float64_phi(phi)

    def value(x: Tensor) -> Tensor:
        with torch.no_grad():
            return function(x.clone())  # the clone lets an in-place phi work

    def slope(x: Tensor) -> Tensor:
        return value_and_slope(function, x)[1]

    # phi and phi' are resolved to a share of their difference from a line, or else of the whole.
    sizes = (found.residual, found.moments.second), (found.residual_slope, found.moments.derivative_second)
    scales = [2.0**found.exponent * max(math.sqrt(rest), 1e-7 * math.sqrt(whole)) or 1.0 for rest, whole in sizes]
    places = _breaks(phi, function, kinks, torch.tensor(scales, dtype=torch.float64, device="cpu"))
    covariance = Covariance(
        moments.second,
        moments.derivative_second,
        lambda distance: _gaps(value, places, distances(distance)),
        lambda distance: _gaps(slope, places, distances(distance)),
    )
    # x and y are independent at distance 1: both gaps are variances, which quadrature computes independently.
    one, mean_slope = torch.ones(1, dtype=torch.float64, device="cpu"), 2.0**found.exponent * found.mean_slope
    for gap, mean, second in (
        (covariance.gap, moments.mean, moments.second),
        (covariance.slope_gap, mean_slope, moments.derivative_second),
    ):
        error = float(gap(one)) - (second - mean**2)
        if not abs(error) <= _AGREE * second:
            raise ValueError(
                f"{name_of(phi)} is too rough or grows too fast for C[phi|rho]: at rho = 0 it is wrong by "
                f"{error / second:.1g} of E phi^2 or E phi'^2; expected polynomial growth, and kinks of parts narrower "
                "than 0.01 in `kinks`"
            )
    return covariance


def _gaps(f: Phi, breaks: Tensor, distance: Tensor) -> Tensor:
    values = [_gap(f, breaks, d) for d in distance.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64, device="cpu").view(distance.shape)


def _gap(f: Phi, breaks: Tensor, d: float) -> float:
    """Compute E (f(x) - f(y))^2 / 2 by products of Gauss-Legendre rules.

    x = c u + s v and y = c u - s v with independent normal u, v, where c^2 = 1 - d/2, s^2 = d/2. The inner integral
    runs over the variable of larger weight and is split where x or y crosses a break of f. The outer one is split where
    two such places meet. The integrand is even in v.
    """
    if d == 0:
        return 0.0
    s, c = math.sqrt(d / 2), math.sqrt(1 - d / 2)
    pairs = breaks[:, None], breaks[None, :]
    if c >= s:
        v, weight_v = _rule(0.0, ((pairs[0] - pairs[1]) / (2 * s)).flatten()[None])
        v, weight_v = v.flatten(), weight_v.flatten()
        shifts = s * v[:, None]
        u, weight_u = _rule(-_RANGE, torch.cat([(breaks - shifts) / c, (breaks + shifts) / c], dim=1))
        a, b, weight = c * u, s * v[:, None, None], weight_u * weight_v[:, None, None]
    else:
        meeting = (pairs[0] + pairs[1]) / (2 * c) if c > 0 else breaks[:0]
        u, weight_u = _rule(-_RANGE, meeting.flatten()[None])
        u, weight_u = u.flatten(), weight_u.flatten()
        v, weight_v = _rule(0.0, (breaks - c * u[:, None]).abs() / s)
        a, b, weight = c * u[:, None, None], s * v, weight_v * weight_u[:, None, None]
    difference = f((a + b).flatten()) - f((a - b).flatten())
    return float((difference.square() * weight.flatten()).sum())  # half of twice the half-line v > 0


def _rule(start: float, breaks_XE: Tensor) -> tuple[Tensor, Tensor]:
    """Compute nodes and weights for the normal density on [start, 10], split at breaks: (X, panels, nodes) each."""
    rows = breaks_XE.shape[0]
    grid = torch.linspace(start, _RANGE, round(_RANGE - start) + 1, dtype=torch.float64, device="cpu")
    if rows == 1:
        edges = torch.cat([grid, breaks_XE[0].clamp(start, _RANGE)]).unique()[None]
    else:
        edges = torch.cat([grid.expand(rows, -1), breaks_XE.clamp(start, _RANGE)], dim=1).sort(dim=1).values
    x, weight = (part.unflatten(0, (rows, -1)) for part in gauss(edges[:, :-1].flatten(), edges[:, 1:].flatten()))
    return x, weight * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _breaks(phi: Phi, function: Phi, kinks: Sequence[float], scales: Tensor) -> Tensor:
    """Find where integrals with phi are split: its kinks and jumps, and ends of panels where it is steep; sorted."""
    reach = math.sqrt(2) * _RANGE

    def components(x: Tensor) -> Tensor:
        """Compute phi and phi', measured by `scales` in the Gaussian L2 norm: (N, 2)."""
        return torch.stack(value_and_slope(function, x), dim=1) * root_density(x).unsqueeze(1) / scales

    known = [float(kink) for kink in kinks if abs(kink) < reach]
    # The grid is shifted: bends at round numbers lie inside a panel and show.
    shifted = sorted({*(first_edges((), reach=reach) + _SHIFT).tolist(), *known})
    try:
        found = breaks(components, torch.tensor(shifted, dtype=torch.float64, device="cpu"), _SMOOTH)
        known += torch.cat(found).tolist()
        listed = torch.tensor(known, dtype=torch.float64, device="cpu")
        places: Tensor = torch.cat([listed, cuts(components, first_edges(known, 1, reach), _SMOOTH)]).unique()
    except NotResolvedError as error:
        raise ValueError(f"{name_of(phi)} is too rough for C[phi|rho] near x = {error.at:.6g}") from None
    if len(places) > _MAX_BREAKS:
        raise ValueError(
            f"{name_of(phi)} is too rough for C[phi|rho]: expected at most {_MAX_BREAKS} kinks and edges of steep "
            f"parts in |x| < {reach:.3g}, found {len(places)}"
        )
    return places


def _angle(distance: Tensor) -> Tensor:
    """Compute t = arccos(1 - d), accurate for small d."""
    return 2 * torch.asin(torch.sqrt(distance / 2).clamp(max=1.0))


def _within(value: Tensor | float, low: float, high: float, what: str) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if not bool(((tensor >= low) & (tensor <= high)).all()):
        raise ValueError(f"expected {what} in [{low:g}, {high:g}], found {tensor.tolist()}")
    return tensor
