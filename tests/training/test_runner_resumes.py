"""bsnn.training.runner when a command is stopped, killed, or goes on from where another one was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from bsnn.results.records import read_record
from bsnn.training import cellrun, runner
from bsnn.training import loop as training
from bsnn.training.runner import Job, run_cells
from tests.training.grid import (
    GRID,
    comparable,
    images,  # noqa: F401 (noise instead of data)
    jobs,
    statuses,
)


def test_ctrl_c_stops_every_stack_and_the_next_call_goes_on(
    stacks: list[list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of an interval, long before any checkpoint is due."""
    shared = "threads=2 evaluations_per_epoch=2 epochs=2 checkpoint_seconds=1000"
    whole = run_cells(jobs(*GRID, shared=f"{shared} results_dir=whole"))
    real_wait, real_train = runner.wait, runner.train
    reached, go_on = threading.Semaphore(0), threading.Event()

    def paused(*arguments: Any, **options: Any) -> Iterator[Any]:
        taken = 0
        for event in real_train(*arguments, **options):
            yield event
            taken += event.steps if isinstance(event, training.Took) else 0
            if taken == 6:
                reached.release()
                go_on.wait(30)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        assert reached.acquire(timeout=30)
        assert reached.acquire(timeout=30)
        patch.setattr(runner, "wait", real_wait)
        threading.Timer(0.1, go_on.set).start()  # by then the stacks have been asked to stop
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "TOOK_SECONDS", 0.0)
        patch.setattr(runner, "train", paused)
        patch.setattr(runner, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cells(jobs(*GRID, shared=shared))
    stopped = [read_record(job.folder) for job in jobs(*GRID, shared=shared)]
    assert statuses(stopped) == ["unfinished"] * 6
    with caplog.at_level(logging.INFO):
        resumed = run_cells(jobs(*GRID, shared=shared))
    assert "resuming at step" in caplog.text
    assert [comparable(record) for record in resumed] == [comparable(record) for record in whole]
    for part, record in zip(stopped, whole, strict=True):
        assert part is not None
        assert isinstance(record, dict)
        first = record | {"rows": record["rows"][: len(part["rows"])]}
        assert comparable(part)["rows"] == comparable(first)["rows"]


def test_until_an_epoch_and_on(
    stacks: list[list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cellrun, "steps_per_epoch", lambda cell: 8)  # of the noise
    shared = "threads=1 epochs=3 evaluations_per_epoch=2"
    first = run_cells(jobs(*GRID[:2], shared=f"{shared} until=1"))
    assert statuses(first) == ["unfinished"] * 2
    assert [record["steps"] for record in first if isinstance(record, dict)] == [8, 8]
    stacks.clear()
    with caplog.at_level(logging.INFO):
        assert run_cells(jobs(*GRID[:2], shared=f"{shared} until=1")) == first
    assert not stacks
    assert "mnist-relu-s0: already trained for 1 of 3 epochs, skipped" in caplog.text
    both = run_cells(jobs(*GRID[:2], shared=f"{shared} until=2"))
    assert statuses(both) == ["unfinished"] * 2
    done = run_cells(jobs(*GRID[:2], shared=shared))
    whole = run_cells(jobs(*GRID[:2], shared=f"{shared} results_dir=whole"))
    assert [comparable(record) for record in done] == [comparable(record) for record in whole]


def test_a_record_that_is_further_than_its_checkpoint_stays_until_it_is_overtaken(
    monkeypatch: pytest.MonkeyPatch, stacks: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """As in a fresh clone, which has the records of others but not their checkpoints."""
    monkeypatch.setattr(cellrun, "steps_per_epoch", lambda cell: 8)
    shared = "epochs=3 evaluations_per_epoch=2"
    [asked] = jobs(GRID[0], shared=f"{shared} until=2")
    [far] = run_cells([asked])
    (asked.folder / "checkpoint.pt").unlink()
    stacks.clear()
    assert run_cells(jobs(GRID[0], shared=f"{shared} until=1")) == [far]
    assert not stacks

    def crashes(*arguments: Any, **options: Any) -> Iterator[Any]:
        for event in real(*arguments, **options | {"checkpoint_seconds": 0}):
            yield event
            if isinstance(event, training.Stored):
                raise RuntimeError("boom")

    real = runner.train
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", crashes)
        assert statuses(run_cells(jobs(GRID[0], shared=shared))) == ["RuntimeError"]
    assert "starting over, for the record of 2 of 3 epochs has no checkpoint beside it" in caplog.text
    kept = read_record(asked.folder)
    assert kept is not None
    assert kept == far | {"error": "RuntimeError: boom"}  # type: ignore[operator]
    assert (asked.folder / "checkpoint.pt").exists()
    [done] = run_cells(jobs(GRID[0], shared=shared))
    assert statuses([done]) == ["ok"]
    assert comparable(done)["error"] is None


def test_a_cell_stopped_in_its_last_instants_is_finished_by_the_next_command(
    monkeypatch: pytest.MonkeyPatch, stacks: list[list[str]]
) -> None:
    """Stopped after the first of three has ended: the others have all their rows, and no end."""
    monkeypatch.setattr("bsnn.training.planning.steps_per_epoch", lambda cell: 8)  # of the noise
    real, ended = runner.train, False

    class Countdown(runner.Countdown):
        def is_up(self, networks: int) -> bool:
            return ended

    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal ended
        with closing(real(*arguments, **options)) as events:
            for event in events:
                ended = ended or isinstance(event, training.Ended)
                yield event

    asked = jobs(*GRID[:3], shared="threads=1")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", watched)
        patch.setattr(runner, "Countdown", Countdown)
        outcomes = run_cells(asked)
    assert statuses(outcomes).count("ok") == 1
    [kept] = {record["status"] for job in asked if (record := read_record(job.folder)) and record["status"] != "ok"}
    assert kept == "unfinished"
    assert statuses(run_cells(asked)) == ["ok"] * 3
    whole = run_cells(jobs(*GRID[:3], shared="threads=1 results_dir=whole"))
    assert [comparable(read_record(job.folder)) for job in asked] == [comparable(record) for record in whole]


def test_kept_weights_outlive_commands_that_do_not_ask_for_them() -> None:
    [asked] = jobs(GRID[0], shared="keep_checkpoint=true")
    [record] = run_cells([Job(asked.config, {"keep_checkpoint": True})])
    assert run_cells(jobs(GRID[0])) == [record]
    assert (asked.folder / "checkpoint.pt").exists()


def test_a_process_killed_between_checkpoint_and_record_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellrun, "steps_per_epoch", lambda cell: 8)
    [asked] = jobs(GRID[0], shared="epochs=3 until=2")
    [far] = run_cells([asked])
    (asked.folder / "record.json").unlink()
    assert run_cells([asked]) == [far]
