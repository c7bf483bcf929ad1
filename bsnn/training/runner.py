"""From configs to records: cells are planned into stacks and trained, side by side where that is faster.

Finished cells are skipped, and interrupted ones go on from their checkpoints. A cell that diverges or crashes disturbs
no other, and several processes may be given the same cells.
"""

from __future__ import annotations

import functools
import gc
import logging
import math
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from bsnn.cell import Cell
from bsnn.config import TrainConfig
from bsnn.data import Dataset, load
from bsnn.errors import UserError
from bsnn.files import user_path
from bsnn.network import BSNN
from bsnn.results.records import FINISHED, Record, read_record
from bsnn.training import checkpoints, joblog
from bsnn.training.cellrun import CHECKPOINT, CellRun, Job, stored
from bsnn.training.loop import Ended, Event, NewRow, Stored, Took, train
from bsnn.training.meter import Meter
from bsnn.training.planning import cores, plan
from bsnn.training.tally import Counted, Tally
from bsnn.training.timelimit import CLOSING_SECONDS, CLOSING_SECONDS_PER_CELL, Countdown, OutOfTime, reserve

__all__ = ["Job", "load_trained", "run_cell", "run_cells"]
log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
DataKey = tuple[str, torch.device, torch.dtype]  # name, where, dtype


def run_cell(
    config: TrainConfig, resolved_config: dict[str, Any], command: str | None = None, progress_bar: bool = False
) -> Record:
    """Train the cell that `config` describes and return its record, which then lies in its folder.

    A finished cell's record is returned as it is; with config.until, also that of a cell that got as far. An exception
    in training is recorded as status `crashed` and raised; a UserError, or OutOfTime for config.time_limit, is only
    raised. `command` is the origin that the record's provenance names.
    """
    [outcome] = run_cells([Job(config, resolved_config, command)], progress_bar)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def run_cells(
    jobs: Sequence[Job],
    progress_bar: bool = False,
    started: float | None = None,
    tell: Callable[[Tally], None] = lambda tally: None,
) -> list[Record | BaseException]:
    """Train the jobs' cells; return for each, in their order, its record or the exception in its place.

    A failed cell doesn't stop the others. Cells that other processes train meanwhile are waited for. A
    KeyboardInterrupt and the least time_limit of the jobs stop all of them within a second or so. Each cell that has
    begun then has a checkpoint of its present state and, once it has a row of trained weights, the record of an
    unfinished cell. With a time limit the answer for such a cell is OutOfTime.

    Args:
        started: the time.time() that the limit counts from; default: now.
        tell: called at the end with the tally of the cells, if they were stopped or might have been.
    """
    limits = [job.config.time_limit for job in jobs if job.config.time_limit is not None]
    now = time.time()
    deadline = time.monotonic() + min(limits) - (now - (now if started is None else started)) if limits else None
    asked: dict[Path, list[Job]] = defaultdict(list)
    for job in jobs:
        asked[job.folder].append(job)
    runs = {folder: CellRun(same) for folder, same in asked.items()}
    with joblog.routed():
        sweep = _Sweep(list(runs.values()), progress_bar, deadline)
        try:
            sweep.run()
        finally:
            if limits or sweep.stopped:
                tell(sweep.tally(min(limits, default=None)))
    return [runs[job.folder].outcome or OutOfTime(f"{job.folder.name}: stopped by the time limit") for job in jobs]


def load_trained(folder: str | Path, trust: bool = False) -> BSNN:
    """Load a cell's trained network from its folder (run with keep_checkpoint=true), in evaluation mode.

    trust: build whatever activation the record names. By default only an activation of torch.nn or a module of bsnn is
        built: the folder may come from somebody else, and any other name runs code.

    Raises UserError if there is no finished record, no checkpoint, or an activation that isn't trusted.
    """
    folder = user_path(folder)
    record = read_record(folder)
    if record is None or record["status"] not in FINISHED:
        raise UserError(f"{folder}: expected the record of a finished cell, found none; train it first.")
    if not (folder / CHECKPOINT).exists():
        raise UserError(
            f"{folder}: expected {CHECKPOINT}, found none: weights are kept only on request; move the folder away and "
            "train the cell again with keep_checkpoint=true."
        )
    return checkpoints.load_network(folder / CHECKPOINT, Cell.from_dict(record["cell"], trusted=trust))


