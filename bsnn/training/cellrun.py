"""One cell on its way from config to record: its folder and lock, its W&B run, its log files.

While it trains, its folder holds a checkpoint and the record of an unfinished cell, which is made from the checkpoint.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import nn

from bsnn.cell import Cell
from bsnn.config import TrainConfig
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.gpn import GPN
from bsnn.results.metrics import Row
from bsnn.results.provenance import choose_device, collect
from bsnn.results.records import FINISHED, SCHEMA, UNFINISHED, Record, how_far, read_record, run_dir, write_record
from bsnn.training import checkpoints, joblog
from bsnn.training.checkpoints import Progress, checkpoint_step
from bsnn.training.loop import stack_key
from bsnn.training.planning import steps, steps_per_epoch

if TYPE_CHECKING:
    from bsnn.tracking.live import Tracker

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Job:
    """A request to train a cell.

    Args:
        command: the origin that the record's provenance names.
        log_files: files for this cell's log lines, beside the root logger's handlers.
    """

    config: TrainConfig
    resolved_config: dict[str, Any]
    command: str | None = None
    log_files: Sequence[logging.Handler] = ()

    @property
    def folder(self) -> Path:
        """The cell's folder, the same for two jobs that ask for the same cell."""
        cell = Cell.from_config(self.config)
        return run_dir(self.config.results_dir, self.config.budget.name, cell.id).absolute()


def goal(config: TrainConfig) -> int:
    """Count the steps to which a command trains a cell: all, or those up to the end of the epoch `until`."""
    cell = Cell.from_config(config)
    return steps(cell) if config.until is None else min(steps(cell), config.until * steps_per_epoch(cell))


def answer(folder: Path, goal: int) -> Record | None:
    """Read the record that answers a request for `goal` steps: that of a finished cell, or of one that got as far.

    A cell that was stopped in its last instants may have all of its rows, but no end in its record yet. That is no
    answer.
    """
    record = read_record(folder)
    if record is None or record["status"] in FINISHED:
        return record
    going_on = record["diverged_at_step"] is None and record["steps"] < steps(Cell.from_dict(record["cell"]))
    return record if record["status"] == UNFINISHED and going_on and record["steps"] >= goal else None


def stored(folder: Path, cell: Cell, goal: int) -> int:
    """Count the steps of a request that need not be repeated: all if a record answers, else those of a checkpoint."""
    try:
        return goal if answer(folder, goal) is not None else min(goal, checkpoint_step(folder / CHECKPOINT, cell))
    except Exception:
        return 0  # damaged, or just being replaced: the process that trains the cell will say so


