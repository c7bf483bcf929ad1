"""Records as training leaves them, with numbers of our choosing: the input of everything downstream of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.cell import Cell
from bsnn.results.budgets import Key, table_configs
from bsnn.results.claims import CHANCE, claims
from bsnn.results.grid import runs_of
from bsnn.results.metrics import Row
from bsnn.results.records import Record, run_dir, write_record
from bsnn.results.rules import Networks
from bsnn.results.verdicts import Verdict
from bsnn.training.planning import steps_per_epoch

CLOCK_AND_ORIGIN = ("started", "finished", "seconds", "provenance", "segments")
"""The entries of a record in which two trainings of one cell on one machine differ, beside the seconds of its rows."""

PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "command": "python -m experiments.train +experiment=table2",
    "device": "Some CPU, 2 cores",
    "device_type": "cpu",
    "threads": 1,
    "stack": 6,
    "python": "3.11.2",
    "platform": "Linux x86_64",
    "versions": {"torch": "2.9.0", "numpy": "2.3.0", "pandas": None},
}


def cell_of(budget: str, key: Key, seed: int = 0) -> Cell:
    return Cell.from_config(table_configs(budget)[key]).with_seed(seed)


def make_record(
    cell: Cell,
    budget: str,
    status: str = "ok",
    train: float = 20.0,
    test: float = 19.0,
    start: float = 10.0,
    ratios: Sequence[float] = (2.0, 3.0),
    first_norms: Sequence[float] | None = (1.0, 1.5, 2.0),
    seconds: float = 60.0,
    **changes: Any,
) -> Record:
    """A record whose accuracies rise from `start` to `train` and `test` in len(ratios) intervals of the cell's
    epochs."""
    n = len(ratios)
    rows = [Row(0.0, 0, 0.0, None, None, start, 2.3, None, None, None, None)]
    for k, ratio in enumerate(ratios, start=1):
        # reaches 1 exactly at the end
        grown = 1.0 if k == n else (1 - math.exp(-4 * k / n)) / (1 - math.exp(-4))
        rows.append(
            Row(
                epoch=cell.epochs * k / n,
                step=100 * k,
                seconds=seconds * k / n,
                train_accuracy=start + (train - start) * grown if grown < 1 else train,
                train_loss=2.3,
                test_accuracy=start + (test - start) * grown if grown < 1 else test,
                test_loss=2.3,
                gradient_ratio=ratio,
                gradient_ratio_max=2 * ratio,
                gradient_norm_max=1.0,
                gradient_norm_min=1.0 / ratio if ratio else 0.0,
            )
        )
    record: Record = {
        "schema": 1,
        "id": cell.id,
        "hash": cell.hash,
        "status": status,
        "error": "RuntimeError: out of memory" if status == "crashed" else None,
        "budget": budget,
        "cell": cell.as_dict(),
        "gpn_constants": {"a": 1.5, "b": 0.5} if cell.gpn else None,
        "steps": 100 * n,
        "diverged_at_step": 100 * n - 50 if status == "diverged" else None,
        "seconds": seconds,
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:01:00+00:00",
        "rows": [row.as_dict() for row in rows],
        "gradient_norms": {"first": None if first_norms is None else list(first_norms), "last": None},
        "provenance": PROVENANCE,
        "config": {"seed": cell.seed},
    }
    record |= changes
    if "segments" not in record:
        told = {name: record[name] for name in ("started", "finished", "provenance")}
        record["segments"] = [{"first_step": 0, "last_step": record["steps"], **told}]
    return record


def write(results_dir: Path, record: Record) -> None:
    write_record(run_dir(results_dir, record["budget"], record["id"]), record)


def paper_like_record(budget: str, key: Key, seed: int = 0, evaluations: int = 10, **changes: Any) -> Record:
    """A record that ends, up to half a point that depends on the seed, where the paper's network ended.

    Gradients as the paper describes them: exploding with batch norm, vanishing for plain ReLU, LeakyReLU and GELU,
    stable under GPN.
    """
    printed = runs_of(paper.table2(), *key).iloc[0]
    shift = 0.0 if seed == 0 else float(np.random.default_rng(seed).normal(0, 0.5))
    layers = np.linspace(0, 1, 50)
    if key.batch_norm:
        norms, ratio = 10.0 ** (6 * (1 - layers)), 1e6
    elif not key.gpn and printed["test_accuracy"] == CHANCE[key.dataset, "test"]:
        norms, ratio = np.where(layers < 0.5, 0.0, 10.0 ** (20 * layers - 20)), math.inf
    else:
        norms, ratio = 1 + layers, 2.0
    values: dict[str, Any] = {
        "train": printed["train_accuracy"] + shift,
        "test": printed["test_accuracy"] + shift,
        "start": 9.8,
        "ratios": [ratio] * evaluations,
        "first_norms": norms.tolist(),
    }
    return make_record(cell_of(budget, key, seed), budget, **(values | changes))


def unfinished_record(
    key: Key, test: Sequence[float], seed: int = 0, status: str = "unfinished", ratio: float = 2.0, **changes: Any
) -> Record:
    """A record of the paper budget with these test accuracies after epochs 1, 2, ...; training accuracy is one less.

    The batch norm networks' gradients explode in the first update.
    """
    cell = cell_of("paper", key, seed)
    per_epoch = steps_per_epoch(cell)
    record = paper_like_record("paper", key, seed, evaluations=max(1, len(test)), status=status)
    first, later = record["rows"][0], record["rows"][-1]
    rows = [
        later
        | {"epoch": float(epoch), "step": epoch * per_epoch, "seconds": 10.0 * epoch}
        | {"train_accuracy": accuracy - 1, "test_accuracy": accuracy, "gradient_ratio": ratio}
        for epoch, accuracy in enumerate(test, start=1)
    ]
    steps = len(test) * per_epoch
    segments = [record["segments"][0] | {"last_step": steps}]
    return record | {"rows": [first, *rows], "steps": steps, "segments": segments} | changes


def table_keys() -> list[Key]:
    """The 48 cells of the paper's Table 2."""
    return [Key(*row) for row in paper.table2()[list(Key._fields)].itertuples(index=False)]


