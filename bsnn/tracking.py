"""Weights & Biases while a cell trains: a live copy of the record. It never asks, and its failures never stop a
training that has begun.

Trackers may be used in several threads at once, each in one. What a run holds is defined in bsnn.wandb_runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import wandb

from bsnn import wandb_login, wandb_runs
from bsnn.cell import Cell
from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.metrics import Row
from bsnn.wandb_login import Mode
from bsnn.wandb_runs import Described

log = logging.getLogger(__name__)


class _Service:
    """W&B's own process, which all runs of this one share."""

    lock = threading.Lock()  # held while a run is opened, and for the two values below
    open_runs = 0
    refused = False  # an online run could not be opened: the next ones don't try


class Tracker:
    """One W&B run for one cell; with mode `none`, nothing. Raises UserError for mode `online` without a login."""

    def __init__(self, config: TrackingConfig, cell: Cell, budget: str) -> None:
        self._run: Any = None
        self._attempt(lambda: self._start(config, wandb_runs.of_cell(cell, budget)))

    def _start(self, config: TrackingConfig, told: Described) -> None:
        mode = wandb_login.mode(config.mode)
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
            _Service.open_runs += 1

    def _open(self, config: TrackingConfig, told: Described, mode: Mode) -> None:
        self._run = wandb_runs.open_cell_run(config, told, mode)

    def log(self, row: Row) -> None:
        """Add a row; entries that are None (no training yet) are left out."""
        if self._run is not None:
            self._attempt(lambda: wandb_runs.add_row(self._run, row.as_dict()))

    def finish(self, status: str) -> None:
        """Close the run with the record's status in its summary."""
        if self._run is not None:
            self._attempt(lambda: wandb_runs.close_run(self._run, status))
            self._run = None
            with _Service.lock:
                _Service.open_runs -= 1

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except UserError:
            raise
        except Exception as error:
            log.warning("W&B: %s; the record isn't affected", wandb_runs.failure(error))
            self._run = None
