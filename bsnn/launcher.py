"""The stacked launcher: the jobs of a multirun in one process, run together by a task that knows how to.

hydra_plugins/bsnn_stacked.py registers it as hydra/launcher=stacked. To a user it behaves like Hydra's basic launcher:
each job has its directory with .hydra/ and a log file of its own, its number, its JobReturn and its calls of Hydra's
callbacks. What it can't give jobs that share a process is a working directory or environment variables of their own
(hydra.job.chdir, hydra.job.env_set): with these, and for a task without a batched form, jobs run one after another.
On that path it passes Hydra's LauncherTestSuite as it stands, on the batched one with a batched form of the suite's
task, and with the output directory where the suite looks into the working directory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)
Task = TypeVar("Task", bound=Callable[..., Any])


@dataclass(frozen=True)
class Batched:
    """How a task runs many jobs at once.

    prepare: called for each job as the task itself would be, with HydraConfig set, and with the job's log files; its
        result stands for the job. A job whose preparation raises an exception has failed.
    run: called once with what was prepared; returns a result, or the exception that it ended with, for each.
    """

    prepare: Callable[[DictConfig, Sequence[logging.Handler]], Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]


def batched(prepare: Callable[..., Any], run: Callable[..., Sequence[Any]]) -> Callable[[Task], Task]:
    """Give a Hydra task a batched form, see `Batched`; stands between `hydra.main` and the task."""

    def decorate(task: Task) -> Task:
        task.batched = Batched(prepare, run)  # type: ignore[attr-defined]
        return task

    return decorate


def launch(launcher: BasicLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Run all jobs of a batch, those that fail notwithstanding, and return what became of each, in their order.

    Hydra's sweeper raises only the first failure; all of them are named in the log.
    """
    setup_globals()
    assert launcher.config is not None
    assert launcher.hydra_context is not None
    settings = launcher.config.hydra
    configure_log(settings.hydra_logging, settings.verbose)
    Path(str(settings.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info("Launching %d jobs together, sweep output dir : %s", len(job_overrides), settings.sweep.dir)
    numbered = list(enumerate(job_overrides, start=initial_job_idx))
    for number, overrides in numbered:
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    opened = [_open(launcher, number, overrides) for number, overrides in numbered]

    ready = [job for job in opened if job.returned.status is JobStatus.COMPLETED]
    task: Any = launcher.task_function
    results = task.batched.run([job.prepared for job in ready]) if ready else []
    for job, result in zip(ready, results, strict=True):
        job.returned.return_value = result
        job.returned.status = JobStatus.FAILED if isinstance(result, BaseException) else JobStatus.COMPLETED

    configure_log(settings.hydra_logging, settings.verbose)
    for job in opened:
        _close(job, launcher.hydra_context.callbacks)
    failed = [(number, job.returned) for (number, _), job in zip(numbered, opened, strict=True) if job.failed]
    for number, returned in failed:
        error = returned._return_value  # its property raises it
        log.error("#%d failed : %s : %s", number, " ".join(returned.overrides or ()), _one_line(error))
    if failed:
        log.error("%d of %d jobs failed", len(failed), len(opened))
    return [job.returned for job in opened]


@dataclass
class _OpenJob:
    """A job whose directory and .hydra/ are written and whose callbacks know that it has started."""

    config: DictConfig
    returned: JobReturn
    prepared: Any
    files: Sequence[logging.Handler]

    @property
    def failed(self) -> bool:
        return self.returned.status is JobStatus.FAILED


class _UntilItEnds(Callbacks):
    """Passes the start of a job on to Hydra's callbacks, and keeps its end back."""

    def __init__(self, callbacks: Callbacks, task: Any) -> None:
        super().__init__()
        self._callbacks, self._task = callbacks, task

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._callbacks.on_job_start(config, task_function=self._task)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        pass


def _open(launcher: BasicLauncher, number: int, overrides: Sequence[str]) -> _OpenJob:
    assert launcher.config is not None
    assert launcher.hydra_context is not None
    loader = launcher.hydra_context.config_loader
    config = loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    task: Any = launcher.task_function
    files: list[logging.Handler] = []

    def prepare(task_config: DictConfig) -> Any:
        files.extend(_detach_log_files())
        return task.batched.prepare(task_config, files)

    returned = run_job(
        hydra_context=HydraContext(loader, _UntilItEnds(launcher.hydra_context.callbacks, task)),
        task_function=prepare,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    prepared = returned.return_value if returned.status is JobStatus.COMPLETED else None
    return _OpenJob(config, returned, prepared, files)


def _close(job: _OpenJob, callbacks: Callbacks) -> None:
    for file in job.files:
        file.close()
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(job.config)
    try:
        callbacks.on_job_end(job.config, job_return=job.returned)
    finally:
        HydraConfig.instance().cfg = before


def _detach_log_files() -> list[logging.Handler]:
    """Take the files that Hydra's job_logging has opened off the root logger; returns handlers that append to them.

    They are new ones, opened with their first line: Hydra closes all that exist when it configures the next job.
    """
    root = logging.getLogger()
    copies: list[logging.Handler] = []
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
        copy = logging.FileHandler(handler.baseFilename, encoding=handler.encoding, delay=True)
        copy.setLevel(handler.level)
        copy.setFormatter(handler.formatter)
        copies.append(copy)
    return copies


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CompactHydraException) else f"{type(error).__name__}: {text}"
