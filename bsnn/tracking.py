"""Weights & Biases: a live copy of the records. It never asks, and its failures never stop a training.

Trackers may be used in several threads at once, each in one.
"""

from __future__ import annotations

import functools
import logging
import netrc
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import wandb

from bsnn.cell import Cell
from bsnn.config import TrackingConfig
from bsnn.metrics import Row

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "disabled"]


class _Service:
    """W&B's own process, which all runs of this one share."""

    lock = threading.Lock()  # held while a run is opened, and for the two values below
    open_runs = 0
    refused = False  # an online run could not be opened: the next ones don't try


class Tracker:
    """One W&B run for one cell; with mode `none`, nothing.

    The run's id is <budget>-<cell id>, its group the cell without its seed (so that W&B's grouping averages over
    seeds), its config flat, its history the record's rows with `step` as W&B's step.
    """

    def __init__(self, config: TrackingConfig, cell: Cell, budget: str) -> None:
        self._run: Any = None
        self._attempt(lambda: self._start(config, cell, budget))

    def _start(self, config: TrackingConfig, cell: Cell, budget: str) -> None:
        mode = _mode(config.mode)
        if mode == "disabled":
            return
        with _Service.lock:
            run_id = f"{budget}-{cell.id}"
            if mode == "online" and not _Service.refused:
                self._attempt(lambda: self._open(config, cell, budget, run_id, "online"))
                if self._run is None:
                    _Service.refused = True
                    log.warning("W&B: this run and those that follow are kept offline")
                    # The service still holds the run that it could not open, and can be ended only if it holds no other
                    if _Service.open_runs:
                        run_id += "-offline"
                    else:
                        wandb.teardown()
            if self._run is None:
                self._open(config, cell, budget, run_id, "offline")
            _Service.open_runs += 1

    def _open(self, config: TrackingConfig, cell: Cell, budget: str, run_id: str, mode: Mode) -> None:
        Path(config.dir).mkdir(parents=True, exist_ok=True)  # else W&B writes to a temporary folder
        flat = {key: value for key, value in cell.as_dict().items() if key != "activation_module"}
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            dir=Path(config.dir).absolute(),  # W&B's service may have been started elsewhere
            id=run_id,
            name=cell.name,
            group=cell.name.rsplit("-", 1)[0],
            tags=[budget, cell.dataset, cell.activation, "gpn" if cell.gpn else "plain"] + ["bn"] * cell.batch_norm,
            config={**flat, "budget": budget, "hash": cell.hash},
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=30,
                x_disable_stats=True,
                x_disable_meta=True,
                disable_git=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric="epoch")

    def log(self, row: Row) -> None:
        """Add a row; entries that are None (no training yet) are left out."""
        known = {key: value for key, value in row.as_dict().items() if value is not None}
        if self._run is not None:
            self._attempt(lambda: self._run.log(known, step=row.step))

    def finish(self, status: str) -> None:
        """Close the run with the record's status in its summary."""
        if self._run is not None:
            self._attempt(lambda: self._run.summary.update({"status": status}))
        if self._run is not None:
            self._attempt(lambda: self._run.finish(exit_code=1 if status == "crashed" else 0))
            self._run = None
            with _Service.lock:
                _Service.open_runs -= 1

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("W&B: %s: %s; the record isn't affected", type(error).__name__, error)
            self._run = None


def _mode(requested: str) -> Mode:
    """`auto` is what WANDB_MODE says, else online for a user who is logged in and has a network, else offline."""
    if not os.environ.get("WANDB_MODE", "unset"):
        del os.environ["WANDB_MODE"]  # wandb raises an error for an empty one
    if requested == "auto":
        requested = os.environ.get("WANDB_MODE") or ("online" if _logged_in() and _reachable() else "offline")
    match requested:
        case "online":
            return "online"
        case "none" | "disabled":
            return "disabled"
        case _:
            return "offline"


def _logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or in the file where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(_server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


@functools.cache
def _reachable() -> bool:
    """Whether W&B's server answers at all; asked once a process, for wandb itself would try for minutes in each run."""
    try:
        urllib.request.urlopen(_server(), timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        log.warning("W&B: %s doesn't answer (%s); runs are kept offline", _server(), error)
        return False
    return True


def _server() -> str:
    return str(wandb.setup().settings.base_url)
