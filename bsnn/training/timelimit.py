"""A limit on a command's wall time: the moment at which a stack must stop to have its checkpoints on disk in time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bsnn.cell import Cell
from bsnn.engine.sizes import network_bytes

# From the checkpoints to the end of the process: W&B's runs are closed, the GPU is let go.
CLOSING_SECONDS = 5.0
CLOSING_SECONDS_PER_CELL = 0.3
# A slow disk's speed, assumed until a checkpoint has been timed.
SAVE_BYTES_PER_SECOND = 200e6
SAVE_SAFETY = 1.5  # a disk is not always equally fast


class OutOfTime(Exception):  # noqa: N818 - nothing went wrong
    """The time limit has stopped a cell, or kept it from starting; the same command goes on from its checkpoint."""


class Countdown:
    """A clock that tells a training stack when it must stop. It reserves the time to write the stack's checkpoints.

    Args:
        deadline: in seconds of time.monotonic(), when the checkpoints must be on disk; None: there is none.
        cells: the stack's.
    """

    def __init__(self, deadline: float | None, cells: Sequence[Cell]) -> None:
        self._deadline = deadline
        self._save_seconds = reserve(cells) / len(cells)  # for one network
        self._looked = time.monotonic()

    def stored(self, seconds: float) -> None:
        """Note how long the checkpoint of one network took."""
        self._save_seconds = SAVE_SAFETY * seconds

    def is_up(self, networks: int) -> bool:
        """Tell if it is time to write the checkpoints of so many networks. Called after every few steps.

        The time to the next call is taken to be the time since the last one.
        """
        if self._deadline is None:
            return False
        now = time.monotonic()
        until_next = now - self._looked
        self._looked = now
        return now + until_next + self._save_seconds * networks >= self._deadline


def reserve(cells: Sequence[Cell]) -> float:
    """Compute the seconds to reserve for the cells' checkpoints while none has been timed."""
    return SAVE_SAFETY * sum(map(network_bytes, cells)) / SAVE_BYTES_PER_SECOND
