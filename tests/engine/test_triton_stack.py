"""Whole steps of stacks in Triton against float64: fused and plain products, members kept apart."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine.functions import function_of
from bsnn.engine.stack import Stack, in_order

pytest.importorskip("triton")
from bsnn.engine.triton_passes import Fusion, TritonPasses
from tests.engine.cells import make_cell
from tests.engine.triton_cases import (
    DEVICE,
    FUSIONS,
    _quiet_numpy,  # noqa: F401 (in every test)
)

# --- in a stack ---

CELL = make_cell("tanh-gpn", seed=3, depth=3, width=20, batch_size=8, learning_rate=0.05, dtype="float32")


RELU = {"_target_": "torch.nn.ReLU"}


def cells(dtype: str = "float32", depth: int = 3, width: int = 20) -> list[Cell]:
    base = replace(CELL, dtype=dtype, depth=depth, width=width)
    relu = replace(base, activation="relu", activation_module=RELU, gpn=False)
    return sorted([base, replace(base, batch_norm=True), relu, replace(relu, batch_norm=True, seed=5)], key=in_order)


def injected(members: list[Cell], device: torch.device, **options: object) -> Stack:
    """A stack whose passes are Triton's, on whatever device."""
    stack = Stack(members, device, compiled=False)
    functions = [f for f in (function_of(cell.make_activation()) for cell in members) if f is not None]
    stack.passes = TritonPasses(stack.layers, functions, stack.optimiser, **options)  # type: ignore[arg-type]
    return stack


def batches(members: int, steps: int, batch: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    sizes = [batch] * (steps - 1) + [batch // 2 + 1]  # the last one short
    return [
        (torch.randn(members, size, 784, generator=g), torch.randint(10, (members, size), generator=g))
        for size in sizes
    ]


def train_both(single: Stack, double: Stack, steps: int, batch: int, tolerance: float) -> None:
    K, L = len(single.cells), single.depth
    for x, y in batches(K, steps, batch):
        norms = torch.zeros(L, K, dtype=torch.float64, device=single.device)
        expected_norms = torch.zeros(L, K, dtype=torch.float64)
        loss, correct = single.step(x.to(single.device), y.to(single.device), norms)
        expected, expected_correct = double.step(x.double(), y, expected_norms)
        torch.testing.assert_close(loss.cpu().double(), expected, rtol=tolerance, atol=0)
        torch.testing.assert_close(norms.cpu(), expected_norms, rtol=10 * tolerance, atol=0)
        assert torch.equal(correct.cpu(), expected_correct)


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: f"{fusion.forward}-{fusion.backward}")
def test_steps_of_a_stack(fusion: Fusion) -> None:
    """Tiles as they are chosen where nobody says otherwise."""
    single = injected(cells(), DEVICE, fusion=fusion)
    double = Stack(cells("float64"), torch.device("cpu"), compiled=False)
    train_both(single, double, 3, 8, 1e-5)
    for k in range(len(single.cells)):
        expected = double.member(k)
        for name, part in single.member(k).items():
            torch.testing.assert_close(part.double(), expected[name], rtol=2e-4, atol=2e-5, msg=name)
    x = torch.randn(33, 784, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        single.logits(x.to(DEVICE)).cpu().double(), double.logits(x.double()), rtol=1e-4, atol=1e-4
    )


def test_a_stack_without_batch_norm() -> None:
    """Whose tensors for batch norm are empty."""
    members = [cell for cell in cells() if not cell.batch_norm]
    double = Stack([replace(cell, dtype="float64") for cell in members], torch.device("cpu"), compiled=False)
    train_both(injected(members, DEVICE), double, 2, 8, 1e-5)


def test_a_member_computes_the_same_bits_alone_and_with_others() -> None:
    """With and without batch norm among the neighbours: on a GPU whatever the size of the stack."""
    members = cells(depth=1)[::3]
    assert [cell.batch_norm for cell in members] == [False, True]
    together, alone = injected(members, DEVICE), [injected([cell], DEVICE) for cell in members]
    x, y = (part.to(DEVICE) for part in batches(2, 2, 8)[0])
    norms = torch.zeros(1, 2, dtype=torch.float64, device=DEVICE)
    loss, _ = together.step(x, y, norms)
    for k, stack in enumerate(alone):
        norm = torch.zeros(1, 1, dtype=torch.float64, device=DEVICE)
        assert torch.equal(stack.step(x[k : k + 1], y[k : k + 1], norm)[0], loss[k : k + 1])
        assert torch.equal(norm[:, 0], norms[:, k])
    x = batches(1, 2, 16)[0][0][0].to(DEVICE)
    for k, stack in enumerate(alone):
        assert torch.equal(stack.logits(x)[0], together.logits(x)[k])
        for name, part in stack.member(0).items():
            assert torch.equal(part, together.member(k)[name]), name


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "bf16x6"])
def test_steps_of_deep_networks_on_a_gpu(precision: str) -> None:
    """20 steps at 200 x 100 against the CPU's engine in float64: the two stay together where training is stable."""
    gpn = [cell for cell in cells(depth=200, width=100) if cell.gpn and not cell.batch_norm]
    double = Stack([replace(cell, dtype="float64") for cell in gpn], torch.device("cpu"))
    train_both(injected(gpn, DEVICE, precision=precision), double, 20, 64, 1e-3)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_a_gpu_gives_the_same_bits_twice_and_whatever_the_neighbours_are() -> None:
    members = cells(depth=20, width=100)
    stacks = [injected(members, DEVICE) for _ in range(3)]
    stacks[2].layers.V[:, 1] = float("nan")
    for x, y in batches(len(members), 5, 64):
        for stack in stacks:
            norms = torch.zeros(20, len(members), dtype=torch.float64, device=DEVICE)
            stack.step(x.to(DEVICE), y.to(DEVICE), norms)
    first, again, sick = (copy.copy(stack) for stack in stacks)
    for k in range(len(members)):
        for name, part in first.member(k).items():
            assert torch.equal(part, again.member(k)[name]), name
            assert k == 1 or torch.equal(part, sick.member(k)[name]), name
