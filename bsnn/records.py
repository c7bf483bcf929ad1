"""Records: one self-sufficient JSON file for each cell, the only thing that tables, figures and reports are made from.

results/<budget>/runs/<cell id>/record.json

    schema        1, the version of this layout
    id, hash      of the cell
    status        ok | diverged (the loss became nan or inf: a result) | crashed (an error: run again to retry)
    error         for crashed: the exception
    budget        the name of the budget whose folder it lies in
    cell          the fields of bsnn.cell.Cell
    gpn_constants {"a": ..., "b": ...} of the GPN function, else null
    steps         updates made
    diverged_at_step  for diverged: the first update whose loss was not finite
    seconds       time spent in training and evaluation, over all resumed runs: its stack's / cells of the stack
    started, finished  UTC
    rows          one dict for each evaluation, keys and definitions in bsnn.metrics
    gradient_norms  {"first": [...], "last": [...]}: ||dE/dV_l||_F of every constrained layer, bottom to top, in the
                  first and the last update
    provenance    bsnn.provenance.collect, and `stack`: how many cells were trained together
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

SCHEMA = 1
FINISHED = ("ok", "diverged")
Record = dict[str, Any]
DEFAULTS = {
    setting.name: setting.default for setting in fields(Cell) if setting.compare and setting.default is not MISSING
}
"""Settings that were added to cells later on, and the value that cells of before have."""


def run_dir(results_dir: str | Path, budget: str, cell_id: str) -> Path:
    return Path(results_dir) / budget / "runs" / cell_id


def write_record(folder: Path, record: Record) -> None:
    write_json(folder / "record.json", record)


def read_record(folder: Path) -> Record | None:
    """The record in a cell's folder, None if there is none. Raises UserError for one that can't be read.

    A setting that the record is older than has the value that it had before there was a choice.
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
    return record


def cell_of(record: Record) -> Cell | None:
    """The record's cell; None if it was made by another version of the protocol and so is another cell by now."""
    try:
        cell = Cell.from_dict(record["cell"])
    except TypeError:
        return None
    return cell if cell.hash == record["hash"] else None


def read_records(budget_dir: Path) -> list[Record]:
    """All records under results/<budget>/, sorted by id."""
    folders = sorted(path.parent for path in (budget_dir / "runs").glob("*/record.json"))
    return [record for folder in folders if (record := read_record(folder)) is not None]
