"""Part of the study about depth: deeper GPN networks than the paper's, of a fixed width and of a growing one."""

from __future__ import annotations

from pathlib import Path

import torch

from bsnn.cell import Cell
from bsnn.data import load
from bsnn.results import provenance
from bsnn.results.tables import unfinished_folder
from bsnn.training import loop
from experiments.beyond.config import BeyondConfig, cell_of
from experiments.units import Row, Unit, Work

DATASET = "mnist"


def deeper(config: BeyondConfig) -> Work:
    """Train GPN networks of several depths and widths for equally many updates, as Table 2's are trained."""
    sizes = config.sizes.deeper
    units = list(zip(sizes.depths, sizes.widths, strict=True))

    def cells(depth: int, width: int, updates: int | None) -> list[Cell]:
        settings = {"gpn": True, "depth": depth, "width": width, "max_steps": updates, "evaluations_per_epoch": 1}
        return [cell_of(config, DATASET, name, config.seed, **settings) for name in sizes.functions]

    def rows(unit: Unit) -> list[Row]:
        depth, width = int(str(unit[0])), int(str(unit[1]))
        folder = unfinished_folder(Path(config.results_dir) / config.budget.name / "beyond" / config.part)
        made = cells(depth, width, sizes.updates)
        data = load(DATASET, str(provenance.choose_device(config.device)))
        try:
            ended = loop.completed(loop.train(made, data, [folder / f"{cell.id}.pt" for cell in made]))
        finally:
            torch.set_flush_denormal(False)  # training switches it on, for this thread
        found: list[Row] = []
        for name, progress in zip(sizes.functions, ended, strict=True):
            norms, last = torch.tensor(progress.first_gradient_norms), progress.rows[-1]
            reached = [last[key] for key in ("train_loss", "train_accuracy", "test_accuracy")]
            found.append([name, progress.step, float(norms.max() / norms.min()), *reached])
        return found

    columns = ("function", "step", "initial_ratio", "train_loss", "train_accuracy", "test_accuracy")
    depends = {"cells": [cell.hash for cell in cells(1, 2, 1)]}  # activations, and the settings of training
    return Work(("depth", "width"), columns, units, rows, {"version": 1}, depends=depends, torch_threads=None)
