"""One cell from config to record: skip what is finished, resume what was interrupted, record what crashed."""

from __future__ import annotations

import functools
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bsnn.cell import Cell
from bsnn.config import TrainConfig
from bsnn.data import Dataset, load
from bsnn.errors import UserError
from bsnn.files import locked
from bsnn.gpn import GPN
from bsnn.metrics import Row
from bsnn.network import BSNN
from bsnn.provenance import choose_device, collect
from bsnn.records import FINISHED, SCHEMA, Record, read_record, run_dir, write_record
from bsnn.tracking import Tracker
from bsnn.training import Progress, load_weights, train

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"


def run_cell(
    config: TrainConfig, resolved_config: dict[str, Any], command: str | None = None, progress_bar: bool = False
) -> Record:
    """Train the cell that `config` describes and return its record, which then lies in its folder.

    A finished cell is returned as it is. Several processes may be given the same cell: one trains, the others wait for
    it. An exception in training is recorded as status `crashed` and raised again; a UserError only raised. `command` is
    what the record's provenance names as its origin.
    """
    cell = Cell.from_config(config)
    folder = run_dir(config.results_dir, config.budget.name, cell.id)
    with _held(folder, cell):
        for leftover in folder.glob(".*.tmp"):  # of a process killed while it wrote
            leftover.unlink()
        record = read_record(folder)
        if record is not None and record["status"] in FINISHED:
            log.info("%s: already trained (%s), skipped", cell.name, record["status"])
        else:
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            device = choose_device(config.device)
            data = _loaded(cell.dataset, device, getattr(torch, cell.dtype), os.environ.get("BSNN_DATA_DIR"))
            record = _train_and_record(cell, config, resolved_config, command, data, device, folder, progress_bar)
        if not config.keep_checkpoint:
            (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


@functools.lru_cache(maxsize=1)
def _loaded(name: str, device: torch.device, dtype: torch.dtype, data_dir: str | None) -> Dataset:
    """The last dataset stays in memory: a worker of a sweep trains many cells on it."""
    return load(name, device, dtype, data_dir)


def load_trained(folder: Path) -> BSNN:
    """The trained network of a cell's folder, in evaluation mode, if it was run with keep_checkpoint=true.

    Raises UserError if there is no finished record or no checkpoint.
    """
    record = read_record(folder)
    if record is None or record["status"] not in FINISHED:
        raise UserError(f"{folder}: expected the record of a finished cell, found none; train it first.")
    if not (folder / CHECKPOINT).exists():
        raise UserError(
            f"{folder}: expected {CHECKPOINT}, found none: weights are kept only on request; move the folder away and "
            "train the cell again with keep_checkpoint=true."
        )
    return load_weights(folder / CHECKPOINT, Cell.from_dict(record["cell"]))


def _train_and_record(
    cell: Cell,
    config: TrainConfig,
    resolved_config: dict[str, Any],
    command: str | None,
    data: Dataset,
    device: torch.device,
    folder: Path,
    progress_bar: bool,
) -> Record:
    phi = cell.make_activation()
    tracker = Tracker(config.tracking, cell, config.budget.name)
    started = _now()
    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        tracker.log(row)
        log.info("%s: %s", cell.name, _line(row))

    def finish(status: str, progress: Progress | None = None, error: str | None = None) -> Record:
        record = {
            "schema": SCHEMA,
            "id": cell.id,
            "hash": cell.hash,
            "status": status,
            "error": error,
            "budget": config.budget.name,
            "cell": cell.as_dict(),
            "gpn_constants": {"a": phi.a, "b": phi.b} if isinstance(phi, GPN) else None,
            "steps": rows[-1].step if rows else 0,
            "diverged_at_step": progress.diverged_at_step if progress else None,
            "seconds": rows[-1].seconds if rows else 0.0,
            "started": started,
            "finished": _now(),
            "rows": [row.as_dict() for row in rows],
            "gradient_norms": {
                "first": progress.first_gradient_norms if progress else None,
                "last": progress.last_gradient_norms if progress else None,
            },
            "provenance": collect(device, command),
            "config": resolved_config,
        }
        write_record(folder, record)
        tracker.finish(status)
        return record

    try:
        progress = train(cell, data, folder / CHECKPOINT, on_row, progress_bar)
    except UserError:
        tracker.finish("crashed")
        raise
    except Exception as error:
        finish("crashed", error="".join(traceback.format_exception_only(error)).strip())
        raise
    return finish("ok" if progress.diverged_at_step is None else "diverged", progress)


@contextmanager
def _held(folder: Path, cell: Cell) -> Iterator[None]:
    """The cell's folder for this process alone. Raises UserError where it can't be written to."""
    with ExitStack() as held:
        try:
            held.enter_context(
                locked(folder, lambda: log.info("%s: another process is training it; waiting", cell.name))
            )
        except OSError as error:
            raise UserError(
                f"{folder}: expected a folder that can be written to, found: {error.strerror or error}; "
                "make it writable or choose another with results_dir=FOLDER."
            ) from error
        yield


def _line(row: Row) -> str:
    """One row for a log: epoch 0.50 | train 43.1 % | test 45.0 % | gradient ratio 12.3 | 21 s."""
    parts = [f"epoch {row.epoch:.2f}", f"step {row.step}"]
    if row.train_accuracy is not None:
        parts.append(f"train {row.train_accuracy:.2f} %")
    parts.append(f"test {row.test_accuracy:.2f} %")
    if row.gradient_ratio is not None:
        parts.append(f"gradient ratio {row.gradient_ratio:.3g}")
    return " | ".join([*parts, f"{row.seconds:.0f} s"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