class _Sweep:
    """The training of some cells in rounds: a round plans and trains the cells that no other process holds."""

    def __init__(self, runs: Sequence[CellRun], progress_bar: bool, deadline: float | None) -> None:
        self._runs = runs
        self._stop = threading.Event()
        self._deadline = deadline  # of time.monotonic()
        self._time_is_up = threading.Event()
        self._start_up = 0.0  # the longest time from taking a stack to its first event
        self._before: dict[CellRun, int] = {}  # steps behind records and checkpoints
        self._meter = Meter(len(runs), lambda: sum(run.outcome is not None for run in runs), progress_bar)
        self._loading = threading.Lock()
        self._data: dict[DataKey, Dataset | Exception] = {}
        self._stacks_to_come: Counter[DataKey] = Counter()

    def run(self) -> None:
        waiting = list(self._runs)
        try:
            while waiting:
                free = [run for run in waiting if run.prepare()]
                self._before = self._before or {run: _stored(run) for run in self._runs}
                if free and not self._out_of_time():
                    self._round(free)
                waiting = [run for run in waiting if run.outcome is None]
                if self._out_of_time():
                    break
                if waiting and not free:  # other processes train them
                    time.sleep(POLL_SECONDS)
        finally:
            self._meter.close()

    @property
    def stopped(self) -> bool:
        """True once Ctrl-C, or an error outside the trainings, has stopped them."""
        return self._stop.is_set()

    def tally(self, limit: float | None) -> Tally:
        """Count how far the cells are, after `run`."""
        left = [run for run in self._runs if run.outcome is None]
        for run in left:
            run.step = stored(run.folder, run.cell, run.goal)
        return Tally.of((self._counted(run) for run in self._runs), limit)

    def _counted(self, run: CellRun) -> Counted:
        return Counted(
            steps=run.goal,
            before=self._before.get(run, 0),
            stored=_stored(run),
            ended=isinstance(run.outcome, dict),
            failed=isinstance(run.outcome, BaseException),
            elsewhere=run.outcome is None and run.waiting,
        )

    def _out_of_time(self, needed: float = 0.0) -> bool:
        """True if no stack that needs so many seconds may start any more."""
        if self._deadline is not None and time.monotonic() + needed >= self._deadline:
            self._time_is_up.set()
        return self._time_is_up.is_set()

    def _round(self, free: Sequence[CellRun]) -> None:
        self._meter.expect(sum(run.goal - run.step for run in free))
        on_cpu = all(run.device.type == "cpu" for run in free)
        wished = [run.config.threads for run in free if run.config.threads is not None]
        workers = min(wished, default=cores()) if on_cpu else 1
        stacks = plan(free, workers)
        self._stacks_to_come.update(_data_key(stack[0]) for stack in stacks)
        with _one_torch_thread(on_cpu), ThreadPoolExecutor(workers, thread_name_prefix="stack") as pool:
            try:
                futures = {pool.submit(self._train_stack, stack) for stack in stacks}
                while futures:
                    done, futures = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    self._meter.report()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _train_stack(self, planned: Sequence[CellRun]) -> None:
        with joblog.about(lambda: [file for run in planned if run.outcome is None for file in run.log_files()]):
            try:
                needed = self._start_up + _closing_seconds(planned) + reserve([run.cell for run in planned])
                stop = self._stop.is_set() or self._out_of_time(needed)
                claimed = [run for run in planned if not stop and run.claim()]
                if claimed:
                    self._train(claimed)
            finally:
                for run in planned:
                    run.let_go()
                self._release_data(_data_key(planned[0]))

    def _train(self, members: Sequence[CellRun]) -> None:
        data = self._load_data(_data_key(members[0]))
        if isinstance(data, Dataset):
            self._attempt(members, data)
        else:
            for run in members:
                run.fail(data)

    def _attempt(self, members: Sequence[CellRun], data: Dataset) -> None:
        """Train a stack. If that raises an exception, train smaller stacks, down to the cell that caused it."""
        try:
            stopped = self._watch(members, data)
        except Exception as error:
            failure = error
        else:
            for run in (run for run in members if run.outcome is None):
                run.stop() if stopped else run.reach()
            return
        left = [run for run in members if run.outcome is None]
        if len(members) == 1:
            for run in left:
                run.fail(failure)
            return
        short_of_memory = isinstance(failure, torch.OutOfMemoryError)
        size = math.ceil(len(members) / 2) if short_of_memory else 1
        log.warning(
            "a stack of %d cells failed (%s: %s); they go on %s",
            len(members), type(failure).__name__, failure, f"in stacks of {size}" if size > 1 else "one by one",
        )  # fmt: skip
        del failure  # its traceback holds the stack's memory
        gc.collect()
        if short_of_memory:
            torch.cuda.empty_cache()
        by_step: dict[int, list[CellRun]] = defaultdict(list)
        for run in left:
            if run.restart():
                by_step[run.step].append(run)
        for equally_far in by_step.values():
            for start in range(0, len(equally_far), size):
                if not self._stop.is_set() and not self._out_of_time():
                    self._attempt(equally_far[start : start + size], data)

    def _watch(self, members: Sequence[CellRun], data: Dataset) -> bool:
        """Train a stack until it has ended, or must stop; returns whether it was stopped."""
        began = time.monotonic()
        deadline = None if self._deadline is None else self._deadline - _closing_seconds(members)
        countdown = Countdown(deadline, [run.cell for run in members])
        events = train(
            [run.cell for run in members],
            data,
            [run.checkpoint for run in members],
            goal=max(run.goal for run in members),
            checkpoint_seconds=min(run.config.checkpoint_seconds for run in members),
            keep_checkpoint=any(run.config.keep_checkpoint for run in members),
            origins=[run.origin(len(members)) for run in members],
        )
        with closing(events):
            for number, event in enumerate(events):
                self._note(members, event, countdown)
                if number == 0:
                    self._start_up = max(self._start_up, time.monotonic() - began)
                if countdown.is_up(sum(run.outcome is None for run in members)):
                    self._time_is_up.set()
                if self._time_is_up.is_set() or self._stop.is_set():
                    return True
        return False

    def _note(self, members: Sequence[CellRun], event: Event, countdown: Countdown) -> None:
        match event:
            case Took(networks, steps):
                self._meter.add(networks * steps)
            case NewRow(index, row):
                members[index].add(row)
            case Stored(index, seconds):
                countdown.stored(seconds)
                members[index].store()
            case Ended(index, progress):
                self._meter.expect(progress.step - members[index].goal)  # a diverged one needs no more
                members[index].finish(progress)

    def _load_data(self, key: DataKey) -> Dataset | Exception:
        """Return the dataset, or the error of loading it; it is loaded once for all stacks of a round."""
        with self._loading:
            if key not in self._data:
                try:
                    self._data[key] = _loaded(*key, os.environ.get("BSNN_DATA_DIR"))
                except Exception as error:
                    self._data[key] = error
            return self._data[key]

    def _release_data(self, key: DataKey) -> None:
        with self._loading:
            self._stacks_to_come[key] -= 1
            if self._stacks_to_come[key] == 0:
                self._data.pop(key, None)


def _stored(run: CellRun) -> int:
    """Count the cell's steps that need not be repeated: all if it has a record, else those of its checkpoint."""
    return run.goal if isinstance(run.outcome, dict) else min(run.step, run.goal)


def _closing_seconds(runs: Sequence[CellRun]) -> float:
    """Estimate the seconds from the last checkpoint to the end of the process."""
    tracked = sum(run.config.tracking.mode != "none" for run in runs)
    return CLOSING_SECONDS + CLOSING_SECONDS_PER_CELL * tracked


def _data_key(run: CellRun) -> DataKey:
    return run.cell.dataset, run.device, run.cell.torch_dtype


@functools.lru_cache(maxsize=1)
def _loaded(name: str, device: torch.device, dtype: torch.dtype, data_dir: str | None) -> Dataset:
    """Load a dataset. The last one stays in memory for the next stacks and the next call of `run_cells`."""
    return load(name, device, dtype, data_dir)


@contextmanager
def _one_torch_thread(on_cpu: bool) -> Iterator[None]:
    """Use one torch thread on a CPU: stacks run side by side, each product in the thread that asks for it."""
    before = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
