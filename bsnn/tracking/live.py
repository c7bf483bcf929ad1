"""A live copy of the record in Weights & Biases while a cell trains.

It never asks the user, and its failures never stop a training that has begun.

Several threads may use trackers at once, each its own. bsnn.tracking.runs defines the contents of a run.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb

from bsnn.cell import Cell
from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.results.metrics import Row
from bsnn.results.records import UNFINISHED
from bsnn.tracking import login, runs
from bsnn.tracking.login import Mode
from bsnn.tracking.runs import Described

log = logging.getLogger(__name__)


class _Service:
    """W&B's own process, which all runs of this process share."""

    lock = threading.Lock()  # held while a run is opened, and for the two values below
    open_runs = 0
    refused = False  # an online run could not be opened: the next ones don't try


class Tracker:
    """One W&B run for one cell; with mode `none`, no run.

    It is given all rows, those of a resumed training's checkpoint first. Online it continues the cell's run: rows that
    the server holds already are not sent again. A run that belongs to another training is left alone, and scripts.sync
    uploads this one's rows. Offline every process writes a run of its own, with all rows from the first on, and removes
    the shorter ones of earlier processes.

    Raises UserError for mode `online` without a login.
    """

    def __init__(self, config: TrackingConfig, cell: Cell, budget: str) -> None:
        self._run: Any = None
        self._cell = cell
        self._held = -1  # the step of the last row that the server held before
        self._rows: list[Row] = []
        self._offline = False
        self._attempt(lambda: self._start(config, runs.of_cell(cell, budget)))

    def _start(self, config: TrackingConfig, told: Described) -> None:
        mode = login.mode(config.mode)
        if mode == "disabled":
            return
        with _Service.lock:
            if mode == "online" and not _Service.refused:
                self._attempt(lambda: self._open(config, told, "online"))
                if self._run is None:
                    _Service.refused = True
                    log.warning("W&B: this run and those that follow are kept offline")
                    # The service still holds the run that it could not open, and can be ended only if it holds no other
                    if _Service.open_runs:
                        told = told._replace(id=f"{told.id}-offline")
                    else:
                        wandb.teardown()
            if self._run is None:
                self._open(config, told, "offline")
                self._offline = True
            _Service.open_runs += 1

    def _open(self, config: TrackingConfig, told: Described, mode: Mode) -> None:
        self._run = runs.open_cell_run(config, told, mode)
        self._held = runs.held_step(self._run)

    def log(self, row: Row) -> None:
        """Add a row; entries that are None (no training yet) are left out."""
        if self._run is not None:
            self._attempt(lambda: self._add(row))

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        if row.step > self._held:
            runs.add_row(self._run, row.as_dict())
        elif row.step == self._run.summary.get("step") and not runs.agrees(self._run.summary, row.as_dict()):
            log.warning("W&B: the run %s is that of another training; `make sync` brings this one", self._run.id)
            self._close(lambda run: run.finish())

    def finish(self, status: str) -> None:
        """Close the run with the record's status in its summary; an unfinished one's includes its progress."""
        if self._run is None:
            return
        if status == UNFINISHED:
            rows = [row.as_dict() for row in self._rows]
            status = runs.status_of({"status": status, "cell": self._cell.as_dict(), "rows": rows})
        self._close(lambda run: runs.close_run(run, status))

    def _close(self, end: Callable[[Any], object]) -> None:
        run = self._run
        self._attempt(lambda: end(run))
        if self._offline and self._run is not None and self._rows and self._rows[0].step == 0:
            self._attempt(lambda: _remove_earlier(run))
        self._run = None
        with _Service.lock:
            _Service.open_runs -= 1

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except UserError:
            raise
        except Exception as error:
            log.warning("W&B: %s; the record isn't affected", runs.failure(error))
            self._run = None


def _remove_earlier(run: Any) -> None:
    """Remove the offline runs of this id that earlier processes left beside it.

    W&B adds a number to the folder's name if two of them begin in the same second.
    """
    mine = Path(run.dir).parent
    earlier = re.compile(rf"offline-run-\d+_\d+-{re.escape(run.id)}(-\d+)?")
    for folder in mine.parent.iterdir():
        if folder != mine and earlier.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
