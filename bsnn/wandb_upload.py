"""Finished records to Weights & Biases: what its server lacks, a few runs at a time.

Whether a run is there is asked of the server, not kept in a file: so the answer is right after a kill, on another
machine, for runs that were live, and for those that `wandb sync` has brought there. A run is there if it has ended, has
a history line for each of the record's rows, and its summary is the record's.
"""

from __future__ import annotations

import math
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
from bsnn.records import FINISHED, Record
from bsnn.wandb_login import one_line
from bsnn.wandb_runs import expected_summary, failure, of_record, open_cell_run, write_record
from bsnn.wandb_watch import AGAIN, end_service, watched

AT_A_TIME = 4
"""Runs that are uploaded side by side: enough to hide the latency of a few requests each, few enough for W&B's limits
on requests. Where it answers 429 or 5xx nevertheless, wandb waits, longer each time, and repeats."""
GIVE_UP = 3  # failures one after the other
SETTLE_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Waiting times between questions whether all is there: W&B's server shows what it was sent with a delay."""


class Lacking(NamedTuple):
    record: Record
    held_rows: int
    """Of a run that is there in part."""


def lacking(api: wandb.Api, config: TrackingConfig, budget: str, records: Sequence[Record]) -> list[Lacking]:
    """The finished records whose runs the server doesn't hold, or not in whole. Raises UserError if it won't tell."""
    there = {run.id: run for run in _runs(api, config, budget)}
    found = [(record, there.get(of_record(record).id)) for record in records if record["status"] in FINISHED]
    return [Lacking(record, _held_rows(run)) for record, run in found if not _holds(run, record)]


def upload(api: wandb.Api, config: TrackingConfig, budget: str, records: Sequence[Record], folder: Path) -> int:
    """Bring there what is lacking, and ask whether it has arrived. Returns how many runs that were.

    Args:
        folder: where W&B puts its copies meanwhile; removed in the end.
    Raises:
        UserError: something is still lacking; the same call goes on from there.
    """
    missing = lacking(api, config, budget, records)
    if not missing:
        return 0
    shutil.rmtree(folder, ignore_errors=True)  # of a killed call
    with watched() as silent:
        failures = _upload_all(config, missing, folder, silent)
    left = missing
    for seconds in SETTLE_SECONDS:
        time.sleep(seconds)
        left = lacking(api, config, budget, [one.record for one in left])
        if not left or failures:
            break
    shutil.rmtree(folder, ignore_errors=True)
    if left:
        why = failures[0] if failures else "the server doesn't show them"
        raise UserError(f"W&B: expected {len(missing)} runs to arrive, {len(left)} did not ({why}); {AGAIN}.")
    return len(missing)


def _upload_all(config: TrackingConfig, missing: Sequence[Lacking], folder: Path, silent: threading.Event) -> list[str]:
    """Replay all records, unless several in a row fail or the server is `silent`. Returns what went wrong."""
    failures: list[str] = []
    in_a_row = 0
    stop, opening = threading.Event(), threading.Lock()

    def one(lacks: Lacking) -> None:
        with opening:  # so that `stop` stops those that wait for it
            if stop.is_set() or silent.is_set():
                return
            run = open_cell_run(config, of_record(lacks.record), "online", folder=folder, patient=True)
        write_record(run, lacks.record, lacks.held_rows)

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
            end_service()  # else the runs that are open would be waited for
            raise
    return failures


def _runs(api: wandb.Api, config: TrackingConfig, budget: str) -> list[Any]:
    """The project's runs that carry the budget's tag; none if there is no such project yet."""
    path = f"{config.entity}/{config.project}"
    cast(Any, api).flush()  # it would answer the second question as the first
    try:
        return list(api.runs(path, filters={"tags": budget}, per_page=200, lazy=False))
    except ValueError as error:
        if "project" in str(error).lower():
            return []
        raise UserError(f"W&B: expected the runs of {path}, found: {one_line(error)}.") from error
    except CommError as error:
        raise UserError(f"W&B: expected the runs of {path}, found: {one_line(error)}; try again later.") from error


def _holds(run: Any, record: Record) -> bool:
    if run is None or run.state != "finished" or _held_rows(run) < len(record["rows"]):
        return False
    summary = dict(run.summary_metrics)
    return all(same(summary.get(key), value) for key, value in expected_summary(record).items())


def _held_rows(run: Any) -> int:
    return 0 if run is None else int(run.historyLineCount or 0)


def same(theirs: Any, ours: Any) -> bool:
    """Equal, where inf and nan may also be written as words or, by some of W&B's answers, be null."""
    if isinstance(ours, float) and not math.isfinite(ours):
        return theirs is None or str(theirs).lower().replace("infinity", "inf") == str(ours)
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return math.isclose(theirs, ours, rel_tol=1e-12)
    return bool(theirs == ours)
