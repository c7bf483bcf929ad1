"""The stacked launcher: the jobs of a multirun in one process, run together by a task that has a batched form.

hydra_plugins/bsnn_stacked.py registers it as hydra/launcher=stacked. To a user it behaves like Hydra's basic launcher:
each job has its directory with .hydra/ and a log file of its own, its number, its JobReturn and its calls of Hydra's
callbacks. Jobs that share a process can't have a working directory or environment variables of their own
(hydra.job.chdir, hydra.job.env_set). With these, and for a task without a batched form, jobs run one after another. In
that case it passes Hydra's LauncherTestSuite unchanged. With a batched form of the suite's task it passes too, if the
suite looks into the output directory instead of the working directory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)
Task = TypeVar("Task", bound=Callable[..., Any])
Numbered = Sequence[tuple[int, Sequence[str]]]  # the jobs' numbers in the sweep and their overrides


class Launches(Protocol):
    """The attributes of a launcher that Hydra has set up."""

    @property
    def config(self) -> DictConfig | None: ...
    @property
    def hydra_context(self) -> HydraContext | None: ...
    @property
    def task_function(self) -> Any: ...


@dataclass(frozen=True)
class Share:
    """The time and the cores that a worker, a process for some of a sweep's jobs, may use."""

    deadline: float | None = None  # of time.time(), by which its jobs must have ended; None: no deadline
    threads: int | None = None  # cores; None: all that the worker finds


class Spread(Protocol):
    """The jobs of a sweep on their way to workers and back, see bsnn.launch.dispatch; made from prepared jobs."""

    deadline: float | None  # of time.time(), by which the command must have ended; None: there is none
    on_cpu: bool  # no job asks for a GPU, wherever it runs

    def groups(self, at_most: int, workers: int = 1) -> list[list[int]]:
        """Return groups of positions of the jobs that need a worker, in the order in which they should start.

        A group has at most `at_most` jobs, unless several ask for the same. If `workers` run at a time, all get about
        as much to do.
        """

    def progress(self) -> str:
        """Say how far the jobs are, for a log: 71 of 240 cells."""

    def ended(self, results: Sequence[Any]) -> None:
        """Called once, at the end, with the result of each job that needed a worker, in the order of the groups."""

    def interrupted(self) -> None:
        """Called instead of `ended`, if the command is interrupted and the workers have ended."""


@dataclass(frozen=True)
class Batched:
    """The batched form of a task, which runs many jobs at once.

    prepare: called for each job like the task itself, with HydraConfig set, and with the job's log files; its result
        stands for the job. A job whose preparation raises an exception has failed.
    run: called once with all prepared jobs; returns a result for each: what the task returns, the exception that it
        ended with, or None if it was stopped by a deadline.
    spread: divides jobs among workers; None: each gets one.
    confine: changes a prepared job so that `run` keeps to a worker's share.
    """

    prepare: Callable[[DictConfig, Sequence[logging.Handler]], Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]
    spread: Callable[[Sequence[Any]], Spread] | None = None
    confine: Callable[[Any, Share], Any] = lambda prepared, share: prepared


def batched(
    prepare: Callable[..., Any],
    run: Callable[..., Sequence[Any]],
    spread: Callable[[Sequence[Any]], Spread] | None = None,
    confine: Callable[[Any, Share], Any] = lambda prepared, share: prepared,
) -> Callable[[Task], Task]:
    """Give a Hydra task a batched form, see `Batched`; stands between `hydra.main` and the task."""

    def decorate(task: Task) -> Task:
        task.batched = Batched(prepare, run, spread, confine)  # type: ignore[attr-defined]
        return task

    return decorate


def launch(launcher: BasicLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Run all jobs of a batch, also if some fail, and return the result of each, in their order.

    Hydra's sweeper raises only the first failure; the log names all of them.
    """
    return run_together(launcher, list(enumerate(job_overrides, start=initial_job_idx)))


def run_together(launcher: Launches, numbered: Numbered, share: Share | None = None) -> list[JobReturn]:
    """Run jobs with any numbers like `launch`, confined to a worker's share."""
    setup_globals()
    assert launcher.config is not None
    assert launcher.hydra_context is not None
    settings = launcher.config.hydra
    configure_log(settings.hydra_logging, settings.verbose)
    Path(str(settings.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info("Launching %d jobs together, sweep output dir : %s", len(numbered), settings.sweep.dir)
    log_jobs(numbered)
    opened = [_open(launcher, number, overrides) for number, overrides in numbered]

    ready = [job for job in opened if job.returned.status is JobStatus.COMPLETED]
    task: Any = launcher.task_function
    prepared = [job.prepared if share is None else task.batched.confine(job.prepared, share) for job in ready]
    results = task.batched.run(prepared) if ready else []
    for job, result in zip(ready, results, strict=True):
        job.returned.return_value = result
        job.returned.status = JobStatus.FAILED if isinstance(result, BaseException) else JobStatus.COMPLETED

    configure_log(settings.hydra_logging, settings.verbose)
    for job in opened:
        _close(job, launcher.hydra_context.callbacks)
    returned = [job.returned for job in opened]
    log_failures([number for number, _ in numbered], returned)
    return returned


def log_jobs(numbered: Numbered) -> None:
    for number, overrides in numbered:
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))


def log_failures(numbers: Sequence[int], returned: Sequence[JobReturn]) -> None:
    """Log all failures: Hydra's sweeper raises only the first."""
    failed = [(n, job) for n, job in zip(numbers, returned, strict=True) if job.status is JobStatus.FAILED]
    for number, job in failed:
        error = job._return_value  # its property raises it
        log.error("#%d failed : %s : %s", number, " ".join(job.overrides or ()), one_line(error))
    if failed:
        log.error("%d of %d jobs failed", len(failed), len(returned))


def compose_job(launcher: Launches, number: int, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a sweep's job, including Hydra's own part."""
    assert launcher.config is not None
    assert launcher.hydra_context is not None
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    return config


@dataclass
class _OpenJob:
    """A job whose directory and .hydra/ are written and whose callbacks know that it has started."""

    config: DictConfig
    returned: JobReturn
    prepared: Any
    files: Sequence[logging.Handler]


class _UntilItEnds(Callbacks):
    """Callbacks that pass the start of a job on to Hydra's, and keep its end back."""

    def __init__(self, callbacks: Callbacks, task: Any) -> None:
        super().__init__()
        self._callbacks, self._task = callbacks, task

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._callbacks.on_job_start(config, task_function=self._task)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        pass


def _open(launcher: Launches, number: int, overrides: Sequence[str]) -> _OpenJob:
    config = compose_job(launcher, number, overrides)
    assert launcher.hydra_context is not None
    loader = launcher.hydra_context.config_loader
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
    """Take the files that Hydra's job_logging opened off the root logger; return handlers that append to them.

    The handlers are new and open their files at the first line: Hydra closes all that exist for the next job.
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


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CompactHydraException) else f"{type(error).__name__}: {text}"
