"""Table 2 from the records in results/<budget>/: its cells, the result of each, and means over seeds.

An unfinished training counts with the rows that it has. Every number comes with its epoch, and networks are compared at
equal epochs (bsnn.results.equal_epochs).

The cells of a table are not listed anywhere. They are composed from conf/, as in training, so a record counts if and
only if this budget's table asks for its cell, up to the seed. Everything here is a function of conf/ and of the files
in the folder.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.cell import Cell
from bsnn.config import ActivationConfig, BudgetConfig, DatasetConfig
from bsnn.data import DATASETS
from bsnn.errors import UserError
from bsnn.results.budgets import PAPER, Key, table_configs
from bsnn.results.equal_epochs import at_equal_epochs
from bsnn.results.metrics import METRICS
from bsnn.results.records import FINISHED, UNFINISHED, Record, cell_of, epochs_asked, read_records
from bsnn.results.statistics import rank_correlation
from bsnn.training.planning import steps, steps_per_epoch

KEY = list(Key._fields)

AGREES_SD = 3.0
AGREES_POINTS = 1.0
"""Tolerance in points: the change that a seed makes in networks that train.

The paper's accuracy, of a single run, agrees with ours if it lies within AGREES_SD of our standard deviations over the
seeds, or within this tolerance, which counts where there is one seed or the few agree by chance.
"""


@dataclass(frozen=True)
class Results:
    """The contents of results/<budget>/, for the cells of its Table 2."""

    budget: BudgetConfig
    datasets: dict[str, DatasetConfig]
    activations: dict[str, ActivationConfig]
    expected: dict[Key, Cell]
    """The cells in the table's order: dataset, function, plain before GPN, without batch norm before with it.

    Seed 0 stands for any.
    """
    records: list[Record]
    """Records of expected cells, in the table's order, then by seed."""
    others: list[Record]
    """Records of other settings (another depth, dataset, protocol version), which the table leaves out."""
    runs: pd.DataFrame
    """One row for each of `records`: see `run_row`."""
    history: pd.DataFrame
    """One row for each evaluation of each of `records` after the first weights': see `history`."""
    curves: pd.DataFrame
    """One row for each evaluation of each of `records`: key, seed, status and bsnn.results.metrics."""
    table: pd.DataFrame
    """One row for each of `expected`: see `aggregate`.

    train_agrees, test_agrees: yes | no | empty for no finished training. epoch_compared: the largest epoch that all
    networks of this dataset and function have reached. n_compared, train_compared, test_compared: the number of seeds
    there, and the means over them.
    """

    @property
    def seeds(self) -> list[int]:
        """The seeds that the table is meant to have: all that are not rare exceptions."""
        counts = self.runs["seed"].value_counts()
        return sorted(int(seed) for seed in counts.index[2 * counts >= counts.max()])

    def lacking(self, seed: int) -> list[Key]:
        """List the entries whose training with this seed isn't finished: missing, crashed or in progress."""
        done = self.runs[(self.runs["seed"] == seed) & self.runs["status"].isin(FINISHED)]
        return [key for key in self.expected if runs_of(done, *key).empty]

    def name_of(self, key: Key) -> str:
        """Return the entry's name in the tables: MNIST Tanh-GPN-BN."""
        function = self.activations[key.activation].label + "-GPN" * key.gpn + "-BN" * key.batch_norm
        return f"{self.datasets[key.dataset].label} {function}"


def load(budget_dir: Path) -> Results:
    """Load the results of the folder's budget; raises UserError if there is no such budget or no record."""
    budget_dir = Path(budget_dir).absolute()
    name = budget_dir.name
    table_configs(name)  # raises if there is no such budget
    records = read_records(budget_dir)
    if not records:
        raise UserError(
            f"{budget_dir}: expected records in its folder runs/, found none; make them with "
            f"`python -m experiments.train +experiment=table2 budget={name}`."
        )
    return from_records(name, records)


