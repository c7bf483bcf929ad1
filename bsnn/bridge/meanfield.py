"""Two inputs in an infinitely wide network of any function: their length and their correlation, layer by layer.

For inputs of one length, |x_a|^2 / N = |x_b|^2 / N = q_0, and weights that keep lengths on average (E |W x|^2 = |x|^2:
Haar-uniform orthogonal, i.i.d. N(0, 1/N), or rows of norm one), the entries of h_a = W x_a and h_b = W x_b are jointly
Gaussian as N grows, and

    q_{l+1} = E phi(sqrt(q_l) z)^2,    rho_{l+1} = P_l(rho_l),    P_l = C[psi_l | .] / C[psi_l | 1],

where psi_l(x) = phi(sqrt(q_l) x) / sqrt(q_l) and C is the Gaussian covariance (`bsnn.shrinkage.correlation`, whose
layer normalisation is the division by C[psi_l | 1]). A GPN function has q_l = 1, psi_l = phi and P_l'(1) = E phi'^2 =
1: by definition it is critical in every layer. A plain function's length drifts, and so does the linearity of psi_l.

Correlations are held as gaps, 1 - rho, which keep their digits near rho = 1. Shapes in names: L layers, R pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.panels import breaks, first_edges
from bsnn.quadrature import Phi, checked_value_and_slope, gaussian_moments, on_cpu, root_density
from bsnn.shrinkage.covariance import Covariance, covariance_of, distances
from bsnn.theory.hermite import linearisation_error

SEEN = 1e-7
"""Least jump of phi' sqrt(density) that counts."""

SAME = 1e-13
"""Layers whose psi differ by less, relatively, are computed once, as for GPN and homogeneous functions."""


@dataclass(frozen=True)
class LayerMap:
    """One layer at one length.

    covariance: of psi, which maps inputs of length 1 as phi maps those of length q
    error: ||psi - psi~||_N^2 / ||psi'||_N^2, the summand of Theorem 1 (shrinkage paper): the layer's nonlinearity
    """

    covariance: Covariance
    error: float

    @classmethod
    def of(cls, phi: Phi, length: float = 1.0, kinks: Sequence[float] = ()) -> LayerMap:
        """Make the layer of phi at q = length. kinks: of phi, see `bsnn.shrinkage.covariance.covariance_of`."""
        psi = phi if length == 1 else rescaled(phi, length)  # phi itself: closed forms know it by its type
        edges = [kink / math.sqrt(length) for kink in kinks]
        covariance = covariance_of(psi, edges)
        if not (covariance.second > 0 and covariance.slope_second > 0):
            raise ValueError(f"expected a function that isn't constant, found E phi'^2 = {covariance.slope_second}")
        return cls(covariance, linearisation_error(psi, edges) / covariance.slope_second)

    @property
    def gain(self) -> float:
        """The gain q_{l+1} / q_l = E psi^2."""
        return self.covariance.second

    @property
    def slope(self) -> float:
        """The slope P_l'(1) = E psi'^2 / E psi^2: the squared norm of the Jacobian, after layer normalisation."""
        return self.covariance.slope_second / self.covariance.second

    def gap(self, gap: Tensor) -> Tensor:
        """Compute 1 - P_l(1 - gap)."""
        return (self.covariance.gap(gap) / self.gain).clamp(max=2.0)


def rescaled(phi: Phi, length: float) -> Phi:
    """Return psi(x) = phi(sqrt(q) x) / sqrt(q)."""
    root = math.sqrt(length)
    return lambda x: phi(root * x) / root


@dataclass(frozen=True)
class Passage:
    """The course of length and correlation through L layers, float64.

    Entry l of `length` (L + 1,) and `gap` (L + 1, R) is the input of layer l + 1; `slope` and `error` (L,) are those of
    `LayerMap`.
    """

    length: Tensor
    gap: Tensor
    slope: Tensor
    error: Tensor

    @property
    def jacobian(self) -> Tensor:
        """(P_L o ... o P_1)'(1) after 0, 1, ..., L layers, (L + 1,): Theorem 1's left side in infinite width."""
        return torch.cat([self.slope.new_ones(1), self.slope.cumprod(0)])

    @property
    def total_error(self) -> Tensor:
        """Sum of `error` over the first 0, 1, ..., L layers, (L + 1,)."""
        return torch.cat([self.error.new_zeros(1), self.error.cumsum(0)])


