"""Optimisers that update one parameter after the other by a rule of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class EachParameter(torch.optim.Optimizer, ABC):
    """An optimiser whose subclasses say in `update` what becomes of one parameter."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one update. closure: as in every torch optimiser."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)
        return loss

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change `parameter` in place. group: its settings."""


class OnSquareMatrices(EachParameter):
    """An optimiser of square matrices (N, N) or stacks of them (..., N, N), with a rate and momentum.

    Raises ValueError for settings out of range and for parameters that aren't square matrices.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, **settings: Any) -> None:
        if not lr > 0:
            raise ValueError(f"lr: expected a number > 0, found {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), found {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, **settings})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() < 2 or parameter.shape[-1] != parameter.shape[-2]:
                    raise ValueError(f"expected square matrices (..., N, N), found {tuple(parameter.shape)}")

    def velocity(self, parameter: Tensor) -> Tensor:
        """Return the parameter's velocity, 0 at first; it is changed in place."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def stacked(matrices: Tensor) -> Tensor:
    """View (..., N, N) as (K, N, N)."""
    return matrices.reshape(-1, *matrices.shape[-2:])
