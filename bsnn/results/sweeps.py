"""Sweeps over one setting: tables from conf/experiment/sweep_*.yaml and the records of a budget.

A sweep's cells are those of Table 2 with one or two settings changed, as its experiment file says. A record belongs to
a sweep if and only if the file asks for its cell, up to the seed. Cells that lie in several sweeps, or in Table 2, are
trained once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

from bsnn.cell import Cell
from bsnn.config import CONF, register
from bsnn.results.budgets import PAPER, Key, table_configs
from bsnn.results.equal_epochs import after, at_equal_epochs, final, has_rows
from bsnn.results.grid import KEY, RUN_COLUMNS, Results, history, identity
from bsnn.results.metrics import middle
from bsnn.results.records import UNFINISHED, Record, cell_of

PREFIX = "sweep_"


@dataclass(frozen=True)
class Sweep:
    """An experiment file conf/experiment/sweep_<name>.yaml."""

    name: str
    cells: Mapping[str, tuple[Any, ...]]
    """The sweep's values of the settings that tell Table 2's cells apart: dataset, activation, gpn, batch_norm."""
    axes: Mapping[str, tuple[Any, ...]]
    """The settings that the sweep varies, and their values: one with numbers, and perhaps one with words."""

    @property
    def stem(self) -> str:
        """The name of its experiment and of its files in results/<budget>/."""
        return PREFIX + self.name

    @property
    def x(self) -> str:
        """The setting with numbers: the horizontal axis of its figure."""
        return next(axis for axis, values in self.axes.items() if not isinstance(values[0], str))

    @property
    def across(self) -> str | None:
        """The setting with words, if there is one; each of its values has a panel."""
        return next((axis for axis in self.axes if axis != self.x), None)


def papers(setting: str) -> Any:
    """Return the paper's own value (section 3.2)."""
    return getattr(next(iter(table_configs(PAPER).values())), setting)


@cache
def sweeps() -> tuple[Sweep, ...]:
    """Load all sweeps, by name."""
    register()
    found = []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for path in sorted((CONF / "experiment").glob(f"{PREFIX}*.yaml")):
            config = compose("train", [f"+experiment={path.stem}"], return_hydra_config=True)
            params = {name: _values(name, str(text)) for name, text in config.hydra.sweeper.params.items()}
            found.append(
                Sweep(
                    name=path.stem.removeprefix(PREFIX),
                    cells={name: params.get(name, (False,)) for name in KEY},
                    axes={name: values for name, values in params.items() if name not in KEY},
                )
            )
    return tuple(found)


def expected(sweep: Sweep, budget: str) -> dict[str, dict[str, Any]]:
    """Map each of its cells' identity (bsnn.results.grid.identity) to `key` of Table 2 and the values of its axes."""
    configs = table_configs(budget)
    cells = {}
    for key in itertools.starmap(Key, itertools.product(*(sweep.cells[name] for name in KEY))):
        for values in itertools.product(*sweep.axes.values()):
            setting: dict[str, Any] = dict(zip(sweep.axes, values, strict=True))
            cells[identity(Cell.from_config(replace(configs[key], **setting)))] = {"key": key, **setting}
    return cells


def runs(sweep: Sweep, loaded: Results) -> pd.DataFrame:
    """Make one row for each trained record of the sweep: its axes and bsnn.results.grid.history at one epoch.

    That epoch is the largest that all of them have reached. Only seeds that exist at every value of the axes count, if
    there are such seeds. Table 2's cells may have more seeds than the others, and a mean over three beside a single run
    would show a change where there is none.
    """
    cells = expected(sweep, loaded.budget.name)
    rows = []
    for record in [*loaded.records, *loaded.others]:
        cell = cell_of(record)
        if cell is not None and (place := cells.get(identity(cell))) is not None:
            axes = {axis: place[axis] for axis in sweep.axes}
            rows += [{**axes, **row} for row in history(place["key"], record)]
    table = pd.DataFrame(rows, columns=[*sweep.axes, *RUN_COLUMNS])
    table = table[(table["status"] != UNFINISHED) | (table["epoch"] > 0)]
    seeds = [set(group["seed"]) for _, group in table.groupby([*sweep.axes])]
    if shared := set.intersection(*seeds) if seeds else set():
        table = table[table["seed"].isin(shared)]
    table = pd.concat([at_equal_epochs(table, [*sweep.axes, *KEY, "seed"]), table[table["status"] == "crashed"]])
    table["activation"] = pd.Categorical(table["activation"], sweep.cells["activation"])
    return table.sort_values(["activation", "gpn", *sweep.axes, "seed"], ignore_index=True)


def swept(loaded: Results) -> list[Record]:
    """List the records of sweeps that aren't Table 2's."""
    if not loaded.others:
        return []
    mine = set().union(*(expected(sweep, loaded.budget.name) for sweep in sweeps()))
    cells = [(record, cell_of(record)) for record in loaded.others]
    return [record for record, cell in cells if cell is not None and identity(cell) in mine]


def so_far(table: pd.DataFrame) -> str:
    """Say after which epoch the cells of `runs` are compared, if not all are finished: "8 of 50 epochs"."""
    rows = table[has_rows(table)]
    return "" if final(rows) else after(rows)


def varied(sweep: Sweep, table: pd.DataFrame) -> bool:
    """True if `runs` or `summary` has more than Table 2: several values of each of the sweep's settings."""
    return all(table[axis].nunique() > 1 for axis in sweep.axes)


SUMMARY = ("status", "n", "test_mean", "test_sd", "train_mean", "train_sd", "initial_ratio", "ratio_last", "seconds")


def summary(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Make one row for each cell that has a record, over its seeds.

    status      ok | unfinished (the numbers are those after `epoch` epochs) | partly diverged (some seeds) | diverged |
                crashed; n counts the seeds that did not diverge
    test_mean, test_sd, train_mean, train_sd    accuracies of those in %, with the sample standard deviation
    initial_ratio, ratio_last   max_l / min_l of the layers' gradient norms in the first update, and its median over
                the last interval between evaluations: the middle one of the seeds that ended, the lower of two
    """
    rows = []
    for values, group in table.groupby([*KEY, *sweep.axes], sort=False, observed=True):
        ended = group[group["status"] != "crashed"]
        ok = ended[ended["status"] != "diverged"]
        lost = len(ended) - len(ok)
        status = ("partly diverged" if lost else "ok") if len(ok) else "diverged" if lost else "crashed"
        if not ok["final"].all():
            status = UNFINISHED
        row: dict[str, Any] = {**dict(zip([*KEY, *sweep.axes], values, strict=True)), "status": status, "n": len(ok)}
        for split in ("test", "train"):
            row[f"{split}_mean"] = ok[f"{split}_accuracy"].mean()
            row[f"{split}_sd"] = ok[f"{split}_accuracy"].std(ddof=1)
        for ratio in ("initial_ratio", "ratio_last"):
            row[ratio] = float(middle(ended[ratio].to_numpy(np.float64))) if len(ended) else math.nan
        rows.append({**row, "seconds": group["seconds"].sum()})
    return pd.DataFrame(rows, columns=[*KEY, *sweep.axes, *SUMMARY])


def _values(name: str, text: str) -> tuple[Any, ...]:
    value = OverridesParser.create().parse_override(f"{name}={text}").value()
    return tuple(value.list) if isinstance(value, ChoiceSweep) else (value,)