def passage(phi: Phi, gap: Tensor, depth: int, length: float = 1.0, kinks: Sequence[float] = ()) -> Passage:
    """Follow pairs of inputs, 1 - rho = gap (R,), through `depth` layers; length is q_0.

    Raises ValueError for a phi that isn't a function of a number (as bsnn.quadrature does), and if a length vanishes.
    """
    lengths, gaps, slopes, errors = [length], [distances(gap)], [], []
    points = torch.linspace(
        -20, 20, 401, dtype=torch.float64, device="cpu"
    )  # kinks in the tails move with the length, too
    weight = root_density(points)
    layer: LayerMap | None = None
    before = torch.full_like(points, math.nan)
    for number in range(1, depth + 1):
        with torch.no_grad():
            now = on_cpu(rescaled(phi, lengths[-1]))(points) * weight
        if layer is None or float((now - before).abs().max()) > SAME * float(now.abs().max()):
            layer, before = LayerMap.of(phi, lengths[-1], kinks), now
        lengths.append(lengths[-1] * layer.gain)
        if not lengths[-1] > 0:
            raise ValueError(f"expected a signal of positive length, found {lengths[-1]} after layer {number}")
        gaps.append(layer.gap(gaps[-1]))
        slopes.append(layer.slope)
        errors.append(layer.error)
    length_L, slope_L, error_L = (
        torch.tensor(values, dtype=torch.float64, device="cpu") for values in (lengths, slopes, errors)
    )
    return Passage(length_L, torch.stack(gaps), slope_L, error_L)


def slope_jump(phi: Phi, kink: float = 0.0, distance: float = 1e-7) -> float:
    """Compute phi'(kink+) - phi'(kink-), to about `distance`; 0 where phi' is continuous."""
    beside = torch.tensor([kink - distance, kink + distance], dtype=torch.float64, device="cpu")
    below, above = value_and_slope(on_cpu(phi), beside)[1].tolist()
    jump = float(above - below)
    return jump if abs(jump) > 1e3 * distance else 0.0


def slope_jumps(phi: Phi, kink: float = 0.0) -> dict[float, float]:
    """Find the jumps of phi' in |x| < 38 and their sizes; jumps below 1e-7, or of less weight than that, are missed."""

    def slope(x: Tensor) -> Tensor:
        return (checked_value_and_slope(phi, on_cpu(phi), x)[1] * root_density(x)).unsqueeze(1)

    places, _ = breaks(slope, first_edges([kink]), SEEN)
    # A jump too small to tell from a slope that changes over 1e-7 is measured from closer by.
    jumps = {at: slope_jump(phi, at) or slope_jump(phi, at, 1e-10) for at in places.tolist()}
    return {at: jump for at, jump in jumps.items() if jump}


def curvature(phi: Phi, kink: float = 0.0) -> float:
    """Compute k = P''(1) / 2 = E phi''^2 / 2 of a GPN function; inf if its slope jumps. phi'' may break at `kink`."""
    if slope_jumps(phi, kink):
        return math.inf

    def slope(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (found,) = torch.autograd.grad(phi(x).sum(), x, create_graph=True)
            return found

    return gaussian_moments(slope, [kink]).derivative_second / 2


def asymptote(phi: Phi, kink: float = 0.0) -> tuple[float, int]:
    """Compute (A, n) of 1 - rho_l ~ A l^-n, l -> infinity, whatever the inputs, for a GPN function (P(1) = P'(1) = 1).

    With g = 1 - rho, a slope that jumps by J_i at k_i gives 1 - P = g - c g^(3/2) + ...,

        c = sqrt(2) / (3 pi) sum_i J_i^2 exp(-k_i^2 / 2),

    since C'' = E phi''(x) phi''(y) holds J_i^2 times the density at (k_i, k_i): n = 2, A = 4 / c^2. A continuous slope
    gives 1 - P = g - k g^2 + ..., k = `curvature`: n = 1, A = 1 / k. phi(x) = +-x: (inf, 0). All jumps are found;
    `kink` is a point where phi'' may break.

    Raises ValueError for a function that isn't GPN.
    """
    moments = gaussian_moments(phi, [kink])
    if abs(moments.second - 1) > 1e-8 or abs(moments.derivative_second - 1) > 1e-8:
        found = f"E phi^2 = {moments.second:.6g}, E phi'^2 = {moments.derivative_second:.6g}"
        raise ValueError(f"expected a GPN function, both moments 1, found {found}")
    jumps = slope_jumps(phi, kink)
    if jumps:
        total = sum(jump**2 * math.exp(-(at**2) / 2) for at, jump in jumps.items())
        return 4 / (math.sqrt(2) * total / (3 * math.pi)) ** 2, 2
    k = curvature(phi, kink)
    return (math.inf, 0) if k < 1e-14 else (1 / k, 1)
