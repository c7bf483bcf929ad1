"""The trained networks of experiments.bridge: the cells of Table 2 without batch norm, examined before and after."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.bridge.survival import gap
from bsnn.cell import Cell
from bsnn.config import TrainConfig, TrainingBudget
from bsnn.data import Dataset, load
from bsnn.engine.reference import initial_network
from bsnn.network import BSNN
from bsnn.propagation import each
from bsnn.results import provenance
from bsnn.results.tables import unfinished_folder
from bsnn.training import loop
from bsnn.training.checkpoints import load_network
from experiments.bridge.config import BridgeConfig, both
from experiments.units import Row, Work, threads_for

DATASET = "mnist"


def trained(config: BridgeConfig) -> Work:
    sizes = config.sizes.trained
    units = [(name, seed) for name in PAPER_ACTIVATIONS for seed in range(config.seed, config.seed + sizes.seeds)]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        return trained_rows(config, *unit)

    def saved(unit: tuple[Any, ...]) -> None:
        for _, path in checkpoints(config, *unit):
            path.unlink(missing_ok=True)

    columns = (
        "gpn", "trained", "layer", "same", "same_std", "different", "different_std", "length", "train_accuracy",
        "test_accuracy",
    )  # fmt: skip
    of_one_step = [cell_of(config, DATASET, name, gpn, TrainingBudget(1, 1, 1)).hash for name, gpn in both()]
    return Work(
        ("function", "seed"),
        columns,
        units,
        rows,
        {"version": 1},
        depends={"cells": of_one_step},  # activations and the settings of training, which `sizes` doesn't have
        saved=saved,
    )


def checkpoints(config: BridgeConfig, name: str, seed: int) -> list[tuple[Cell, Path]]:
    """Return a unit's two cells, plain and GPN, with their checkpoints; a table with other settings has its own."""
    sizes = config.sizes.trained
    shape = TrainingBudget(sizes.depth, sizes.width, sizes.epochs, sizes.max_steps)
    folder = unfinished_folder(Path(config.results_dir) / config.budget.name / "bridge" / config.part)
    cells = [cell_of(config, DATASET, name, gpn, shape).with_seed(seed) for gpn in (False, True)]
    table = f"{config.seed}-{sizes.seeds}-{sizes.images}"
    return [(cell, folder / f"{cell.id}-{table}.pt") for cell in cells]


def trained_rows(config: BridgeConfig, name: str, seed: int) -> list[Row]:
    """Train one function, plain and GPN; a killed training goes on from its checkpoints."""
    sizes, device = config.sizes.trained, provenance.choose_device(config.device)
    data = dataset(str(device))

    def rows(place: tuple[Cell, Path]) -> list[Row]:
        cell, path = place
        try:
            (progress,) = loop.completed(loop.train([cell], data, [path], keep_checkpoint=True))
        finally:
            torch.set_flush_denormal(False)  # training switches it on, for this thread
        first, last = progress.rows[0], progress.rows[-1]
        found: list[Row] = []
        for trained, network, row in (
            (False, initial_network(cell, torch.device("cpu")), first),
            (True, load_network(path, cell), last),
        ):
            accuracies = row["train_accuracy"], row["test_accuracy"]
            found += [[cell.gpn, trained, *numbers, *accuracies] for numbers in class_gaps(network, data, sizes.images)]
        return found

    found = each(rows, checkpoints(config, name, seed), threads_for(device, config.threads))
    return [row for part in found for row in part]


@lru_cache(maxsize=1)
def dataset(device: str) -> Dataset:
    return load(DATASET, device)


def cell_of(config: BridgeConfig, dataset: str, name: str, gpn: bool, shape: TrainingBudget) -> Cell:
    """Make a cell of Table 2 without batch norm, seed 0; with a budget's own shape it is experiments.train's."""
    return Cell.from_config(
        TrainConfig(
            activation=config.activations[name],
            dataset=config.datasets[dataset],
            gpn=gpn,
            depth=shape.depth,
            width=shape.width,
            epochs=shape.epochs,
            max_steps=shape.max_steps,
            evaluations_per_epoch=shape.evaluations_per_epoch,
        )
    )


def class_gaps(network: BSNN, data: Dataset, images: int) -> list[list[float]]:
    """Compute by layer: mean and standard deviation of the gaps within a class and between two, and mean square of h.

    It takes the first `images` test images of each class, in float64: a dead network's squares underflow in float32.
    layer counts the functions passed, from 1: that of the bottom layer, which precedes the first constrained h.
    """
    chosen = torch.cat([(data.test_y == label).nonzero()[:images, 0] for label in data.test_y.unique()])
    labels_B = data.test_y[chosen].cpu()
    h_LBN = copy.deepcopy(network).double().signals(data.test_x[chosen].cpu().double()).h_LBN
    first, second = torch.triu_indices(len(chosen), len(chosen), offset=1)
    alike = labels_B[first] == labels_B[second]
    rows = []
    for layer in layers_shown(len(h_LBN)):
        h_BN = h_LBN[layer - 1]
        gaps = pair_gaps(h_BN)[first, second]
        parts = [gaps[alike], gaps[~alike]]
        numbers = [number for part in parts for number in (float(part.mean()), float(part.std()))]
        rows.append([layer, *numbers, float(h_BN.square().mean())])
    return rows


def pair_gaps(h_BN: Tensor) -> Tensor:
    """Compute the gaps of all pairs, (B, B)."""
    return torch.stack([gap(one_N, h_BN) for one_N in h_BN])


def layers_shown(depth: int) -> list[int]:
    """List 1, every tenth of the way, and `depth`."""
    return sorted({1, depth, *(round(depth * k / 20) for k in range(1, 20) if round(depth * k / 20))})
