"""Part on the paper's statements about networks that are constant: Theorems 1, 5 and 6, Corollary 2, Lemma 3, LSUV.

Random ReLU networks of width 2, the last layer linear, are evaluated on a grid of the domain. Those whose output is one
number there are constant. Each statement is a condition that each of them must fulfil.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bsnn.collapse.networks import NarrowStack, draw_weights, last_dead_layer, member_losses
from bsnn.randomness import Purpose, generator
from experiments.collapse.config import CollapseConfig, TheoremSizes
from experiments.units import Row, Work

STREAM = 7
"""The stream of this part, an index of Purpose.COLLAPSE; experiments.collapse.random.STREAMS has other parts'."""
WIDTH = 2
LAWS = ("he", "he_uniform", "orthogonal")
CONSTANT = 1e-12
"""Range of the output, relative to its size, up to which a network is constant: rounding."""
PIECE = 0.2
"""Share of the grid on which a network has to be dead, and another on which it isn't, for Theorem 6."""


def theorems(config: CollapseConfig) -> Work:
    """Count the networks that each statement is about, and those for which it holds."""
    sizes = config.sizes.theorems
    units = [(law, biased) for law in LAWS for biased in (False, True)]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        law, biased = unit
        stack, x = random_networks(law, biased, sizes, config.seed, units.index(unit))
        constant_K = is_constant(stack(x))
        found = [*about_constants(stack, x, constant_K, biased), *theorem_6(stack, x)]
        return [*found, *unit_variance(stack, x)] if law == "orthogonal" and not biased else found

    columns = ("statement", "networks", "holds", "largest")
    return Work(("law", "biases"), columns, units, rows, {"version": 1})


def random_networks(law: str, biased: bool, sizes: TheoremSizes, seed: int, unit: int) -> tuple[NarrowStack, Tensor]:
    """Draw networks R -> R, biases by the law of the weights or 0, and lay a grid on the domain of y = |x|."""
    stream = generator(seed, Purpose.COLLAPSE, STREAM, unit)
    layers = (1, *[WIDTH] * (sizes.depth - 1), 1)
    stack = NarrowStack(layers, sizes.members, initialisation=law, generator=stream, dtype=torch.float64)
    assert stack.biases is not None
    if biased:
        with torch.no_grad():
            for column_KN1 in stack.biases:
                column_KN1.copy_(draw_weights(law, sizes.members, column_KN1.shape[1], 1, stream))
    return stack, torch.linspace(-math.sqrt(3), math.sqrt(3), sizes.points, dtype=torch.float64)[:, None]


def is_constant(output_KBC: Tensor) -> Tensor:
    """Tell the members whose output is one number, to rounding."""
    size_K = output_KBC.abs().amax(dim=(1, 2))
    return output_KBC.amax(dim=(1, 2)) - output_KBC.amin(dim=(1, 2)) <= CONSTANT * size_K


def about_constants(stack: NarrowStack, x: Tensor, constant_K: Tensor, biased: bool) -> list[Row]:
    """Judge Theorem 1, Corollary 2, Lemma 3 and Theorem 5."""
    dead_LK = torch.stack([(x_KBN == 0).all(dim=2).all(dim=1) for x_KBN in stack.signals(x)[:-1]])
    last_K = (dead_LK * torch.arange(1, len(dead_LK) + 1)[:, None]).amax(dim=0)  # 0: none
    rows: list[Row] = [["Theorem 1", *held(constant_K, last_K > 0), None]]
    if not biased:  # from the first dead layer on all of them are, that is: as many as from there to the last one
        first_K = torch.where(dead_LK.any(dim=0), dead_LK.int().argmax(dim=0), len(dead_LK))
        rows.append(["Corollary 2", *held(constant_K, dead_LK.sum(dim=0) == len(dead_LK) - first_K), None])
    y = x.abs()
    below_K = torch.zeros(len(last_K), dtype=torch.float64)
    for layer, (weight_K, bias_K) in enumerate(gradients(stack, x, y), start=1):
        below_K = torch.where(layer <= last_K, torch.maximum(below_K, torch.maximum(weight_K, bias_K)), below_K)
    rows.append(["Lemma 3", *held(constant_K, below_K == 0), float(below_K[constant_K].max())])
    largest_K = shifted_to_mean(stack, x, y, constant_K)
    rows.append(["Theorem 5", *held(constant_K, largest_K <= CONSTANT), float(largest_K[constant_K].max())])
    return rows


