"""hydra/launcher=stacked: Hydra's own tests of a launcher, and the command line as a user meets it.

Hydra's suite runs twice: with its task as it is, whose jobs run one after another, and with a batched form of it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.extra.pytest_plugin import hydra_restore_singletons, hydra_sweep_runner  # noqa: F401
from hydra.test_utils import launcher_common_tests
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite
from hydra.test_utils.test_utils import SweepTaskFunction, verify_dir_outputs
from omegaconf import DictConfig, OmegaConf

from bsnn.config import CONF
from bsnn.launch import launcher
from bsnn.launch.launcher import Batched
from bsnn.results.records import read_records
from bsnn.training import runner
from experiments.train import main
from tests.hydra_app import run_app
from tests.training.test_runner import comparable

SMOKE = ("budget=smoke", "tracking=none")
SIZE = ("depth=20", "width=32", "max_steps=160", "evaluations_per_epoch=94", "checkpoint_seconds=0")
GRID = ("dataset=mnist", "activation=tanh,relu", "gpn=true,false", "batch_norm=false")  # 4 cells


@pytest.mark.parametrize(("launcher_name", "overrides"), [("stacked", ["hydra.job.chdir=true"])])
class TestHydrasSuiteOneByOne(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("stacked", ["hydra.job.chdir=true", "hydra.sweeper.max_batch_size=2"])]
)
class TestHydrasBatchedSweeperSuite(BatchedSweeperTestSuite):
    pass


@pytest.fixture
def _batched_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Hydra's test task; the suite must look for a job's files in its output directory, not where the job worked."""

    def form(task: SweepTaskFunction) -> Batched:
        return Batched(lambda config, files: config, lambda configs: [task(config) for config in configs])

    def verify(job: JobReturn, overrides: list[str] | None = None) -> None:
        job.working_dir = job.hydra_cfg.hydra.runtime.output_dir
        verify_dir_outputs(job, overrides)

    monkeypatch.setattr(SweepTaskFunction, "batched", property(form), raising=False)
    monkeypatch.setattr(launcher_common_tests, "verify_dir_outputs", verify)


@pytest.mark.usefixtures("_batched_form")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("stacked", [])])
class TestHydrasSuiteBatched(LauncherTestSuite):
    pass


class Notes(Callback):
    """A Hydra callback that writes down what it is told."""

    told: list[tuple[str, Any]] = []  # noqa: RUF012

    def on_job_start(self, config: DictConfig, **arguments: Any) -> None:
        self.told.append(("start", (config.hydra.job.num, callable(arguments["task_function"]))))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        assert HydraConfig.get().job.num == config.hydra.job.num
        self.told.append(("end", (config.hydra.job.num, job_return.status)))


@pytest.fixture
def sweep(
    tmp_path: Path,
    hydra_sweep_runner: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[JobReturn]]:
    """A multirun of `a` over 0, 1, 2 by the stacked launcher, with this batched form of the task a -> 10 a."""

    def run(form: Batched, *overrides: str) -> list[JobReturn]:
        launched: list[JobReturn] = []
        real = launcher.launch

        def launch(*arguments: Any) -> list[JobReturn]:
            launched.extend(real(*arguments))
            return []  # Hydra's sweeper would raise the first failure

        monkeypatch.setattr(SweepTaskFunction, "batched", form, raising=False)
        monkeypatch.setattr(launcher, "launch", launch)
        monkeypatch.setattr(Notes, "told", [])
        started = hydra_sweep_runner(
            calling_file=None,
            calling_module="hydra.test_utils.a_module",
            task_function=lambda config: config.a * 10,
            config_path="configs",
            config_name="compose.yaml",
            overrides=[
                "hydra/launcher=stacked",
                "+a=0,1,2",
                f"+hydra.callbacks.notes._target_={__name__}.Notes",
                *overrides,
            ],
            temp_dir=tmp_path / "sweep",
            configure_logging=True,
        )
        [returned] = started.__enter__().returns
        return launched or list(returned)

    return run


