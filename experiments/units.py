"""A table that is made in units of work: a finished one is skipped, a killed one goes on after the last whole unit.

<name>.csv               the numbers; the first columns name the unit that a row belongs to
<name>.json              their provenance: hash of the settings, resolved config, provenance, seconds; if several
                         processes computed it, `segments` has each one's number of units and provenance
.unfinished/<name>/      units of unfinished tables, a file for each hash, and the lock of the computing process
other_settings/          tables whose settings are not the budget's own (experiments.places)
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bsnn.errors import UserError
from bsnn.files import locked, read_json, write_json
from bsnn.results import provenance, tables

SCHEMA = 2  # of the .json: with the SHA-256 of the .csv

Value = str | int | float | bool | None
Unit = tuple[Value, ...]
Row = Sequence[Value]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """The description of a table to compute.

    Args:
        keys: the columns that name a unit.
        columns: the columns after the keys.
        units: in the order in which they are computed.
        rows: the rows of one unit, without its keys: at least one.
        identity: the settings that change the numbers; device, threads, folders and labels don't.
        depends: further dependencies of the numbers that the first published tables didn't list
        (experiments.constants).
        saved: called when a unit's rows are on disk: what was needed to make them may be removed.
        torch_threads: threads of each of torch's operations; None: 1, for `rows` that do several things at a time.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    units: Sequence[Unit]
    rows: Callable[[Unit], Iterable[Row]]
    identity: Mapping[str, Any]
    depends: Mapping[str, Any] = field(default_factory=dict)
    saved: Callable[[Unit], object] = lambda unit: None
    torch_threads: int | None = None

    @property
    def hash(self) -> str:
        return identity_hash(self.identity)

    @property
    def header(self) -> tuple[str, ...]:
        return *self.keys, *self.columns


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a table's identity."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()


def compute(work: Work, path: Path, about: Mapping[str, Any], device: torch.device, workers: int) -> dict[str, Any]:
    """Compute what is missing of `path`.csv and its record; return the record.

    An older table stays until this one is whole. One process at a time computes it; others wait.

    about: the record's entries beside the facts of the computation. workers: the number of threads for a unit.
    """
    record = finished(work, path)
    if record is None:
        with ExitStack() as stack:
            folder = tables.unfinished_folder(path)
            try:
                stack.enter_context(locked(folder, lambda: log.info("%s: another process computes it; waiting", path)))
            except OSError as error:
                raise UserError(
                    f"{folder}: expected a folder that can be written to, found: {error.strerror or error}; "
                    "make it writable or choose another with results_dir=FOLDER."
                ) from error
            record = finished(work, path) or _compute(work, path, about, device, workers)
    return record


def finished(work: Work, path: Path) -> dict[str, Any] | None:
    """Return the record of this work's table; None if it must be computed."""
    table = tables.read(path)
    if table is None or table.record.get("hash") != work.hash:
        return None
    where = tables.table_file(path)
    header, *rows = _parsed(table.text) or [[]]
    units = {tuple(row[: len(work.keys)]) for row in rows}
    expected = {_texts(unit) for unit in work.units}
    if not table.intact:
        log.warning("%s: the numbers are not those that its record was written for; computing them again", where)
    elif tuple(header) != work.header or units != expected:
        log.warning("%s: the columns or units are not those of this version; computing them again", where)
    else:
        log.info("%s: already there with these settings (%s), skipped", path.name, where)
        return table.record
    return None


def _compute(work: Work, path: Path, about: Mapping[str, Any], device: torch.device, workers: int) -> dict[str, Any]:
    file = tables.unfinished_folder(path) / f"{work.hash[:8]}.json"  # one file for the units and their identity
    for written in (file, tables.table_file(path), tables.record_file(path)):
        for leftover in written.parent.glob(f".{written.name}.*.tmp"):  # of a process killed while it wrote
            leftover.unlink()
    what = {"hash": work.hash, "header": list(work.header)}
    progress: dict[str, Any] = read_json(file) if file.exists() else {}
    if {key: progress.get(key) for key in what} != what:
        progress = {**what, "seconds": 0.0, "started": _now(), "rows": ""}
    rows = _parsed(progress["rows"])
    done = {tuple(row[: len(work.keys)]) for row in rows}
    missing = [unit for unit in work.units if _texts(unit) not in done]
    for unit in work.units:
        if _texts(unit) in done:
            work.saved(unit)
    if done:
        log.info("%s: %d of %d units already there, continuing", path.name, len(done), len(work.units))

    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    facts = provenance.collect(device)
    segments: list[dict[str, Any]] = [*progress.get("segments", []), {"units": 0, "provenance": facts}]
    torch.set_num_threads(work.torch_threads or 1)
    try:
        for unit in tqdm(missing, desc=path.name, disable=not sys.stderr.isatty()):
            torch.set_flush_denormal(False)  # a training before may have switched it on
            start = time.perf_counter()
            rows += [[*_texts(unit), *_texts(row)] for row in work.rows(unit)]
            seconds = time.perf_counter() - start
            progress["seconds"] += seconds
            segments[-1]["units"] += 1
            progress["segments"] = segments
            _save(file, progress, rows)
            work.saved(unit)
            if not sys.stderr.isatty():
                named = ", ".join(f"{key} {value}" for key, value in zip(work.keys, unit, strict=True))
                log.info("%s: %s, %.1f s", path.name, named, seconds)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)

    computed = [segment for segment in segments if segment["units"]]
    record = {
        "schema": SCHEMA,
        **about,
        "hash": work.hash,
        "complete": True,
        "provenance": facts,
        **({"segments": computed} if len(computed) > 1 else {}),
        "seconds": progress["seconds"],
        "started": progress["started"],
        "finished": _now(),
        "rows": len(rows),
    }
    _keep_other(path, work.hash)
    tables.write(path, _csv([work.header, *rows]), record)
    file.unlink()
    log.info("%s: %d rows in %s, %.0f s", path.name, len(rows), tables.table_file(path), record["seconds"])
    return record


def _save(file: Path, progress: dict[str, Any], rows: list[list[str]]) -> None:
    write_json(file, {**progress, "rows": _csv(rows)})


def _keep_other(path: Path, new_hash: str) -> None:
    """Copy the finished table that is about to be replaced to the other settings', if it differs.

    If the record wasn't written for these numbers, they are not copied: the copy's digest would make them look whole.
    """
    old = tables.read(path)
    if old is None or old.record["hash"] == new_hash:
        return
    if not old.intact:
        log.warning(
            "%s: was computed with other settings, and its numbers are not those that its record was written for; "
            "it is replaced and not kept",
            tables.table_file(path),
        )
        return
    kept = path.parent / tables.OTHER_SETTINGS / f"{path.name}-{old.record['hash'][:8]}"
    there = tables.read(kept)
    if there is None or not there.intact:
        tables.write(kept, old.text, old.record)
    log.warning(
        "%s: was computed with other settings, data or code, and is kept as %s",
        tables.table_file(path),
        tables.table_file(kept),
    )


def threads_for(device: torch.device, threads: int | None) -> int:
    """Return the number of things done at a time: on a CPU `threads`, or as many as torch would use; on a GPU one."""
    return threads or torch.get_num_threads() if device.type == "cpu" else 1


def _texts(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return str(value)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _parsed(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
