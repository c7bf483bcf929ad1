"""P(a ReLU network is the zero function at initialisation): the paper's bound, its Markov chain, simulation.

"Collapse of deep and narrow neural nets" (ICLR 2019 submission), section 4. The network has no biases and one input, so
two numbers decide it: f(x) = |x| f(1) for x > 0 and |x| f(-1) for x < 0. It is dead after L layers if all of them have
ReLU and x^L = 0 for both signs. With a linear last layer it is dead like a network of L - 1 layers. Its gradient is
then 0, except for the last bias.

    zero_for_an_input    P(x^L = 0) for a given x: Theorems 8 and 9; exact, and more than P(dead)
    safe_depth           the bound (5), its largest integer
    collapse_bounds      ours: P(dead) from above and from below, any width
    paper_matrix         Theorem 10's chain on 16 states, width 2, from the paper's integrals
    outputs, simulate    networks themselves, any law of the weights

bsnn.collapse.exact has P(dead) without Theorem 10's approximation. State 4 p + m of the 16 has pattern p for x = 1 and
m for x = -1; PATTERNS lists which of the two units are active. The paper numbers the same states from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bsnn.collapse.networks import draw_weights
from bsnn.quadrature import Phi, gaussian_moments

Array = NDArray[np.float64]

PATTERNS = ((True, True), (True, False), (False, True), (False, False))
STATES = 16
DEAD = STATES - 1
QUARTER = math.pi / 2
_NODES = 8  # of Gauss-Legendre: the integrands are polynomials of degree 2 in each direction
_ARCS = {0: (0.0, QUARTER), 1: (0.0, 0.0), 2: (QUARTER, QUARTER)}
"""The arc of an output's direction, by pattern; the fourth pattern has no direction."""


def zero_for_an_input(widths: Sequence[int], biases: bool = False, activate_last: bool = True) -> float:
    """Compute P(x^L = 0) for an input x != 0; with biases and a linear last layer P(x^L = b^L). widths: N^1, ..., N^L.

    Weights, and biases if there are any, have symmetric laws without an atom at 0. Theorem 8 (no biases):
    1 - prod_l (1 - 2^-N^l) over the layers with ReLU. Theorem 9 (biases): 2^-N of the last layer with ReLU, however
    many layers there are: the biases restart the signal after a dead layer.
    """
    active = widths if activate_last else widths[:-1]
    if not active:
        return 0.0
    return float(0.5 ** active[-1]) if biases else 1 - math.prod(1 - 0.5**width for width in active)


def safe_depth(width: int, probability: float) -> int:
    """Compute the largest L with 1 - (1 - 2^-N)^L <= p: the bound (5), L <= ln(1 - p) / ln(1 - 2^-N)."""
    return math.floor(math.log1p(-probability) / math.log1p(-(0.5**width)))


def collapse_bounds(width: int, depth: int) -> tuple[float, float]:
    """Bound P(dead after L layers) by (lower, upper): one input, Gaussian weights, every layer of width N. Ours.

    With a = 1 - 2^-N, P(dead) = 1 - 2 a^L + P(alive for both signs). A unit is active for both signs with a probability
    between 1/4 (orthogonal outputs) and 1/2 (parallel ones), and never in the first layer. So

        1 - 2 a^L + (1 - 2^(1-N)) a^(2(L-1))  <=  P(dead)  <=  1 - a^(L-1)

    The upper bound is Theorem 8's for one layer less.
    """
    a, first = 1 - 0.5**width, 1 - 2 * 0.5**width
    return 1 - 2 * a**depth + first * a ** (2 * (depth - 1)), 1 - a ** (depth - 1)


def paper_matrix() -> Array:
    """Compute Theorem 10's transition matrix, (16, 16): entry [i, j] is P(next state j | state i); rows sum to 1.

    Appendix J: the directions of the outputs for x = 1 and x = -1 are independent, and each is uniform on the part of
    the quarter circle that its pattern leaves: all of it or one end. If t is the angle between them, a unit of the next
    layer is active for both signs with probability (pi - t) / 2 pi, for one alone with t / 2 pi. The two units are
    independent. The integrals use Gauss-Legendre quadrature over the directions, split where they cross.
    """
    rows = np.zeros((STATES, STATES))
    for state in range(STATES):
        angle_A, weight_A = _angles(state)
        for following in range(STATES):
            first_A, second_A = (_unit_probability(state, unit, angle_A) for unit in units(following))
            rows[state, following] = weight_A @ (first_A * second_A)
    return rows


