"""Fates of narrow networks in training: collapsed, partly collapsed, or an approximation of the target.

"Collapse of deep and narrow neural nets" (ICLR 2019 submission), section 2: four target functions, the eight optimisers
that it names, and rules for the outcomes in its figures. The rules:

    diverged       an output is not finite
    constant       every output stays within FLAT of the target's range, over the grid. Which constant: `at_mean`
                   (`at_median`) if its squared (absolute) error is within EXCESS of the best constant's
    approximates   root mean square error below CLOSE of the target's standard deviation
    partial        a hidden layer is dead on a share of at least PART of the grid (Theorem 1: the output is constant
                   there), and the value there is within NEAR of the target's range of its mean there (loss "mse";
                   "mae": of its median)
    other          none of these

in this order. Range and deviation are those of the target on the grid, separately for each output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bsnn.collapse.networks import NarrowStack, last_dead_layer, member_losses

FLAT, EXCESS, CLOSE, PART, NEAR = 0.01, 0.01, 0.1, 0.05, 0.05
OUTCOMES = ("constant", "partial", "approximates", "other", "diverged")


@dataclass(frozen=True)
class Target:
    """A function y(x) for x uniform on [-limit, limit]^inputs; `width` is that of the paper's networks for it."""

    label: str
    inputs: int
    outputs: int
    limit: float
    width: int
    function: Callable[[Tensor], Tensor]  # (..., inputs) -> (..., outputs)

    def batches(
        self, steps: int, members: int, batch: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `steps` fresh mini-batches, each member's own: x (K, B, inputs), y (K, B, outputs)."""
        for _ in range(steps):
            shape = (members, batch, self.inputs)
            uniform_KBD = torch.rand(shape, generator=generator, dtype=dtype, device=generator.device)
            x_KBD = self.limit * (2 * uniform_KBD - 1)
            yield x_KBD, self.function(x_KBD)

    def grid(self, points: int, dtype: torch.dtype | None = None) -> Tensor:
        """Make points^inputs inputs, evenly spaced, (B, inputs); the last input varies fastest."""
        axis = torch.linspace(-self.limit, self.limit, points, dtype=dtype, device="cpu")
        return torch.cartesian_prod(*[axis] * self.inputs).view(-1, self.inputs)


def _pair(x: Tensor) -> Tensor:
    return torch.stack([x.sum(dim=-1).abs(), (x[..., 0] - x[..., 1]).abs()], dim=-1)


TARGETS = {
    "abs": Target("|x|", 1, 1, math.sqrt(3), 2, torch.abs),
    "wave": Target("x sin 5x", 1, 1, 1.0, 2, lambda x: x * torch.sin(5 * x)),
    "step": Target("1{x > 0} + 0.2 sin 5x", 1, 1, 1.0, 2, lambda x: (x > 0) + 0.2 * torch.sin(5 * x)),
    "pair": Target("(|x1 + x2|, |x1 - x2|)", 2, 2, 1.0, 4, _pair),
}

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "nesterov": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01, eps=1e-7),
    "adadelta": partial(torch.optim.Adadelta, lr=1.0, rho=0.95, eps=1e-7),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.001, alpha=0.9, eps=1e-7),
    "adam": partial(torch.optim.Adam, lr=0.001, eps=1e-7),
}
"""The paper's first-order optimisers.

It gives no settings. These were Keras's defaults at its time, with momentum 0.9 for Nesterov.
"""

SECOND_ORDER = {"bfgs": "BFGS", "lbfgs": "L-BFGS-B"}
"""scipy's names. They are run on a whole grid of inputs, since line searches need a loss that does not change."""


def minimise(stack: NarrowStack, x_BD: Tensor, y_BC: Tensor, method: str, iterations: int, loss: str = "mse") -> None:
    """Train each member by itself with scipy's `method` on the full batch, up to `iterations`."""
    stack.train()
    for k in range(stack.members):
        one = stack.member(k)

        def value_and_gradient(vector: np.ndarray, one: NarrowStack = one) -> tuple[float, np.ndarray]:
            vector_to_parameters(torch.from_numpy(vector).to(x_BD.dtype), one.parameters())
            value = member_losses(one(x_BD), y_BC, loss).sum()
            gradients = torch.autograd.grad(value, list(one.parameters()))
            return float(value.detach()), parameters_to_vector(gradients).double().numpy()

        start = parameters_to_vector(one.parameters()).detach().double().numpy()
        found = optimize.minimize(
            value_and_gradient, start, jac=True, method=method, options={"maxiter": iterations, "gtol": 1e-8}
        )
        vector_to_parameters(torch.from_numpy(found.x).to(x_BD.dtype), one.parameters())
        stack.replace(k, one)


@dataclass(frozen=True)
class Fate:
    """The fate of one network on the grid.

    outcome: one of OUTCOMES. at_mean, at_median: of a constant one. value: the mean of its first output over the grid.
    error: root mean square error / the target's standard deviation; 1 is that of the best constant. dead: the share of
    the grid on which a hidden layer is all 0.
    """

    outcome: str
    at_mean: bool
    at_median: bool
    value: float
    error: float
    dead: float


@torch.no_grad()
def fates(stack: NarrowStack, target: Target, points: int, loss: str = "mse") -> list[Fate]:
    """Determine the fate of every member, in evaluation mode, on a grid of `points` in each input."""
    stack.eval()
    x_BD = target.grid(points, next(stack.parameters()).dtype)
    y_BC = target.function(x_BD).double()
    layer_KB = last_dead_layer(stack, x_BD)
    output_KBC = stack(x_BD).double()
    return [_fate(output_BC, layer_B, y_BC, loss) for output_BC, layer_B in zip(output_KBC, layer_KB, strict=True)]


def _fate(output_BC: Tensor, layer_B: Tensor, y_BC: Tensor, loss: str) -> Fate:
    range_C = y_BC.amax(dim=0) - y_BC.amin(dim=0)
    mean_C, median_C = y_BC.mean(dim=0), y_BC.median(dim=0).values
    error = float(((output_BC - y_BC).square().mean() / (y_BC - mean_C).square().mean()).sqrt())
    dead = float((layer_B > 0).double().mean())
    value_C = output_BC.mean(dim=0)
    at_mean = at_median = False
    if not bool(output_BC.isfinite().all()):
        outcome = "diverged"
    elif bool((output_BC.amax(dim=0) - output_BC.amin(dim=0) < FLAT * range_C).all()):
        outcome = "constant"
        off_BC, slack = y_BC - value_C, 1 + EXCESS
        at_mean = bool(off_BC.square().mean() <= slack * (y_BC - mean_C).square().mean())
        at_median = bool(off_BC.abs().mean() <= slack * (y_BC - median_C).abs().mean())
    elif error < CLOSE:
        outcome = "approximates"
    else:
        outcome = "partial" if _collapsed_in_part(output_BC, layer_B, y_BC, NEAR * range_C, loss) else "other"
    return Fate(outcome, at_mean, at_median, float(value_C[0]), error, dead)


def _collapsed_in_part(output_BC: Tensor, layer_B: Tensor, y_BC: Tensor, near_C: Tensor, loss: str) -> bool:
    for layer in layer_B[layer_B > 0].unique():
        where_B = layer_B == layer
        if float(where_B.double().mean()) >= PART:
            inside_SC = y_BC[where_B]
            best_C = inside_SC.mean(dim=0) if loss == "mse" else inside_SC.median(dim=0).values
            if bool(((output_BC[where_B][0] - best_C).abs() <= near_C).all()):
                return True
    return False