class CellRun:
    """One cell from config to record. `outcome` is the record, or the exception in its place, once it is known.

    The record is that of a finished cell or, with `until`, of one that got as far as was asked.
    """

    device: torch.device
    phi: nn.Module
    key: Hashable  # cells with equal keys can share a stack

    def __init__(self, jobs: Sequence[Job]) -> None:
        job = jobs[0]
        self.jobs, self.config = jobs, job.config
        self.cell = Cell.from_config(job.config)
        self.folder = run_dir(job.config.results_dir, job.config.budget.name, self.cell.id)
        self.checkpoint = self.folder / CHECKPOINT
        self.max_stack = job.config.max_stack
        self.goal = max(goal(job.config) for job in jobs)
        self.step = 0
        self.waiting = False  # another process trained it when it was last looked at
        self.outcome: Record | BaseException | None = None
        self._lock: FileLock | None = None
        self._seen: tuple[int, int] | None = None
        self._tracker: Tracker | None = None  # none without W&B
        self._tracked = -1  # the step of the last row that W&B and the log have

    def about(self) -> AbstractContextManager[None]:
        """Send what is logged in the block to this cell's files, too."""
        return joblog.about(self.log_files)

    def log_files(self) -> list[logging.Handler]:
        return [file for job in self.jobs for file in job.log_files]

    def prepare(self) -> bool:
        """Find out how far the cell is. Returns True if it can be trained now; `device`, `key` and `step` are then set.

        Otherwise it has an outcome, or another process trains it. No lock is held afterwards. So several processes may
        be given the same cells and share them, and none ever waits for a lock while it holds another.
        """
        with self.about():
            try:
                if self._skip_if_answered() or not self._try_lock():
                    return False
                try:
                    self._look()
                finally:
                    self.release()
            except Exception as error:
                self._end(error)
            return self.outcome is None

    def _look(self) -> None:
        for leftover in self.folder.glob(".*.tmp"):  # of a process killed while it wrote
            leftover.unlink()
        if self._skip_if_answered():
            return
        self.device = choose_device(self.config.device)
        if self.cell.dtype == "tf32" and self.device.type != "cuda":
            raise UserError("dtype=tf32: expected a CUDA device, whose tensor cores know it, found none; use float32.")
        self.phi = self.cell.make_activation()
        self.key = stack_key(self.cell)
        self._seen = self._checkpoint_version()
        self.step = checkpoint_step(self.checkpoint, self.cell)
        self.store()  # a process killed between checkpoint and record has left an older record
        self._skip_if_answered()

    def claim(self) -> bool:
        """Take the cell's folder to train it now. False if another process was faster: then `prepare` it again."""
        with self.about():
            try:
                if not self._try_lock():
                    return False
                if self._skip_if_answered() or self._checkpoint_version() != self._seen:
                    self.release()
                    return False
                if self.step:
                    log.info("%s: resuming at step %d", self.cell.name, self.step)
                elif (known := read_record(self.folder)) is not None and known["status"] == UNFINISHED:
                    log.info(
                        "%s: starting over, for the record of %s has no checkpoint beside it; its rows stay until this "
                        "training has overtaken them",
                        self.cell.name,
                        how_far(known),
                    )
                if self.config.tracking.mode != "none":
                    from bsnn.tracking import live  # imported here because importing W&B takes a second

                    self._tracker = live.Tracker(self.config.tracking, self.cell, self.config.budget.name)
            except Exception as error:
                self._end(error)
            return self.outcome is None

    def origin(self, stack: int) -> dict[str, Any]:
        """Describe this process for the record. `stack`: how many cells are trained together."""
        return collect(self.device, self.jobs[0].command) | {"stack": stack}

    def restart(self) -> bool:
        """Prepare another attempt after a crash of its stack, from the checkpoint, whose rows will come again."""
        try:
            self.step = checkpoint_step(self.checkpoint, self.cell)
        except UserError as error:
            self.fail(error)
        return self.outcome is None

    def add(self, row: Row) -> None:
        if row.step > self._tracked:
            self._tracked = row.step
            with self.about():
                if self._tracker is not None:
                    self._tracker.log(row)
                log.info("%s: %s", self.cell.name, _line(row))

    def store(self) -> None:
        """Bring the record up to the checkpoint, if that has rows of trained weights.

        A record that is further than the checkpoint stays. It came from elsewhere without its checkpoint, and this
        training has yet to overtake it.
        """
        if not self.checkpoint.exists():
            return
        _, progress = checkpoints.load(self.checkpoint, self.cell)
        known = read_record(self.folder)
        farther = known is not None and known["status"] == UNFINISHED and known["steps"] > progress.rows_step
        if progress.rows_step > 0 and not farther:
            self._write(UNFINISHED, progress)

    def finish(self, progress: Progress) -> None:
        """Write the record of a training that has ended."""
        with self.about():
            try:
                record = self._write("ok" if progress.diverged_at_step is None else "diverged", progress)
                self._drop_checkpoint()
                log.info("%s: %s", self.cell.id, record["status"])
                self._end(record)
            except Exception as error:
                self._end(error)

    def stop(self) -> None:
        """Bring the record up to the last checkpoint, after the training was stopped."""
        with self.about():
            try:
                self.store()
            except Exception as error:
                self._end(error)

    def reach(self) -> None:
        """Take the unfinished cell's record as the outcome, since it got as far as was asked."""
        with self.about():
            try:
                record = answer(self.folder, self.goal)
                if record is None:
                    raise RuntimeError(f"expected a record of {self.goal} steps when the training stopped, found none")
                log.info("%s: %s", self.cell.name, how_far(record))
                self._end(record)
            except Exception as error:
                self._end(error)

    def fail(self, error: Exception) -> None:
        """Write the record of a crash, after the training raised `error`. A user's mistake leaves no record."""
        with self.about():
            if not isinstance(error, UserError):
                text = "".join(traceback.format_exception_only(error)).strip()
                log.error("%s: crashed", self.cell.name, exc_info=error)
                try:
                    known = read_record(self.folder)
                    if known is not None and known["status"] == UNFINISHED:  # its rows are as good as before
                        write_record(self.folder, known | {"error": text})
                    else:
                        self._write("crashed", Progress(), text)
                except Exception as second:
                    log.error("%s: %s", self.cell.name, second)
            self._end(error)

    def let_go(self) -> None:
        """Let go of a cell after `claim`: it has ended, or was stopped and may go on from its checkpoint some day."""
        if self.outcome is None:
            self._close(UNFINISHED)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _end(self, outcome: Record | Exception) -> None:
        self._close("crashed" if isinstance(outcome, Exception) else outcome["status"])
        self.outcome = outcome

    def _close(self, status: str) -> None:
        if self._tracker is not None:
            self._tracker.finish(status)
            self._tracker = None
        self.release()
        for file in self.log_files():
            file.close()

    def _try_lock(self) -> bool:
        try:
            self._lock = try_lock(self.folder)
        except OSError as error:
            raise UserError(
                f"{self.folder}: expected a folder that can be written to, found: {error.strerror or error}; "
                "make it writable or choose another with results_dir=FOLDER."
            ) from error
        if self._lock is None and not self.waiting:
            log.info("%s: another process is training it; waiting", self.cell.name)
        self.waiting = self._lock is None
        return self._lock is not None

    def _skip_if_answered(self) -> bool:
        record = answer(self.folder, self.goal)
        if record is None:
            return False
        if record["status"] in FINISHED:
            log.info("%s: already trained (%s), skipped", self.cell.name, record["status"])
            if not record["config"].get("keep_checkpoint"):
                self._drop_checkpoint()
        else:
            log.info("%s: already trained for %s, skipped", self.cell.name, how_far(record))
        self._end(record)
        return True

    def _drop_checkpoint(self) -> None:
        if not self.config.keep_checkpoint:
            self.checkpoint.unlink(missing_ok=True)

    def _checkpoint_version(self) -> tuple[int, int] | None:
        """Identify the checkpoint file by modification time and size; None if there is none."""
        if not self.checkpoint.exists():
            return None
        status = self.checkpoint.stat()
        return status.st_mtime_ns, status.st_size

    def _write(self, status: str, progress: Progress, error: str | None = None) -> Record:
        now = _now()
        nothing = {"started": now, "finished": now, "provenance": self.origin(1)}  # for a cell that crashed at once
        first, last = (progress.segments[0], progress.segments[-1]) if progress.segments else (nothing, nothing)
        record = {
            "schema": SCHEMA,
            "id": self.cell.id,
            "hash": self.cell.hash,
            "status": status,
            "error": error,
            "budget": self.config.budget.name,
            "cell": self.cell.as_dict(),
            "gpn_constants": {"a": self.phi.a, "b": self.phi.b} if isinstance(self.phi, GPN) else None,
            "steps": progress.rows_step,
            "diverged_at_step": progress.diverged_at_step,
            "seconds": progress.rows[-1]["seconds"] if progress.rows else 0.0,
            "started": first["started"],
            "finished": last["finished"],
            "rows": progress.rows,
            "gradient_norms": {"first": progress.first_gradient_norms, "last": progress.last_gradient_norms},
            "provenance": last["provenance"],
            "segments": progress.segments,
            "config": self.jobs[0].resolved_config,
        }
        write_record(self.folder, record)
        return record


def _line(row: Row) -> str:
    """Format one row for a log: epoch 0.50 | train 43.1 % | test 45.0 % | gradient ratio 12.3 | 21 s."""
    parts = [f"epoch {row.epoch:.2f}", f"step {row.step}"]
    if row.train_accuracy is not None:
        parts.append(f"train {row.train_accuracy:.2f} %")
    parts.append(f"test {row.test_accuracy:.2f} %")
    if row.gradient_ratio is not None:
        parts.append(f"gradient ratio {row.gradient_ratio:.3g}")
    return " | ".join([*parts, f"{row.seconds:.0f} s"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
