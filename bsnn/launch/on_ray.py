"""Workers as tasks of a Ray cluster, or of one that Ray starts on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage report, and no question about it

import ray
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException

from bsnn.launch.launcher import Share
from bsnn.launch.worker import Lost, Place, Worker


class RayPool:
    """Tasks, each in a process of its own.

    Args:
        init: arguments of ray.init; None stands for an argument that isn't given.
        remote: arguments of ray.remote; num_gpus None: 1 if the cluster has any.
    """

    name = "Ray"
    poll_seconds = 0.2
    return_seconds = 2.0

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(**{key: value for key, value in init.items() if value is not None})
            except (ConnectionError, ValueError) as error:
                raise CompactHydraException(
                    f"hydra/launcher=stacked_ray: expected Ray to start, or to find its cluster, with "
                    f"hydra.launcher.ray.init={dict(init)}, found: {error}"
                ) from error
        options = {"max_calls": 1, "max_retries": 0} | dict(remote)
        if options.get("num_gpus") is None:
            there = ray.cluster_resources()  # type: ignore[no-untyped-call]
            options["num_gpus"] = 1 if there.get("GPU", 0) >= 1 else 0
        self._call = ray.remote(**options)(_called)
        self._tasks: dict[Any, str] = {}
        self._sent = 0

    def send(self, workers: Sequence[Worker]) -> list[str]:
        names = []
        for worker in workers:
            self._sent += 1
            worker.place = ray_place
            names.append(str(self._sent))
            self._tasks[self._call.remote(worker)] = names[-1]
        return names

    def ended(self) -> Iterator[tuple[str, list[JobReturn] | Lost]]:
        done, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], [])
        for task in done:
            name = self._tasks.pop(task)
            try:
                yield name, ray.get(task)
            except ray.exceptions.RayError as error:  # of the worker itself: errors of its jobs are results
                lines = [line for line in str(error).splitlines() if line.strip()]
                # An exception's text is a traceback, whose last line says what it was.
                raised = isinstance(error, ray.exceptions.RayTaskError)
                yield name, Lost(f"{type(error).__name__}: {lines[-1 if raised else 0] if lines else ''}")

    def stop(self) -> None:
        for task in self._tasks:
            with suppress(ray.exceptions.RayError):
                ray.cancel(task, force=True)
        self._tasks.clear()

    def close(self) -> None:
        if self._ours:
            ray.shutdown()


def ray_place() -> Place:
    """Return the place of a worker, called in the worker: it uses as many cores as its task asked for."""
    resources = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    return Place(Share(threads=max(1, int(resources.get("CPU", 1)))))


def _called(worker: Worker) -> list[JobReturn]:
    return worker()
