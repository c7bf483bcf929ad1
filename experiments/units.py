"""A table that is made in units of work: finished, it is skipped; killed, it goes on after the last whole unit.

<name>.csv    the numbers; the first columns name the unit that a row belongs to
<name>.json   where they come from: hash of the settings, resolved config, provenance, seconds, all units or not yet
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bsnn import provenance
from bsnn.files import read_json, write_json, write_text

SCHEMA = 1  # of the .json

Value = str | int | float | bool | None
Unit = tuple[Value, ...]
Row = Sequence[Value]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is to be computed.

    Args:
        keys: the columns that name a unit.
        columns: the columns after those.
        units: in the order in which they are computed.
        rows: the rows of one unit, without its keys: at least one.
        identity: the settings that change the numbers; those of device, threads, folders and labels don't.
        torch_threads: in each of torch's operations; None: 1, for `rows` that do several things at a time.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    units: Sequence[Unit]
    rows: Callable[[Unit], Iterable[Row]]
    identity: Mapping[str, Any]
    torch_threads: int | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(dict(self.identity), sort_keys=True).encode()).hexdigest()


def compute(work: Work, path: Path, about: Mapping[str, Any], device: torch.device, workers: int) -> dict[str, Any]:
    """Compute what is missing of `path`.csv; its record, complete then, lies beside it and is returned.

    about: what the record says beside the facts of the computation. workers: how many threads the unit may use.
    """
    table, record_path = path.with_suffix(".csv"), path.with_suffix(".json")
    record = read_json(record_path) if record_path.exists() else None
    rows: list[list[str]] = []
    if record is not None and record.get("hash") == work.hash and table.exists():
        if record["complete"]:
            log.info("%s: already there with these settings (%s), skipped", path.name, table)
            return dict(record)
        rows = list(csv.reader(table.read_text().splitlines()))[1:]
    else:
        table.unlink(missing_ok=True)  # before the record is replaced: it must never vouch for another one's numbers
        record = {"seconds": 0.0, "started": _now()}
    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    record = {
        "schema": SCHEMA,
        **about,
        "hash": work.hash,
        "complete": False,
        "provenance": provenance.collect(device),
        "seconds": record["seconds"],
        "started": record["started"],
        "finished": None,
    }
    write_json(record_path, record)

    done = {tuple(row[: len(work.keys)]) for row in rows}
    missing = [unit for unit in work.units if _texts(unit) not in done]
    if done:
        log.info("%s: %d of %d units already there, continuing", path.name, len(done), len(work.units))
    torch.set_num_threads(work.torch_threads or 1)
    try:
        for unit in tqdm(missing, desc=path.name, disable=not sys.stderr.isatty()):
            start = time.perf_counter()
            rows += [[*_texts(unit), *_texts(row)] for row in work.rows(unit)]
            seconds = time.perf_counter() - start
            record["seconds"] += seconds
            _write_table(table, (*work.keys, *work.columns), rows)
            write_json(record_path, record)
            if not sys.stderr.isatty():
                named = ", ".join(f"{key} {value}" for key, value in zip(work.keys, unit, strict=True))
                log.info("%s: %s, %.1f s", path.name, named, seconds)
    finally:
        torch.set_num_threads(threads)
    record |= {"complete": True, "rows": len(rows), "finished": _now()}
    write_json(record_path, record)
    log.info("%s: %d rows in %s, %.0f s", path.name, len(rows), table, record["seconds"])
    return record


def threads_for(device: torch.device, threads: int | None) -> int:
    """How many things are done at a time: on a CPU `threads`, or as many as torch would use; on a GPU one."""
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


def _write_table(path: Path, columns: Sequence[str], rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
