"""Is tf32x3 as good as float32 through 200 layers and 20 steps? Computed bit by bit on a CPU, beside float64.

    python -m scripts.gpu.precision           some minutes on one core

The paper's functions with and without GPN, 200 layers of 32 units, batches of 16, the paper's learning rate. Two
trainings of the same weights on the same batches, whose products with the layers' weights are computed as tensor cores
do it (bsnn.engine.tensor_cores, with its pessimistic sums) and as a float32 kernel does; everything else is float32 in
both. Writes results/bench/tf32x3.md and tf32x3.csv: relative errors against float64, and their ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine import tensor_cores
from bsnn.engine.functions import Function, function_of, value_and_slope
from bsnn.engine.passes import ACTIVATIONS, TorchPasses
from bsnn.engine.stack import Stack, in_order
from bsnn.engine.triton_passes import default_tile
from bsnn.files import write_text
from bsnn.results import cli
from bsnn.results.budgets import table_configs

FOLDER = Path("results/bench")
Product = Callable[[Tensor, Tensor, int], Tensor]  # A, B, terms at a time
WAYS: dict[str, Product] = {
    "tf32x3": tensor_cores.multiply,
    "float32": lambda A, B, step: tensor_cores.chain(A, B),
}


class Multiplied(TorchPasses):
    """Plain torch but for the products, which `product` computes."""

    def __init__(self, stack: Stack, functions: Sequence[Function], product: Product) -> None:
        activations = [(slice(k, k + 1), _in_torch(function)) for k, function in enumerate(functions)]
        super().__init__(stack.layers, activations, stack.optimiser)
        self._product = product

    def _multiply(self, kernel: str, A: Tensor, B: Tensor) -> Tensor:
        return self._product(A, B, default_tile(kernel, 64, "tf32x3").step)

    def forward_layers(self, h: Sequence[Tensor], x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        for layer, V in enumerate(self.state.V):
            h[layer + 1].copy_(self._multiply("layer_forward", V, x))
            self.forward(layer, h[layer + 1], x)
        return x, spare

    def evaluate_layers(self, x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        for layer, V in enumerate(self.state.V):
            spare.copy_(self._multiply("layer_forward", V, x))
            self.evaluate(layer, spare, x)
        return x, spare

    def backward_layers(self, h: Sequence[Tensor], error: Tensor, spare: Tensor, x: Tensor, norms_LK: Tensor) -> Tensor:
        for layer in reversed(range(len(h) - 1)):
            spare.copy_(self._multiply("layer_error", self.state.V[layer].mT, error))
            self.backward(layer - 1, spare, h[layer], x)
            self.update(layer, self._multiply("update", error, x.mT), norms_LK[layer])
            error, spare = spare, error
        return error


def _in_torch(function: Function) -> ACTIVATIONS:
    return lambda u: value_and_slope(function, u)


def cells(depth: int, width: int, batch: int) -> list[Cell]:
    """The paper's functions, with and without GPN."""
    found = [
        replace(Cell.from_config(config), depth=depth, width=width, batch_size=batch)
        for key, config in table_configs("paper").items()
        if key.dataset == "mnist" and not key.batch_norm
    ]
    return sorted(found, key=in_order)


def errors(members: Sequence[Cell], steps: int) -> pd.DataFrame:
    """One row for each cell and way: relative errors of loss and gradient norms, the largest and the median over steps
    and layers, and of how far the weights have moved."""
    cpu = torch.device("cpu")
    functions = [row for row in (function_of(cell.make_activation()) for cell in members) if row is not None]
    assert len(functions) == len(members)
    g = torch.Generator().manual_seed(0)
    K, B, L = len(members), members[0].batch_size, members[0].depth
    batches = [
        (torch.randn(K, B, 784, generator=g), torch.randint(10, (K, B), generator=g)) for _ in range(steps)
    ]  # fmt: skip
    start = Stack(members, cpu, compiled=False)
    V = start.layers.V.double()

    def trained(stack: Stack) -> tuple[Tensor, Tensor, Tensor]:
        for k in range(K):
            stack.load_member(k, start.member(k))
        losses, norms = torch.empty(steps, K, dtype=torch.float64), torch.empty(steps, L, K, dtype=torch.float64)
        for step, (x, labels) in enumerate(batches):
            losses[step] = stack.step(x.to(stack.dtype), labels, norms[step])[0]
        return losses, norms, stack.layers.V.double() - V

    exact = trained(Stack([replace(cell, dtype="float64") for cell in members], cpu))
    rows = []
    for way, product in WAYS.items():
        stack = Stack(members, cpu, compiled=False)
        stack.passes = Multiplied(stack, functions, product)
        losses, norms, moved = trained(stack)
        loss, norm = abs(losses / exact[0] - 1), abs(norms / exact[1] - 1)
        difference, change = (torch.linalg.vector_norm(part, dim=(0, 2, 3)) for part in (moved - exact[2], exact[2]))
        weights = difference / change
        for k, cell in enumerate(members):
            norms_k = norm[..., k]
            values = {"loss": loss[:, k].max(), "norm_median": norms_k.median(), "norm_largest": norms_k.max(),
                      "weights": weights[k]}  # fmt: skip
            rows.append({"cell": cell.name, "way": way} | {name: float(value) for name, value in values.items()})
    return pd.DataFrame(rows)


def report(found: pd.DataFrame, members: Sequence[Cell], steps: int) -> str:
    wide = found.pivot(index="cell", columns="way")
    lines = [
        "# tf32x3 beside float32",
        "",
        f"`python -m scripts.gpu.precision`: {members[0].depth} layers of {members[0].width} units, batches of "
        f"{members[0].batch_size}, {steps} steps. Errors against float64, relative: of the loss, the largest over the "
        "steps; of |dE/dV|, the median and the largest over steps and layers; of the change of the weights, after the "
        "last step. Tensor cores are computed bit by bit on a CPU, with sums as inexact as any GPU's.",
        "",
        "| cell |" + "".join(f" {name}, tf32x3 | float32 |" for name in QUANTITIES.values()),
        "|" + " --- |" * (1 + 2 * len(QUANTITIES)),
    ]
    for cell, row in wide.iterrows():
        numbers = (row[name, way] for name in QUANTITIES for way in WAYS)
        lines.append(f"| {cell} |" + "".join(f" {number:.1e} |" for number in numbers))
    ratios = {name: wide[name]["tf32x3"] / wide[name]["float32"] for name in QUANTITIES}
    lines += ["", "tf32x3's error as a part of float32's, geometric mean over the cells, smallest, largest:", ""]
    for name, ratio in ratios.items():
        finite = ratio[ratio.notna() & (ratio > 0) & (ratio < float("inf"))]
        mean = float(torch.tensor(finite.to_numpy()).log().mean().exp())
        lines.append(
            f"- {QUANTITIES[name]}: {mean:.2f}, {finite.min():.2f} to {finite.max():.2f} ({len(finite)} cells)"
        )
    return "\n".join([*lines, ""])


QUANTITIES: dict[str, Any] = {
    "loss": "loss", "norm_median": "norms, median", "norm_largest": "norms, largest", "weights": "weights",
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the table goes (default: {FOLDER})")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    members = cells(arguments.depth, arguments.width, arguments.batch)
    found = errors(members, arguments.steps)
    write_text(arguments.folder / "tf32x3.csv", found.to_csv(index=False))
    text = report(found, members, arguments.steps)
    write_text(arguments.folder / "tf32x3.md", text)
    print(text)


if __name__ == "__main__":
    cli.run(main)
