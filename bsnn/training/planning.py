"""Plans of training: from a list of cells to a list of stacks, which are trained together, and their order."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

import torch

from bsnn.cell import Cell
from bsnn.data import DATASETS, dataset_spec
from bsnn.engine.sizes import largest_stack


class Planned(Protocol):
    """A cell that is to be trained."""

    @property
    def cell(self) -> Cell: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def key(self) -> Hashable:
        """bsnn.training.loop.stack_key: cells with equal ones can share a stack."""

    @property
    def step(self) -> int:
        """The step at which its training starts: 0, or the step of its checkpoint."""

    @property
    def max_stack(self) -> int | None:
        """The largest stack that the user allows with this cell; None: no limit."""


P = TypeVar("P", bound=Planned)


def plan(cells: Sequence[P], workers: int) -> list[list[P]]:
    """Divide cells into stacks, in the order in which `workers` should take them.

    Only cells that agree in shape, data, optimiser and device and that go on from the same step share a stack. If
    stacks can't hold everything, the most informative cells come first: seed 0 before further seeds, without batch norm
    before with, MNIST before CIFAR-10, GPN before plain. All stacks of a kind have about the same size. If there are
    enough cells, every worker gets the same number of them, so that all end together.
    """
    kinds: dict[tuple[Hashable, torch.device, int], list[P]] = {}
    for planned in sorted(cells, key=lambda planned: _order(planned.cell)):  # stable: otherwise in the given order
        kinds.setdefault((planned.key, planned.device, planned.step), []).append(planned)
    stacks: list[list[P]] = []
    # Stacks that a time limit stopped at different steps go on side by side and aren't split up.
    alike = Counter((key, device) for key, device, _ in kinds)
    for (key, device, _), members in kinds.items():
        caps = [planned.max_stack for planned in members if planned.max_stack is not None]
        dearest = max(members, key=lambda planned: planned.cell.batch_norm)  # needs the most memory
        largest = max(1, min([largest_stack(dearest.cell, dearest.device), *caps]))
        start = 0
        for size in sizes(len(members), largest, math.ceil(workers / alike[key, device])):
            stacks.append(members[start : start + size])
            start += size
    return sorted(stacks, key=lambda stack: _order(stack[0].cell))


def _order(cell: Cell) -> tuple[int, bool, int, bool]:
    return cell.seed, cell.batch_norm, list(DATASETS).index(cell.dataset), not cell.gpn


def sizes(cells: int, largest: int, workers: int) -> list[int]:
    """Return each stack's number of cells: 12 cells on 2 workers, at most 8 in a stack, make 6 + 6 and not 8 + 4."""
    stacks = math.ceil(cells / largest)
    stacks = min(cells, math.ceil(stacks / workers) * workers)
    return [cells // stacks + (k < cells % stacks) for k in range(stacks)]


def steps(cell: Cell) -> int:
    """Count the updates of the cell's whole training."""
    whole = cell.epochs * steps_per_epoch(cell)
    return whole if cell.max_steps is None else min(whole, cell.max_steps)


def steps_per_epoch(cell: Cell) -> int:
    """Count the mini-batches of an epoch, the last one perhaps short."""
    return math.ceil(dataset_spec(cell.dataset).train_size / cell.batch_size)


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