def from_records(budget: str, records: Iterable[Record]) -> Results:
    configs = table_configs(budget)
    keys = {identity(Cell.from_config(config)): key for key, config in configs.items()}
    mine: list[tuple[Key, Record]] = []
    others = []
    for record in records:
        cell = cell_of(record)
        key = keys.get(identity(cell)) if cell is not None else None
        if key is None:
            others.append(record)
        else:
            mine.append((key, record))
    seen = {key.activation for key, _ in mine}
    names = [*paper.ACTIVATIONS, *sorted(seen - set(paper.ACTIVATIONS))]
    ordered = {
        Key(dataset, name, gpn, batch_norm): configs[Key(dataset, name, gpn, batch_norm)]
        for dataset in paper.DATASETS
        for name in names
        for gpn in (False, True)
        for batch_norm in (False, True)
    }
    place = {key: index for index, key in enumerate(ordered)}
    mine.sort(key=lambda pair: (place[pair[0]], pair[1]["cell"]["seed"]))
    histories = [history(key, record) for key, record in mine]
    runs = pd.DataFrame([rows[-1] for rows in histories], columns=RUN_COLUMNS)
    evaluations = pd.DataFrame([row for rows in histories for row in rows], columns=RUN_COLUMNS)
    asked = {key: epochs_of(Cell.from_config(config)) for key, config in ordered.items()}
    entries = [aggregate(key, runs_of(runs, *key), runs_of(evaluations, *key), epochs) for key, epochs in asked.items()]
    table = pd.DataFrame(entries).assign(**compared(ordered, evaluations))
    for split in ("train", "test"):  # other budgets are not expected to agree
        agree = [_agrees(entry, split) if budget == PAPER else "" for entry in table.to_dict("records")]
        table.insert(list(table.columns).index(f"paper_{split}") + 1, f"{split}_agrees", agree)
    return Results(
        budget=next(iter(ordered.values())).budget,
        datasets={key.dataset: config.dataset for key, config in ordered.items()},
        activations={key.activation: config.activation for key, config in ordered.items()},
        expected={key: Cell.from_config(config) for key, config in ordered.items()},
        records=[record for _, record in mine],
        others=others,
        runs=runs,
        history=evaluations,
        curves=_curves(mine),
        table=table,
    )


def epochs_of(cell: Cell) -> float:
    """Compute the epochs of the cell's whole training."""
    return steps(cell) / steps_per_epoch(cell)


def identity(cell: Cell) -> str:
    """Return a hash that is equal for cells that differ in the seed alone."""
    return cell.with_seed(0).hash


RUN_COLUMNS = [
    *KEY, "seed", "status", "error", "diverged_at_step", "steps", "seconds", "epoch", "epochs", "final",
    "train_accuracy", "test_accuracy", "start_accuracy", "train_images", "test_images",
    "initial_ratio", "initial_trend", "ratio_rows", "ratio_first", "ratio_last", "ratio_worst", "ratio_peak",
]  # fmt: skip


def run_row(key: Key, record: Record) -> dict[str, Any]:
    """Return one training as a row: the last of its `history`."""
    return history(key, record)[-1]


def history(key: Key, record: Record) -> list[dict[str, Any]]:
    """List one training's rows after each of its evaluations; the last row is the training as far as it went.

    A training that diverged or crashed has the last row alone. An unfinished one without an evaluation of trained
    weights has one row for its first weights, at epoch 0.

    epoch, epochs    of this row, and of the whole training; final: whether the training ended here
    steps, seconds   at the last row of all
    train_accuracy, test_accuracy   of this evaluation, in %; start_accuracy: test accuracy before any update
    train_images, test_images       how many images these are shares of
    initial_ratio    max_l / min_l of the layers' gradient norms in the first update
    initial_trend    Spearman's rank correlation of gradient norm and layer there, bottom to top: -1 is a gradient that
                     grows on its way down (explodes), +1 one that shrinks (vanishes)
    ratio_first, ratio_last, ratio_worst  the ratio's median over the first and the last interval between evaluations,
                     and the largest of these medians; ratio_rows is how many there are, ratio_peak the largest single
                     ratio. nan ranks above inf: all gradients were 0
    """
    rows = record["rows"]
    ends = [end for end, row in enumerate(rows, start=1) if row["step"] > 0]
    if not ends or record["status"] not in ("ok", UNFINISHED):
        ends = [len(rows)]
    initial = initial_gradients(record["gradient_norms"]["first"])
    asked = epochs_asked(record)
    finished = record["status"] in FINISHED
    return [
        _row(key, record, rows[:end], initial) | {"epochs": asked, "final": finished and end == len(rows)}
        for end in ends
    ]


def _row(key: Key, record: Record, rows: Sequence[Mapping[str, Any]], initial: tuple[float, float]) -> dict[str, Any]:
    last: Mapping[str, Any] = rows[-1] if rows else {}
    ratios = [row["gradient_ratio"] for row in rows if row["gradient_ratio"] is not None]
    peaks = [row["gradient_ratio_max"] for row in rows if row["gradient_ratio_max"] is not None]
    epoch = last.get("epoch", 0.0)
    share = epoch - math.ceil(epoch) + 1  # train accuracy covers the part of the last epoch that was run
    spec = DATASETS[key.dataset]
    values = [
        *key, record["cell"]["seed"], record["status"], record["error"], _number(record["diverged_at_step"]),
        record["steps"], record["seconds"], epoch, math.nan, False,
        _number(last.get("train_accuracy")), _number(last.get("test_accuracy")),
        _number(rows[0]["test_accuracy"]) if rows and rows[0]["step"] == 0 else math.nan,
        round(share * spec.train_size), spec.test_size,
        *initial,
        len(ratios), *((ratios[0], ratios[-1], worst(ratios), worst(peaks)) if ratios else (math.nan,) * 4),
    ]  # fmt: skip
    return dict(zip(RUN_COLUMNS, values, strict=True))


