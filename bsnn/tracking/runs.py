"""A cell's run in Weights & Biases: the same whether it is written while the cell trains or afterwards.

    id        <budget>-<cell id>; a cell resumed or replayed is the same run
    name      the cell's, as mnist-tanh-gpn-s0
    group     the name without its seed, and 8 digits of a hash of everything but the seed (depth, learning rate, ...):
              W&B's grouping by `Group` averages over seeds and over nothing else
    tags      budget, dataset, activation, gpn | plain, bn
    config    the cell's fields, flat, and budget, hash, variant (plain, GPN, plain-BN, GPN-BN), protocol (the version
              of what a cell computes, `other` for a record of another version than the one that describes it)
    history   the record's rows (bsnn.results.metrics), `step` as W&B's step, entries that are None left out
    summary   the last row, and the record's `status`; an unfinished one's includes its progress: "unfinished: 8 of 50
              epochs"

A training that goes on continues its run: rows that the server holds already are not sent again. If a cell's run holds
another training (its last row differs from ours: the record came from another machine), ours becomes a run <id>-2. The
other one is `superseded`: it keeps its rows, but no chart of the budget shows it.

inf and nan are results here. W&B stores them as such, and its JSON has "Infinity" and "NaN". Its charts leave a gap
there, and a logarithmic axis has no place for them. So the dashboard names the runs that have them.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import wandb

from bsnn.cell import PROTOCOL_VERSION, Cell
from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.results.records import RESULTS, UNFINISHED, Record, cell_of, how_far
from bsnn.tracking.login import Mode, one_line

INIT_SECONDS, PATIENT_SECONDS = 30.0, 180.0
_opening = threading.Lock()  # wandb.init changes the process's settings


class Described(NamedTuple):
    """The facts that W&B gets about a cell before its first row."""

    id: str
    name: str
    group: str | None
    tags: list[str]
    config: dict[str, Any]


def of_cell(cell: Cell, budget: str) -> Described:
    return _describe(budget, cell.as_dict(), cell.id, cell.hash, PROTOCOL_VERSION)


def of_record(record: Record) -> Described:
    protocol = "other" if cell_of(record) is None else PROTOCOL_VERSION
    return _describe(record["budget"], record["cell"], record["id"], record["hash"], protocol)


def _describe(budget: str, cell: Mapping[str, Any], cell_id: str, cell_hash: str, protocol: int | str) -> Described:
    name = cell_id.rsplit("-", 1)[0]
    kind = "gpn" if cell["gpn"] else "plain"
    flat = {key: value for key, value in cell.items() if key != "activation_module"}
    variant = ("GPN" if cell["gpn"] else "plain") + "-BN" * cell["batch_norm"]
    return Described(
        id=f"{budget}-{cell_id}",
        name=name,
        group=f"{name.rsplit('-', 1)[0]}-{_identity(cell)}",
        tags=[budget, cell["dataset"], cell["activation"], kind] + ["bn"] * cell["batch_norm"],
        config={**flat, "budget": budget, "hash": cell_hash, "variant": variant, "protocol": protocol},
    )


def _identity(cell: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in cell.items() if name != "seed"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def open_run(
    config: TrackingConfig,
    told: Described,
    mode: Mode,
    *,
    folder: Path | None = None,
    job_type: str | None = None,
    patient: bool = False,
) -> Any:
    """Open a run of its own, beside any others of this process, without W&B's console, system metrics and code capture.

    Args:
        folder: the folder in which W&B makes its folder `wandb`; default: config.dir.
        patient: wait minutes for a busy server. A training doesn't.
    """
    folder = Path(folder or config.dir).absolute()  # W&B's service may have been started elsewhere
    folder.mkdir(parents=True, exist_ok=True)  # otherwise W&B writes to a temporary folder
    with _opening:
        return wandb.init(
            project=config.project,
            entity=config.entity,
            dir=folder,
            id=told.id,
            name=told.name,
            group=told.group,
            job_type=job_type,
            tags=told.tags,
            config=told.config,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=PATIENT_SECONDS if patient else INIT_SECONDS,
                x_disable_stats=True,
                x_disable_meta=True,
                disable_git=True,
                x_save_requirements=False,
            ),
        )


def open_cell_run(config: TrackingConfig, told: Described, mode: Mode, **options: Any) -> Any:
    """Open a cell's run with `open_run`; its metrics are drawn by epoch."""
    run = open_run(config, told, mode, **options)
    run.define_metric("*", step_metric="epoch")
    return run


def add_row(run: Any, row: Mapping[str, Any]) -> None:
    """Add a row of bsnn.results.metrics; entries that are None (no training yet) are left out."""
    run.log(known(row), step=row["step"])


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def close_run(run: Any, status: str) -> None:
    """End the run with the status in its summary."""
    run.summary.update({"status": status})
    run.finish(exit_code=1 if status == "crashed" else 0)


def replay(config: TrackingConfig, record: Record, mode: Mode, folder: Path | None = None) -> None:
    """Write a record as the run that bsnn.tracking.live.Tracker would have written.

    Raises UserError for the record of a crash, and whatever W&B raises.
    """
    if record["status"] not in RESULTS:
        raise UserError(f"{record['id']}: expected a record with results, found status {record['status']}.")
    write_record(open_cell_run(config, of_record(record), mode, folder=folder), record)


def write_record(run: Any, record: Record) -> None:
    """Fill a new run, or one that has some rows of this training on the server already, and end it."""
    try:
        held = held_step(run)
        for row in record["rows"]:
            if row["step"] > held:
                add_row(run, row)
    except BaseException:
        run.finish(exit_code=1)
        raise
    close_run(run, status_of(record))


def held_step(run: Any) -> int:
    """Return the step of the last row that the server held when the run was opened; -1 for none."""
    return int(run.starting_step) - 1 if run.resumed else -1


def status_of(record: Record) -> str:
    """Return the status for the summary; an unfinished record's includes its progress."""
    return f"{UNFINISHED}: {how_far(record)}" if record["status"] == UNFINISHED else str(record["status"])


def agrees(summary: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """True if the summary belongs to a run whose last row is `row`.

    `seconds` may differ: a training that was killed repeats the updates since its checkpoint, to the same numbers.
    """
    return all(same(summary.get(key), value) for key, value in known(row).items() if key != "seconds")


def same(theirs: Any, ours: Any) -> bool:
    """True for equal values; inf and nan may also be written as words or, in some of W&B's answers, as null."""
    if isinstance(ours, float) and not math.isfinite(ours):
        return theirs is None or str(theirs).lower().replace("infinity", "inf") == str(ours)
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return math.isclose(theirs, ours, rel_tol=1e-12)
    return bool(theirs == ours)


def expected_summary(record: Record) -> dict[str, Any]:
    """Return the summary of a record's run, beside W&B's own keys: the last value of everything, and the status."""
    summary: dict[str, Any] = {}
    for row in record["rows"]:
        summary |= known(row)
    return {**summary, "status": status_of(record)}


def failure(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
