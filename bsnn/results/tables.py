"""A finished table: <path>.csv holds the numbers, and <path>.json, its record, the SHA-256 of the numbers.

A table that is being computed lies in <folder>/.unfinished/<name>/ instead, so that a finished one stays until the new
one is whole. Tables whose settings are not the budget's own lie in <folder>/other_settings/.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn.errors import UserError
from bsnn.files import read_json, write_json, write_text

OTHER_SETTINGS = "other_settings"
DIGITS = "%.12g"
"""Format of numbers computed from records: processors add in different orders, and agree on these digits."""


@dataclass(frozen=True)
class Finished:
    """A table as stored on disk."""

    record: dict[str, Any]
    text: str  # CSV

    @property
    def intact(self) -> bool:
        """True if the record was written for these numbers. The first records had no digest, and count as intact."""
        return self.record.get("sha256") in (None, digest(self.text))


def table_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.csv")


def record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def unfinished_folder(path: Path) -> Path:
    """Return the folder of the table while it is computed, with the lock of the process that computes it."""
    return path.parent / ".unfinished" / path.name


def is_unfinished(path: Path) -> bool:
    """True if units of the table exist, but not yet the table."""
    return any(unfinished_folder(path).glob("*.json"))


def read(path: Path) -> Finished | None:
    """Read the finished table; None if there is none. Raises UserError if its record isn't JSON."""
    table, facts = table_file(path), record_file(path)
    if not (table.exists() and facts.exists()):
        return None
    record = read_json(facts)
    with table.open(encoding="utf-8", newline="") as stream:
        return Finished(record, stream.read()) if record["complete"] else None


def write(path: Path, text: str, record: Mapping[str, Any]) -> None:
    """Replace the table, then its record.

    A process killed in between leaves the new numbers beside the old record, whose digest differs from theirs. A record
    without a digest is removed first: nothing would tell that it belongs to other numbers.
    """
    facts = record_file(path)
    if facts.exists() and "sha256" not in read_json(facts):
        facts.unlink()
    write_text(table_file(path), text)
    write_json(facts, {**record, "sha256": digest(text)})


def others(path: Path) -> list[Path]:
    """List the finished tables of this name with other settings than the budget's own."""
    folder = path.parent / OTHER_SETTINGS
    found = (one.with_name(one.name.removesuffix(".json")) for one in sorted(folder.glob(f"{path.name}-*.json")))
    return [one for one in found if read(one) is not None]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Table:
    """A finished table and its record."""

    frame: pd.DataFrame
    config: dict[str, Any]  # resolved
    provenance: dict[str, Any]
    seconds: float


def load(path: Path, command: str) -> Table:
    """Load `path`.csv and .json. Raises UserError, with the command to run, if missing, unfinished or damaged."""
    found, table = read(path), table_file(path)
    if found is None:
        missing = [file for file in (table, record_file(path)) if not file.exists()]
        if is_unfinished(path) or not missing:
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
    """Load a table; None if it isn't there or isn't finished. Raises UserError if it is damaged."""
    return None if read(path) is None else load(path, command)


def command(module: str, choice: str, folder: Path) -> str:
    """Return the command that computes a table into the budget's folder; `choice`: the override that selects it."""
    text = f"python -m experiments.{module} {choice} budget={folder.name}"
    return text if folder.parent.name == "results" else f"{text} results_dir={folder.parent}"
