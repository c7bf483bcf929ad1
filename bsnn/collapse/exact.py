"""P(a ReLU network is the zero function at initialisation), exactly, for Gaussian weights (one input, no biases).

Let v+ and v- be a layer's outputs for x = 1 and x = -1. Gaussian rows depend on them only through the angle t between
them, so (v+ = 0?, v- = 0?, t) is a Markov chain, at every width N. A unit of the next layer is active for both signs
with probability p = (pi - t) / 2 pi, for the first alone, or the second, with q = t / 2 pi, for none with p. Hence

    both alive, t  ->  dead  p^N,   one alive  2 (2^-N - p^N),   both alive  the rest, with a new t
    one alive      ->  dead  2^-N,  one alive  the rest
    first layer:       one alive  2^(1-N),  both alive  the rest, with t = pi/2

Theorem 10 of "Collapse of deep and narrow neural nets" (ICLR 2019 submission) has 16 states instead and draws t anew in
each layer, from independent uniform directions. That is the law of t after one layer and after two; from then on the
two outputs are closer than independent ones. So the theorem is exact for L <= 3 and gives too little for L > 3.

exact_width_2 solves the chain for N = 2 by quadrature. angle_chain simulates it for any N, with one angle a network.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

QUARTER = math.pi / 2
_STEP = 0.25  # the trapezoidal rule in y = ln tan t: its error is of the order of exp(-pi^2 / step)
_REACH = 40.0  # |y|: at angles below exp(-40) p is 1/2 to rounding


def exact_width_2(depth: int) -> Array:
    """Compute P(dead after l layers), l = 1..depth, width 2, to about 1e-13; (depth,).

    The law of t has atoms at 0 (one unit alone is active, for both signs: states 6 and 11) and at pi/2 (7 and 10), and
    a density. Given the angle t of the layer before, the new outputs are ReLU of two Gaussian vectors whose directions
    differ by psi, a correlated complex pair's difference of phases, with density and distribution function

        f(psi) = s^2 / (2 pi r^2) (1 + c arccos(-c) / r)
        F(psi) = 1/2 + psi / 2 pi + k sin(psi) arccos(-c) / (2 pi r)
        k = cos t, s = sin t, c = k cos(psi), r^2 = 1 - c^2

    and the first direction is uniform on the circle. If both outputs lie inside the quarter plane (state 1), the new
    angle u is |psi|: density (pi/2 - u) f(u) / pi. If one is on an axis (states 2, 3, 5, 9), u is the other's angle
    from it: density (2 / pi) (F(pi/2 + u) - F(u)).
    """
    y_Y = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    t_Y = np.arctan(np.exp(y_Y))
    weight_Y = _STEP / (2 * np.cosh(y_Y))  # dt = sin t cos t dy
    kernel_YY = _density(t_Y[None, :], t_Y[:, None]) * weight_Y[:, None]  # to row from column, as masses
    from_quarter_Y = _density(np.array(QUARTER), t_Y) * weight_Y
    p_Y, q_Y = (math.pi - t_Y) / (2 * math.pi), t_Y / (2 * math.pi)

    dead, one, parallel, quarter = 0.0, 0.5, 0.0, 0.5
    mass_Y = np.zeros_like(t_Y)
    found = []
    for _ in range(depth):
        found.append(dead)
        both = float(mass_Y.sum()) + parallel + quarter
        common = float(mass_Y @ p_Y**2) + parallel / 4 + quarter / 16  # E p^2, p = 1/4 at pi/2
        dead += one / 4 + common
        one = 0.75 * one + 2 * (both / 4 - common)
        following_Y = kernel_YY @ mass_Y + from_quarter_Y * quarter
        quarter = 2 * float(mass_Y @ q_Y**2) + 2 * quarter / 16
        mass_Y = following_Y
        # The rest: the atom at 0, and angles too small for the grid, whose effect is the same to rounding.
        parallel = 1 - dead - one - quarter - float(mass_Y.sum())
    return np.array(found)


def _density(t: Array, u: Array) -> Array:
    """Compute the density of the next angle at u, both outputs alive and one inside the quarter plane, given t."""
    at_u, slope = _phase(t, u)
    at_quarter, _ = _phase(t, u + QUARTER)
    return np.asarray((QUARTER - u) * slope / math.pi + 2 / math.pi * (at_quarter - at_u))


def _phase(t: Array, psi: Array) -> tuple[Array, Array]:
    """Compute (F, f) of the angle psi in [0, pi] between two Gaussian vectors of the plane with correlation cos t."""
    k, s = np.cos(t), np.sin(t)
    c, r = k * np.cos(psi), np.hypot(s, k * np.sin(psi))
    arc = math.pi - np.arctan2(r, c)  # arccos(-c)
    distribution = 0.5 + psi / (2 * math.pi) + k * np.sin(psi) * arc / (2 * math.pi * r)
    return distribution, (s / r) ** 2 / (2 * math.pi) * (1 + c * arc / r)


class AngleChain(NamedTuple):
    """Estimates after l = 1, 2, ... layers; (L,) each."""

    dead: Array  # P(dead): an unbiased estimate
    error: Array  # its standard error
    angle: Array  # mean angle between the outputs for x = 1 and x = -1 where both are alive, radians


def angle_chain(
    width: int, depth: int, members: int, generator: torch.Generator, until: float = math.inf
) -> AngleChain:
    """Simulate the same chain at any width >= 2: K angles, each drawn as long as both outputs are alive.

    It is equal in law to drawing whole networks, but takes 2 N numbers a layer instead of N^2, and has less variance:
    only the angle is random, and each path carries the probabilities of its three states. It ends before `depth` at the
    layer where the estimate is more than 4 standard errors above `until`.
    """
    if width < 2:
        raise ValueError(f"width: expected at least 2 (one unit is never alive for both signs), found {width}")
    half = 0.5**width
    angle_K = torch.full((members,), QUARTER, dtype=torch.float64, device=generator.device)
    both_K, one_K = torch.full_like(angle_K, 1 - 2 * half), torch.full_like(angle_K, 2 * half)
    dead_K = torch.zeros_like(angle_K)
    rows: list[tuple[float, float, float]] = []
    while len(rows) < depth:
        error_K, mean_K = torch.std_mean(dead_K)
        dead, error = float(mean_K), float(error_K) / math.sqrt(members)
        rows.append((dead, error, float((both_K @ angle_K) / both_K.sum())))
        if dead - 4 * error > until:
            break
        common_K = ((math.pi - angle_K) / (2 * math.pi)) ** width
        dead_K = dead_K + one_K * half + both_K * common_K
        one_K = one_K * (1 - half) + both_K * 2 * (half - common_K)
        both_K = both_K * (1 - 2 * half + common_K)
        angle_K = _next_angles(angle_K, width, generator)
    return AngleChain(*np.array(rows).T)


def _next_angles(angle_K: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Draw the angle after one more layer, given that both outputs stay alive: the others are drawn again."""
    following_K = torch.empty_like(angle_K)
    pending = torch.arange(len(angle_K), device=angle_K.device)
    while len(pending):
        cosine, sine = angle_K[pending, None].cos(), angle_K[pending, None].sin()
        g_KN, h_KN = torch.randn(
            2, len(pending), width, generator=generator, dtype=torch.float64, device=generator.device
        )
        plus_KN, minus_KN = torch.relu(g_KN), torch.relu(cosine * g_KN + sine * h_KN)
        alive = (plus_KN > 0).any(dim=1) & (minus_KN > 0).any(dim=1)
        following_K[pending[alive]] = _between(plus_KN[alive], minus_KN[alive])
        pending = pending[~alive]
    return following_K


def _between(a_KN: Tensor, b_KN: Tensor) -> Tensor:
    """Compute the angle between vectors, (K,), by Kahan's formula, which is accurate for small angles."""
    a_KN, b_KN = (one / torch.linalg.vector_norm(one, dim=1, keepdim=True) for one in (a_KN, b_KN))
    return 2 * torch.atan2(torch.linalg.vector_norm(a_KN - b_KN, dim=1), torch.linalg.vector_norm(a_KN + b_KN, dim=1))
