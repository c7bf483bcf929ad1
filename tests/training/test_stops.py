"""Trainings that are stopped: wherever it is, the resumed one has the numbers of the uninterrupted one, to the bit."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsnn.cell import Cell
from bsnn.data import Dataset
from bsnn.training import checkpoints
from bsnn.training import loop as training
from bsnn.training.checkpoints import checkpoint_step
from bsnn.training.loop import (
    Ended,
    NewRow,
    Stored,
    Took,
    completed,
    train,
)
from tests.training.toy import CELL, OTHERS, images, stop_after, without_seconds


def short_epochs(run: str, folder: Path) -> tuple[list[Cell], Dataset, list[Path]]:
    """Two epochs of 16 steps with rows after 8 and 16, the last mini-batch short."""
    cells = [dataclasses.replace(cell, evaluations_per_epoch=2) for cell in (CELL, *OTHERS)]
    return cells, images(n_train=64 * 15 + 30), [folder / f"{run}-{k}.pt" for k in range(4)]


@pytest.mark.usefixtures("step_by_step")
def test_stopped_anywhere_and_resumed_to_the_bit(tmp_path: Path) -> None:
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    assert [row["step"] for row in whole[0].rows] == [0, 8, 16, 24, 32]
    stops: list[int] = []
    while stop_after(1 + len(stops) % 4, train(cells, data, paths, checkpoint_seconds=1e9)):
        [step] = {checkpoint_step(path, cell) for path, cell in zip(paths, cells, strict=True)}
        stops.append(step)
        rows = checkpoints.load(paths[0], cells[0])[1].rows
        assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in whole[0].rows[: len(rows)]]
        assert len(stops) < 40
    assert stops == sorted(set(stops))  # no step twice
    assert sum(step % 8 != 0 for step in stops) > 3  # between rows, too
    events = list(train(cells, data, paths))
    told = [(event.index, event.row.step) for event in events if isinstance(event, NewRow)]
    assert sorted(told) == [(k, step) for k in range(4) for step in (0, 8, 16, 24, 32)]  # those of before, too
    assert [without_seconds(p) for p in completed(train(cells, data, paths))] == [without_seconds(p) for p in whole]
    # one member further than the others is refused: they can't share a stack
    paths[0].unlink()
    with pytest.raises(ValueError, match="equally far, found steps"):
        next(train(cells, data, paths))


@pytest.mark.usefixtures("step_by_step")
def test_stopped_within_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that was due comes first when the training goes on."""
    monkeypatch.setitem(training.EVALUATION_BATCH, "cpu", 40)  # three parts
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    trained = False
    with closing(train(cells, data, paths)) as events:
        for event in events:
            if event == Took(4, 0) and trained:
                break
            trained = trained or event == Took(4, 1)
    assert checkpoint_step(paths[0], cells[0]) == 8
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0]
    assert [without_seconds(p) for p in completed(train(cells, data, paths))] == [without_seconds(p) for p in whole]


@pytest.mark.usefixtures("step_by_step")
def test_a_row_that_a_stop_left_out_at_the_goal_is_stored(tmp_path: Path) -> None:
    """Stopped after the goal's last step and before its evaluation; the same goal then stores the row."""
    cells, data, paths = short_epochs("parts", tmp_path)
    assert stop_after(16, train(cells, data, paths, goal=16))
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8]
    events = list(train(cells, data, paths, goal=16))
    assert sorted(event.index for event in events if isinstance(event, Stored)) == [0, 1, 2, 3]
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8, 16]


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("with_row", [[0], [1], [0, 2, 3]])
def test_members_of_which_some_lack_a_row(tmp_path: Path, with_row: list[int]) -> None:
    """Checkpoints of one step, those of one stack with its row, those of another, stopped before it, without."""
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    without = [k for k in range(4) if k not in with_row]
    list(train([cells[k] for k in with_row], data, [paths[k] for k in with_row], goal=8))
    assert stop_after(8, train([cells[k] for k in without], data, [paths[k] for k in without]))
    assert [len(checkpoints.load(paths[k], cells[k])[1].rows) for k in (with_row[0], without[0])] == [2, 1]
    together = completed(train(cells, data, paths))
    assert [[row["step"] for row in progress.rows] for progress in together] == [[0, 8, 16, 24, 32]] * 4
    for progress, expected in zip(together, whole, strict=True):
        for row, wanted in zip(progress.rows, expected.rows, strict=True):
            assert row["train_loss"] == (wanted["train_loss"] and pytest.approx(wanted["train_loss"], rel=1e-9))
            assert row["train_accuracy"] == wanted["train_accuracy"]


def test_up_to_a_goal_and_on(tmp_path: Path) -> None:
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    events = list(train(cells, data, paths, goal=16))
    assert sorted(event.index for event in events[-4:] if isinstance(event, Stored)) == [0, 1, 2, 3]
    assert not any(isinstance(event, Ended) for event in events)
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8, 16]
    assert not any(isinstance(event, Took) for event in train(cells, data, paths, goal=16))
    rest = completed(train(cells, data, paths, goal=99))
    assert [without_seconds(p) for p in rest] == [without_seconds(p) for p in whole]


@pytest.mark.usefixtures("step_by_step")
def test_segments_name_the_processes_that_trained(tmp_path: Path) -> None:
    """Those of one kind that follow each other are one; one that took no step is none."""
    for took, origin in ((2, "a"), (3, "a"), (4, "b"), (0, "c"), (99, "a")):
        events = train([CELL], images(), [tmp_path / "c.pt"], origins=[{"commit": origin}], keep_checkpoint=True)
        if took:
            stop_after(took, events)
        else:
            next(events)
            events.close()
    segments = checkpoints.load(tmp_path / "c.pt", CELL)[1].segments
    parts = [(part["first_step"], part["last_step"], part["provenance"]["commit"]) for part in segments]
    assert parts == [(0, 5, "a"), (5, 8, "b")]
    assert all(s["started"] <= s["finished"] for s in segments)


@pytest.mark.usefixtures("step_by_step")
def test_checkpoints_come_when_they_are_due_and_take_a_tenth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = 1000.0, []

    def save(*_: object) -> None:
        nonlocal now
        now += 2
        written.append(now)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(checkpoints, "save", save)
    cell = dataclasses.replace(CELL, evaluations_per_epoch=1, epochs=1)
    for event in train([cell], images(n_train=64 * 50), [tmp_path / "c.pt"], checkpoint_seconds=3):
        now += isinstance(event, Took) and event.steps
    assert written[0] == 1000 + 3 + 2
    gaps = {later - earlier for earlier, later in itertools.pairwise(written)}
    assert gaps == {20 + 2}  # of which 2 were spent writing