def segment(record: Record, first_step: int, last_step: int, **provenance: Any) -> dict[str, Any]:
    """A process that trained a part of the record; `provenance` is what it has otherwise than the record's."""
    facts = record["provenance"] | provenance
    return {"first_step": first_step, "last_step": last_step, "started": record["started"],
            "finished": record["finished"], "provenance": facts}  # fmt: skip


def unfinished(record: Record, evaluations: int, **changes: Any) -> Record:
    """The record as it was after so many evaluations, beside that before the first update."""
    rows = record["rows"][: evaluations + 1]
    reached = {"status": "unfinished", "diverged_at_step": None, "rows": rows}
    reached |= {"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]}
    return record | reached | {"segments": [segment(record, 0, rows[-1]["step"])]} | changes


DIVERGED = Key("mnist", "relu", False, True)
CRASHED = Key("cifar10", "tanh", True, True)
MISSING = Key("cifar10", "gelu", True, False)
TWO_SEEDS = Key("mnist", "elu", True, False)
PARTLY_DIVERGED = Key("cifar10", "selu", False, False)


def write_smoke_grid(results_dir: Path) -> Path:
    """The 48 cells of smoke's Table 2, one each diverged, crashed, missing, of two seeds, of two of which one diverged;
    and three records that don't belong there. Returns the budget's folder."""
    for key in table_keys():
        if key == MISSING:
            continue
        status = {DIVERGED: "diverged", CRASHED: "crashed"}.get(key, "ok")
        write(results_dir, paper_like_record("smoke", key, evaluations=2, status=status))
    write(results_dir, paper_like_record("smoke", TWO_SEEDS, seed=3, evaluations=2))
    write(results_dir, paper_like_record("smoke", PARTLY_DIVERGED, seed=1, evaluations=2, status="diverged"))
    cell = cell_of("smoke", TWO_SEEDS)
    write(results_dir, make_record(replace(cell, depth=9), "smoke"))
    write(results_dir, make_record(replace(cell, dataset="fashion_mnist"), "smoke"))
    stale = make_record(cell.with_seed(5), "smoke", hash="0" * 64)
    write(results_dir, stale)
    return results_dir / "smoke"


def trained_claims(history: pd.DataFrame, depth: int = 200, papers_size: bool = True) -> list[Verdict]:
    """Judge claims 1 to 4."""
    return claims.judged({"history": Networks(history, depth, papers_size)})
