"""time_limit: stops before it, wherever a training is; the numbers are those of an uninterrupted one; exit code 75."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bsnn import runner, timelimit, tracking, training
from bsnn.checkpoints import checkpoint_step
from bsnn.data import DATASETS
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.metrics import Row
from bsnn.records import read_records
from bsnn.runner import run_cell, run_cells
from bsnn.timelimit import OutOfTime, Pace, Tally
from bsnn.training import train
from experiments import entry
from experiments.train import main
from tests import test_runner
from tests.test_runner import GRID, comparable, config, jobs, module, statuses
from tests.test_training import CELL, OTHERS, without_seconds
from tests.test_training import images as tiny_images


@dataclass
class Clock:
    """A step takes a second, and nothing else any time."""

    now: float = 1000.0
    steps: list[int] = field(default_factory=list)

    def step(self, networks: int) -> None:
        self.now += 1
        self.steps.append(networks)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(training, "time", fake)
    monkeypatch.setattr(timelimit, "time", fake)
    monkeypatch.setattr(timelimit, "SAVE_BYTES_PER_SECOND", 1e12)
    return clock


# --- how far to go ---


@pytest.mark.parametrize(
    ("limit", "interval", "step_s", "evaluation_s", "first_s", "save_s"),
    [
        (540, 938, 0.03, 2.0, 60.0, 20.0),  # a GPU
        (540, 938, 1.0, 30.0, 1.0, 5.0),  # not even one interval
        (100, 4, 0.5, 1.0, 0.5, 0.1),
        (100, 1, 0.5, 1.0, 0.5, 0.1),
        (30, 938, 0.001, 0.001, 0.001, 0.001),
        (100, 50, 0.1, 40.0, 0.1, 1.0),  # evaluation is the dearest
    ],
)
def test_it_stops_in_time_and_not_much_before(
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    interval: int,
    step_s: float,
    evaluation_s: float,
    first_s: float,
    save_s: float,
) -> None:
    clock = Clock()
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pace = Pace(clock.now + limit, [CELL], evaluation_steps=evaluation_s / step_s)
    pace.saved(3, 3 * save_s)
    done = looks = 0
    while steps := pace.steps(interval - done % interval, networks=2):
        assert 1 <= steps <= interval
        took = steps * step_s + (first_s if looks == 0 else 0)
        clock.now += took
        pace.took(steps, took)
        done, looks = done + steps, looks + 1
        if done % interval == 0:
            clock.now += evaluation_s
            pace.evaluated(evaluation_s)
    left = 1000 + limit - clock.now - 2 * save_s
    assert left >= 0
    unavoidable = 3 * step_s + timelimit.EVALUATION_SAFETY * evaluation_s * (done % interval == interval - 1)
    assert left <= unavoidable + save_s + 0.1
    assert looks <= 2 * limit / (interval * step_s + evaluation_s) + 30


def test_without_a_limit_intervals_are_whole() -> None:
    pace = Pace(None, [CELL], 5)
    assert [pace.steps(n, 24) for n in (1, 938)] == [1, 938]


def test_steps_that_become_slower_do_not_make_it_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pace = Pace(clock.now + 100, [CELL], 1)
    done = 0
    while steps := pace.steps(10_000 - done, 1):
        took = sum(0.01 * 1.0005 ** (done + k) for k in range(steps))
        clock.now += took
        pace.took(steps, took)
        done += steps
    assert 90 < clock.now - 1000 <= 100


# --- a stack ---


def test_stopped_anywhere_and_resumed_to_the_bit(tmp_path: Path, clock: Clock) -> None:
    """Intervals of 8, 8 and 4 steps, the last mini-batch of each epoch short; stopped after every few steps."""
    data = tiny_images(n_train=64 * 15 + 30)
    cells = [dataclasses.replace(cell, evaluations_per_epoch=2) for cell in (CELL, *OTHERS)]

    def paths(run: str) -> list[Path]:
        return [tmp_path / f"{run}-{k}.pt" for k in range(4)]

    whole = train(cells, data, paths("whole"), on_step=clock.step)
    assert [row["step"] for row in whole[0].rows] == [0, 8, 16, 24, 32]
    stops: list[int] = []
    rows: list[tuple[int, int]] = []
    while True:
        assert len(stops) < 40
        rows.clear()
        try:
            parts = train(
                cells, data, paths("parts"), on_step=clock.step, deadline=clock.now + 3 + len(stops) % 4,
                checkpoint_seconds=1e9, on_row=lambda k, row: rows.append((k, row.step)),
            )  # fmt: skip
            break
        except OutOfTime:
            steps = {checkpoint_step(path, cell) for path, cell in zip(paths("parts"), cells, strict=True)}
            assert len(steps) == 1
            stops += steps
    assert len(stops) > 5
    assert sum(step % 8 != 0 for step in stops) > 3  # between rows, too
    assert stops == sorted(set(stops))  # no step twice
    assert [without_seconds(p) for p in parts] == [without_seconds(p) for p in whole]
    assert [p.seconds for p in parts] == [p.seconds for p in whole] == [32 / 4] * 4
    assert sorted(rows) == [(k, step) for k in range(4) for step in (0, 8, 16, 24, 32)]


def test_divergence_between_stop_and_row_is_found_at_the_row(tmp_path: Path, clock: Clock) -> None:
    cell = dataclasses.replace(CELL, learning_rate=1e308, batch_norm=False, evaluations_per_epoch=1)
    data = tiny_images(n_train=64 * 12)
    [whole] = train([cell], data, [tmp_path / "whole.pt"], on_step=clock.step)
    assert whole.diverged_at_step is not None
    assert whole.diverged_at_step < 6
    stops = 0
    while True:
        try:
            [part] = train(
                [cell], data, [tmp_path / "part.pt"], on_step=clock.step, deadline=clock.now + 4, checkpoint_seconds=1e9
            )
            break
        except OutOfTime:
            stops += 1
    assert stops >= 3
    assert repr(without_seconds(part)) == repr(without_seconds(whole))


def test_no_time_at_all_writes_nothing(tmp_path: Path, clock: Clock) -> None:
    steps: list[int] = []
    with pytest.raises(OutOfTime, match="at step 0"):
        train([CELL], tiny_images(), [tmp_path / "c.pt"], deadline=clock.now - 1, on_step=steps.append)
    assert not steps
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_take_long_are_written_less_often(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def save(*_: object) -> None:
        clock.now += 2
        written.append(clock.now)

    monkeypatch.setattr("bsnn.training.checkpoints.save", save)
    cell = dataclasses.replace(CELL, evaluations_per_epoch=50, epochs=1)
    train([cell], tiny_images(n_train=64 * 50), [tmp_path / "c.pt"], on_step=clock.step, checkpoint_seconds=3)
    assert written[0] == 1000 + 3 + 2
    gaps = {later - earlier for earlier, later in itertools.pairwise(written)}
    assert gaps == {20 + 2}  # of which 2 were spent writing


# --- cells ---


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """test_runner's: noise instead of images, in the test's folder."""
    yield from test_runner.images.__wrapped__(tmp_path, monkeypatch)  # type: ignore[attr-defined]


@pytest.fixture
def limited(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with a number of steps: each stack stops when it has made so many, or nearly; 0: no limit any more."""
    allowed = 0
    real = runner.train

    def limited_train(*arguments: Any, on_step: Callable[[int], None], deadline: float | None, **options: Any) -> Any:
        def counted(networks: int) -> None:
            clock.step(networks)
            on_step(networks)

        if deadline is not None:
            deadline = clock.now + allowed if allowed else None
        return real(*arguments, on_step=counted, deadline=deadline, **options)

    def allow(steps: int) -> None:
        nonlocal allowed
        allowed = steps

    monkeypatch.setattr(runner, "train", limited_train)
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
    assert 3 * 8 < tally.stored == tally.made <= 3 * 14
    assert tally.goes_on
    assert "0 of 6 cells done, 0 % of the steps; the same command goes on, about" in tally.sentence(60)
    folders = [job.folder for job in asked]
    begun = [folder for folder in folders if (folder / "checkpoint.pt").exists()]
    assert len(begun) == 3
    assert not list(Path("results").rglob("record.json"))
    assert [tracker.status for tracker in trackers] == ["interrupted"] * 3
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
    assert not list(Path().rglob("*.pt"))


@pytest.mark.usefixtures("noise")
def test_finished_and_crashed_cells_are_counted_as_such(
    limited: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cells(jobs(GRID[0]))
    limited(6)
    told: list[Tally] = []
    lines = (GRID[0], module("Fuse", calls=0), GRID[1])
    outcomes = run_cells(jobs(*lines, shared="threads=1 time_limit=1000 epochs=1"), tell=told.append)
    assert statuses(outcomes) == ["ok", "RuntimeError", "OutOfTime"]
    [tally] = told
    assert (tally.cells, tally.ended, tally.failed, tally.left) == (3, 1, 1, 1)
    assert 0 < tally.made <= 6
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


def test_a_limit_shorter_than_the_start_is_an_error(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*SMOKE, "time_limit=0.1") == 1
    assert "time_limit=0.1: expected time enough for some steps" in capfd.readouterr().err


SWEEP_OF_WORKERS = """
import os
from pathlib import Path

import hydra
from bsnn.timelimit import Tally
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
