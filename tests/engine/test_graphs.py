"""bsnn.engine.graphs against bsnn.engine.interval.run_steps: the same steps, to the bit; on a GPU also captured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset
from bsnn.engine import graphs
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import Measured, run_steps
from bsnn.engine.stack import Stack, in_order
from bsnn.randomness import batch_order
from bsnn.training.loop import evaluate
from tests.engine.cells import make_cell

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, SAMPLES = 8, 52  # 6 full mini-batches and a half one
CELL = make_cell("tanh-gpn", seed=3, width=16, batch_size=BATCH, learning_rate=0.05, dtype="float32")


def cells(**changes: object) -> list[Cell]:
    base = replace(CELL, **changes)  # type: ignore[arg-type]
    return sorted([base, replace(base, batch_norm=True), replace(base, seed=5)], key=in_order)


@pytest.fixture
def data() -> Dataset:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(SAMPLES, 784, generator=g).to(DEVICE), torch.randint(10, (SAMPLES,), generator=g).to(DEVICE)
    return Dataset(DATASETS["mnist"], x, y, x, y)


def order(members: list[Cell], epoch: int = 0, samples: int = SAMPLES) -> Tensor:
    return torch.stack([batch_order(cell.seed, epoch, samples) for cell in members]).to(DEVICE)


def parts(samples: int) -> Iterator[slice]:
    """An epoch in three intervals: full mini-batches, one, the rest with the short one."""
    yield slice(0, 3 * BATCH)
    yield slice(3 * BATCH, 4 * BATCH)
    yield slice(4 * BATCH, samples)


def same(first: Measured, second: Measured) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def same_members(first: Stack, second: Stack) -> None:
    for k in range(len(first.cells)):
        expected = second.member(k)
        for name, part in first.member(k).items():
            assert torch.equal(part, expected[name]), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_steps_are_those_of_run_steps(data: Dataset, dtype: str) -> None:
    """Bit by bit, over two epochs in intervals of several lengths: the measurements, and all that steps change."""
    kind = getattr(torch, dtype)
    data = replace(data, train_x=data.train_x.to(kind), test_x=data.test_x.to(kind))
    members = cells(dtype=dtype)
    plain, stepped = Stack(members, DEVICE), Stack(members, DEVICE)
    steps = GraphSteps(capture=False)
    for epoch in range(2):
        order_KN = order(members, epoch)
        for part in parts(SAMPLES):
            expected = run_steps(plain, data, order_KN[:, part], BATCH, CELL.depth)
            found = steps(stepped, data, order_KN[:, part], BATCH, CELL.depth)
            same(found, expected)
        same_members(stepped, plain)


def test_measurements_of_an_interval_outlive_the_next(data: Dataset) -> None:
    members, steps = cells(dtype="float64"), GraphSteps(capture=False)
    data = replace(data, train_x=data.train_x.double())
    stack, order_KN = Stack(members, DEVICE), order(members)
    first = steps(stack, data, order_KN, BATCH, CELL.depth)
    kept = [part.copy() for part in first]
    steps(stack, data, order_KN, BATCH, CELL.depth)
    same(first, Measured(*kept))


def test_another_stack_starts_anew(data: Dataset) -> None:
    members, steps = cells(), GraphSteps(capture=False)
    found = [steps(Stack(members, DEVICE), data, order(members), BATCH, CELL.depth) for _ in range(2)]
    same(*found)


def test_more_than_an_epoch_is_refused(data: Dataset) -> None:
    members = cells()
    twice = torch.cat([order(members), order(members)], dim=1)
    with pytest.raises(ValueError, match="expected at most an epoch, 7 steps, found 13"):
        GraphSteps(capture=False)(Stack(members, DEVICE), data, twice, BATCH, CELL.depth)


# --- on a GPU ---

needs_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_captured_steps_are_those_of_run_steps(
    data: Dataset, dtype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Captured after three steps, replayed from then on; between intervals an evaluation, whose batches are larger
    than a step's and must not move a step's memory."""
    monkeypatch.setattr(graphs, "LOOK", 2)
    kind = getattr(torch, dtype)
    data = replace(data, train_x=data.train_x.to(kind), test_x=data.test_x.to(kind).repeat(40, 1))
    data = replace(data, test_y=data.test_y.repeat(40))
    members = cells(dtype=dtype)
    plain, stepped = Stack(members, DEVICE), Stack(members, DEVICE)
    steps = GraphSteps()
    for epoch in range(3):
        order_KN = order(members, epoch)
        for part in parts(SAMPLES):
            expected = run_steps(plain, data, order_KN[:, part], BATCH, CELL.depth)
            found = steps(stepped, data, order_KN[:, part], BATCH, CELL.depth)
            same(found, expected)
            assert evaluate(plain, data.test_x, data.test_y) == evaluate(stepped, data.test_x, data.test_y)
        same_members(stepped, plain)
    assert not caplog.records  # captured indeed


@needs_gpu
def test_captured_steps_of_deep_networks_agree_with_the_cpu_in_float64() -> None:
    """20 steps at 200 x 100, members without batch norm: with it, gradients of 1e6 amplify rounding."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20 * 64, 784, generator=g), torch.randint(10, (20 * 64,), generator=g)
    members = [replace(CELL, depth=200, width=100, batch_size=64, seed=seed, learning_rate=0.01) for seed in (0, 1)]
    order_KS = torch.stack([torch.randperm(len(x), generator=g) for _ in members])
    measured = {}
    for device, dtype in ((DEVICE, "float32"), (torch.device("cpu"), "float64")):
        inputs = x.to(device, getattr(torch, dtype))
        data = Dataset(DATASETS["mnist"], inputs, y.to(device), inputs, y.to(device))
        stack = Stack([replace(cell, dtype=dtype) for cell in members], device)
        run = GraphSteps() if device.type == "cuda" else run_steps
        measured[device.type] = run(stack, data, order_KS.to(device), 64, 200)
    np.testing.assert_allclose(measured["cuda"].loss_SK, measured["cpu"].loss_SK, rtol=1e-3)
    np.testing.assert_allclose(measured["cuda"].norms_SLK, measured["cpu"].norms_SLK, rtol=1e-2)


@needs_gpu
def test_a_sick_member_changes_no_bit_of_the_others_in_replays(data: Dataset) -> None:
    members = cells()
    stacks = [Stack(members, DEVICE) for _ in range(2)]
    stacks[1].layers.V[:, 1] = float("nan")
    for stack in stacks:
        GraphSteps()(stack, data, order(members), BATCH, CELL.depth)
    for k in (0, 2):
        healthy = stacks[0].member(k)
        for name, part in stacks[1].member(k).items():
            assert torch.equal(part, healthy[name]), name