def initial_gradients(norms_L: Sequence[float] | None) -> tuple[float, float]:
    """Compute max / min, and the rank correlation with the layer's number; nan where they are undefined."""
    if norms_L is None:
        return math.nan, math.nan
    norms = np.array(norms_L, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(norms.max() / norms.min())
    return ratio, rank_correlation(range(len(norms)), norms)


def worst(ratios: Iterable[float]) -> float:
    """Return the largest; nan counts as larger than inf (as in bsnn.results.metrics.gradient_summary)."""
    return float(np.sort(np.array(list(ratios), dtype=np.float64))[-1])


def runs_of(
    runs: pd.DataFrame, dataset: str, activation: str, gpn: bool | None = None, batch_norm: bool | None = None
) -> pd.DataFrame:
    chosen = (runs["dataset"] == dataset) & (runs["activation"] == activation)
    if gpn is not None:
        chosen &= runs["gpn"] == gpn
    if batch_norm is not None:
        chosen &= runs["batch_norm"] == batch_norm
    return runs[chosen]


def aggregate(key: Key, runs: pd.DataFrame, history: pd.DataFrame, epochs: float) -> dict[str, Any]:
    """Compute an entry of Table 2 from its runs: mean and sample standard deviation over the seeds that got furthest.

    status: ok | partly diverged (some seeds) | unfinished (the numbers are those after `epoch` of `epochs`) |
    diverged | crashed | missing. n counts the seeds in the mean: those that ended ok or, if none did, the unfinished
    ones that have reached the largest epoch. Gradient ratios are those of the worst seed, as far as it is trained,
    diverged or not. seconds is the sum over all seeds.
    """
    rows = at_equal_epochs(history)
    furthest = rows[rows["status"] != "diverged"]
    trained = runs[runs["status"] != "crashed"]
    found = set(runs["status"])
    status = next((word for word in ("diverged", UNFINISHED, "crashed") if word in found), "missing")
    if len(furthest):
        status = UNFINISHED if not furthest["final"].all() else "partly diverged" if "diverged" in found else "ok"
    epoch = furthest["epoch"].max() if len(furthest) else math.nan
    entry: dict[str, Any] = {**key._asdict(), "n": len(furthest), "status": status, "epoch": epoch, "epochs": epochs}
    for split in ("train", "test"):
        accuracies = furthest[f"{split}_accuracy"].to_numpy(dtype=np.float64)
        entry[f"{split}_mean"] = accuracies.mean() if len(furthest) else math.nan
        entry[f"{split}_sd"] = accuracies.std(ddof=1) if len(furthest) > 1 else math.nan
    printed = runs_of(paper.table2(), *key)
    for split in ("train", "test"):
        entry[f"paper_{split}"] = printed[f"{split}_accuracy"].iloc[0] if len(printed) else math.nan
    for name in ("initial_ratio", "ratio_first", "ratio_last", "ratio_worst", "ratio_peak"):
        entry[name] = worst(trained[name]) if len(trained) else math.nan
    entry["initial_trend"] = trained["initial_trend"].mean() if len(trained) else math.nan
    entry["ratio_rows"] = int(trained["ratio_rows"].sum())
    entry["seconds"] = runs["seconds"].sum() if len(runs) else math.nan
    return entry


def compared(keys: Iterable[Key], history: pd.DataFrame) -> dict[str, list[float]]:
    """Compute for each entry the epoch at which the networks of its dataset and function are compared, and means there.

    Returns columns, in the order of `keys`; nan where there is nothing to compare.
    """
    groups = history.groupby(["dataset", "activation"])
    cut = pd.concat([at_equal_epochs(group) for _, group in groups]) if len(history) else history
    columns: dict[str, list[float]] = {
        "epoch_compared": [],
        "n_compared": [],
        "train_compared": [],
        "test_compared": [],
    }
    for key in keys:
        rows = runs_of(cut, *key)
        rows = rows[rows["status"] != "diverged"]
        columns["epoch_compared"].append(rows["epoch"].max())
        columns["n_compared"].append(len(rows))
        for split in ("train", "test"):
            columns[f"{split}_compared"].append(rows[f"{split}_accuracy"].mean())
    return columns


def _agrees(entry: Mapping[Hashable, Any], split: str) -> str:
    mean, sd, printed = entry[f"{split}_mean"], entry[f"{split}_sd"], entry[f"paper_{split}"]
    if entry["status"] == UNFINISHED or math.isnan(mean) or math.isnan(printed):
        return ""
    allowed = max(AGREES_POINTS, 0.0 if math.isnan(sd) else AGREES_SD * sd)
    return "yes" if round(abs(mean - printed), 9) <= allowed else "no"


def _curves(mine: list[tuple[Key, Record]]) -> pd.DataFrame:
    rows = [
        {
            **key._asdict(),
            "seed": record["cell"]["seed"],
            "status": record["status"],
            "diverged_at_step": _number(record["diverged_at_step"]),
            **row,
        }
        for key, record in mine
        for row in record["rows"]
    ]
    return pd.DataFrame(rows, columns=[*KEY, "seed", "status", "diverged_at_step", *METRICS])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
