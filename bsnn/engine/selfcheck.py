"""A check of the engine's kernels on this device: some steps of a small stack, beside torch in float64 on the CPU.

The stack has the width and the batch sizes of the one that is to be trained. So the check covers the very machine code
that will train, including its replay as a CUDA graph. The stack has two layers and four members, with each family of
functions, with and without GPN and batch norm. Weights, velocities and statistics differ from their usual starting
values, so that no factor of 1 or 0 hides an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.data import Dataset, dataset_spec
from bsnn.engine.functions import Function, function_of
from bsnn.engine.graphs import WARM_UP, GraphSteps
from bsnn.engine.interval import Measured, run_steps
from bsnn.engine.passes import LayerState, Optimiser, Passes
from bsnn.engine.stack import Stack, in_order

# |found - exact| / |change that the steps made|, Frobenius. If a kernel forgets one unit of 1500, it is 0.026. Plain
# torch in float32 has at most 2e-6 (tests); products of 11 bits, computed on a CPU, have 0.07.
TOLERANCES = {"ieee": 2e-3, "tf32x3": 2e-3, "bf16x6": 2e-3, "bf16x3": 2e-3, "tf32": 0.2}
ROUNDING = 1e-6  # of the tensor itself, if the change is smaller than float32's digits
REPLAYS = 2
MEMBERS: tuple[tuple[dict[str, Any], bool, bool], ...] = (
    ({"_target_": "torch.nn.Tanh"}, True, False),
    ({"_target_": "torch.nn.SELU"}, False, True),
    ({"_target_": "torch.nn.SiLU"}, True, True),
    ({"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.5}, False, False),
)  # module, GPN, batch norm
SMALLEST_REST = 8  # in a last mini-batch: batch norm over fewer samples amplifies rounding

Make = Callable[[LayerState, Sequence[Function], Optimiser], Passes]


def disagreement(cell: Cell, device: torch.device, precision: str, make: Make) -> str | None:
    """Name the worst error of the passes made by `make` for cells shaped like `cell`; None if they are right.

    The text is part of a sentence. Exceptions of the passes are not caught.
    """
    base = replace(cell, depth=2, seed=0, learning_rate=0.1, momentum=0.5, initialisation="orthogonal", dtype="float32")
    members = [
        replace(base, activation=str(module["_target_"]), activation_module=module, gpn=gpn, batch_norm=batch_norm)
        for module, gpn, batch_norm in MEMBERS
    ]
    members.sort(key=in_order)
    g = torch.Generator().manual_seed(0)
    found = Stack(members, device, compiled=False)
    _disturb(found.layers, g)
    exact = Stack([replace(member, dtype="float64") for member in members], torch.device("cpu"), compiled=False)
    for k in range(len(members)):
        exact.load_member(k, found.member(k))
    start = _state(exact)
    rows = [row for row in (function_of(member.make_activation()) for member in members) if row is not None]
    found.passes = make(found.layers, rows, found.optimiser)

    spec, batch = dataset_spec(cell.dataset), cell.batch_size
    rest = spec.train_size % batch
    samples = (WARM_UP + REPLAYS) * batch + (rest if rest >= SMALLEST_REST else 0)
    x = torch.randn(samples, spec.features, generator=g, device="cpu")
    y = torch.randint(spec.classes, (samples,), generator=g, device="cpu")
    order_KS = torch.stack([torch.randperm(samples, generator=g, device="cpu") for _ in members])

    def steps(stack: Stack, run: Callable[..., Measured]) -> Measured:
        inputs, labels = x.to(stack.device, stack.dtype), y.to(stack.device)
        data = Dataset(spec, inputs, labels, inputs, labels)
        return run(stack, data, order_KS.to(stack.device), batch, 2)

    expected, measured = steps(exact, run_steps), steps(found, GraphSteps())
    pairs = {"loss": (measured.loss_SK, expected.loss_SK), "gradient norm": (measured.norms_SLK, expected.norms_SLK)}
    checks: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
        name: (torch.from_numpy(a), torch.from_numpy(b), None) for name, (a, b) in pairs.items()
    }
    checks["evaluation"] = (found.logits(x.to(device)).double().cpu(), exact.logits(x.double()), None)
    end = _state(exact)
    checks |= {name: (part.double(), end[name], start[name]) for name, part in _state(found).items()}
    worst = {name: _error(*tensors) for name, tensors in checks.items()}
    name = max(worst, key=lambda name: worst[name])
    if worst[name] <= TOLERANCES[precision]:
        return None
    return f"{name} is off by {worst[name]:.1g} of its size or change, expected at most {TOLERANCES[precision]:g}"


def _disturb(layers: LayerState, g: torch.Generator) -> None:
    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=g, device="cpu").to(like.device)

    layers.V.mul_(1 + normal(layers.r).abs().unsqueeze(-1))
    torch.linalg.vector_norm(layers.V, dim=-1, out=layers.r)
    layers.r.reciprocal_()
    layers.V_velocity.copy_(normal(layers.V) * layers.V.std())
    for part in (layers.gamma, layers.running_var):
        part.copy_(1 + 0.2 * normal(part).abs())
    for part in (layers.beta, layers.gamma_velocity, layers.beta_velocity, layers.running_mean):
        part.copy_(0.2 * normal(part))


def _state(stack: Stack) -> dict[str, Tensor]:
    """Collect all that the steps changed, by member and name, except the biases of bottom and top.

    With batch norm behind them these biases are sums of terms that cancel, and the weights beside them see the same
    errors.
    """
    return {
        f"{name} of {cell.name}": part
        for k, cell in enumerate(stack.cells)
        for name, part in stack.member(k).items()
        if not name.endswith(("bottom.bias", "top.bias"))
    }


def _error(found: Tensor, exact: Tensor, start: Tensor | None) -> float:
    """Compute the error relative to the change from `start`, or to the tensor itself; nan counts as infinite."""
    error, size = float((found - exact).norm()), float(exact.norm())
    change = size if start is None else float((exact - start).norm())
    return max(0.0, error - ROUNDING * size) / change if error == error else float("inf")
