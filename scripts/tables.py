"""Reading what experiments.units has written: a table, with the config and the place that it comes from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn import tables
from bsnn.errors import UserError


@dataclass(frozen=True)
class Table:
    """A finished table and its record."""

    frame: pd.DataFrame
    config: dict[str, Any]  # resolved
    provenance: dict[str, Any]
    seconds: float


def load(path: Path, command: str) -> Table:
    """`path`.csv and .json. Raises UserError, with the command to run, if they are missing, unfinished or damaged."""
    found, table = tables.read(path), tables.table_file(path)
    if found is None:
        missing = [file for file in (table, tables.record_file(path)) if not file.exists()]
        if tables.is_unfinished(path) or not missing:
            raise UserError(f"{table}: not finished yet; continue with: {command}")
        raise UserError(f"{missing[0]}: no such file; make it with: {command}")
    facts, frame = found.record, pd.read_csv(io.StringIO(found.text))
    if len(frame) != facts["rows"]:
        raise UserError(f"{table}: expected {facts['rows']} rows, found {len(frame)}; delete it and run: {command}")
    if not found.intact:
        raise UserError(
            f"{table}: expected the numbers that {path.name}.json was written for, found others; "
            f"delete it and run: {command}"
        )
    return Table(frame, facts["config"], facts["provenance"], facts["seconds"])


def load_finished(path: Path, command: str) -> Table | None:
    """The same, None for a table that isn't there or isn't finished."""
    return None if tables.read(path) is None else load(path, command)


def command(module: str, experiment: str, folder: Path) -> str:
    """What computes an experiment's table into the budget's folder."""
    text = f"python -m experiments.{module} +experiment={experiment} budget={folder.name}"
    return text if folder.parent.name == "results" else f"{text} results_dir={folder.parent}"
