"""The part of the bridge study that sets properties of the GPN functions beside their accuracies in Table 2."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bsnn import paper
from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.bridge.meanfield import curvature, passage, slope_jump
from bsnn.propagation import Draw, draw, propagate, ratio
from bsnn.quadrature import Phi, gaussian_moments
from bsnn.results.records import FINISHED, read_records
from bsnn.shrinkage.bounds import nonlinearity
from experiments.bridge.config import KINKS, BridgeConfig, function
from experiments.bridge.training import cell_of
from experiments.units import Row, Work

SPLITS = ("train", "test")
ACCURACIES = tuple(f"{who}_{data}_{split}" for who in ("paper", "ours") for data in paper.DATASETS for split in SPLITS)


def table2(config: BridgeConfig) -> Work:
    sizes = config.sizes.table2
    accuracies = accuracies_of(config)

    @lru_cache(maxsize=1)
    def draws() -> list[Draw]:
        return [draw(sizes.depth, sizes.width, sizes.samples, config.seed, index) for index in range(sizes.draws)]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        (name,) = unit
        phi = function(name, gpn=True)
        gaps = passage(phi, torch.ones(1), sizes.depth, kinks=KINKS).gap
        ratios = [ratio(propagate(phi, drawn).gradient_mean) for drawn in draws()]
        return [
            [
                gaussian_moments(phi, KINKS).mean ** 2,
                nonlinearity(phi, KINKS),
                curvature(phi),
                slope_jump(phi),
                fourth_moment(phi),
                float(gaps[-1, 0]),
                sum(ratios) / len(ratios),
                *accuracies[name],
            ]
        ]

    columns = ("mean_square", "error", "curvature", "jump", "fourth", "gap", "gradient_ratio", *ACCURACIES)
    units = [(name,) for name in PAPER_ACTIVATIONS]
    return Work(("function",), columns, units, rows, {"version": 1, "accuracies": accuracies})


def fourth_moment(phi: Phi) -> float:
    """Compute E phi'^4, which makes layers' gradients differ at finite width; 1 for a linear GPN function."""
    return gaussian_moments(lambda x: value_and_slope(phi, x)[1].square() + 0 * x, KINKS).second


def accuracies_of(config: BridgeConfig) -> dict[str, list[float | None]]:
    """List each GPN function's accuracies without batch norm, in the order of ACCURACIES; ours None without records."""
    records = read_records(Path(config.results_dir) / config.budget.name)
    theirs = paper.table2()
    found: dict[str, list[float | None]] = {}
    for name in PAPER_ACTIVATIONS:
        row: list[float | None] = []
        for data in paper.DATASETS:
            cell = (theirs.dataset == data) & (theirs.activation == name) & theirs.gpn & ~theirs.batch_norm
            row += [float(theirs[cell][f"{split}_accuracy"].iloc[0]) for split in SPLITS]
        for data in paper.DATASETS:
            mine = cell_of(config, data, name, True, config.budget.training)
            hashes = {mine.with_seed(record["cell"]["seed"]).hash for record in records}
            ends = [one["rows"][-1] for one in records if one["hash"] in hashes and one["status"] in FINISHED]
            row += [sum(end[f"{split}_accuracy"] for end in ends) / len(ends) if ends else None for split in SPLITS]
        found[name] = row
    return found
