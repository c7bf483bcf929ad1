"""A cell's checkpoint: its network, the optimiser's velocity and how far it is, in one file that is whole or absent.

It doesn't depend on the stack that wrote it: a cell may go on in another stack, alone, or in bsnn.network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine.reference import initial_network
from bsnn.errors import UserError
from bsnn.files import write_atomically
from bsnn.network import BSNN


@dataclass
class Progress:
    """The state of a cell's training: everything that a checkpoint must hold beside the weights."""

    step: int = 0
    seconds: float = 0.0
    seen: int = 0  # samples of the current epoch, with the two sums over them
    correct: int = 0
    loss_sum: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    first_gradient_norms: list[float] | None = None
    last_gradient_norms: list[float] | None = None
    diverged_at_step: int | None = None
    interval: list[tuple[float, int, float, float]] = field(default_factory=list)
    """One entry for each step since the last row: loss, right answers, and largest and smallest ||dE/dV_l||_F."""
    segments: list[dict[str, Any]] = field(default_factory=list)
    """The processes that trained it, see bsnn.results.records."""

    @property
    def rows_step(self) -> int:
        """The step of the last row; 0 without rows."""
        return self.rows_step_or(0)

    def rows_step_or(self, nothing: int) -> int:
        """The step of the last row; `nothing` without rows."""
        return int(self.rows[-1]["step"]) if self.rows else nothing


def save(path: Path, cell: Cell, member: dict[str, Tensor], progress: Progress) -> None:
    content = {"hash": cell.hash, "member": member, "progress": asdict(progress)}
    write_atomically(path, lambda stream: torch.save(content, stream))


def load(path: Path, cell: Cell) -> tuple[dict[str, Tensor], Progress]:
    """Load a cell's weights and progress; weights are read when they are used. Raises UserError for another file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if content["hash"] != cell.hash:
            raise ValueError("it belongs to another cell")
        return content["member"], Progress(**content["progress"])
    except Exception as error:
        raise damaged(path, cell, error) from error


def damaged(path: Path, cell: Cell, error: Exception) -> UserError:
    return UserError(
        f"{path}: expected a checkpoint of {cell.id}, found one that can't be read ({error}); "
        "delete it and this cell starts anew."
    )


def checkpoint_step(path: Path, cell: Cell) -> int:
    """Return the number of updates behind a checkpoint, 0 if there is none. Raises UserError for another file."""
    return load(path, cell)[1].step if path.exists() else 0


def load_network(path: Path, cell: Cell) -> BSNN:
    """Load the network in a checkpoint of `cell`, on the CPU, in evaluation mode. Raises UserError for another file."""
    member, _ = load(path, cell)
    network = initial_network(cell, torch.device("cpu"))
    known = network.state_dict()
    try:
        network.load_state_dict(
            {name: value for name, value in member.items() if name in known}
            | {name: value for name, value in known.items() if name.endswith(("_extra_state", "num_batches_tracked"))}
        )
    except Exception as error:
        raise damaged(path, cell, error) from error
    return network.eval()
