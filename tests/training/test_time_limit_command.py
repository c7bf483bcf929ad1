"""time_limit, Ctrl-C and SIGTERM as a shell sees them: exit codes, and what is said at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bsnn.launch import entry
from bsnn.results.records import read_records
from bsnn.training import loop as training
from bsnn.training import runner
from bsnn.training.loop import Event, Took
from experiments.train import main
from tests.training.test_time_limit import without_clock

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
from bsnn.launch import entry
from bsnn.process import STARTED

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
