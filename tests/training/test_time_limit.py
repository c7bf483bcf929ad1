"""time_limit: stops before it, wherever a training is; the numbers are those of an uninterrupted one; exit code 75."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bsnn.data import DATASETS
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.metrics import Row
from bsnn.results.records import read_record, read_records
from bsnn.tracking import live as tracking
from bsnn.training import loop as training
from bsnn.training import runner, timelimit
from bsnn.training.loop import Event, Took
from bsnn.training.runner import run_cell, run_cells
from bsnn.training.tally import Counted, Tally
from bsnn.training.timelimit import Countdown, OutOfTime
from experiments import entry
from experiments.train import main
from tests.training import test_runner
from tests.training.test_loop import CELL
from tests.training.test_runner import GRID, comparable, config, jobs, module, statuses

# --- how far to go ---


@pytest.mark.parametrize(
    ("limit", "look_s", "first_s", "save_s"),
    [
        (540, 0.5, 60.0, 20.0),  # a GPU: compiling first, gigabytes to write
        (540, 10.0, 10.0, 5.0),  # wide and deep on a CPU
        (30, 0.01, 0.01, 0.01),
        (200, 0.5, 1.0, 40.0),
    ],
)
def test_it_stops_in_time_and_not_much_before(
    monkeypatch: pytest.MonkeyPatch, limit: float, look_s: float, first_s: float, save_s: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: now))
    countdown = Countdown(now + limit, [CELL] * 3)
    countdown.stored(save_s)
    now += first_s
    while not countdown.is_up(networks=2):
        now += look_s * (1 + 0.2 * (int(now) % 3 - 1))  # looks aren't evenly spaced
    left = 1000 + limit - now - 2 * save_s
    assert 0 <= left <= 2 * (timelimit.SAVE_SAFETY - 1) * save_s + max(2.5 * look_s, first_s)


def test_the_first_checkpoints_are_expected_from_a_slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: 0.0))
    enough = timelimit.reserve([CELL, CELL])
    assert enough == pytest.approx(2 * timelimit.reserve([CELL]))
    assert not Countdown(1.1 * enough, [CELL, CELL]).is_up(2)
    assert Countdown(0.9 * enough, [CELL, CELL]).is_up(2)
    assert not Countdown(None, [CELL]).is_up(1)


# --- cells ---


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """test_runner's: noise instead of images, in the test's folder."""
    yield from test_runner.images.__wrapped__(tmp_path, monkeypatch)  # type: ignore[attr-defined]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with a number of steps: each stack under a limit stops when it has made so many; 0: no limit any more."""
    allowed = taken = 0
    real = runner.train

    class Steps:
        def __init__(self, deadline: float | None, _: object) -> None:
            nonlocal taken
            self.limited, taken = deadline is not None and allowed > 0, 0

        def stored(self, seconds: float) -> None: ...

        def is_up(self, networks: int) -> bool:
            return self.limited and taken >= allowed

    def counted(*arguments: Any, **options: Any) -> Iterator[Event]:
        nonlocal taken
        with closing(real(*arguments, **options)) as events:
            for event in events:
                taken += event.steps if isinstance(event, Took) else 0
                yield event

    def allow(steps: int) -> None:
        nonlocal allowed
        allowed = steps

    monkeypatch.setattr(runner, "Countdown", Steps)
    monkeypatch.setattr(runner, "train", counted)
    monkeypatch.setattr(training, "TOOK_SECONDS", 0.0)
    return allow


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """W&B's runs, as far as a cell sees them."""
    opened: list[Any] = []

    class Tracker:
        def __init__(self, *_: object) -> None:
            self.steps: list[int] = []
            self.status = ""
            opened.append(self)

        def log(self, row: Row) -> None:
            self.steps.append(row.step)

        def finish(self, status: str) -> None:
            self.status = status

    monkeypatch.setattr(tracking, "Tracker", Tracker)
    return opened


