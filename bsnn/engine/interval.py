"""Many steps of a stack on mini-batches, each member in its own order; the measurements are read once at the end."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.data import Dataset


class Trainable(Protocol):
    """The interface of bsnn.engine.stack.Stack and bsnn.engine.reference.ReferenceStack."""

    cells: list[Cell]

    @property
    def way(self) -> str:
        """The way its networks are computed, for the record."""

    def step(self, x_KBD: Tensor, labels_KB: Tensor, norms_LK: Tensor) -> tuple[Tensor, Tensor]: ...

    def logits(self, x_BD: Tensor) -> Tensor: ...

    def member(self, k: int) -> dict[str, Tensor]: ...

    def load_member(self, k: int, state: dict[str, Tensor]) -> None: ...


class Measured(NamedTuple):
    """Measurements of S steps of K networks with L layers, each taken before the step's update."""

    loss_SK: npt.NDArray[np.float64]  # mean over the mini-batch
    correct_SK: npt.NDArray[np.int64]  # right answers in it
    norms_SLK: npt.NDArray[np.float64]  # |dE/dV_l|_F


def run_steps(
    stack: Trainable,
    data: Dataset,
    order_KS: Tensor,
    batch_size: int,
    depth: int,
) -> Measured:
    """Take steps over the samples order_KS[k] of each member k: full mini-batches, the last one perhaps short."""
    K, samples = order_KS.shape
    steps = -(-samples // batch_size)
    device = order_KS.device
    loss_SK = torch.empty(steps, K, dtype=data.train_x.dtype, device=device)
    correct_SK = torch.empty(steps, K, dtype=torch.int64, device=device)
    norms_SLK = torch.empty(steps, depth, K, dtype=torch.float64, device=device)
    for step, batch_KB in enumerate(order_KS.split(batch_size, dim=1)):
        flat = batch_KB.reshape(-1)
        x_KBD = data.train_x.index_select(0, flat).view(*batch_KB.shape, -1)
        labels_KB = data.train_y.index_select(0, flat).view(batch_KB.shape)
        loss_SK[step], correct_SK[step] = stack.step(x_KBD, labels_KB, norms_SLK[step])
    return Measured(loss_SK.double().cpu().numpy(), correct_SK.cpu().numpy(), norms_SLK.cpu().numpy())
