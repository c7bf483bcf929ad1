"""A limit on a command's wall time: when a stack must stop so that its checkpoints are on disk before it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bsnn.cell import Cell
from bsnn.engine.sizes import network_bytes

# From the checkpoints to the end of the process: W&B's runs are closed, the GPU is let go.
CLOSING_SECONDS = 5.0
CLOSING_SECONDS_PER_CELL = 0.3
# Until a checkpoint has been timed: a slow disk's.
SAVE_BYTES_PER_SECOND = 200e6
SAVE_SAFETY = 1.5  # a disk is not always equally fast


class OutOfTime(Exception):  # noqa: N818 - nothing went wrong
    """The time limit has stopped a cell, or kept it from starting; the same command goes on from its checkpoint."""


class Countdown:
    """Tells a stack that takes steps when it must stop: what it needs to write its checkpoints is kept in reserve.

    Args:
        deadline: of time.monotonic(), by which the checkpoints must be on disk; None: there is none.
        cells: the stack's.
    """

    def __init__(self, deadline: float | None, cells: Sequence[Cell]) -> None:
        self._deadline = deadline
        self._save_seconds = reserve(cells) / len(cells)  # of one network
        self._looked = time.monotonic()

    def stored(self, seconds: float) -> None:
        """Note how long the checkpoint of one network took."""
        self._save_seconds = SAVE_SAFETY * seconds

    def is_up(self, networks: int) -> bool:
        """Look at the clock: is it time to write the checkpoints of so many networks? Called after every few steps.

        The next look comes about as long after this one as this one after the last.
        """
        if self._deadline is None:
            return False
        now = time.monotonic()
        until_next = now - self._looked
        self._looked = now
        return now + until_next + self._save_seconds * networks >= self._deadline


def reserve(cells: Sequence[Cell]) -> float:
    """The seconds to keep for the cells' checkpoints as long as none has been timed."""
    return SAVE_SAFETY * sum(map(network_bytes, cells)) / SAVE_BYTES_PER_SECOND
