"""Progress of a command's cells, and the sentence about it when the command ends before they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from bsnn.training.meter import duration


@dataclass(frozen=True)
class Counted:
    """One cell, as its folder shows it when the command ends."""

    steps: int  # to which the command was to train it
    before: int  # of these, in a record or a checkpoint when the command began
    stored: int  # of these, in one of them now
    ended: bool  # it has a record with all of these steps
    failed: bool
    elsewhere: bool  # another process trains it


@dataclass(frozen=True)
class Tally:
    """Sums over the cells of a command. Tallies of its parts add up."""

    limit: float | None = None  # seconds
    cells: int = 0
    ended: int = 0
    failed: int = 0
    elsewhere: int = 0
    steps: int = 0
    stored: int = 0
    made: int = 0  # steps stored by this command

    @classmethod
    def of(cls, cells: Iterable[Counted], limit: float | None) -> Tally:
        tallies = [
            cls(
                limit=limit,
                cells=1,
                ended=int(cell.ended),
                failed=int(cell.failed),
                elsewhere=int(cell.elsewhere),
                steps=cell.steps,
                stored=cell.stored,
                made=0 if cell.elsewhere else cell.stored - cell.before,
            )
            for cell in cells
        ]
        return sum(tallies, cls(limit=limit))

    def __add__(self, other: Tally) -> Tally:
        names = [f.name for f in dataclasses.fields(self) if f.name != "limit"]
        limits = [tally.limit for tally in (self, other) if tally.limit is not None]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Tally(max(limits, default=None), **sums)

    @property
    def left(self) -> int:
        """The number of cells that were stopped or kept from starting."""
        return self.cells - self.ended - self.failed

    @property
    def goes_on(self) -> bool:
        """True if the same command, repeated, gets any further; if this one got no further, neither will the next."""
        return self.left > 0 and (self.made > 0 or self.elsewhere > 0)

    def sentence(self, elapsed: float) -> str:
        """Say "stopped by time_limit=540 s: 12 of 48 cells done, ..."; `elapsed`: seconds since the command began."""
        if not self.goes_on and self.limit is not None:
            return (
                f"time_limit={self.limit:g}: expected time enough for some steps and their checkpoints, but no cell "
                f"got any further in {elapsed:.0f} s, start-up included; use a longer one, or fewer cells at once with "
                "max_stack=N."
            )
        why = "stopped" if self.limit is None else f"stopped by time_limit={self.limit:g} s"
        share = self.stored / self.steps if self.steps else 0.0
        failed = f" ({self.failed} failed)" if self.failed else ""
        rest = f", about {duration(elapsed * (self.steps - self.stored) / self.made)} left" if self.made else ""
        return (
            f"{why}: {self.ended} of {self.cells} cells done{failed}, {int(100 * share)} % of the steps; "
            f"the same command goes on{rest}"
        )
