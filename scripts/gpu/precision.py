"""Is tf32x3 as good as float32 through 200 layers and 20 steps? Computed bit by bit on a CPU, beside float64.

    python -m scripts.gpu.precision           half an hour on one core

It takes the paper's functions with and without GPN, 200 layers of 64 units, batches of 16, the paper's learning rate
and five seeds. Three trainings start from the same weights and see the same batches. Products with the layers' weights
are computed like tensor cores (bsnn.engine.tensor_cores, with its pessimistic sums), like a float32 kernel, and like a
float32 kernel that adds the same terms in the opposite order. Everything else is float32 in all of them. The third one
shows the difference of two equally good ways. Writes results/bench/tf32x3.md and tf32x3.csv: relative errors against
float64, and their ratios, judged by a rule that was fixed before they were computed (`LIMIT`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

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
    "reversed": lambda A, B, step: tensor_cores.chain(A.flip(2), B.flip(1)),
}
LIMIT = 1.25
"""Limit on the geometric mean, over functions and seeds, of tf32x3's error / float32's.

tf32x3 is as good as float32 in a quantity if that mean is below the limit by two standard errors. It must be so in all
quantities.
"""
QUANTITIES = {
    "loss": "loss",
    "norm_median": "norms, median",
    "norm_largest": "norms, largest",
    "weights": "weights",
}


class Multiplied(TorchPasses):
    """Plain torch, except for the products, which `product` computes."""

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


def cells(depth: int, width: int, batch: int, seed: int = 0) -> list[Cell]:
    """Make the paper's functions' cells, with and without GPN."""
    found = [
        replace(Cell.from_config(config), depth=depth, width=width, batch_size=batch, seed=seed)
        for key, config in table_configs("paper").items()
        if key.dataset == "mnist" and not key.batch_norm
    ]
    return sorted(found, key=in_order)


def errors(members: Sequence[Cell], steps: int) -> pd.DataFrame:
    """Make one row for each cell and way.

    It has the relative errors of loss and gradient norms (the largest and the median over steps and layers), and that
    of the distance that the weights have moved.
    """
    cpu = torch.device("cpu")
    functions = [row for row in (function_of(cell.make_activation()) for cell in members) if row is not None]
    assert len(functions) == len(members)
    g = torch.Generator().manual_seed(members[0].seed)
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
            what = {"cell": cell.name.rpartition("-")[0], "seed": cell.seed, "way": way}
            rows.append(what | {name: float(value) for name, value in values.items()})
    return pd.DataFrame(rows)


def ratios(found: pd.DataFrame, way: str) -> dict[str, pd.Series]:
    """Compute log(error of `way` / float32's) by quantity, for functions and seeds where both are numbers above 0."""
    wide = found.pivot(index=["cell", "seed"], columns="way")
    logs = {}
    for name in QUANTITIES:
        a, b = wide[name][way], wide[name]["float32"]
        both = (a > 0) & (b > 0) & (a < math.inf) & (b < math.inf)
        logs[name] = (a[both] / b[both]).map(math.log)
    return logs


def report(found: pd.DataFrame, members: Sequence[Cell], steps: int) -> str:
    seeds = sorted(found["seed"].unique())
    one, shape = members[0], f"--depth {members[0].depth} --width {members[0].width} --batch {members[0].batch_size}"
    lines = [
        "# tf32x3 beside float32",
        "",
        f"`python -m scripts.gpu.precision {shape} --steps {steps} --seeds {len(seeds)}`: {one.depth} layers of "
        f"{one.width} units, batches of {one.batch_size}, {steps} steps, {len(seeds)} seeds. Errors against float64, "
        "relative: of the loss, the largest over the steps; of |dE/dV|, the median and the largest over steps and "
        "layers; of the change of the weights, after the last step. Tensor cores are computed bit by bit on a CPU, "
        "with sums as inexact as any GPU's. *Reversed* is float32, too, with each sum's terms in the opposite order: "
        "what two equally good ways differ by. No GPU has computed any of this.",
        "",
        "## Error as a part of float32's",
        "",
        "Geometric mean over functions and seeds, the range of two standard errors, the middle half, and in how many "
        f"the error is larger. tf32x3 counts as as good as float32 if the upper end of its range is below {LIMIT:g}, "
        "in every quantity.",
        "",
        "| quantity | way | mean | two standard errors | middle half | larger |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    good = {"tf32x3": True, "reversed": True}
    for way in good:
        for name, logs in ratios(found, way).items():
            mean, error = float(logs.mean()), 2 * float(logs.std()) / math.sqrt(max(1, len(logs)))
            good[way] &= mean + error < math.log(LIMIT)
            low, high = (math.exp(float(logs.quantile(q))) for q in (0.25, 0.75))
            lines.append(
                f"| {QUANTITIES[name]} | {way} | {math.exp(mean):.2f} | {math.exp(mean - error):.2f} to "
                f"{math.exp(mean + error):.2f} | {low:.2f} to {high:.2f} | {(logs > 0).sum()} of {len(logs)} |"
            )
    lines += [
        "",
        f"By this rule tf32x3 is {'' if good['tf32x3'] else 'not shown to be '}as good as float32"
        f"{' here' * good['tf32x3']}; float32 with its sums reversed "
        f"{'passes it' if good['reversed'] else 'does not pass it, either'}. "
        "The default stays exact float32: these are networks narrower than the paper's, on no hardware.",
        "",
        "## By function",
        "",
        "Median over the seeds.",
        "",
        "| cell |" + "".join(f" {name}, {' | '.join(WAYS)} |" for name in QUANTITIES.values()),
        "|" + " --- |" * (1 + len(WAYS) * len(QUANTITIES)),
    ]
    medians = found.drop(columns="seed").groupby(["cell", "way"]).median().unstack("way")
    for cell, row in medians.iterrows():
        numbers = (row[name, way] for name in QUANTITIES for way in WAYS)
        lines.append(f"| {cell} |" + "".join(f" {number:.1e} |" for number in numbers))
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the table goes (default: {FOLDER})")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    tables = []
    for seed in range(arguments.seeds):
        members = cells(arguments.depth, arguments.width, arguments.batch, seed)
        tables.append(errors(members, arguments.steps))
    found = pd.concat(tables)
    write_text(arguments.folder / "tf32x3.csv", found.to_csv(index=False))
    text = report(found, members, arguments.steps)
    write_text(arguments.folder / "tf32x3.md", text)
    print(text)


if __name__ == "__main__":
    cli.run(main)
