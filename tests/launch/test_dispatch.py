"""bsnn.launch.dispatch: who goes with whom, what a lost worker costs, what comes back; with workers in this process.

They are pickled, read back and called, as by submitit and Ray; tests/launch/test_dispatch_workers.py has real ones.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.extra.pytest_plugin import hydra_restore_singletons, hydra_sweep_runner  # noqa: F401
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from bsnn.files import try_lock
from bsnn.launch import dispatch, entry
from bsnn.launch import on_slurm as dispatch_submitit
from bsnn.launch.cells import CellSpread
from bsnn.launch.worker import Lost, Place, Worker
from bsnn.results.records import read_records
from bsnn.training import runner
from bsnn.training.runner import run_cells
from bsnn.training.tally import Tally
from experiments.train import main
from tests.hydra_app import run_app
from tests.training.grid import GRID, config, images, jobs  # noqa: F401 (images: noise instead of data)

LOCAL = ("-m", "hydra/launcher=stacked_local", "budget=smoke", "tracking=none")


class Inline:
    """A pool whose workers run one after another in this process. `lose`: how often each name's worker is lost."""

    name, poll_seconds, return_seconds = "inline", 0.0, 0.0
    opened: list[Inline] = []  # noqa: RUF012
    lose: Callable[[Worker, int], bool] = staticmethod(lambda worker, sent: False)
    place: Place = Place()
    never_start: tuple[str, ...] = ()  # names of workers that stay in the queue
    endless = False  # workers don't know of the command's deadline

    def __init__(self, parameters: Any) -> None:
        self.parameters, self.sent, self.left, self.stopped, self.closed = parameters, [], {}, False, False
        Inline.opened.append(self)

    def send(self, workers: Sequence[Worker]) -> list[str]:
        names = [str(len(self.sent) + k) for k in range(len(workers))]
        self.sent += [worker.numbers for worker in workers]
        self.left |= zip(names, workers, strict=True)
        return names

    def ended(self) -> Iterator[tuple[str, list[JobReturn] | Lost]]:
        for name, worker in list(self.left.items()):
            if name not in self.never_start:
                del self.left[name]
                lost = self.lose(worker, self.sent.count(worker.numbers))
                yield name, Lost("gone") if lost else self._called(worker)

    def _called(self, worker: Worker) -> list[JobReturn]:
        place, state = self.place, Singleton.get_state()
        worker.place = lambda: place
        worker.deadline = None if self.endless else worker.deadline
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("BSNN_COMMAND", raising=False)  # a worker isn't the command's process
                returned: list[JobReturn] = _through_pickle(_through_pickle(worker)())
                return returned
        finally:
            Singleton.set_state(state)

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def _through_pickle(value: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(value))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Inline]:
    monkeypatch.setattr(dispatch_submitit, "LocalPool", Inline)
    monkeypatch.setattr(Inline, "opened", [])
    monkeypatch.chdir(tmp_path)
    return Inline


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("stacked_local", ["hydra.job.chdir=true"])])
class TestHydrasSuite(LauncherTestSuite):
    """Its task has no batched form: each job gets a worker."""


# --- who goes with whom ---


def test_groups_hold_what_can_share_a_stack_most_telling_first() -> None:
    lines = [f"{line} seed={seed} dataset={dataset}" for seed in (1, 0) for dataset in ("cifar10", "mnist")
             for line in GRID]  # fmt: skip
    asked = jobs(*lines, "activation=relu depth=7", shared="time_limit=100")
    run_cells(asked[-2:-1])  # the last of seed 0 on MNIST is finished
    spread = CellSpread([*asked, asked[0]], time.time(), lambda tally: None)
    groups = spread.groups(5)
    cells = [*asked, asked[0]]
    kinds = [{(cells[k].config.dataset.name, cells[k].config.depth) for k in group} for group in groups]
    assert all(len(kind) == 1 for kind in kinds)
    assert max(len({cells[k].folder for k in group}) for group in groups) <= 5
    [twice] = [group for group in groups if 0 in group]
    assert twice.index(len(asked)) == twice.index(0) + 1  # asked for twice, trained once
    assert sorted(k for group in groups for k in group) == [k for k in range(26) if k != 23]
    first = [cells[group[0]].config for group in groups]
    ranks = [(one.seed, one.batch_norm, one.dataset.name == "cifar10", not one.gpn) for one in first]
    assert ranks == sorted(ranks)
    assert [cells[k].config.batch_norm for k in groups[0]] == sorted(cells[k].config.batch_norm for k in groups[0])
    assert spread.progress() == "0 of 24 cells"


