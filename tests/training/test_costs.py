"""What a training is said to cost, against trainings, records and checkpoints."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bsnn.cell import Cell
from bsnn.data import Dataset, dataset_spec
from bsnn.results.provenance import device_name
from bsnn.training import checkpoints, costs
from bsnn.training.checkpoints import Progress
from bsnn.training.loop import completed, make_stack, train
from bsnn.training.planning import steps_per_epoch
from tests.factories import cell_of, make_record, segment, table_keys, unfinished, write

CPU = torch.device("cpu")
PAPER = [cell_of("paper", key) for key in table_keys()]
MNIST = next(cell for cell in PAPER if cell.dataset == "mnist" and not cell.batch_norm)
HERE = {"device": device_name(CPU)}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """What would be measured; each kind is said to take 0.25 s."""
    asked: list[Cell] = []

    def measure(members: list[costs.Planned], workers: int) -> float:
        asked.append(members[0].cell)
        return 0.25

    monkeypatch.setattr(costs, "measure", measure)
    return asked


def test_a_training_takes_as_long_as_is_said(tmp_path: Path) -> None:
    """Within a factor of 2; another process may slow down either of them, so that it has three tries."""
    cell = replace(MNIST, depth=20, width=64, evaluations_per_epoch=10, max_steps=188)
    spec = dataset_spec("mnist")
    sizes = spec.train_size, spec.test_size
    splits = [(torch.randn(1, spec.features).expand(n, -1), torch.zeros(n, dtype=torch.int64)) for n in sizes]
    data = Dataset(spec, *splits[0], *splits[1])
    ratios = []
    while len(ratios) < 3 and not any(0.5 < ratio < 2 for ratio in ratios):
        said = costs.estimate([(cell, 0)], None, CPU, tmp_path, workers=1).seconds
        [progress] = completed(train([cell], data, [tmp_path / "checkpoint.pt"]))
        ratios.append(said / (progress.rows[-1]["seconds"] - progress.rows[0]["seconds"]))
    assert 0.5 < ratios[-1] < 2, ratios


def test_seconds_of_records_count_where_this_device_made_them(
    tmp_path: Path, no_measuring: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that another device went on with, the part before that."""
    folder = tmp_path / "paper"
    record = unfinished(make_record(MNIST, "paper", ratios=[2.0] * 50, seconds=5000.0), 4)  # 1 s a step
    for row in record["rows"][3:]:
        row["seconds"] /= 100
    segments = [segment(record, 0, 200, **HERE), segment(record, 200, 400, device="Some GPU")]
    write(tmp_path, record | {"segments": segments})
    cells = [(MNIST, 400), (replace(MNIST, activation="relu"), 0)]
    cost = costs.estimate(cells, 1, CPU, folder, workers=2)
    epoch = steps_per_epoch(MNIST)
    assert not no_measuring
    assert cost.seconds == pytest.approx(epoch)  # the other ends earlier
    assert cost.whole_seconds == pytest.approx(50 * epoch)
    one_after_the_other = costs.estimate(cells, 1, CPU, folder, workers=1)
    assert one_after_the_other.seconds == pytest.approx(2 * epoch - 400)
    monkeypatch.setattr(costs, "device_name", lambda device: "Another CPU")
    elsewhere = costs.estimate(cells, 1, CPU, folder, workers=1)
    assert [cell.depth for cell in no_measuring] == [200]
    assert elsewhere.seconds == pytest.approx(0.25 * (2 * epoch - 400))


def test_each_kind_is_measured_once_as_long_as_there_is_time(
    tmp_path: Path, no_measuring: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [(cell, 0) for cell in PAPER]
    cost = costs.estimate(cells, 1, CPU, tmp_path / "paper", workers=2)
    assert len({costs.kind_of(cell) for cell in no_measuring}) == len(no_measuring) == 4
    assert cost.seconds == pytest.approx(0.25 * 12 * (938 + 782))
    no_measuring.clear()
    monkeypatch.setattr(costs, "MEASURING_SECONDS", 0.0)
    guessed = costs.estimate(cells, 1, CPU, tmp_path / "paper", workers=2)
    assert len(no_measuring) == 1
    assert guessed.seconds == pytest.approx(cost.seconds, rel=0.05)


def test_the_sentences(tmp_path: Path, no_measuring: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, free = Path("results/paper"), [74.0]
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or Usage(1, 1, int(free[0] * 1e9)))
    cost = costs.estimate([(cell, 0) for cell in PAPER], 1, CPU, folder, workers=2)
    assert asked == [tmp_path]  # the folder isn't there yet
    assert cost.sentence() == (
        "round to epoch 1: about 86 min on 2 cores (48 cells); all 50/100 epochs: about 4.3 days; "
        "checkpoints: 19.6 GB, 74.0 GB free"
    )
    assert cost.shortage() is None
    free[0] = 12.1
    short = costs.estimate([(cell, 0) for cell in PAPER], 1, CPU, folder, workers=2).shortage()
    assert short is not None
    assert short.startswith("results/paper: expected 19.6 GB for 48 checkpoints, found 12.1 GB free; free some space")
    nothing = costs.estimate([], 1, CPU, folder)
    assert (nothing.sentence(), nothing.shortage()) == ("results/paper: nothing left to train to epoch 1", None)


def test_disk(tmp_path: Path, no_measuring: list[Cell]) -> None:
    """A checkpoint is as large as is said; one that is there needs no more room, but for the one that replaces it."""
    cell = replace(MNIST, depth=12, width=128, batch_norm=True)
    size = costs.checkpoint_bytes(cell)
    folder = tmp_path / "paper"
    cells = [(cell.with_seed(seed), 0) for seed in range(5)]
    cost = costs.estimate(cells, 1, CPU, folder, workers=2)
    assert (cost.checkpoints, cost.disk_bytes, cost.new_bytes) == (5, 5 * size, 5 * size)
    path = folder / "runs" / cell.id / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    checkpoints.save(path, cell, make_stack([cell], CPU).member(0), Progress())
    assert path.stat().st_size == pytest.approx(size, rel=0.02)
    cost = costs.estimate(cells, 1, CPU, folder, workers=2)
    assert cost.new_bytes == 5 * size - path.stat().st_size + 2 * size
    to_the_end = costs.estimate(cells, None, CPU, folder, workers=2, max_stack=1)
    assert to_the_end.checkpoints == 2  # as many as are trained at a time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.042, "0.042 s"), (9.96, "10 s"), (47.3, "47 s"), (4640, "77 min"), (9000, "2.5 h"), (360000, "4.2 days")],
)
def test_durations_have_two_digits(seconds: float, text: str) -> None:
    assert costs.roughly(seconds) == text
