"""Reading what experiments.units has written: a table, with the config and the place that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn.errors import UserError
from bsnn.files import read_json


@dataclass(frozen=True)
class Table:
    """A finished table and its record."""

    frame: pd.DataFrame
    config: dict[str, Any]  # resolved
    provenance: dict[str, Any]
    seconds: float


def load(path: Path, command: str) -> Table:
    """`path`.csv and .json. Raises UserError, with the command to run, if they are missing, unfinished or damaged."""
    table, record = path.with_suffix(".csv"), path.with_suffix(".json")
    for needed in (table, record):
        if not needed.exists():
            raise UserError(f"{needed}: no such file; make it with: {command}")
    facts = read_json(record)
    if not facts["complete"]:
        raise UserError(f"{table}: not finished yet; continue with: {command}")
    frame = pd.read_csv(table)
    expected, found = facts["rows"], len(frame)
    if found != expected:
        raise UserError(f"{table}: expected {expected} rows, found {found}; delete it and run: {command}")
    return Table(frame, facts["config"], facts["provenance"], facts["seconds"])


def load_finished(path: Path, command: str) -> Table | None:
    """The same, None for a table that isn't there or isn't finished."""
    record = path.with_suffix(".json")
    there = record.exists() and path.with_suffix(".csv").exists() and read_json(record)["complete"]
    return load(path, command) if there else None


def command(module: str, experiment: str, folder: Path) -> str:
    """What computes an experiment's table into the budget's folder."""
    text = f"python -m experiments.{module} +experiment={experiment} budget={folder.name}"
    return text if folder.parent.name == "results" else f"{text} results_dir={folder.parent}"
