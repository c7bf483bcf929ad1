"""Upload of records to Weights & Biases: those that its server lacks, a few runs at a time.

The server is asked which runs it has; no file keeps track of them. So the answer is right after a kill, on another
machine, for runs that were live, and for those that `wandb sync` has uploaded. A run is complete if it has ended, has
a history line for each of the record's rows, and its summary is the record's. A run that holds the first rows of a
record's training is continued; one that holds another training's is superseded (bsnn.tracking.runs).
"""

from __future__ import annotations

import itertools
import re
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, cast

import wandb
from tqdm import tqdm
from wandb.errors import CommError

from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.results.records import UNFINISHED, Record
from bsnn.tracking.login import one_line
from bsnn.tracking.runs import agrees, expected_summary, failure, of_record, open_cell_run, same, write_record
from bsnn.tracking.watch import AGAIN, end_service, watched

AT_A_TIME = 4
"""Runs that are uploaded side by side.

They are enough to hide the latency of a few requests each, and few enough for W&B's limits on requests. If it answers
429 or 5xx nevertheless, wandb waits, longer each time, and repeats.
"""
GIVE_UP = 3  # failures in a row
SETTLE_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Waiting times between checks for completeness: W&B's server shows what it was sent with a delay."""


class Lacking(NamedTuple):
    record: Record
    id: str
    """The id of the run to write: a new one, or one that holds the first rows of this training."""


class Compared(NamedTuple):
    """The server's runs beside the records."""

    lacking: list[Lacking]
    obsolete: list[Any]
    """Runs of other trainings of the records' cells."""


def compare(api: wandb.Api, config: TrackingConfig, budget: str, records: Sequence[Record]) -> Compared:
    """Find the records whose runs are missing or incomplete on the server. Raises UserError if it doesn't answer."""
    there: dict[str, list[Any]] = {}
    for run in _runs(api, config, budget):
        there.setdefault(_first_id(run.id), []).append(run)
    lacking: list[Lacking] = []
    obsolete: list[Any] = []
    for record in records:
        first = of_record(record).id
        found = there.get(first, [])
        mine = next((run for run in found if _is_part(run, record)), None)
        if mine is None and (ahead := next((run for run in found if _is_ahead(run, record)), None)):
            mine = ahead
        elif mine is None:
            ids = {first, *(run.id for run in found)}
            free = next(name for name in (f"{first}-{n}" for n in itertools.count(2)) if name not in ids)
            lacking.append(Lacking(record, free if found else first))
        elif not _holds(mine, record):
            lacking.append(Lacking(record, mine.id))
        obsolete += [run for run in found if run is not mine]
    return Compared(lacking, obsolete)


def _first_id(run_id: str) -> str:
    """Return the id of a cell's first run: without the number of another training."""
    return re.sub(r"(-[0-9a-f]{8})-\d+$", r"\1", run_id)


def upload(
    api: wandb.Api, config: TrackingConfig, budget: str, records: Sequence[Record], folder: Path
) -> tuple[int, int]:
    """Upload what is lacking, and check that it has arrived.

    Args:
        records: with results, finished or not; no process trains their cells meanwhile.
        folder: the place for W&B's copies meanwhile; removed at the end.

    Returns how many runs were written, and how many runs of other trainings were superseded.

    Raises:
        UserError: something is still lacking; the same call goes on from there.
    """
    missing, obsolete = compare(api, config, budget, records)
    if missing:
        _bring(api, config, budget, missing, folder)
    for run in obsolete:
        _supersede(run, budget)
    return len(missing), len(obsolete)


def _bring(api: wandb.Api, config: TrackingConfig, budget: str, missing: Sequence[Lacking], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a killed call
    with watched() as silent:
        failures = _upload_all(config, missing, folder, silent)
    left = list(missing)
    for seconds in SETTLE_SECONDS:
        time.sleep(seconds)
        left = compare(api, config, budget, [one.record for one in left]).lacking
        if not left or failures:
            break
    shutil.rmtree(folder, ignore_errors=True)
    if left:
        why = failures[0] if failures else "the server doesn't show them"
        raise UserError(f"W&B: expected {len(missing)} runs to arrive, {len(left)} did not ({why}); {AGAIN}.")


def _supersede(run: Any, budget: str) -> None:
    """Take a run of another training out of the budget's charts; its rows stay."""
    run.tags = ["superseded"]
    run.config["budget"] = f"{budget}, superseded"
    try:
        run.update()
    except CommError as error:
        raise UserError(
            f"W&B: expected to mark the run {run.id} as superseded, found: {failure(error)}; {AGAIN}."
        ) from error


def _upload_all(config: TrackingConfig, missing: Sequence[Lacking], folder: Path, silent: threading.Event) -> list[str]:
    """Replay all records, unless several in a row fail or the server is `silent`. Returns the failures."""
    failures: list[str] = []
    in_a_row = 0
    stop, opening = threading.Event(), threading.Lock()

    def one(lacks: Lacking) -> None:
        with opening:  # so that `stop` stops those that wait for it
            if stop.is_set() or silent.is_set():
                return
            told = of_record(lacks.record)._replace(id=lacks.id)
            run = open_cell_run(config, told, "online", folder=folder, patient=True)
        write_record(run, lacks.record)

    with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="upload") as pool:
        futures = {pool.submit(one, lacks): lacks.record["id"] for lacks in missing}
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit="run", desc="upload", disable=None):
                error = future.exception()
                in_a_row = 0 if error is None else in_a_row + 1
                if error is not None:
                    failures.append(f"{futures[future]}: {failure(error)}")
                    if in_a_row >= GIVE_UP:
                        stop.set()
        except BaseException:
            stop.set()
            end_service()  # otherwise the open runs would be waited for
            raise
    return failures


def _runs(api: wandb.Api, config: TrackingConfig, budget: str) -> list[Any]:
    """List the project's runs that carry the budget's tag; none if there is no such project yet."""
    path = f"{config.entity}/{config.project}"
    cast(Any, api).flush()  # without this it would repeat its first answer
    try:
        return list(api.runs(path, filters={"tags": budget}, per_page=200, lazy=False))
    except ValueError as error:
        if "project" in str(error).lower():
            return []
        raise UserError(f"W&B: expected the runs of {path}, found: {one_line(error)}.") from error
    except CommError as error:
        raise UserError(f"W&B: expected the runs of {path}, found: {one_line(error)}; try again later.") from error


def _is_part(run: Any, record: Record) -> bool:
    """True if the run holds this training, or its first rows: the run's last row is the record's at that step.

    A run without a last row was cut off before it had one.
    """
    summary = dict(run.summary_metrics)
    last = [row for row in record["rows"] if row["step"] == summary.get("step")]
    return "step" not in summary or any(agrees(summary, row) for row in last)


def _is_ahead(run: Any, record: Record) -> bool:
    """True if the run was live and killed after the last checkpoint: the training will get there again."""
    reached = int(dict(run.summary_metrics).get("step", -1))
    return record["status"] == UNFINISHED and reached > int(record["steps"])


def _holds(run: Any, record: Record) -> bool:
    if run.state != "finished" or int(run.historyLineCount or 0) != len(record["rows"]):
        return False
    summary = dict(run.summary_metrics)
    return all(same(summary.get(key), value) for key, value in expected_summary(record).items())
