"""The launchers beside each other, with real workers: one sweep, the same records, whatever happens to a worker.

The smallest sweep that shows it: 8 cells in two groups, which differ in batch norm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bsnn.results.records import read_records
from experiments.train import main
from tests.hydra_app import run_app
from tests.slurm import cluster
from tests.training.test_runner import comparable

pytestmark = pytest.mark.xdist_group("dispatch")
SWEEP = ("-m", "budget=smoke", "tracking=none", "activation=tanh,relu", "gpn=true,false", "batch_norm=true,false")
LONG = (*SWEEP, "depth=20", "width=32", "max_steps=80", "evaluations_per_epoch=94", "checkpoint_seconds=0")
IN_TWO = ("hydra.launcher.cells_per_job=4",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(folder: Path) -> list[dict[str, Any]]:
    """Without the clock, where they come from, and in the config the folder that they lie in."""
    return [
        comparable(record) | {"config": record["config"] | {"results_dir": None}} for record in read_records(folder)
    ]


def left_by_stacked(folder: Path, sweep: Sequence[str]) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_app(main, *sweep, "hydra/launcher=stacked") == 0
    left = records(folder / "results" / "smoke")
    assert len(left) == 8
    return left


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What hydra/launcher=stacked leaves of the sweep."""
    return left_by_stacked(tmp_path_factory.mktemp("stacked"), SWEEP)


@pytest.fixture(scope="module")
def stacked_long(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The same of the sweep that takes long enough to be interrupted."""
    return left_by_stacked(tmp_path_factory.mktemp("stacked"), LONG)


def jobs(here: Path) -> dict[int, Path]:
    """The directories of the sweep's jobs by their numbers."""
    return {int(path.parent.name): path.parent for path in here.glob("outputs/train/*/*/train.log")}


def assert_each_job_has_what_is_its_own(here: Path) -> None:
    """Directory, number, config and log, as under `stacked`."""
    found = jobs(here)
    assert sorted(found) == list(range(8))
    for number, folder in found.items():
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        assert OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.job.num == number
        name = "-".join(["mnist", config.activation.name, *["gpn"] * config.gpn, *["bn"] * config.batch_norm, "s0"])
        lines = (folder / "train.log").read_text().splitlines()
        assert f"{name}-" in lines[-1]
        assert lines[-1].endswith(": ok")
        assert all(f" - {name}" in line for line in lines)
    names = {OmegaConf.load(path / ".hydra" / "overrides.yaml")[1] for path in found.values()}
    assert names == {"tracking=none"}


def test_joblib_leaves_the_same_records(here: Path, stacked: list[dict[str, Any]]) -> None:
    """For Hydra's basic launcher tests/test_launcher.py has the same."""
    assert run_app(main, *SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    assert records(here / "results" / "smoke") == stacked


def test_submitits_own_launcher_gives_each_cell_a_process(here: Path, stacked: list[dict[str, Any]]) -> None:
    pytest.importorskip("submitit")
    one = ("activation=tanh", "batch_norm=false", "gpn=true")
    assert run_app(main, *SWEEP, *one, "hydra/launcher=submitit_local") == 0
    assert records(here / "results" / "smoke") == [
        record for record in stacked if record["id"].startswith("mnist-tanh-gpn-s0")
    ]


def test_ray(here: Path, stacked: list[dict[str, Any]]) -> None:
    pytest.importorskip("ray")
    options = ("hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.init.num_gpus=0")
    assert run_app(main, *SWEEP, *IN_TWO, "hydra/launcher=stacked_ray", *options) == 0
    assert records(here / "results" / "smoke") == stacked
    assert_each_job_has_what_is_its_own(here)
    wait_until(lambda: not started_in(here), 20)  # Ray's own processes too


def test_kill_9_of_a_worker_sends_its_group_again_and_no_other(
    here: Path, stacked_long: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    killed: list[int] = []

    def kill() -> None:
        """The worker that trains without batch norm, as soon as there is a checkpoint to go on from."""
        wait_until(lambda: list(here.glob("results/smoke/runs/mnist-relu-s0-*/checkpoint.pt")))
        for pid in started_in(here):
            if holds(pid, "mnist-relu-s0-"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with background(kill):
        assert run_app(main, *LONG, *IN_TWO, "hydra/launcher=stacked_local") == 0
    assert len(killed) == 1
    said = capfd.readouterr().out
    assert said.count("sent again as 3, retry 1 of 2") == said.count("sent again") == 1
    assert "local 1 : #1, #3, #5, #7" in said  # without batch norm: first, and the killed one
    assert "local 3 : runs" in said
    resumed = {
        number for number, folder in jobs(here).items() if "resuming at step" in (folder / "train.log").read_text()
    }
    assert 7 in resumed
    assert resumed <= {1, 3, 5, 7}
    assert records(here / "results" / "smoke") == stacked_long
    assert_each_job_has_what_is_its_own(here)
    assert not list(here.glob("results/**/*.pt"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    pytest.importorskip("submitit")
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def test_slurm_and_a_preempted_job_is_requeued_and_goes_on(
    here: Path,
    stacked_long: list[dict[str, Any]],
    slurm: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)

    def preempt() -> None:
        """What submitit's workers take for a preemption; and no waiting for two minutes before the second start."""
        wait_until(lambda: list(here.glob("results/smoke/runs/mnist-relu-s0-*/checkpoint.pt")))
        job = [path.parent.name for path in here.glob("outputs/train/*/.submitit/*/*_submitted.pkl")]
        subprocess.run(["scancel", "--signal=USR2", min(job)], check=True)
        queue = ["squeue", "--noheader", "--states=PENDING", "--format=%A"]
        wait_until(lambda: subprocess.run(queue, capture_output=True, text=True, check=True).stdout.split())
        [again] = subprocess.run(queue, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run(["scontrol", "update", f"JobId={again}", "StartTime=now"], check=True)

    with background(preempt):
        assert run_app(main, *LONG, *IN_TWO, "hydra/launcher=stacked_slurm", "hydra.launcher.timeout_min=30") == 0
    said = capfd.readouterr().out
    assert "sent again" not in said
    assert "2 of 2 Slurm jobs have ended, 8 of 8 cells" in said
    [log] = here.glob("outputs/train/*/.submitit/*_0/*_0_log.out")
    assert "Requeued job" in log.read_text()
    assert "resuming at step" in log.read_text()
    assert records(here / "results" / "smoke") == stacked_long
    assert_each_job_has_what_is_its_own(here)


def test_what_sbatch_refuses_is_said(
    slurm: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert run_app(main, *SWEEP, "hydra/launcher=stacked_slurm", "hydra.launcher.partition=nope") == 1
    err = capfd.readouterr().err
    assert "expected sbatch to take the jobs, found: sbatch: error: " in err
    assert "invalid partition" in err.lower()
    assert "Traceback" not in err


# --- processes ---


class background:  # noqa: N801
    """Something that happens meanwhile; an exception of it is raised in the end."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                happens()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.thread.join(60)
        if self.error is not None:
            raise self.error


def started_in(folder: Path) -> list[int]:
    """Other processes that work in this folder, as those of a sweep do that was started there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if path.readlink() == folder and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def holds(pid: int, name: str) -> bool:
    """Whether the process has a file open in a folder of this name."""
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            if name in str(link.readlink()):
                return True
    return False


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
