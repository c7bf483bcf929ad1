"""Cells on their way to workers: their groups, those that need no worker, and how far they are in the end.

The parent reads all of it from the cells' folders. So the work of a worker that was killed is known, too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsnn.cell import Cell
from bsnn.files import try_lock
from bsnn.launch.launcher import Share
from bsnn.training.cellrun import Job, answer, goal, stored
from bsnn.training.loop import stack_key
from bsnn.training.planning import plan, sizes
from bsnn.training.tally import Counted, Tally


@dataclass(frozen=True)
class _Planned:
    """A cell that a worker is to train.

    The worker chooses the device and the stacks. What is planned here, cell by cell, is the order.
    """

    cell: Cell
    folder: Path
    key: Hashable
    device = torch.device("cpu")
    step = 0
    max_stack = 1


class CellSpread:
    """The jobs of `experiments.train`, see bsnn.launch.launcher.Spread.

    Args:
        started: the time.time() that the jobs' time_limit counts from; default: now.
        tell: called at the end with the tally of the cells, if there is a limit.
    """

    def __init__(self, jobs: Sequence[Job], started: float | None, tell: Callable[[Tally], None]) -> None:
        limits = [job.config.time_limit for job in jobs if job.config.time_limit is not None]
        self._limit = min(limits) if limits else None
        self.on_cpu = all(job.config.device == "cpu" for job in jobs)
        self.deadline = None if self._limit is None else (time.time() if started is None else started) + self._limit
        self._tell = tell
        self._jobs: dict[Path, list[int]] = {}  # positions of the unfinished cells' jobs, by folder
        self._cells: dict[Path, Cell] = {}
        self._goals: dict[Path, int] = {}  # steps
        self._done: dict[Path, int] = {}  # the steps of cells that need no worker
        for position, job in enumerate(jobs):
            folder = job.folder
            if folder not in self._jobs and _answered(folder, goal(job.config)):
                self._done[folder] = goal(job.config)
                continue
            self._jobs.setdefault(folder, []).append(position)
            self._cells[folder] = Cell.from_config(job.config)
            self._goals[folder] = max(goal(job.config), self._goals.get(folder, 0))
        self._order: list[Path] = []  # the cell of each job that needs a worker, in the groups' order
        self._before = {folder: self._stored(folder) for folder in self._jobs}

    def groups(self, at_most: int, workers: int = 1) -> list[list[int]]:
        """Group cells with equal stack_keys, in the order of bsnn.training.planning."""
        waiting = [_Planned(cell, folder, stack_key(cell)) for folder, cell in self._cells.items()]
        in_order = [planned for stack in plan(waiting, workers=1) for planned in stack]
        kinds: dict[Hashable, list[_Planned]] = {}
        for planned in in_order:
            kinds.setdefault(planned.key, []).append(planned)
        divided: list[list[_Planned]] = []
        for members in kinds.values():
            start = 0
            for size in sizes(len(members), at_most, workers):
                divided.append(members[start : start + size])
                start += size
        rank = {planned.folder: k for k, planned in enumerate(in_order)}
        divided.sort(key=lambda group: rank[group[0].folder])
        self._order = [planned.folder for group in divided for planned in group for _ in self._jobs[planned.folder]]
        return [[position for planned in group for position in self._jobs[planned.folder]] for group in divided]

    def progress(self) -> str:
        done = sum(_answered(folder, self._goals[folder]) for folder in self._jobs)
        return f"{done} of {len(self._jobs)} cells"

    def ended(self, results: Sequence[Any]) -> None:
        if self._limit is not None:
            failed = {
                folder for folder, result in zip(self._order, results, strict=True) if isinstance(result, BaseException)
            }
            self._tell(Tally.of((self._counted(folder, folder in failed) for folder in self._jobs), self._limit))

    def interrupted(self) -> None:
        cells = [self._counted(folder, failed=False) for folder in self._jobs]
        if self._limit is None:  # with a limit, they were counted when they were answered
            cells += [Counted(steps, steps, steps, True, False, False) for steps in self._done.values()]
        self._tell(Tally.of(cells, self._limit))

    def _counted(self, folder: Path, failed: bool) -> Counted:
        ended = _answered(folder, self._goals[folder])
        return Counted(
            steps=self._goals[folder],
            before=self._before[folder],
            stored=self._stored(folder),
            ended=ended,
            failed=failed and not ended,
            elsewhere=not failed and not ended and _held(folder),
        )

    def _stored(self, folder: Path) -> int:
        return stored(folder, self._cells[folder], self._goals[folder])


def confined(job: Job, share: Share) -> Job:
    """Limit the job to its worker's time and cores; the record's config stays the user's."""
    config = job.config
    if share.threads is not None:
        config = dataclasses.replace(config, threads=min(share.threads, config.threads or share.threads))
    if share.deadline is not None:
        # The command's own limit is in the deadline already; a limit that has passed stops at once.
        config = dataclasses.replace(config, time_limit=max(share.deadline - time.time(), 1e-3))
    return dataclasses.replace(job, config=config)


def _answered(folder: Path, goal: int) -> bool:
    try:
        return answer(folder, goal) is not None
    except Exception:
        return False  # not readable: the process that trains it will say so


def _held(folder: Path) -> bool:
    """True if a process is training the cell right now."""
    try:
        lock = try_lock(folder)
    except OSError:
        return False
    if lock is not None:
        lock.release()
    return lock is None
