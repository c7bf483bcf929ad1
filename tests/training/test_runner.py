"""bsnn.training.runner: stacks leave the records that single cells leave, and no cell's fate hurts another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from bsnn.config import CONF, TrainConfig, checked
from bsnn.data import DATASETS, DataError, Dataset
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.records import Record, read_record
from bsnn.training import cellrun, planning, runner
from bsnn.training import loop as training
from bsnn.training.meter import Meter
from bsnn.training.runner import Job, run_cell, run_cells
from tests.factories import CLOCK_AND_ORIGIN

GRID = [
    f"activation={name} gpn={gpn} batch_norm={bn}" for name in ("relu", "selu") for gpn, bn in ((0, 0), (1, 0), (1, 1))
]


class Plain(nn.Module):
    """Not one of the engine's functions: computed by torch, with others of this file in one stack."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Nan(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


class Fuse(Plain):
    """Blows after some calls in training; what is only tried out is smaller."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= x.numel() > 100
        if self.calls < 0:
            raise RuntimeError("boom")
        return super().forward(x)


def module(name: str, **arguments: int) -> str:
    """Overrides for an activation of this file."""
    extra = "".join(f" +activation.module.{key}={value}" for key, value in arguments.items())
    return f"activation=gelu activation.name={name.lower()} activation.module._target_={__name__}.{name}{extra}"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Noise instead of images, and not much of it; the names of what is loaded. Results land in the test's folder."""
    loaded = []

    def load(name: str, device: torch.device, dtype: torch.dtype, _: str | None) -> Dataset:
        loaded.append(name)
        g = torch.Generator().manual_seed(0)
        x = torch.randn(600, DATASETS[name].features, generator=g, dtype=dtype)
        y = torch.randint(10, (600,), generator=g)
        return Dataset(DATASETS[name], x[:500], y[:500], x[500:], y[500:])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "load", load)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    runner._loaded.cache_clear()
    yield loaded
    runner._loaded.cache_clear()


def config(overrides: str) -> TrainConfig:
    shared = "budget=smoke tracking=none depth=5 max_steps=null evaluations_per_epoch=4 learning_rate=0.01"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("train", f"{shared} {overrides}".split()), TrainConfig)


def jobs(*overrides: str, shared: str = "") -> list[Job]:
    return [Job(config(f"{line} {shared}"), {}) for line in overrides]


def comparable(record: Record | BaseException | None) -> Record:
    """A record without the clock and where it comes from. All else is the same to the bit, in whatever stack."""
    assert isinstance(record, dict), record
    kept = {key: value for key, value in record.items() if key not in CLOCK_AND_ORIGIN}
    rows = [row | {"seconds": 0} for row in record["rows"]]
    return kept | {"rows": repr(rows), "gradient_norms": repr(kept["gradient_norms"])}  # nan equals itself there


def statuses(outcomes: list[Any]) -> list[str]:
    return [outcome["status"] if isinstance(outcome, dict) else type(outcome).__name__ for outcome in outcomes]


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of each stack's cells, as `train` is called."""
    called: list[list[str]] = []
    real = runner.train

    def train(cells: Any, *arguments: Any, **options: Any) -> Any:
        called.append([cell.name for cell in cells])
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", train)
    return called


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


def test_each_dataset_is_loaded_once(images: list[str]) -> None:
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
    monkeypatch: pytest.MonkeyPatch, stacks: list[list[str]]
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
