"""Where a worker runs: its share of time and threads, its place's limit, Slurm's answers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.extra.pytest_plugin import hydra_restore_singletons, hydra_sweep_runner  # noqa: F401
from submitit.core.utils import JobPaths

from bsnn.launch import entry
from bsnn.launch import on_slurm as dispatch_submitit
from bsnn.launch import worker as dispatch_worker
from bsnn.launch.cells import confined
from bsnn.launch.launcher import Share
from bsnn.launch.on_slurm import slurm_place
from bsnn.launch.worker import Lost, Place, Worker
from tests.launch.test_dispatch import Inline, inline  # noqa: F401 (inline: workers in this process)
from tests.training.grid import GRID, config, images, jobs  # noqa: F401 (images: noise instead of data)


def test_a_share_limits_time_and_threads_of_a_job_and_not_what_its_record_says() -> None:
    [job] = jobs("threads=4", shared="time_limit=5000")
    share = Share(deadline=time.time() + 60, threads=2)
    changed = confined(job, share).config
    assert changed.threads == 2
    assert changed.time_limit == pytest.approx(60, abs=5)
    assert confined(job, share).resolved_config is job.resolved_config
    assert confined(job, share).folder == job.folder
    assert confined(job, Share(deadline=time.time() - 60)).config.time_limit > 0
    assert confined(job, Share()) == job


def test_a_place_whose_time_is_up_requeues_its_worker_and_the_command_s_end_does_not(
    inline: type[Inline],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class RequeuedError(Exception):
        pass

    def requeue() -> None:
        raise RequeuedError

    def worker(command: float | None, place: float | None) -> list[JobReturn]:
        made = Worker(SimpleNamespace(config="config", hydra_context=None, task_function=None), [(0, [])], True)
        made.deadline, made.place = command, lambda: Place(Share(place), requeue)
        return made()

    given = []

    def run_together(launcher: Any, numbered: Any, share: Share) -> list[JobReturn]:
        given.append(share.deadline)
        stopped = JobReturn()
        stopped.return_value, stopped.status = None, JobStatus.COMPLETED
        return [stopped]

    monkeypatch.setattr(dispatch_worker, "run_together", run_together)
    with pytest.raises(RequeuedError):
        worker(None, 50.0)
    with pytest.raises(RequeuedError):
        worker(100.0, 50.0)
    assert len(worker(20.0, 50.0)) == 1
    assert len(worker(20.0, None)) == 1
    assert given == [50.0, 50.0, 20.0, 20.0]


def test_command_of_another_machine_is_not_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSNN_COMMAND", json.dumps(entry.Command(os.getpid(), 1.0, "notes", "another")))
    assert entry.started() is None
    monkeypatch.setenv("BSNN_COMMAND", json.dumps(entry.Command(os.getpid(), 1.0, "notes", entry.HOST)))
    assert entry.started() == 1.0


# --- places ---


def test_a_slurm_worker_stops_before_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 3600))
    assert slurm_place(60.0, notice=120.0).share == Share(int(now) + 3600 - 120 - 60, 6)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.delenv("SLURM_JOB_END_TIME")  # older Slurms don't set it
    long, short = slurm_place(3600.0, notice=120.0).share, slurm_place(120.0, notice=120.0).share
    assert long.threads == 4
    assert long.deadline == pytest.approx(now + 3600 - 30 - 120 - 60, abs=5)
    assert short.deadline == pytest.approx(now + 45, abs=5)  # less than the notice: half of what there is


def test_a_slurm_job_is_lost_when_it_is_neither_queued_nor_has_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = object.__new__(dispatch_submitit.SlurmPool)
    pool._jobs = {name: SimpleNamespace(paths=JobPaths(tmp_path / "%j", name)) for name in ("7_0", "7_1", "7_10")}
    pool._gone, pool._looked, pool.queue_seconds, pool.file_system_seconds = {}, -1e9, 0.0, 0.0
    answers = [None, "7_0\n7_10\n"]

    def squeue(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if answer is None:
            raise subprocess.CalledProcessError(1, "squeue", stderr="Unable to contact slurm controller")
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(subprocess, "run", squeue)
    assert list(pool.ended()) == []  # as long as there is no telling, none is lost
    [(name, lost)] = pool.ended()
    assert name == "7_1"
    assert isinstance(lost, Lost)
    assert "left the queue without a result" in lost.reason
    assert sorted(pool._jobs) == ["7_0", "7_10"]
