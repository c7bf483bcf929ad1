"""time_limit: stops before it, wherever a training is; the numbers are those of an uninterrupted one; exit code 75."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bsnn.data import DATASETS
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.metrics import Row
from bsnn.results.records import read_record
from bsnn.tracking import live as tracking
from bsnn.training import timelimit
from bsnn.training.runner import run_cell, run_cells
from bsnn.training.tally import Counted, Tally
from bsnn.training.timelimit import Countdown, OutOfTime
from tests.training import grid
from tests.training.grid import GRID, comparable, config, jobs, module, statuses
from tests.training.toy import CELL

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
    yield from grid.images.__wrapped__(tmp_path, monkeypatch)  # type: ignore[attr-defined]


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


def test_the_noise_stands_for_mnist() -> None:
    assert DATASETS["mnist"].train_size == 60_000  # on which the totals above rest