def test_what_is_done_needs_no_worker(inline: type[Inline], capfd: pytest.CaptureFixture[str]) -> None:
    sweep = (*LOCAL, "activation=tanh,relu", "gpn=true,false", "hydra.launcher.cells_per_job=3")
    assert run_app(main, *sweep) == 0
    assert inline.opened[0].sent == [[0, 2], [1, 3]]  # GPN first
    assert inline.opened[0].closed
    assert inline.opened[0].parameters["jobs_at_once"] == 2
    capfd.readouterr()
    assert run_app(main, *sweep, "activation=tanh,relu,elu") == 0
    said = capfd.readouterr().out
    assert "4 of 6 jobs are done already and need no worker" in said
    assert inline.opened[1].sent == [[4, 5]]
    assert run_app(main, *sweep, "activation=tanh", "gpn=true") == 0
    assert len(inline.opened) == 2
    logs = [path.read_text() for path in sorted(Path().glob("outputs/train/*/*/train.log"))]
    assert len(logs) == 11
    assert sum("already trained (ok), skipped" in log for log in logs) == 5


# --- what goes wrong ---


def test_a_lost_worker_is_replaced_so_often_and_no_more(
    inline: type[Inline], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """#0 is lost once, #1 always."""
    monkeypatch.setattr(inline, "lose", staticmethod(lambda worker, sent: worker.numbers == [1] or sent == 1))
    one_each = ("hydra.launcher.cells_per_job=1", "hydra.launcher.retries=1")
    assert run_app(main, *LOCAL, "gpn=true,false", *one_each) == 1
    out, err = capfd.readouterr()
    assert inline.opened[0].sent == [[0], [1], [0], [1]]
    assert "inline 0 : lost (gone); sent again as 2, retry 1 of 1" in out
    assert "#1 failed : budget=smoke tracking=none gpn=False : RuntimeError: its worker was lost: gone" in out
    assert "1 of 2 jobs failed" in out
    assert "its worker was lost: gone" in err
    assert [record["cell"]["gpn"] for record in read_records(Path("results/smoke"))] == [True]


def test_bad_jobs_are_refused_crashing_ones_reported_and_the_others_trained(
    inline: type[Inline], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = runner.train

    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:  # can't be read back from a pickle
            super().__init__(f"boom {one + two}")

    def crash_for_relu(cells: Any, *arguments: Any, **options: Any) -> Any:
        if "relu" in {cell.activation for cell in cells}:
            raise OddError(1, 2)
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", crash_for_relu)
    assert run_app(main, *LOCAL, "activation=tanh,relu", "depth=-3,4,5") == 1
    out, err = capfd.readouterr()
    assert inline.opened[0].sent == [[1, 4], [2, 5]]  # no stack holds two depths
    assert "sent again" not in out
    statuses = sorted(record["status"] for record in read_records(Path("results/smoke")))
    assert statuses == ["crashed"] * 2 + ["ok"] * 2
    for number, message in (
        (0, "depth: expected"),
        (3, "depth: expected"),
        (4, "OddError: boom 3"),
        (5, "OddError: boom 3"),
    ):
        assert any(f"#{number} failed : " in line and message in line for line in out.splitlines())
    assert "depth: expected a whole number >= 1, found -3." in err
    assert "Traceback" not in err
    assert len(list(Path().glob("outputs/train/*/[03]/.hydra/config.yaml"))) == 2


def test_ctrl_c_stops_the_workers(inline: type[Inline], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Inline) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(inline, "ended", interrupt)
    monkeypatch.setattr(sys, "argv", ["experiment", *LOCAL, "gpn=true,false"])
    with pytest.raises(SystemExit) as ended:
        entry.run(main)
    assert ended.value.code == 130
    assert inline.opened[0].stopped
    assert inline.opened[0].closed


# --- time ---


def test_the_time_limit_ends_the_command_though_workers_never_started(
    inline: type[Inline], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing was done: 1. One cell was: 75."""
    sweep = [*LOCAL, "gpn=true,false", "max_steps=40", "time_limit=1000", "hydra.launcher.cells_per_job=1"]
    monkeypatch.setattr(dispatch, "STOP_SECONDS", 999.0)  # it ends a second after its start
    monkeypatch.setattr(inline, "endless", True)
    monkeypatch.setattr(sys, "argv", ["experiment", *sweep])
    said = []
    for never, code in ((("0", "1"), 1), (("1",), 75)):
        monkeypatch.setattr(inline, "never_start", never)
        monkeypatch.setattr(entry, "STARTED", time.time())
        with pytest.raises(SystemExit) as ended:
            entry.run(main)
        assert ended.value.code == code
        assert inline.opened[-1].stopped
        said.append(capfd.readouterr())
    assert "no cell got any further" in said[0].err
    assert (
        said[1]
        .out.splitlines()[-1]
        .startswith("stopped by time_limit=1000 s: 1 of 2 cells done, 50 % of the steps; the same command goes on")
    )
    assert [record["cell"]["gpn"] for record in read_records(Path("results/smoke"))] == [True]


def test_the_tally_is_read_from_the_folders() -> None:
    told: list[Tally] = []
    asked = jobs(*GRID[:4], shared="time_limit=100 epochs=1")
    spread = CellSpread(asked, 1000.0, told.append)
    assert spread.deadline == 1100.0
    order = [k for group in spread.groups(24) for k in group]
    run_cells(asked[:1])
    lock = try_lock(asked[3].folder)
    assert lock is not None
    results: dict[int, Any] = {0: None, 1: RuntimeError("boom"), 2: None, 3: None}
    spread.ended([results[k] for k in order])
    lock.release()
    assert told == [Tally(limit=100, cells=4, ended=1, failed=1, elsewhere=1, steps=4 * 938, stored=938, made=938)]


# --- settings ---


@pytest.mark.parametrize(
    ("launcher", "hidden", "extra"),
    [("stacked_slurm", "submitit", "slurm"), ("stacked_local", "submitit", "slurm"), ("stacked_ray", "ray", "ray")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    launcher: str,
    hidden: str,
    extra: str,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == hidden else real(name, *rest))
    monkeypatch.chdir(tmp_path)
    assert run_app(main, "-m", f"hydra/launcher={launcher}", "budget=smoke", "tracking=none") == 1
    err = capfd.readouterr().err
    assert f'hydra/launcher={launcher}: expected the package {hidden}, found none; pip install "bsnn[{extra}]".' in err
    assert "Traceback" not in err


def test_without_the_extras_hydra_starts_as_before_and_takes_the_launchers_parameters(root: Path) -> None:
    """In a process where the two packages, and torch, can't be imported."""
    code = """
import sys
for name in ("submitit", "ray", "torch", "bsnn", "hydra_plugins.hydra_submitit_launcher",
             "hydra_plugins.hydra_submitit_launcher.config"):
    sys.modules[name] = None
from hydra import compose, initialize
import hydra_plugins.bsnn_dispatch
with initialize(None, version_base="1.3"):
    chosen = ["hydra/launcher=stacked_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.retries=5"]
    config = compose(overrides=chosen, return_hydra_config=True)
assert config.hydra.launcher.partition == "gpu"
assert config.hydra.launcher.retries == 5
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_slurm_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_app(main, "-m", "hydra/launcher=stacked_slurm", "budget=smoke", "tracking=none") == 1
    err = capfd.readouterr().err
    assert "expected a machine that submits to a Slurm cluster, found no srun" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("setting", ["cells_per_job=0", "retries=-1", "jobs_at_once=0"])
def test_impossible_settings_are_refused(inline: type[Inline], capfd: pytest.CaptureFixture[str], setting: str) -> None:
    assert run_app(main, *LOCAL, f"hydra.launcher.{setting}") == 1
    assert f"hydra.launcher.{setting.split('=')[0]}: expected a whole number >= " in capfd.readouterr().err
    assert not inline.opened