def paper_start() -> Array:
    """Return pi^1, (16,): with one input, each unit of the first layer is active for one sign and not for the other."""
    start = np.zeros(STATES)
    start[[all(plus != minus for plus, minus in units(state)) for state in range(STATES)]] = 0.25
    return start


def paper_collapse(depth: int) -> Array:
    """Compute P(dead after l layers), l = 1..depth (Theorem 10): the last entry of pi^l = pi^1 P^(l-1) (equation 4)."""
    law, matrix, dead = paper_start(), paper_matrix(), []
    for _ in range(depth):
        dead.append(law[DEAD])
        law = law @ matrix
    return np.array(dead)


def units(state: int) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
    """Tell for each of the two units if it is active for x = 1, and for x = -1."""
    plus, minus = PATTERNS[state // 4], PATTERNS[state % 4]
    return (plus[0], minus[0]), (plus[1], minus[1])


def state_of(plus_K2: Tensor, minus_K2: Tensor) -> Tensor:
    """Return the states, int64 (K,), of outputs of width 2 for x = 1 and x = -1."""
    plus_K, minus_K = (3 - 2 * (one[:, 0] > 0).long() - (one[:, 1] > 0).long() for one in (plus_K2, minus_K2))
    return 4 * plus_K + minus_K


def drawn_transitions(state: int, members: int, generator: torch.Generator) -> Tensor:
    """Draw next states, int64 (K,), of `members` networks in `state`, with directions by the paper's assumption."""
    outputs = []
    for pattern in (state // 4, state % 4):
        low, high = _ARCS.get(pattern, (0.0, 0.0))
        angle_K = low + (high - low) * torch.rand(
            members, generator=generator, dtype=torch.float64, device=generator.device
        )
        # the cosine of pi/2 is not exactly 0
        active = torch.tensor(PATTERNS[pattern], dtype=torch.float64, device=generator.device)
        outputs.append(active * torch.stack([angle_K.cos(), angle_K.sin()], dim=1))
    W_K22 = draw_weights("he", members, 2, 2, generator)
    plus_K2, minus_K2 = (torch.relu(torch.einsum("knm,km->kn", W_K22, one)) for one in outputs)
    return state_of(plus_K2, minus_K2)


def outputs(
    width: int, depth: int, members: int, initialisation: str, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield x^l of K networks for x = 1 and for x = -1, each (K, N), l = 1..depth.

    Only directions are kept: both are rescaled in every layer, so that no depth underflows. ReLU is homogeneous, so
    this changes nothing.
    """
    x_K2M = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, device=generator.device).expand(members, 2, 1)
    for _ in range(depth):
        W_KNM = draw_weights(initialisation, members, width, x_K2M.shape[2], generator)
        x_K2M = torch.relu(x_K2M @ W_KNM.mT)
        x_K2M = x_K2M / x_K2M.amax(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        yield x_K2M[:, 0], x_K2M[:, 1]


class Dead(NamedTuple):
    """Numbers of networks that are 0 after l = 1..L layers: for both signs of x, and for x = 1. int64, (L,)."""

    both: NDArray[np.int64]
    plus: NDArray[np.int64]


def simulate(width: int, depth: int, members: int, initialisation: str, generator: torch.Generator) -> Dead:
    """Count dead networks of one input without biases, drawn by bsnn.collapse.networks: exact signs, no grid."""
    dead = []
    for plus_KN, minus_KN in outputs(width, depth, members, initialisation, generator):
        plus_K, minus_K = ((one_KN == 0).all(dim=1) for one_KN in (plus_KN, minus_KN))
        dead.append([int((plus_K & minus_K).sum()), int(plus_K.sum())])
    both, plus = np.array(dead, dtype=np.int64).T
    return Dead(both, plus)


def lengths(
    phi: Phi, width: int, depth: int, members: int, generator: torch.Generator, weight_variance: float = 2.0
) -> Array:
    """Draw q^l = |h^l|^2 / N of K networks: one input x = 1, width N, weights of variance s_w / N^(l-1), no biases.

    Shape (depth, K).

    With Gaussian weights a single input gives h = sqrt(s_w |x|^2 / N^(l-1)) z, z ~ N(0, I): no matrices are drawn.
    """
    length_K1 = torch.full(
        (members, 1), weight_variance, dtype=torch.float64, device=generator.device
    )  # s_w |x|^2 / N^(l-1)
    found = []
    for _ in range(depth):
        h_KN = length_K1.sqrt() * torch.randn(
            members, width, generator=generator, dtype=torch.float64, device=generator.device
        )
        found.append(h_KN.square().mean(dim=1))
        length_K1 = weight_variance * phi(h_KN).square().mean(dim=1, keepdim=True)
    return np.asarray(torch.stack(found).numpy())


def expected_lengths(
    phi: Phi, depth: int, weight_variance: float = 2.0, bias_variance: float = 0.0, q0: float = 1.0
) -> Array:
    """Compute E q^l for l = 1..depth, q^l = |h^l|^2 / N^l, by the recursion (2): q^1 = s_w q^0 + s_b,

        E q^l = s_w E phi(sqrt(E q^(l-1)) z)^2 + s_b,   z ~ N(0, 1),

    for weights of variance s_w / N^(l-1) and biases of variance s_b. For ReLU this is (3), s_w E q^(l-1) / 2 + s_b, and
    exact at every width. For another phi the expectation is taken inside phi, which is right for wide networks only.
    """
    lengths = [weight_variance * q0 + bias_variance]
    for _ in range(depth - 1):
        root = math.sqrt(lengths[-1])
        second = gaussian_moments(lambda z, root=root: phi(root * z)).second  # type: ignore[misc]
        lengths.append(weight_variance * second + bias_variance)
    return np.array(lengths)


def relative_variance(width: int, depth: int) -> Array:
    """Compute Var q^l / (E q^l)^2 for l = 1..depth: ReLU, Gaussian weights, no biases, every layer of width N. Ours.

    Given the layer before, h is Gaussian with variance s_w |x|^2 / N, and |x|^2 = sum_i ReLU(h_i)^2 has
    E |x|^4 = (1 + 5/N) (E |x|^2)^2, as E z^4 = 3. So 1 + Var / mean^2 = (1 + 2/N) (1 + 5/N)^(l-1).
    """
    return np.asarray((1 + 2 / width) * (1 + 5 / width) ** np.arange(depth, dtype=np.float64) - 1)


def _angles(state: int) -> tuple[Array, Array]:
    """Compute angles between the two outputs, and their weights, under the paper's law; (A,) each, weights sum to 1."""
    ends = [_ARCS.get(pattern) for pattern in (state // 4, state % 4)]
    if ends[0] is None or ends[1] is None:
        return np.zeros(1), np.ones(1)  # any value will do: one of the outputs has no direction
    angles, weights = [], []
    for alpha, weight in zip(*_nodes(*ends[0]), strict=True):
        low, high = ends[1]
        split = min(max(alpha, low), high)
        for start, stop in ((low, split), (split, high)) if high > low else ((low, high),):
            beta, share = _nodes(start, stop)
            part = (stop - start) / (high - low) if high > low else 1.0
            angles.append(np.abs(alpha - beta))
            weights.append(weight * part * share)
    return np.concatenate(angles), np.concatenate(weights)


def _nodes(low: float, high: float) -> tuple[Array, Array]:
    """Compute nodes on [low, high], and weights that sum to 1; one node if the interval is a point."""
    if high == low:
        return np.array([low]), np.ones(1)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return low + (high - low) * (1 + nodes) / 2, weights / 2


def _unit_probability(state: int, unit: tuple[bool, bool], angle_A: Array) -> Array:
    """Compute P(a unit of the next layer is active for x = 1 (unit[0]) and for x = -1 (unit[1])), (A,)."""
    alive = [any(PATTERNS[pattern]) for pattern in (state // 4, state % 4)]
    if any(active and not there for active, there in zip(unit, alive, strict=True)):
        return np.zeros_like(angle_A)
    if all(alive):
        return np.asarray((math.pi - angle_A if unit[0] == unit[1] else angle_A) / (2 * math.pi))
    return np.full_like(angle_A, 0.5 if any(alive) else 1.0)
