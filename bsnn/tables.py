"""A finished table: <path>.csv, the numbers, and <path>.json, its record, which holds the SHA-256 of the numbers.

A table that is being computed lies in <folder>/.unfinished/<name>/ instead, so that a finished one stays until the new
one is whole. Tables whose settings are not the budget's own lie in <folder>/other_settings/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsnn.files import read_json, write_json, write_text

OTHER_SETTINGS = "other_settings"


@dataclass(frozen=True)
class Finished:
    """A table as it lies on the disk."""

    record: dict[str, Any]
    text: str  # CSV

    @property
    def intact(self) -> bool:
        """Whether the numbers are those that the record was written for. The first records had no digest."""
        return self.record.get("sha256") in (None, digest(self.text))


def table_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.csv")


def record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def unfinished_folder(path: Path) -> Path:
    """Where the table is while it is computed, with the lock of the process that computes it."""
    return path.parent / ".unfinished" / path.name


def is_unfinished(path: Path) -> bool:
    """Whether units of the table are there, but not yet the table."""
    return any(unfinished_folder(path).glob("*.json"))


def read(path: Path) -> Finished | None:
    """The finished table; None if there is none. Raises UserError if its record isn't JSON."""
    table, facts = table_file(path), record_file(path)
    if not (table.exists() and facts.exists()):
        return None
    record = read_json(facts)
    with table.open(encoding="utf-8", newline="") as stream:
        return Finished(record, stream.read()) if record["complete"] else None


def write(path: Path, text: str, record: Mapping[str, Any]) -> None:
    """Replace the table. The old record goes first: no record ever lies beside numbers that it could be taken for."""
    record_file(path).unlink(missing_ok=True)
    write_text(table_file(path), text)
    write_json(record_file(path), {**record, "sha256": digest(text)})


def others(path: Path) -> list[Path]:
    """The finished tables of this name with other settings than the budget's own."""
    folder = path.parent / OTHER_SETTINGS
    found = (one.with_name(one.name.removesuffix(".json")) for one in sorted(folder.glob(f"{path.name}-*.json")))
    return [one for one in found if read(one) is not None]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