@pytest.mark.usefixtures("noise")
def test_a_sweep_is_stopped_and_goes_on_to_the_same_records(
    limited: Callable[[int], None], trackers: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Two stacks, one after the other; the first is stopped between its rows, the second not even begun."""
    shared = "threads=1 max_stack=3 epochs=3 evaluations_per_epoch=2 checkpoint_seconds=1000 time_limit=1000"
    shared += " tracking.mode=offline"
    asked = jobs(*GRID, shared=shared)
    told: list[Tally] = []
    limited(14)
    outcomes = run_cells(asked, tell=told.append)
    assert statuses(outcomes) == ["OutOfTime"] * 6
    total = 3 * 938 * 6  # the noise has fewer images than MNIST: the sizes are the real one's
    [tally] = told
    assert dataclasses.replace(tally, stored=0, made=0) == Tally(limit=1000, cells=6, steps=total)
    assert tally.stored == tally.made == 3 * 14
    assert tally.goes_on
    assert "0 of 6 cells done, 0 % of the steps; the same command goes on, about" in tally.sentence(60)
    folders = [job.folder for job in asked]
    begun = [folder for folder in folders if (folder / "checkpoint.pt").exists()]
    assert len(begun) == 3
    unfinished = [read_record(folder) for folder in begun]
    assert [record["status"] for record in unfinished if record] == ["unfinished"] * 3
    assert len(list(Path("results").rglob("record.json"))) == 3
    assert [tracker.status for tracker in trackers] == ["unfinished"] * 3
    assert all(tracker.steps[0] == 0 and len(tracker.steps) > 1 for tracker in trackers)
    stopped_at = trackers[0].steps

    limited(0)
    trackers.clear()
    again = run_cells(asked, tell=told.append)
    assert told[1].left == 0
    assert told[1].made == total - tally.stored
    assert statuses(again) == ["ok"] * 6
    assert [tracker.status for tracker in trackers] == ["ok"] * 6
    assert trackers[0].steps[: len(stopped_at)] == stopped_at  # a resumed W&B run holds the whole history
    whole = run_cells(jobs(*GRID, shared=f"{shared} time_limit=null results_dir=whole"))
    assert [comparable(record) for record in again] == [comparable(record) for record in whole]
    for part in unfinished:  # the first rows of the whole
        [record] = [record for record in whole if isinstance(record, dict) and part and record["id"] == part["id"]]
        assert 1 < len(part["rows"]) < 7
        assert without_clock(part["rows"]) == without_clock(record["rows"][: len(part["rows"])])
    assert not list(Path().rglob("*.pt"))


@pytest.mark.usefixtures("noise")
def test_finished_and_crashed_cells_are_counted_as_such(
    limited: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cells(jobs(GRID[0]))
    limited(6)
    told: list[Tally] = []
    lines = (GRID[0], module("Fuse", calls=0), f"{GRID[1]} seed=1")
    outcomes = run_cells(jobs(*lines, shared="threads=1 time_limit=1000 epochs=1"), tell=told.append)
    assert statuses(outcomes) == ["ok", "RuntimeError", "OutOfTime"]
    [tally] = told
    assert (tally.cells, tally.ended, tally.failed, tally.left) == (3, 1, 1, 1)
    assert tally.made == 6
    assert tally.stored == 938 + tally.made
    assert "1 of 3 cells done (1 failed), 33 % of the steps" in tally.sentence(1)


@pytest.mark.usefixtures("noise")
def test_a_limit_too_short_for_anything_is_an_error_and_others_work_is_not(limited: Callable[[int], None]) -> None:
    told: list[Tally] = []
    limited(1)
    [asked] = jobs(GRID[0], shared="time_limit=0.001 tracking=none")
    with pytest.raises(OutOfTime):
        run_cell(asked.config, {})
    run_cells([asked], started=time.time() - 10, tell=told.append)
    assert not told[0].goes_on
    assert "no cell got any further in 10 s, start-up included; use a longer one" in told[0].sentence(10)
    lock = try_lock(asked.folder)
    assert lock is not None
    run_cells([asked], tell=told.append)
    lock.release()
    assert (told[1].elsewhere, told[1].made) == (1, 0)
    assert told[1].goes_on
    assert told[1].sentence(10).endswith("the same command goes on")
    with pytest.raises(UserError, match="time_limit: expected a number of seconds > 0"):
        config("time_limit=0")


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"seconds": 0} for row in rows]


def test_what_is_counted() -> None:
    cell = Counted(steps=100, before=10, stored=40, ended=False, failed=False, elsewhere=False)
    cells = [
        cell,
        dataclasses.replace(cell, stored=100, ended=True),
        dataclasses.replace(cell, failed=True),
        dataclasses.replace(cell, elsewhere=True),
    ]
    assert Tally.of(cells, 60) == Tally(
        limit=60, cells=4, ended=1, failed=1, elsewhere=1, steps=400, stored=220, made=30 + 90 + 30
    )
    assert Tally.of([], None) == Tally()


def test_tallies_add_up() -> None:
    parts = [
        Tally(limit=540, cells=1, ended=1, steps=100, stored=100),
        Tally(limit=540, cells=3, steps=300, stored=24, made=12),
    ]
    assert sum(parts, Tally()) == Tally(limit=540, cells=4, ended=1, steps=400, stored=124, made=12)
    assert sum(parts, Tally()).sentence(60) == (
        "stopped by time_limit=540 s: 1 of 4 cells done, 31 % of the steps; the same command goes on, about 23 min left"
    )


# --- the command ---

SMOKE = ("budget=smoke", "tracking=none", "checkpoint_seconds=1000", "max_steps=40")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`python -m experiments.train` in this process; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BSNN_COMMAND", "")

    def run(*overrides: str) -> int:
        monkeypatch.setattr(entry, "STARTED", time.time())
        monkeypatch.setattr(sys, "argv", ["experiment", *overrides])
        with pytest.raises(SystemExit) as ended:
            entry.run(main)
        assert not list(Path(json.loads(os.environ["BSNN_COMMAND"])[2]).parent.parent.glob("notes"))
        return int(ended.value.code or 0)

    return run


@pytest.mark.parametrize(
    "how", [("dataset=mnist",), ("-m", "gpn=true,false"), ("-m", "hydra/launcher=stacked", "gpn=true,false")]
)
def test_exit_code_75_until_all_is_done(
    command: Callable[..., int],
    limited: Callable[[int], None],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    how: tuple[str, ...],
) -> None:
    """A single cell, Hydra's basic launcher and the stacked one."""
    cells = 2 if "-m" in how else 1
    limited(25)
    codes = [command(*how, *SMOKE, "time_limit=1000")]
    said = capfd.readouterr()
    assert f"stopped by time_limit=1000 s: 0 of {cells} cells done, " in said.out.splitlines()[-1]
    assert "Traceback" not in said.err
    assert "failed" not in said.out
    while codes[-1] == 75:
        codes.append(command(*how, *SMOKE, "time_limit=1000"))
        assert len(codes) < 10
    assert len(codes) > 1
    assert codes[-1] == 0
    assert [record["status"] for record in read_records(tmp_path / "results" / "smoke")] == ["ok"] * cells
    assert "stopped by" not in capfd.readouterr().out.splitlines()[-1]


def test_failures_are_told_when_nothing_is_left_to_do(
    command: Callable[..., int], limited: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    limited(25)
    sweep = ("-m", "hydra/launcher=stacked", *SMOKE, "depth=-3,4", "time_limit=1000")
    assert command(*sweep) == 75
    assert "depth: expected a whole number >= 1" in capfd.readouterr().err
    limited(0)
    assert command(*sweep) == 1


def test_an_error_outside_the_trainings_is_no_reason_to_repeat_the_command(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 75 is for a time limit."""

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("boom")

    monkeypatch.setattr(runner, "wait", broken)
    assert command(*SMOKE) == 1
    assert "boom" in capfd.readouterr().err


def test_a_limit_shorter_than_the_start_is_an_error(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*SMOKE, "time_limit=0.1") == 1
    assert "time_limit=0.1: expected time enough for some steps" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_keep_every_step(
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: int,
    code: int,
) -> None:
    """The record of what was trained is there, and the same command goes on to the record of an undisturbed one."""
    real, disturb = runner.train, True

    def disturbed(*arguments: Any, **options: Any) -> Iterator[Event]:
        taken = 0
        with closing(real(*arguments, **options)) as events:
            for event in events:
                taken += event.steps if isinstance(event, Took) else 0
                if disturb and taken == 25:
                    os.kill(os.getpid(), number)
                    time.sleep(0.01)  # until the main thread has seen it
                yield event

    monkeypatch.setattr(runner, "train", disturbed)
    monkeypatch.setattr(training, "TOOK_SECONDS", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    cell = (*SMOKE, "evaluations_per_epoch=94")
    assert command(*cell) == code
    said = capfd.readouterr().out.splitlines()[-1]
    assert said.startswith("interrupted: stopped: 0 of 1 cells done, ")
    [part] = read_records(tmp_path / "results" / "smoke")
    assert part["status"] == "unfinished"
    assert part["steps"] >= 20
    disturb = False
    assert command(*cell) == 0
    assert command(*cell, "results_dir=whole") == 0
    signal.signal(signal.SIGTERM, before)
    [record], [whole] = (read_records(tmp_path / name / "smoke") for name in ("results", "whole"))
    assert without_clock(record["rows"]) == without_clock(whole["rows"])
    assert without_clock(part["rows"]) == without_clock(whole["rows"][: len(part["rows"])])
    assert [segment["last_step"] for segment in record["segments"]] == [40]  # of one commit and device


SWEEP_OF_WORKERS = """
import os
from pathlib import Path

import hydra
from bsnn.training.tally import Tally
from experiments import STARTED, entry

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    entry.end_with_parent()
    Path(f"{os.getpid()}.worker").write_text(repr(entry.started()))
    entry.note(Tally(limit=30.0, cells=1, steps=10, stored=2, made=2))

Path(f"{os.getpid()}.parent").write_text(repr(STARTED))
entry.run(main)
"""


def test_workers_of_a_sweep_know_when_it_began_and_tell_how_far_they_are(tmp_path: Path, root: Path) -> None:
    """hydra/launcher=joblib, a process for each cell; the cells' part is tested above."""
    (tmp_path / "sweep.py").write_text(SWEEP_OF_WORKERS)
    command = [sys.executable, "sweep.py", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+x=1,2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 75, done.stderr
    said = done.stdout.splitlines()[-1]
    assert "stopped by time_limit=30 s: 0 of 2 cells done, 20 % of the steps; the same command goes on" in said
    [parent] = tmp_path.glob("*.parent")
    workers = {path.stem: path.read_text() for path in tmp_path.glob("*.worker")}
    assert workers
    assert parent.stem not in workers
    assert set(workers.values()) == {parent.read_text()}


def test_the_noise_stands_for_mnist() -> None:
    assert DATASETS["mnist"].train_size == 60_000  # on which the totals above rest
