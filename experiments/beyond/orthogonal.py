"""Parts of the study about the constraint on W: rows of norm one, the paper's relaxation, against other ones.

GPN networks that differ in their constraint alone (bsnn.config.CONSTRAINTS) take their updates in turn, so that their
times can be compared: each on the same mini-batches, from the same weights. All of them train by the definition, in
bsnn.engine.reference: with rows of norm one the engine is faster than that.
"""

from __future__ import annotations

import statistics
import time

import torch

from bsnn.cell import Cell
from bsnn.config import CONSTRAINTS
from bsnn.data import Dataset, load
from bsnn.engine.reference import ReferenceStack
from bsnn.optim.stiefel import deviation
from bsnn.randomness import batch_order
from bsnn.results import provenance
from experiments.beyond.config import BeyondConfig, cell_of
from experiments.units import Row, Unit, Work

DATASET = "mnist"
LAST = 5
"""The training loss is the mean over the last 1 / LAST of the updates."""


def cells_of(config: BeyondConfig, name: str, rate: float, seed: int, depth: int, width: int) -> list[Cell]:
    """Make a GPN function's cell for every constraint."""
    settings = {"gpn": True, "depth": depth, "width": width, "learning_rate": rate}
    return [cell_of(config, DATASET, name, seed, **settings, constraint=constraint) for constraint in CONSTRAINTS]


def orthogonal(config: BeyondConfig) -> Work:
    """Train a GPN network of every function, rate and seed under each constraint."""
    sizes = config.sizes.orthogonal

    def rows(unit: Unit) -> list[Row]:
        name, rate, index = str(unit[0]), float(str(unit[1])), int(str(unit[2]))
        device = provenance.choose_device(config.device)
        data = load(DATASET, str(device))
        cells = cells_of(config, name, rate, config.seed + index, sizes.depth, sizes.width)
        stacks = [ReferenceStack([cell], device) for cell in cells]
        losses, seconds = in_turn(stacks, data, sizes.updates)
        found: list[Row] = []
        for k, (cell, stack) in enumerate(zip(cells, stacks, strict=True)):
            last = losses[k][-max(1, sizes.updates // LAST) :]
            right = [stack.logits(x).argmax(dim=-1).eq(y).sum() for x, y in batches(data)]
            away = deviation(stack.networks[0].W.detach().double())
            frobenius = torch.linalg.vector_norm(away, dim=(1, 2)).max()
            found.append(
                [
                    cell.constraint, statistics.fmean(last), 100 * int(sum(right)) / len(data.test_x),
                    float(away.abs().max()), float(frobenius), statistics.median(seconds[k]),
                ]
            )  # fmt: skip
        return found

    units = [(name, rate, k) for name in sizes.functions for rate in sizes.rates for k in range(sizes.seeds)]
    columns = ("constraint", "loss", "test_accuracy", "entry", "frobenius", "seconds")
    depends = {"cells": [cell.hash for name in sizes.functions for cell in cells_of(config, name, 1.0, 0, 1, 2)]}
    return Work(("function", "rate", "draw"), columns, units, rows, {"version": 1}, depends, torch_threads=None)


def orthogonal_cost(config: BeyondConfig) -> Work:
    """Time an update of every constraint at several widths: medians of updates taken in turn."""
    sizes = config.sizes.orthogonal_cost

    def rows(unit: Unit) -> list[Row]:
        device = provenance.choose_device(config.device)
        data = load(DATASET, str(device))
        cells = cells_of(config, "tanh", 1e-3, config.seed, sizes.depth, int(str(unit[0])))
        _, seconds = in_turn([ReferenceStack([cell], device) for cell in cells], data, sizes.updates)
        return [
            [cell.constraint, cell.batch_size, statistics.median(of)] for cell, of in zip(cells, seconds, strict=True)
        ]

    columns = ("constraint", "batch", "seconds")
    depends = {"cells": [cell.hash for cell in cells_of(config, "tanh", 1.0, 0, 1, 2)]}
    units = [(width,) for width in sizes.widths]
    return Work(("width",), columns, units, rows, {"version": 1}, depends, torch_threads=None)


def in_turn(stacks: list[ReferenceStack], data: Dataset, updates: int) -> tuple[list[list[float]], list[list[float]]]:
    """Take updates of single networks, one after the other on each mini-batch: losses before them, and seconds."""
    (cell,) = stacks[0].cells
    losses: list[list[float]] = [[] for _ in stacks]
    seconds: list[list[float]] = [[] for _ in stacks]
    norms_LK = torch.empty(cell.depth, 1, dtype=torch.float64, device=data.train_x.device)
    order = batch_order(cell.seed, 0, len(data.train_x)).to(data.train_x.device)
    torch.set_flush_denormal(True)  # as in training
    try:
        for step in range(updates):
            chosen = order[torch.arange(step * cell.batch_size, (step + 1) * cell.batch_size) % len(order)]
            x_KBD, labels_KB = data.train_x[None, chosen], data.train_y[None, chosen]
            for stack, loss, took in zip(stacks, losses, seconds, strict=True):
                start = time.perf_counter()
                loss_K, _ = stack.step(x_KBD, labels_KB, norms_LK)
                loss.append(float(loss_K))  # waits for the device
                took.append(time.perf_counter() - start)
    finally:
        torch.set_flush_denormal(False)
    return losses, seconds


def batches(data: Dataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(data.test_x.split(1000), data.test_y.split(1000), strict=True))
