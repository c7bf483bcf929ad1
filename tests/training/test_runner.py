"""bsnn.training.runner: stacks leave the records that single cells leave, and no cell's fate hurts another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bsnn.data import DataError, Dataset
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.records import read_record
from bsnn.training import planning, runner
from bsnn.training.meter import Meter
from bsnn.training.runner import Job, run_cell, run_cells
from tests.training.grid import (
    GRID,
    comparable,
    config,
    images,  # noqa: F401 (noise instead of data)
    jobs,
    module,
    statuses,
)


def test_records_are_those_of_cells_trained_alone(stacks: list[list[str]]) -> None:
    together = run_cells(jobs(*GRID, shared="threads=2"))
    assert [len(stack) for stack in stacks] == [3, 3]
    alone = [run_cell(config(f"{line} results_dir=alone"), {}) for line in GRID]
    assert [comparable(record) for record in together] == [comparable(record) for record in alone]
    assert [comparable(read_record(job.folder)) for job in jobs(*GRID)] == [comparable(record) for record in together]
    assert len({record["id"] for record in alone}) == 6
    assert all(record["provenance"]["threads"] == 1 for record in alone)
    assert not list(Path().rglob("*.pt"))


def test_finished_cells_are_skipped_and_crashed_ones_tried_again(
    stacks: list[list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", lambda *_, **__: 1 / 0)
        assert statuses(run_cells(jobs(GRID[2]))) == ["ZeroDivisionError"]
    first = run_cells(jobs(*GRID[:2]))
    stacks.clear()
    with caplog.at_level(logging.INFO):
        again = run_cells(jobs(*GRID[:3]))
    assert again[:2] == first
    assert stacks == [["mnist-relu-gpn-bn-s0"]]
    assert statuses(again) == ["ok"] * 3
    assert caplog.text.count("already trained (ok), skipped") == 2


def test_max_stack_and_threads(stacks: list[list[str]]) -> None:
    run_cells(jobs(*GRID, shared="threads=1 max_stack=4"))
    run_cells(jobs(*GRID, shared="threads=2 max_stack=1 seed=1"))
    assert [len(stack) for stack in stacks] == [3, 3, 1, 1, 1, 1, 1, 1]


def test_each_dataset_is_loaded_once(images: list[str]) -> None:  # noqa: F811
    lines = [
        f"{line} dataset={dataset} seed={seed}" for dataset in ("cifar10", "mnist") for line in GRID for seed in (0, 1)
    ]
    outcomes = run_cells(jobs(*lines, shared="max_stack=2 threads=2"))
    assert statuses(outcomes) == ["ok"] * 24
    assert images == ["mnist", "cifar10"]


def test_the_same_cell_twice_is_trained_once(stacks: list[list[str]]) -> None:
    one, other, two = run_cells(jobs(GRID[0], GRID[1], f"{GRID[0]} threads=1"))
    assert one is two
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one["id"] != other["id"]
    assert sorted(name for stack in stacks for name in stack) == ["mnist-relu-gpn-s0", "mnist-relu-s0"]


def test_a_cell_that_diverges_leaves_its_neighbours_alone(stacks: list[list[str]]) -> None:
    lines = (module("Plain"), module("Nan"), f"{module('Plain')} batch_norm=true")
    outcomes = run_cells(jobs(*lines, shared="threads=1"))
    assert [len(stack) for stack in stacks] == [3]
    assert statuses(outcomes) == ["ok", "diverged", "ok"]
    assert comparable(outcomes[1])["diverged_at_step"] == 1
    alone = [run_cell(config(f"{line} results_dir=alone"), {}) for line in lines]
    assert [comparable(record) for record in outcomes] == [comparable(record) for record in alone]


def test_only_the_culprit_of_a_crash_is_recorded_as_crashed(
    stacks: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    lines = (module("Plain"), module("Fuse", calls=60), f"{module('Plain')} batch_norm=true")
    with caplog.at_level(logging.INFO):
        outcomes = run_cells(jobs(*lines, shared="threads=1"))
    logged = caplog.text
    assert sorted(len(stack) for stack in stacks) == [1, 1, 1, 3]
    assert statuses(outcomes) == ["ok", "RuntimeError", "ok"]
    assert "a stack of 3 cells failed (RuntimeError: boom); they go on one by one" in logged
    crashed = read_record(jobs(lines[1])[0].folder)
    assert crashed is not None
    assert (crashed["status"], crashed["error"]) == ("crashed", "RuntimeError: boom")
    for line, outcome in zip(lines[::2], outcomes[::2], strict=True):
        assert comparable(outcome) == comparable(run_cell(config(f"{line} results_dir=alone"), {}))
    for name in ("mnist-plain-s0", "mnist-plain-bn-s0"):  # what a second attempt repeats is told once
        assert logged.count(f"{name}: epoch 0.00 | step 0 ") == 1


def test_a_stack_too_large_for_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    real, called = runner.train, []

    def train(cells: Any, *arguments: Any, **options: Any) -> Any:
        called.append(len(cells))
        if len(cells) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", train)
    assert statuses(run_cells(jobs(*GRID[:5], shared="threads=1"))) == ["ok"] * 5
    assert called == [5, 3, 2, 1, 2]


def test_a_users_mistake_hits_the_cell_concerned(monkeypatch: pytest.MonkeyPatch) -> None:
    good, damaged, unmakeable, unknown = jobs(
        GRID[0],
        GRID[1],
        "activation=relu activation.module._target_=torch.nn.Threshold +activation.module.threshold=99"
        " +activation.module.value=1.0 gpn=true seed=1",
        "activation=relu activation.module._target_=torch.nn.Nope seed=2",
    )
    damaged.folder.mkdir(parents=True)
    (damaged.folder / "checkpoint.pt").write_text("not a checkpoint")
    outcomes = run_cells([good, damaged, unmakeable, unknown])
    assert statuses(outcomes) == ["ok", "UserError", "UserError", "InstantiationException"]
    assert "delete it" in str(outcomes[1])
    assert "derivative" in str(outcomes[2])
    assert not list(damaged.folder.glob("record.json"))


def test_a_record_that_cannot_be_written_hits_the_cell_concerned(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = jobs(*GRID[:2])
    (bad.folder / "record.json").mkdir(parents=True)
    outcomes = run_cells([bad, good])
    assert isinstance(outcomes[0], Exception)
    assert statuses(outcomes[1:]) == ["ok"]


def test_missing_data_is_looked_for_once_and_leaves_no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def load(name: str, *_: object) -> Dataset:
        looked.append(name)
        raise DataError("there is none")

    monkeypatch.setattr(runner, "load", load)
    outcomes = run_cells(jobs(*GRID, shared="max_stack=1 threads=2"))
    assert statuses(outcomes) == ["DataError"] * 6
    assert looked == ["mnist"]
    assert not list(Path().rglob("record.json"))


def test_a_training_that_ends_nothing_is_a_crash_not_an_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "train", lambda *_, **__: (event for event in ()))
    assert statuses(run_cells(jobs(*GRID[:2]))) == ["RuntimeError"] * 2


def test_a_cell_that_another_process_holds_is_waited_for_and_the_others_trained_first(
    stacks: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    held, free = jobs(*GRID[:2])
    lock = try_lock(held.folder)
    assert lock is not None
    outcomes: list[Any] = []
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=lambda: outcomes.extend(run_cells([held, free])))
        thread.start()
        wait_until(lambda: read_record(free.folder) is not None)
        assert thread.is_alive()
        assert stacks == [["mnist-relu-gpn-s0"]]
        lock.release()
        thread.join(30)
    assert statuses(outcomes) == ["ok", "ok"]
    assert caplog.text.count("another process is training it; waiting") == 1


def test_two_sweeps_of_the_same_cells_share_them(stacks: list[list[str]]) -> None:
    found: dict[int, list[Any]] = {}

    def sweep(order: int) -> None:
        found[order] = run_cells(jobs_in[order])

    jobs_in = {order: jobs(*GRID[::order], shared="threads=1 max_stack=1") for order in (1, -1)}
    threads = [threading.Thread(target=sweep, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses(found[1]) == ["ok"] * 6
    assert found[1] == found[-1][::-1]
    assert sorted(len(stack) for stack in stacks) == [1] * 6  # each trained once


def test_what_is_logged_about_a_cell_goes_to_its_own_file(tmp_path: Path) -> None:
    logging.getLogger().setLevel(logging.INFO)
    asked = [
        Job(job.config, {}, log_files=[logging.FileHandler(tmp_path / f"{n}.log", delay=True)])
        for n, job in enumerate(jobs(*GRID[:3], GRID[0]))
    ]
    run_cells(asked)
    names = ["mnist-relu-s0", "mnist-relu-gpn-s0", "mnist-relu-gpn-bn-s0", "mnist-relu-s0"]
    for n, name in enumerate(names):
        lines = (tmp_path / f"{n}.log").read_text().splitlines()
        assert len(lines) == 6  # five rows and the end
        assert all(line.startswith((f"{name}: epoch", f"{name}-")) for line in lines)
    assert all(job.log_files[0].stream is None for job in asked)  # type: ignore[attr-defined]


def test_the_line_that_tells_how_far_a_sweep_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 340.0, 340.0, 340.0))
    monkeypatch.setattr("bsnn.training.meter.time.monotonic", lambda: next(clock))
    meter = Meter(48, lambda: 12, bar=False)
    meter.expect(1000)
    meter.add(500)
    assert meter.line() == "12 of 48 cells, 50 % of the steps, about 4 min left"
    meter.expect(-250)
    assert meter.line() == "12 of 48 cells, 67 % of the steps, about 2 min left"
    meter.add(10_000)
    assert meter.line() == "12 of 48 cells, 100 % of the steps"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise TimeoutError


def test_planning_uses_what_the_engine_recommends(monkeypatch: pytest.MonkeyPatch, stacks: list[list[str]]) -> None:
    monkeypatch.setattr(planning, "largest_stack", lambda cell, device: 2)
    run_cells(jobs(*GRID[:3], shared="threads=1"))
    assert [len(stack) for stack in stacks] == [2, 1]


def test_run_cell_raises_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        run_cell(config("device=cuda"), {})


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="dtype=tf32: expected a CUDA device"):
        run_cell(config("dtype=tf32 device=cpu"), {})
