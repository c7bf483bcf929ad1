"""bsnn.training.planning: who is trained together, in which order, in stacks of which size."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bsnn.cell import Cell
from bsnn.engine.sizes import largest_stack
from bsnn.training import planning
from bsnn.training.loop import stack_key
from bsnn.training.planning import cores, plan, sizes, steps
from tests.training import toy

CELL = dataclasses.replace(toy.CELL, gpn=False, batch_norm=False, seed=0, epochs=1, dtype="float32")


@dataclass
class Candidate:
    cell: Cell
    step: int = 0
    max_stack: int | None = None
    where: str = "cpu"

    @property
    def device(self) -> torch.device:
        return torch.device(self.where)

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


def table(seeds: int, device: str = "cpu") -> list[Candidate]:
    """Table 2's cells, in the order in which the command asks for them: functions vary fastest, seeds slowest."""
    return [
        Candidate(
            dataclasses.replace(CELL, activation=name, gpn=gpn, dataset=dataset, batch_norm=bn, seed=seed, **PAPER),
            where=device,
        )
        for seed in range(seeds)
        for bn in (False, True)
        for dataset in ("cifar10", "mnist")
        for gpn in (False, True)
        for name in ("tanh", "relu", "leaky_relu", "elu", "selu", "gelu")
    ]


PAPER: dict[str, Any] = {"depth": 200, "width": 500, "epochs": 50}


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_most_telling_cells_first(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 before seed 1, without batch norm before with, MNIST before CIFAR-10, GPN before plain; in whatever order
    they are asked for, no stack being able to hold more than 6."""
    monkeypatch.setattr(planning, "largest_stack", lambda cell, device: 6)
    asked = table(seeds)
    random.Random(0).shuffle(asked)
    trained = [candidate.cell for stack in plan(asked, workers=2) for candidate in stack]
    kinds = itertools.product(range(seeds), (False, True), ("mnist", "cifar10"), (True, False))
    found = [(cell.seed, cell.batch_norm, cell.dataset, cell.gpn) for cell in trained]
    assert found == [kind for kind in kinds for _ in range(6)]


def test_a_gpu_takes_a_dataset_in_one_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 of the paper's networks fit into 16 GB; into 80 GB all seeds do, which are then not told apart."""
    monkeypatch.setattr(planning, "largest_stack", largest_stack)
    for gigabytes, seeds, expected in ((16, 1, [24] * 2), (16, 2, [24] * 4), (80, 3, [72] * 2), (8, 1, [12] * 4)):
        memory = int(gigabytes * 1e9)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, memory=memory: (memory, memory))
        stacks = plan(table(seeds, "cuda"), workers=1)
        assert [len(stack) for stack in stacks] == expected
        assert all(len({candidate.cell.dataset for candidate in stack}) == 1 for stack in stacks)
        if gigabytes == 16:
            assert [stack[0].cell.seed for stack in stacks] == [seed for seed in range(seeds) for _ in range(2)]


def test_stacks_that_were_stopped_at_different_steps_go_on_as_they_are() -> None:
    cells = list(grid(6))
    for planned, step in zip(cells, (103,) * 6 + (110,) * 6, strict=True):
        planned.step = step
    assert [len(stack) for stack in plan(cells, workers=2)] == [6, 6]
    assert [len(stack) for stack in plan(cells, workers=4)] == [3, 3, 3, 3]


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