@pytest.mark.usefixtures("hydra_restore_singletons")
def test_jobs_of_a_batch_fail_one_by_one(
    tmp_path: Path, sweep: Callable[..., list[JobReturn]], capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare(config: DictConfig, files: Sequence[logging.Handler]) -> Any:
        job = HydraConfig.get()
        assert (job.job.num, job.job.id) == (config.a, str(config.a))
        assert job.job.override_dirname == f"+a={config.a}"
        assert Path(job.runtime.output_dir) == tmp_path / "sweep" / str(config.a)
        logging.getLogger("x").info("preparing")
        if config.a == 0:
            raise ValueError("not this one")
        return config.a, files

    def run(jobs: Sequence[Any]) -> list[Any]:
        assert [a for a, _ in jobs] == [1, 2]
        for a, [file] in jobs:
            file.handle(logging.LogRecord("x", logging.INFO, "", 0, f"line of {a}", (), None))
        return [RuntimeError("boom"), "done"]

    returned = sweep(Batched(prepare, run))
    failed, ok = JobStatus.FAILED, JobStatus.COMPLETED
    assert [job.status for job in returned] == [failed, failed, ok]
    assert returned[2].return_value == "done"
    assert [job.overrides for job in returned] == [[f"+a={a}"] for a in range(3)]
    with pytest.raises(RuntimeError, match="boom"):
        _ = returned[1].return_value
    assert Notes.told == [("start", (a, True)) for a in range(3)] + [
        ("end", (0, failed)),
        ("end", (1, failed)),
        ("end", (2, ok)),
    ]
    output = capfd.readouterr().out
    assert "#0 failed : +a=0 : ValueError: not this one" in output
    assert "#1 failed : +a=1 : RuntimeError: boom" in output
    assert "2 of 3 jobs failed" in output
    for a in range(3):
        folder = tmp_path / "sweep" / str(a)
        assert OmegaConf.load(folder / ".hydra" / "config.yaml").a == a
        assert OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.job.num == a
        lines = (folder / "a_module.log").read_text()
        assert [f"line of {k}" in lines for k in range(3)] == [a > 0 and k == a for k in range(3)]


@pytest.mark.usefixtures("hydra_restore_singletons")
@pytest.mark.parametrize("setting", ["hydra.job.chdir=true", "+hydra.job.env_set.BSNN_X=1"])
def test_jobs_that_need_a_process_of_their_own_run_one_after_another(
    sweep: Callable[..., list[JobReturn]], setting: str
) -> None:
    def never(*_: Any) -> Any:
        pytest.fail("a batch can't give its jobs folders or variables of their own")

    returned = sweep(Batched(never, never), setting)
    assert [job.return_value for job in returned] == [0, 10, 20]


def test_hydra_does_not_import_torch_for_the_launcher(root: Path) -> None:
    code = (
        "import sys, hydra_plugins.bsnn_stacked, hydra_plugins.bsnn_sweeper; "
        "sys.exit('torch' in sys.modules or 'bsnn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_the_published_sweeps_use_it() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for experiment in ("table2", "fig4"):
            config = compose("train", [f"+experiment={experiment}"], return_hydra_config=True)
            assert config.hydra.launcher._target_ == "hydra_plugins.bsnn_stacked.StackedLauncher"


# --- the command line ---


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "experiments.train", "-m", "hydra/launcher=stacked", *SMOKE, *overrides]


@pytest.fixture
def here(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


def jobs_of(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "outputs" / "train").glob("*/*/train.log"))


def test_a_sweep_leaves_what_single_runs_leave(here: Path) -> None:
    assert run_app(main, "-m", "hydra/launcher=stacked", *SMOKE, *GRID, "activation=tanh,relu,tanh") == 0
    together = read_records(here / "results" / "smoke")
    jobs = jobs_of(here)
    assert len(together) == 4
    assert len(jobs) == 6  # tanh was asked for twice
    for job in jobs:
        config = OmegaConf.load(job / ".hydra" / "config.yaml")
        name = "-".join(["mnist", config.activation.name, *["gpn"] * config.gpn, "s0"])
        lines = (job / "train.log").read_text().splitlines()
        assert [line.split("] - ")[1].split(":")[0][: len(name)] for line in lines] == [name] * 3
        [record] = [record for record in together if record["id"].startswith(f"{name}-")]
        overrides = OmegaConf.load(job / ".hydra" / "overrides.yaml")
        assert record["provenance"]["command"] == " ".join(["python -m experiments.train", *overrides])
        assert run_app(main, *overrides, "results_dir=alone") == 0
    alone = read_records(here / "alone" / "smoke")
    assert [comparable(r) | {"config": None} for r in together] == [comparable(r) | {"config": None} for r in alone]
    assert {r["id"]: r["config"] | {"results_dir": "alone"} for r in together} == {r["id"]: r["config"] for r in alone}


def test_bad_and_crashing_jobs_are_all_named_and_the_others_trained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = runner.train

    def crash_for_relu(cells: Any, *arguments: Any, **options: Any) -> Any:
        if "relu" in {cell.activation for cell in cells}:
            raise RuntimeError("boom")
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", crash_for_relu)
    assert run_app(main, "-m", "hydra/launcher=stacked", *SMOKE, "activation=tanh,relu", "depth=-3,4,5") == 1
    out, err = capfd.readouterr()
    assert (
        sorted(record["status"] for record in read_records(here / "results" / "smoke")) == ["crashed"] * 2 + ["ok"] * 2
    )
    for job, message in (
        (0, "depth: expected"),
        (3, "depth: expected"),
        (4, "RuntimeError: boom"),
        (5, "RuntimeError: boom"),
    ):
        assert any(f"#{job} failed : " in line and message in line for line in out.splitlines())
    assert "4 of 6 jobs failed" in out
    assert "depth: expected a whole number >= 1, found -3." in err  # what Hydra raises: the first
    assert "Traceback" not in err


def test_an_impossible_choice_stops_the_sweep_before_it_starts(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Hydra's sweeper composes every job first, whatever the launcher."""
    assert run_app(main, "-m", "hydra/launcher=stacked", *SMOKE, "activation=tanh,nope") == 1
    assert "Could not find 'activation/nope'" in capfd.readouterr().err
    assert not read_records(here / "results" / "smoke")


@pytest.mark.parametrize("launcher", ["basic", "joblib", "stacked", "stacked_local"])
def test_a_sweep_without_jobs_is_a_mistake(here: Path, capfd: pytest.CaptureFixture[str], launcher: str) -> None:
    assert run_app(main, "-m", f"hydra/launcher={launcher}", *SMOKE, "activation=glob(nothing*)", "seed=0,1") == 1
    out, err = capfd.readouterr()
    assert "activation=glob(nothing*): expected at least one value, found none" in err
    assert "Launching" not in out
    assert "Traceback" not in err


def test_no_command_sweeps_without_jobs(root: Path) -> None:
    """Of those in conf/: the main configs are all files but study.yaml, which five of them share."""
    shared = OmegaConf.load(root / "conf" / "study.yaml")
    for path in (root / "conf").glob("*.yaml"):
        config = OmegaConf.load(path)
        choices = [*config.defaults, *(shared.defaults if "study@_here_" in config.defaults else [])]
        assert any("hydra/sweeper" in str(choice) and "nonempty" in str(choice) for choice in choices), path


def test_kill_9_of_a_stack_then_the_same_command_gives_the_uninterrupted_records(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = ("-m", "hydra/launcher=stacked", *SMOKE, *GRID, *SIZE)
    with subprocess.Popen(command(*GRID, *SIZE), stdout=subprocess.PIPE) as process:
        wait_until(lambda: len(list((here / "results").rglob("checkpoint.pt"))) == 4)
        process.kill()
    assert {record["status"] for record in read_records(here / "results" / "smoke")} <= {"unfinished"}
    assert run_app(main, *sweep) == 0
    assert capfd.readouterr().out.count("resuming at step") >= 4
    assert run_app(main, *sweep, "results_dir=whole") == 0
    whole, killed = (
        [comparable(record) | {"config": None} for record in read_records(here / name / "smoke")]
        for name in ("whole", "results")
    )
    assert len(whole) == 4
    assert killed == whole
    assert not list((here / "results").rglob("*.pt"))


def test_ctrl_c_ends_with_one_line_and_130_and_the_same_command_finishes(here: Path) -> None:
    size = (*SIZE, "max_steps=2000")
    with subprocess.Popen(command(*GRID, *size), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list((here / "results").rglob("checkpoint.pt"))) == 4)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.splitlines()[-1].startswith("interrupted: stopped: 0 of 4 cells done, ")
    assert not err
    assert [record["status"] for record in read_records(here / "results" / "smoke")] == ["unfinished"] * 4
    assert len(list((here / "results").rglob("checkpoint.pt"))) == 4


def test_two_processes_with_overlapping_grids_train_each_cell_once(here: Path) -> None:
    grids = (("gpn=true", "seed=0,1,2,3"), ("gpn=true", "seed=5,4,3,2,1"))
    outputs = (*SIZE, "max_steps=40", "max_stack=1")
    processes = [
        subprocess.Popen(command(*grid, *outputs), stdout=subprocess.PIPE, text=True, env=os.environ) for grid in grids
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [record["cell"]["seed"] for record in read_records(here / "results" / "smoke")] == list(range(6))
    assert sum(text.count("step 0 |") for text in said) == 6
    assert sum(text.count("already trained (ok), skipped") for text in said) == 3


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
