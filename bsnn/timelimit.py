"""A limit on a command's wall time: how far a stack may go before it writes its checkpoints, and what is left then."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bsnn.cell import Cell
from bsnn.engine.interval import Interrupted
from bsnn.engine.sizes import network_bytes
from bsnn.meter import duration

# From the checkpoints to the end of the process: W&B's runs are closed, the GPU is let go.
CLOSING_SECONDS = 5.0
CLOSING_SECONDS_PER_CELL = 0.3
# Until a checkpoint has been timed: a slow disk's.
SAVE_BYTES_PER_SECOND = 200e6
SAVE_SAFETY = 1.5  # a disk is not always equally fast
EVALUATION_SAFETY = 1.25
STEP_SAFETY = 3  # they may become slower
GROWTH = 4


class OutOfTime(Interrupted):
    """The time limit has stopped a cell, or kept it from starting; the same command goes on from its checkpoint."""


class Pace:
    """How many steps a stack takes before it looks at the clock again: none when it must stop.

    Far from the deadline that is a whole interval between rows, as without one; near it, what takes a third of the time
    that is left, again and again. The time to write the checkpoints is kept in reserve, and the last step before a row
    is taken only if the row's evaluation fits, too.

    Args:
        deadline: of time.monotonic(); by then the checkpoints must be on disk. None: there is none.
        cells: the stack's.
        evaluation_steps: what an evaluation costs, in steps, as long as none has been timed.
    """

    def __init__(self, deadline: float | None, cells: Sequence[Cell], evaluation_steps: float) -> None:
        self._deadline = deadline
        self._evaluation_steps, self._evaluation_seconds = evaluation_steps, 0.0
        self._save_seconds, self._assumed = 0.0, reserve(cells[:1]) / SAVE_SAFETY  # of one network
        self._step_seconds, self._last, self._looks = 0.0, 0, 0

    def steps(self, to_row: int, networks: int) -> int:
        """At most `to_row`, the number of steps to the next row; `networks` will have to be written."""
        if self._deadline is None:
            return to_row
        save = SAVE_SAFETY * networks * (self._save_seconds or self._assumed)
        left = self._deadline - time.monotonic() - save
        if left <= 0:
            return 0
        if self._looks < 2:  # the first step compiles kernels: the second shows how fast they are
            return 1
        evaluation = self._evaluation_seconds or self._evaluation_steps * self._step_seconds
        safe = STEP_SAFETY * self._step_seconds
        if to_row <= GROWTH * self._last and to_row * safe + EVALUATION_SAFETY * evaluation <= left:
            return to_row
        return min(to_row - 1, GROWTH * self._last, int(left / max(safe, 1e-9)))

    def took(self, steps: int, seconds: float) -> None:
        self._step_seconds, self._last, self._looks = seconds / steps, steps, self._looks + 1

    def evaluated(self, seconds: float) -> None:
        self._evaluation_seconds = seconds

    def saved(self, networks: int, seconds: float) -> None:
        self._save_seconds = seconds / networks

    def save_seconds(self, networks: int) -> float:
        """What writing so many takes, by the last time; 0 as long as there is none."""
        return self._save_seconds * networks


def reserve(cells: Sequence[Cell]) -> float:
    """Seconds to keep for the cells' checkpoints, as long as none has been timed."""
    return SAVE_SAFETY * sum(map(network_bytes, cells)) / SAVE_BYTES_PER_SECOND


@dataclass(frozen=True)
class Tally:
    """How far a command's cells are. Tallies of its parts add up."""

    limit: float = 0.0  # seconds
    cells: int = 0
    ended: int = 0  # with a record
    failed: int = 0
    elsewhere: int = 0  # other processes train them
    steps: int = 0  # of all trainings, first to last
    stored: int = 0  # of these, behind a record or a checkpoint
    made: int = 0  # of these, by this command

    def __add__(self, other: Tally) -> Tally:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        return Tally(**sums | {"limit": max(self.limit, other.limit)})

    @property
    def left(self) -> int:
        """How many cells the limit has stopped or kept from starting."""
        return self.cells - self.ended - self.failed

    @property
    def goes_on(self) -> bool:
        """Whether the same command, repeated, gets any further: not if this one didn't."""
        return self.left > 0 and (self.made > 0 or self.elsewhere > 0)

    def sentence(self, elapsed: float) -> str:
        """stopped by time_limit=540 s: 12 of 48 cells done, 31 % of the steps; ... `elapsed`: the command's seconds."""
        if not self.goes_on:
            return (
                f"time_limit={self.limit:g}: expected time enough for some steps and their checkpoints, but no cell "
                f"got any further in {elapsed:.0f} s, start-up included; use a longer one, or fewer cells at once with "
                "max_stack=N."
            )
        share = self.stored / self.steps if self.steps else 0.0
        failed = f" ({self.failed} failed)" if self.failed else ""
        rest = f", about {duration(elapsed * (self.steps - self.stored) / self.made)} left" if self.made else ""
        return (
            f"stopped by time_limit={self.limit:g} s: {self.ended} of {self.cells} cells done{failed}, "
            f"{int(100 * share)} % of the steps; the same command goes on{rest}"
        )
