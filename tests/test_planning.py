"""bsnn.planning: who is trained together, in which order, in stacks of which size."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bsnn import planning
from bsnn.cell import Cell
from bsnn.planning import cores, plan, sizes, steps
from bsnn.training import stack_key

CELL = Cell(
    dataset="mnist",
    activation="tanh",
    activation_module={"_target_": "torch.nn.Tanh"},
    gpn=False,
    gpn_root="paper",
    batch_norm=False,
    seed=0,
    depth=6,
    width=16,
    epochs=1,
    max_steps=None,
    evaluations_per_epoch=2,
    batch_size=64,
    learning_rate=0.01,
    momentum=0.5,
    dtype="float32",
)


@dataclass
class Candidate:
    cell: Cell
    step: int = 0
    max_stack: int | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def key(self) -> Hashable:
        return stack_key(self.cell)


@pytest.fixture(autouse=True)
def _eight_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "largest_stack", lambda cell, device: 8)


def grid(seeds: int, **changes: Any) -> Iterator[Candidate]:
    for batch_norm in (False, True):
        for seed in range(seeds):
            yield Candidate(dataclasses.replace(CELL, batch_norm=batch_norm, seed=seed, **changes))


@pytest.mark.parametrize(
    ("cells", "largest", "workers", "expected"),
    [
        (12, 8, 2, [6, 6]),
        (9, 8, 2, [5, 4]),
        (17, 8, 2, [5, 4, 4, 4]),
        (3, 8, 2, [2, 1]),
        (1, 8, 4, [1]),
        (3, 8, 4, [1, 1, 1]),
        (48, 20, 1, [16, 16, 16]),
        (5, 1, 2, [1] * 5),
    ],
)
def test_sizes(cells: int, largest: int, workers: int, expected: list[int]) -> None:
    assert sizes(cells, largest, workers) == expected


def test_everyone_is_in_exactly_one_stack_and_stacks_are_of_one_kind() -> None:
    cells = [*grid(7), *grid(3, dataset="cifar10"), *grid(2, depth=9), *grid(1, dtype="float64")]
    cells[0].step = cells[1].step = 5
    stacks = plan(cells, workers=2)
    assert sorted(id(c) for stack in stacks for c in stack) == sorted(map(id, cells))
    for stack in stacks:
        assert len({(c.key, c.step) for c in stack}) == 1
        assert len(stack) <= 8


def test_one_dataset_after_the_other_and_batch_norm_last() -> None:
    stacks = plan([*grid(16, dataset="cifar10"), *grid(16)], workers=2)
    order = [(stack[0].cell.dataset, stack[0].cell.batch_norm) for stack in stacks]
    assert order == [("mnist", False)] * 2 + [("mnist", True)] * 2 + [("cifar10", False)] * 2 + [("cifar10", True)] * 2
    assert [len(stack) for stack in stacks] == [8] * 8


def test_the_smallest_wish_of_a_kind_is_respected() -> None:
    cells = list(grid(4))
    cells[3].max_stack = 3
    cells[5].max_stack = 20
    assert [len(stack) for stack in plan(cells, workers=1)] == [3, 3, 2]
    assert plan([], workers=2) == []


def test_steps_of_a_training() -> None:
    cell = dataclasses.replace(CELL, epochs=2, max_steps=None, batch_size=64)
    assert steps(cell) == 2 * 938
    assert steps(dataclasses.replace(cell, dataset="cifar10")) == 2 * 782
    assert steps(dataclasses.replace(cell, max_steps=100)) == 100
    assert steps(dataclasses.replace(cell, max_steps=10_000)) == 2 * 938


def test_cores() -> None:
    assert cores() >= 1
