"""A worker: a group of a sweep's jobs sent to another process, the place where it runs, and the results it returns."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from bsnn.launch.launcher import Launches, Numbered, Share, one_line, run_together


@dataclass(frozen=True)
class Place:
    """The place of a worker, described by its pool.

    requeue: puts the worker back into the queue, with the same group, and ends the process. It is called when the
        place's deadline, and not the command's, has stopped jobs. None: the place has no deadline of its own.
    """

    share: Share = field(default_factory=Share)
    requeue: Callable[[], object] | None = None


@dataclass(frozen=True)
class Lost:
    """A worker that has ended without a result."""

    reason: str


class Pool(Protocol):
    """A place for workers: a cluster, or processes on this machine."""

    name: str
    poll_seconds: float  # between looks at it
    return_seconds: float  # at most, from a worker's end until the pool knows it

    def send(self, workers: Sequence[Worker]) -> list[str]:
        """Start or queue workers; returns the names by which a user finds them."""

    def ended(self) -> Iterable[tuple[str, list[JobReturn] | Lost]]:
        """Yield the workers that have ended since the last call, by name."""

    def stop(self) -> None:
        """End all workers that haven't ended; returns when they have, or are about to."""

    def close(self) -> None: ...


class Worker:
    """A group of jobs with all that is needed to run them in another process. It is pickled, and called there."""

    deadline: float | None = None  # the command's, of time.time()
    place: Callable[[], Place] = Place  # called in the worker, first; set by the pool

    def __init__(self, launcher: Launches, jobs: Numbered, together: bool) -> None:
        assert launcher.config is not None
        self.config: DictConfig = launcher.config
        self.hydra_context: HydraContext | None = launcher.hydra_context
        self.task_function: Any = launcher.task_function
        self.jobs, self.together = jobs, together
        self._folder = Path.cwd()
        self._singletons = Singleton.get_state()

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.jobs]

    def __call__(self) -> list[JobReturn]:
        """Run the jobs; return their results in order. Exceptions of jobs are results."""
        os.chdir(self._folder)
        Singleton.set_state(self._singletons)
        setup_globals()
        place = self.place()
        if not self.together:
            basic = BasicLauncher()
            assert self.hydra_context is not None
            basic.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
            returned = [job for number, overrides in self.jobs for job in basic.launch([list(overrides)], number)]
            return [_portable(job) for job in returned]
        own = place.share.deadline
        first = min((d for d in (own, self.deadline) if d is not None), default=None)
        returned = run_together(self, self.jobs, Share(first, place.share.threads))
        stopped = any(job.status is JobStatus.COMPLETED and job._return_value is None for job in returned)
        if stopped and place.requeue is not None and own == first:
            place.requeue()
        return [_portable(job) for job in returned]

    def checkpoint(self) -> Any:
        """Return the same worker, which submitit queues when a cluster's time limit or a preemption ends this one."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _portable(job: JobReturn) -> JobReturn:
    """Give a job a result that can be pickled: exceptions with arguments of their own often can't be read back."""
    if isinstance(job._return_value, BaseException):
        try:
            pickle.loads(pickle.dumps(job._return_value))
        except Exception:
            job._return_value = RuntimeError(one_line(job._return_value))
    return job
