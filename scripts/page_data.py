"""Curves of the review page: accuracies, gradient ratios and gradient norms of each cell, over its seeds.

Accuracies are averaged over the seeds that ended ok. Gradient ratios and norms have inf and nan among their values, so
that only their order is used: the median over the seeds, the lower one of an even number, and the range; nan (0/0: all
gradients are 0) ranks above inf, as in bsnn.metrics. A seed that diverged is a curve of its own, up to the last
evaluation before its loss was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsnn.budgets import Key
from bsnn.metrics import middle
from bsnn.records import Record
from bsnn.results import KEY, Results

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One quantity of one cell against epoch or layer."""

    key: Key
    x: Floats
    middle: Floats
    low: Floats
    high: Floats
    sd: Floats | None
    """Of accuracies of several seeds."""
    seeds: int
    lost: str
    """ "seed 1, diverged at step 450" for the curve of one seed that diverged, else empty."""


def accuracy_curves(loaded: Results, dataset: str, split: str) -> Iterator[Curve]:
    """Mean over the seeds, and mean -+ sample standard deviation."""
    for key, x, values_SE, lost in _by_epoch(loaded, dataset, f"{split}_accuracy"):
        mean = values_SE.mean(axis=0)
        sd = values_SE.std(axis=0, ddof=1) if len(values_SE) > 1 else None
        spread = 0.0 if sd is None else sd
        yield Curve(key, x, mean, mean - spread, mean + spread, sd, len(values_SE), lost)


def ratio_curves(loaded: Results, dataset: str) -> Iterator[Curve]:
    """The gradient ratio's median over each interval between evaluations: median and range of that over the seeds."""
    for key, x, values_SE, lost in _by_epoch(loaded, dataset, "gradient_ratio"):
        yield _in_order(key, x, values_SE, lost)


def norm_curves(loaded: Results, dataset: str, update: str) -> Iterator[Curve]:
    """||dE/dV_l||_F by layer in the first or the last update: median and range over the seeds.

    A seed that crashed counts in neither, one that diverged not in the last, where it has none but nan.
    """
    for key, records in by_cell(loaded, dataset).items():
        counted = ("ok", "diverged") if update == "first" else ("ok",)
        norms = [record["gradient_norms"][update] for record in records if record["status"] in counted]
        values_SL = np.array([one for one in norms if one is not None], dtype=np.float64)
        if len(values_SL):
            layers = np.arange(1, values_SL.shape[1] + 1, dtype=np.float64)
            yield _in_order(key, layers, values_SL, "")


def by_cell(loaded: Results, dataset: str) -> dict[Key, list[Record]]:
    """The records of each expected cell of a dataset, by seed; none for a cell that is missing."""
    cells: dict[Key, list[Record]] = {key: [] for key in loaded.expected if key.dataset == dataset}
    for row, record in zip(loaded.runs[KEY].itertuples(index=False), loaded.records, strict=True):
        if row.dataset == dataset:
            cells[Key(*row)].append(record)
    return cells


def _by_epoch(loaded: Results, dataset: str, metric: str) -> Iterator[tuple[Key, Floats, Floats, str]]:
    """Cell, epochs and values, shape (seeds, evaluations): of its ok seeds together, then of each that diverged."""
    for key, records in by_cell(loaded, dataset).items():
        ok = [record["rows"] for record in records if record["status"] == "ok"]
        if ok:
            yield key, *_values(ok, metric), ""
        for record in records:
            if record["status"] == "diverged":
                kept = [row for row in record["rows"] if row["step"] < record["diverged_at_step"]]
                why = f"seed {record['cell']['seed']}, diverged at step {record['diverged_at_step']}"
                yield key, *_values([kept], metric), why


def _values(histories: list[list[dict[str, Any]]], metric: str) -> tuple[Floats, Floats]:
    """Before the first update there are test figures only: None, which is not nan."""
    known = [[row for row in rows if row[metric] is not None] for rows in histories]
    epochs = np.array([row["epoch"] for row in known[0]], dtype=np.float64)
    return epochs, np.array([[row[metric] for row in rows] for rows in known], dtype=np.float64)


def _in_order(key: Key, x: Floats, values_S: Floats, lost: str) -> Curve:
    ordered = np.sort(values_S, axis=0)  # nan last
    return Curve(key, x, middle(values_S), ordered[0], ordered[-1], None, len(ordered), lost)