def held(about_K: Tensor, holds_K: Tensor) -> tuple[int, int]:
    return int(about_K.sum()), int((about_K & holds_K).sum())


def gradients(stack: NarrowStack, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Compute each layer's largest |dE/dW| and |dE/db| of every member, E the mean square error."""
    assert stack.biases is not None
    of = [*stack.weights, *stack.biases]
    found = torch.autograd.grad(member_losses(stack(x), y).sum(), of)
    largest = [gradient.abs().amax(dim=(1, 2)) for gradient in found]
    return list(zip(largest[: stack.depth], largest[stack.depth :], strict=True))


def shifted_to_mean(stack: NarrowStack, x: Tensor, y: Tensor, constant_K: Tensor) -> Tensor:
    """Move the last bias so that a constant network is E y; return its largest gradient, relative to E y."""
    assert stack.biases is not None
    with torch.no_grad():
        before = stack.biases[-1].clone()
        stack.biases[-1][constant_K] += y.mean() - stack(x)[constant_K][:, :1].mT
    found = torch.stack([largest for pair in gradients(stack, x, y) for largest in pair]).amax(dim=0)
    size_K = torch.stack([x_KBN.detach().abs().amax(dim=(1, 2)) for x_KBN in stack.signals(x)]).amax(dim=0)
    with torch.no_grad():
        stack.biases[-1].copy_(before)
    return found / torch.clamp(size_K, min=1.0)


def theorem_6(stack: NarrowStack, x: Tensor) -> list[Row]:
    """Judge Theorem 6: networks that equal y off a piece of the domain, and on it y's mean there, have no gradient.

    y is made for each network: itself where no layer is dead; where one is, itself and a square wave of mean 0.
    """
    last_KB = last_dead_layer(stack, x)
    dead_KB = last_KB > 0
    # Of one layer: two pieces with a living gap between grid points would pass for one.
    one_K = torch.where(dead_KB, last_KB, stack.depth).amin(dim=1) == last_KB.amax(dim=1)
    share_K = dead_KB.double().mean(dim=1)
    output_KBC = stack(x).detach()
    joined_K = (dead_KB[:, 1:] != dead_KB[:, :-1]).sum(dim=1) == 1  # one piece, at an end of the domain
    even_K = dead_KB.sum(dim=1) % 2 == 0
    about_K = joined_K & one_K & even_K & (share_K >= PIECE) & (share_K <= 1 - PIECE) & ~is_constant(output_KBC)
    wave_KB = torch.where(dead_KB, (-1.0) ** dead_KB.cumsum(dim=1).double(), 0.0)
    y_KBC = output_KBC + wave_KB[:, :, None]
    largest_K = torch.stack([one for pair in gradients(stack, x, y_KBC) for one in pair]).amax(dim=0)
    size_K = torch.stack([x_KBN.detach().abs().amax(dim=(1, 2)) for x_KBN in stack.signals(x)]).amax(dim=0)
    relative_K = largest_K / torch.clamp(size_K, min=1.0)
    counted = held(about_K, relative_K <= CONSTANT)
    return [["Theorem 6", *counted, float(relative_K[about_K].max()) if counted[0] else None]]


@torch.no_grad()
def unit_variance(stack: NarrowStack, x: Tensor) -> list[Row]:
    """Judge layer-sequential unit variance: rescaling each layer leaves dead what was dead, and only that."""
    before_K = last_dead_layer(stack, x).amin(dim=1) > 0
    signal_KBN = x.expand(stack.members, -1, -1)
    for weight_KNM in stack.weights:
        h_KBN = signal_KBN @ weight_KNM.mT
        spread_K = h_KBN.flatten(1).std(dim=1)
        weight_KNM /= torch.where(spread_K > 0, spread_K, 1.0)[:, None, None]
        signal_KBN = torch.relu(signal_KBN @ weight_KNM.mT)
    after_K = last_dead_layer(stack, x).amin(dim=1) > 0
    return [["LSUV", *held(torch.ones_like(before_K), before_K == after_K), float(after_K.double().mean())]]
