"""Records: one self-sufficient JSON file for each cell, the only source of tables, figures and reports.

results/<budget>/runs/<cell id>/record.json

    schema        1, the version of this layout
    id, hash      of the cell
    status        ok | diverged (the loss became nan or inf: a result) | unfinished (stopped or in training: its rows
                  are those of the finished training so far, and the same command goes on) | crashed (an error before
                  any row of trained weights: run again to retry)
    error         the exception of a crash; an unfinished cell that crashed keeps its rows and has one, too
    budget        the name of the budget whose folder it lies in
    cell          the fields of bsnn.cell.Cell
    gpn_constants {"a": ..., "b": ...} of the GPN function, else null
    steps         updates behind the last row; `steps_of` the cell is how many were asked for
    diverged_at_step  for diverged: the first update whose loss was not finite
    seconds       time spent in training and evaluation, over all resumed runs: its stack's / cells of the stack
    started, finished  UTC: of the first segment's beginning and the last one's end
    rows          one dict for each evaluation, keys and definitions in bsnn.results.metrics
    gradient_norms  {"first": [...], "last": [...]}: ||dE/dV_l||_F of every constrained layer, bottom to top, in the
                  first and the last update
    provenance    of the last segment: bsnn.results.provenance.collect, `stack`: how many cells were trained together,
                  and `way`: how they were computed (bsnn.engine.stack.Stack.way, or "reference" for
                  bsnn.engine.reference)
    segments      the processes that trained it, one after the other, perhaps on different machines and commits:
                  {"first_step", "last_step", "started", "finished", "provenance"}; those with equal provenance that
                  follow each other are one
    config        the resolved Hydra config of the run
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from bsnn.cell import Cell
from bsnn.errors import UserError
from bsnn.files import read_json, write_json
from bsnn.training.planning import steps as steps_of
from bsnn.training.planning import steps_per_epoch

SCHEMA = 1
FINISHED = ("ok", "diverged")
UNFINISHED = "unfinished"
RESULTS = (*FINISHED, UNFINISHED)
"""Statuses whose rows can be shown as numbers; those of an unfinished cell need its progress beside them."""
Record = dict[str, Any]
DEFAULTS = {
    setting.name: setting.default for setting in fields(Cell) if setting.compare and setting.default is not MISSING
}
"""Settings that were added to cells later, each with the value that earlier cells had."""


def run_dir(results_dir: str | Path, budget: str, cell_id: str) -> Path:
    return Path(results_dir) / budget / "runs" / cell_id


def write_record(folder: Path, record: Record) -> None:
    write_json(folder / "record.json", record)


def read_record(folder: Path) -> Record | None:
    """Read the record in a cell's folder; None if there is none. Raises UserError for one that can't be read.

    Fills in the settings and fields that did not exist when the record was written.
    """
    path = folder / "record.json"
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: expected a record of schema {SCHEMA}, found another file; move it away and run again."
        )
    if re.fullmatch(r"\w[\w.-]*", str(record.get("id") or "")) is None:  # it becomes part of paths
        raise UserError(f"{path}: expected an id that names a folder, found {record.get('id')!r}; move it away.")
    for setting, value in DEFAULTS.items():
        record["cell"].setdefault(setting, value)
    record.setdefault("segments", [_only_segment(record)])
    return record


def _only_segment(record: Record) -> dict[str, Any]:
    """Describe the training of a record made before there were segments; resumed runs were not told apart then."""
    return {"first_step": 0, "last_step": record["steps"]} | {
        name: record[name] for name in ("started", "finished", "provenance")
    }


def epochs_reached(record: Record) -> float:
    """Return the epochs behind the record's last row; 0 without rows."""
    return float(record["rows"][-1]["epoch"]) if record["rows"] else 0.0


def epochs_asked(record: Record) -> float:
    """Return the epochs of the whole training."""
    cell = Cell.from_dict(record["cell"])
    return steps_of(cell) / steps_per_epoch(cell)


def how_far(record: Record) -> str:
    """Say how far the cell's training is: 8 of 50 epochs."""
    return f"{epochs_reached(record):.4g} of {epochs_asked(record):.4g} epochs"


def cell_of(record: Record) -> Cell | None:
    """Return the record's cell; None if another version of the protocol made it, whose cells are different cells."""
    try:
        cell = Cell.from_dict(record["cell"])
    except TypeError:
        return None
    return cell if cell.hash == record["hash"] else None


def read_records(budget_dir: Path) -> list[Record]:
    """Read all records under results/<budget>/, sorted by id."""
    folders = sorted(path.parent for path in (budget_dir / "runs").glob("*/record.json"))
    return [record for folder in folders if (record := read_record(folder)) is not None]
