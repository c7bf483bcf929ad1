"""The engine against the definition: bsnn.network, autograd and torch.optim.SGD, every cell trained alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.cell import Cell
from bsnn.engine.cpu import CompiledPasses
from bsnn.engine.passes import TorchPasses
from bsnn.engine.reference import ReferenceStack
from bsnn.engine.stack import Stack, _in_torch, in_order
from bsnn.training.loop import evaluate
from tests.engine.cells import make_cell

CPU = torch.device("cpu")
PLAIN = list(PAPER_ACTIVATIONS)
GPN = [f"{name}-gpn" for name in PLAIN]
MIXED = ["tanh", "tanh-gpn-bn", "relu-gpn", "relu-bn", "leaky_relu", "leaky_relu-gpn-bn", "elu-gpn", "elu-bn",
         "selu", "selu-gpn-bn", "gelu-gpn", "gelu-bn"]  # fmt: skip


def cells_of(names: Sequence[str], **changes: object) -> list[Cell]:
    """One cell a name, each with its own seed, in a stack's order."""
    return sorted((make_cell(name, seed=seed, **changes) for seed, name in enumerate(names)), key=in_order)


def batches(cells: Sequence[Cell], steps: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and labels, every member its own."""
    g = torch.Generator().manual_seed(0)
    shape = (len(cells), cells[0].batch_size)
    dtype = getattr(torch, cells[0].dtype)
    return [
        (torch.randn(*shape, 784, generator=g, dtype=dtype), torch.randint(10, shape, generator=g))
        for _ in range(steps)
    ]


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Frobenius; 0 where both are 0."""
    difference = (found.double() - expected.double()).norm().item()
    return difference / expected.double().norm().item() if difference else 0.0


def largest_differences(cells: Sequence[Cell], steps: int, compiled: bool) -> dict[str, float]:
    """For each cell the largest relative difference, over `steps` steps, of loss and of each layer's gradient norm, and
    afterwards of every weight, velocity and running statistic."""
    stack, reference = Stack(cells, CPU, compiled=compiled), ReferenceStack(cells, CPU)
    assert isinstance(stack.passes, CompiledPasses if compiled else TorchPasses)
    worst = dict.fromkeys((cell.name for cell in cells), 0.0)
    for x_KBD, labels_KB in batches(cells, steps):
        norms_LK = torch.empty(cells[0].depth, len(cells), dtype=torch.float64)
        expected_LK = torch.empty_like(norms_LK)
        loss_K, correct_K = stack.step(x_KBD, labels_KB, norms_LK)
        expected_K, expected_correct_K = reference.step(x_KBD, labels_KB, expected_LK)
        assert (expected_LK > 0).all()
        assert torch.equal(correct_K, expected_correct_K)
        for k, cell in enumerate(cells):
            norm = ((norms_LK - expected_LK) / expected_LK)[:, k].abs().max().item()
            worst[cell.name] = max(worst[cell.name], norm, relative(loss_K[k], expected_K[k]))
    for k, cell in enumerate(cells):
        found, expected = stack.member(k), reference.member(k)
        shared = {name for name in expected if not name.endswith("num_batches_tracked")}
        assert shared == found.keys() - {"r"}
        if cell.batch_norm:
            assert f"batch_norms.{cell.depth - 1}.running_var" in shared
        for name in shared:
            worst[cell.name] = max(worst[cell.name], relative(found[name], expected[name]))
    return worst


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
def test_a_mixed_stack_is_its_networks(compiled: bool) -> None:
    """Twelve cells, six functions, plain and GPN, with and without batch norm, 20 steps at a learning rate that moves
    the weights by percents: 1e-10."""
    cells = cells_of(MIXED)
    stack = Stack(cells, CPU, compiled=compiled)
    before = stack.layers.V.clone()
    x_KBD, labels_KB = batches(cells, 1)[0]
    stack.step(x_KBD, labels_KB, torch.empty(4, 12, dtype=torch.float64))
    assert (stack.layers.V - before).norm() / before.norm() > 1e-3
    worst = largest_differences(cells, 20, compiled)
    assert max(worst.values()) < 1e-10, worst


def test_both_initialisations_in_one_stack() -> None:
    """Members of one seed start from the weights of their own initialisation."""
    names = ("tanh-gpn", "relu")
    cells = [make_cell(name, initialisation=start) for name in names for start in ("orthogonal", "gaussian")]
    cells.sort(key=in_order)
    assert max(largest_differences(cells, 3, compiled=True).values()) < 1e-10
    V_LKNN = Stack(cells, CPU).layers.V
    starts = [cell.initialisation for cell in cells]
    alike = [[torch.equal(V_LKNN[:, i], V_LKNN[:, j]) for j in range(4)] for i in range(4)]
    assert alike == [[one == other for other in starts] for one in starts]


@pytest.mark.parametrize(("width", "batch"), [(9, 16), (129, 80), (270, 16)])
def test_any_width(width: int, batch: int) -> None:
    """Narrower than a vector, and more rows and samples than the kernels' products take at a time."""
    cells = cells_of(MIXED, width=width, depth=3, learning_rate=1e-3, batch_size=batch)
    worst = largest_differences(cells, 3, True)
    assert max(worst.values()) < 1e-10, worst


# At depth 200 rounding itself is amplified: by the size of the gradients from layer to layer, and by training from step
# to step. Where gradients explode (batch norm with ReLU, LeakyReLU, GELU or Tanh: by up to 1e16 here, so that the last
# bit of a first layer decides the loss) bsnn.network doesn't agree with itself when its input is changed in the last
# bit. So: the functions whose training is stable at the paper's learning rate; those with moderate gradients at one so
# small that they don't leave their start; and the exploding ones at a depth that float64 can follow.
# Steps: many only where training goes anywhere.
DEPTH_200 = {
    "paper's rate": (1e-4, 200, 20, [*(name for name in PLAIN if name != "selu"), *GPN]),
    "small rate": (1e-12, 200, 3, [*GPN, "selu", "elu", "tanh", "elu-bn", "selu-bn", "selu-gpn-bn"]),
    "batch norm": (1e-9, 40, 8, [f"{name}-bn" for name in (*PLAIN, *GPN)]),
}


@pytest.mark.parametrize("case", DEPTH_200)
def test_depth_200(case: str) -> None:
    rate, depth, steps, names = DEPTH_200[case]
    worst = largest_differences(cells_of(names, depth=depth, width=48, batch_size=48, learning_rate=rate), steps, True)
    assert max(worst.values()) < 1e-10, worst


def test_rounding_is_amplified_beyond_float64_where_gradients_explode() -> None:
    """Why the test above leaves batch norm with ReLU out at depth 200."""
    cells = cells_of(["relu-gpn-bn"], depth=200, width=32, batch_size=32)
    (x_KBD, labels_KB), norms = batches(cells, 1)[0], torch.empty(200, 1, dtype=torch.float64)
    losses = [ReferenceStack(cells, CPU).step(x, labels_KB, norms)[0].item() for x in (x_KBD, x_KBD * (1 + 2**-52))]
    assert abs(losses[1] - losses[0]) > 1e-6


def test_float32_agrees_to_its_precision() -> None:
    """5 steps: 1e-4 for shallow networks of all kinds. float32's rounding is 6e-8; batch norm's gradients and the sums
    over a batch lose two to three digits more."""
    worst = largest_differences(cells_of(MIXED, dtype="float32"), 5, True)
    assert max(worst.values()) < 1e-4, worst


def test_evaluation_is_the_networks_own() -> None:
    cells = cells_of(MIXED)
    stack, reference = Stack(cells, CPU), ReferenceStack(cells, CPU)
    for x_KBD, labels_KB in batches(cells, 2):
        for trained in (stack, reference):
            trained.step(x_KBD, labels_KB, torch.empty(4, 12, dtype=torch.float64))
    x, y = torch.randn(70, 784, dtype=torch.float64), torch.randint(10, (70,))
    assert relative(stack.logits(x), reference.logits(x)) < 1e-12
    assert evaluate(stack, x, y)[0] == evaluate(reference, x, y)[0]
    assert evaluate(stack, x, y)[1] == pytest.approx(evaluate(reference, x, y)[1], rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neighbours_leave_a_member_bitwise_the_same(dtype: str) -> None:
    """One member replaced by another, made nan, or gone: the others' numbers don't change in a single bit."""
    cells = cells_of(MIXED, dtype=dtype)
    data = batches(cells, 3)

    def trained(members: Sequence[int], broken: int | None = None) -> dict[str, dict[str, Tensor]]:
        chosen = [cells[k] for k in members]
        stack = Stack(chosen, CPU)
        if broken is not None:
            stack.load_member(broken, {name: value * torch.nan for name, value in stack.member(broken).items()})
        for x_KBD, labels_KB in data:
            norms_LK = torch.empty(4, len(chosen), dtype=torch.float64)
            loss_K, _ = stack.step(x_KBD[members].contiguous(), labels_KB[members], norms_LK)
        assert loss_K.isfinite().all() == (broken is None)
        return {cell.name: {**stack.member(k), "norms": norms_LK[:, k]} for k, cell in enumerate(chosen) if k != broken}

    alone = trained(range(12))
    for others in (trained(range(12), broken=5), trained([k for k in range(12) if k != 3]), trained([4]), trained([9])):
        for name, parts in others.items():
            for part, value in parts.items():
                assert torch.equal(value, alone[name][part]), (name, part)


def test_a_function_the_kernels_dont_know_is_trained_in_torch() -> None:
    cells = cells_of(["Softsign", "tanh-bn", "Softplus-gpn-bn"])
    stack, reference = Stack(cells, CPU), ReferenceStack(cells, CPU)
    assert isinstance(stack.passes, TorchPasses)
    norms_LK, expected_LK = torch.empty(2, 4, 3, dtype=torch.float64)
    for x_KBD, labels_KB in batches(cells, 5):
        stack.step(x_KBD, labels_KB, norms_LK)
        reference.step(x_KBD, labels_KB, expected_LK)
    assert relative(norms_LK, expected_LK) < 1e-12


class Scaled(nn.Module):
    """A function with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.scale * x)


def test_a_module_with_buffers_is_moved_to_the_device() -> None:
    cell = make_cell("scaled", activation_module={"_target_": f"{__name__}.Scaled"})
    meta = torch.device("meta")
    value, slope = _in_torch(cell, meta)(torch.empty(2, 3, device=meta, dtype=torch.float64))
    assert (value.device, slope.device, value.dtype) == (meta, meta, torch.float64)


def test_gradient_norms_neither_under_nor_overflow() -> None:
    """A plain ReLU network of depth 200 in float32: norms of 1e-29, whose squares float32 doesn't hold."""
    cells = cells_of(["relu"], depth=200, width=32, batch_size=32, dtype="float32")
    x_KBD, labels_KB = batches(cells, 1)[0]
    norms_LK, expected_LK = torch.empty(2, 200, 1, dtype=torch.float64)
    Stack(cells, CPU).step(x_KBD, labels_KB, norms_LK)
    ReferenceStack(cells, CPU).step(x_KBD, labels_KB, expected_LK)
    assert 0 < expected_LK.min() < 1e-25
    assert torch.allclose(norms_LK, expected_LK, rtol=1e-3, atol=0)


def test_batches_of_another_size_in_between() -> None:
    """The last batch of an epoch is short; evaluation uses larger ones; the buffers are shared."""
    cells = cells_of(MIXED)
    stack, reference = Stack(cells, CPU), ReferenceStack(cells, CPU)
    g = torch.Generator().manual_seed(1)
    norms_LK, expected_LK = torch.empty(2, 4, 12, dtype=torch.float64)
    for batch in (16, 5, 16, 2, 40):
        x_KBD = torch.randn(12, batch, 784, generator=g, dtype=torch.float64)
        labels_KB = torch.randint(10, (12, batch), generator=g)
        stack.step(x_KBD, labels_KB, norms_LK)
        stack.logits(torch.randn(100, 784, generator=g, dtype=torch.float64))
        reference.step(x_KBD, labels_KB, expected_LK)
        assert relative(norms_LK, expected_LK) < 1e-9


def test_members_can_be_taken_out_and_put_back() -> None:
    """Into a stack of other neighbours, and on from there bit by bit."""
    cells = cells_of(MIXED, dtype="float32")
    data = batches(cells, 4)
    norms_LK = torch.empty(4, 12, dtype=torch.float64)
    stack = Stack(cells, CPU)
    for x_KBD, labels_KB in data[:2]:
        stack.step(x_KBD, labels_KB, norms_LK)
    saved = {k: stack.member(k) for k in (2, 11)}
    for x_KBD, labels_KB in data[2:]:
        stack.step(x_KBD, labels_KB, norms_LK)
    other = Stack([cells[2], cells[11]], CPU)
    for position, k in enumerate(saved):
        other.load_member(position, saved[k])
    for x_KBD, labels_KB in data[2:]:
        members = [2, 11]
        other.step(x_KBD[members].contiguous(), labels_KB[members], torch.empty(4, 2, dtype=torch.float64))
    for position, k in enumerate(saved):
        for name, value in other.member(position).items():
            assert torch.equal(value, stack.member(k)[name]), name
    with pytest.raises(ValueError, match="V: expected a tensor of shape"):
        other.load_member(0, {"r": saved[2]["r"], "V": torch.zeros(1)})


def test_cells_that_cant_share_a_stack() -> None:
    with pytest.raises(ValueError, match="agree in width, found 24, 25"):
        Stack([make_cell("tanh"), make_cell("tanh", width=25)], CPU)
    with pytest.raises(ValueError, match="sorted"):
        Stack([make_cell("tanh-bn"), make_cell("tanh")], CPU)
