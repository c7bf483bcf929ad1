"""Curves of the review page: accuracies, gradient ratios and gradient norms of each cell, over its seeds.

Accuracies are averaged over the seeds that ended ok. Gradient ratios and norms may be inf and nan, so only their order
is used: the median over the seeds (the lower one of an even number) and the range. nan (0/0: all gradients are 0) ranks
above inf, as in bsnn.results.metrics. A seed that diverged has a curve of its own, up to the last evaluation before its
loss was lost. Unfinished seeds that are equally far share a curve of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bsnn.results.budgets import Key
from bsnn.results.grid import KEY, Results
from bsnn.results.metrics import middle
from bsnn.results.records import RESULTS, UNFINISHED, Record, how_far

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
    """Standard deviations, for accuracies of several seeds."""
    seeds: int
    lost: str = ""
    """ "seed 1, diverged at step 450" for the curve of one seed that diverged, else empty."""
    unfinished: str = ""
    """ "8 of 50 epochs" for a curve that goes on, else empty."""

    @property
    def told(self) -> str:
        """The seeds of the curve: 3 seeds; 1 seed, unfinished: 8 of 50 epochs; seed 1, diverged at step 450."""
        seeds = self.lost or ("1 seed" if self.seeds == 1 else f"{self.seeds} seeds")
        return f"{seeds}, unfinished: {self.unfinished}" if self.unfinished else seeds


class Part(NamedTuple):
    """Seeds of one cell that share a curve."""

    key: Key
    histories: list[list[dict[str, Any]]]
    """The rows of each seed."""
    lost: str = ""
    unfinished: str = ""


def accuracy_curves(loaded: Results, dataset: str, split: str) -> Iterator[Curve]:
    """Yield the mean over the seeds, and mean -+ sample standard deviation."""
    for part in _parts(loaded, dataset):
        x, values_SE = _values(part, f"{split}_accuracy")
        mean = values_SE.mean(axis=0)
        sd = values_SE.std(axis=0, ddof=1) if len(values_SE) > 1 else None
        spread = 0.0 if sd is None else sd
        ends = part.lost, part.unfinished
        yield Curve(part.key, x, mean, mean - spread, mean + spread, sd, len(values_SE), *ends)


def ratio_curves(loaded: Results, dataset: str) -> Iterator[Curve]:
    """Yield median and range, over the seeds, of the gradient ratio's median in each interval between evaluations."""
    for part in _parts(loaded, dataset):
        yield _in_order(part.key, *_values(part, "gradient_ratio"), part.lost, part.unfinished)


def norm_curves(loaded: Results, dataset: str, update: str) -> Iterator[Curve]:
    """Yield ||dE/dV_l||_F by layer in the first or the last update: median and range over the seeds.

    A seed that crashed counts in neither. One that diverged doesn't count in the last, where it has nothing but nan.
    The last update of unfinished seeds is the last one so far, with a curve of its own.
    """
    for key, records in by_cell(loaded, dataset).items():
        if update == "first":
            groups = {"": [record for record in records if record["status"] in RESULTS]}
        else:
            groups = {"": [record for record in records if record["status"] == "ok"], **_unfinished(records)}
        for reached, members in groups.items():
            norms = [record["gradient_norms"][update] for record in members]
            values_SL = np.array([one for one in norms if one is not None], dtype=np.float64)
            if len(values_SL):
                layers = np.arange(1, values_SL.shape[1] + 1, dtype=np.float64)
                yield _in_order(key, layers, values_SL, "", reached)


def standing(statuses: Collection[str]) -> str:
    """Summarise the statuses of a cell's runs in one word.

    ok | partly diverged (some seeds, others ended ok) | unfinished (none has ended ok yet) | diverged | crashed |
    missing
    """
    if "ok" in statuses:
        return "partly diverged" if "diverged" in statuses else "ok"
    return next((status for status in (UNFINISHED, "diverged", "crashed") if status in statuses), "missing")


def furthest(curves: Iterable[Curve]) -> Curve | None:
    """Choose the curve of a cell's seeds that ended ok, else that of the unfinished ones that are furthest."""
    known = [curve for curve in curves if len(curve.x) and not curve.lost]
    return min(known, key=lambda curve: (bool(curve.unfinished), -curve.x[-1]), default=None)


def by_cell(loaded: Results, dataset: str) -> dict[Key, list[Record]]:
    """List the records of each expected cell of a dataset, by seed; none for a cell that is missing."""
    cells: dict[Key, list[Record]] = {key: [] for key in loaded.expected if key.dataset == dataset}
    for row, record in zip(loaded.runs[KEY].itertuples(index=False), loaded.records, strict=True):
        if row.dataset == dataset:
            cells[Key(*row)].append(record)
    return cells


def _parts(loaded: Results, dataset: str) -> Iterator[Part]:
    """Group each cell's seeds: those that ended ok, unfinished ones equally far, and each one that diverged."""
    for key, records in by_cell(loaded, dataset).items():
        ok = [record["rows"] for record in records if record["status"] == "ok"]
        if ok:
            yield Part(key, ok)
        for reached, members in _unfinished(records).items():
            yield Part(key, [record["rows"] for record in members], unfinished=reached)
        for record in records:
            if record["status"] == "diverged":
                kept = [row for row in record["rows"] if row["step"] < record["diverged_at_step"]]
                why = f"seed {record['cell']['seed']}, diverged at step {record['diverged_at_step']}"
                yield Part(key, [kept], lost=why)


def _unfinished(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group the unfinished records that have rows by how far they are."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        if record["status"] == UNFINISHED and record["rows"]:
            groups.setdefault(record["rows"][-1]["step"], []).append(record)
    return {how_far(members[0]): members for members in groups.values()}


def _values(part: Part, metric: str) -> tuple[Floats, Floats]:
    """Return epochs and values, shape (seeds, evaluations).

    Before the first update there are test figures only: None, which is not nan.
    """
    known = [[row for row in rows if row[metric] is not None] for rows in part.histories]
    epochs = np.array([row["epoch"] for row in known[0]], dtype=np.float64)
    return epochs, np.array([[row[metric] for row in rows] for rows in known], dtype=np.float64)


def _in_order(key: Key, x: Floats, values_S: Floats, lost: str, unfinished: str) -> Curve:
    ordered = np.sort(values_S, axis=0)  # nan last
    return Curve(key, x, middle(values_S), ordered[0], ordered[-1], None, len(ordered), lost, unfinished)
