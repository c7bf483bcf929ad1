"""Workers as submitit's jobs: on a Slurm cluster, or as processes on this machine.

Their logs lie in <sweep>/.submitit/<job>/. squeue tells if a Slurm job still lives, since sacct needs accounting, which
small clusters don't have. A job near its time limit (timeout_min) writes checkpoints of its present state and is put
back into the queue. A preempted job is put back, too, and repeats what it did since its last checkpoint.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from submitit.core.utils import FailedJobError

from bsnn.launch import on_gpus
from bsnn.launch.launcher import Share
from bsnn.launch.worker import Lost, Place, Worker
from bsnn.training.planning import cores

log = logging.getLogger(__name__)
SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
          "stderr_to_stdout")  # fmt: skip
"""Parameters that every executor of submitit has. Other names get the executor's prefix, as in slurm_partition."""
STOP_SECONDS = 120.0  # for a local worker to write its checkpoints and to end by itself: a GPU holds 10 GB of them
CLOSING_SECONDS = 60.0  # Slurm may send the signal that precedes a time limit a minute early


class SlurmPool:
    """Jobs of a Slurm cluster in one array; lost parts are sent again one by one."""

    name = "Slurm"
    poll_seconds = 2.0
    return_seconds = 10.0
    queue_seconds = 10.0  # between calls of squeue
    file_system_seconds = 15.0  # until this machine sees a file of another one

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        try:
            self._executor = _executor("slurm", parameters)
        except RuntimeError as error:
            raise CompactHydraException(
                "hydra/launcher=stacked_slurm: expected a machine that submits to a Slurm cluster, found no srun; "
                "use stacked_local, or stacked for a single process."
            ) from error
        self._minutes, self._notice = parameters["timeout_min"], parameters["signal_delay_s"]
        self._jobs: dict[str, submitit.Job[list[JobReturn]]] = {}
        self._gone: dict[str, float] = {}  # time at which a job without a result left the queue
        self._looked = -float("inf")

    def send(self, workers: Sequence[Worker]) -> list[str]:
        for worker in workers:
            worker.place = functools.partial(slurm_place, 60 * self._minutes, self._notice)
        try:
            jobs = self._executor.submit_array(list(workers))
        except (FailedJobError, subprocess.CalledProcessError, FileNotFoundError) as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise CompactHydraException(
                "hydra/launcher=stacked_slurm: expected sbatch to take the jobs, found: "
                f"{said[-1] if said else type(error).__name__}; hydra.launcher.* is what it is asked for."
            ) from error
        self._jobs |= {job.job_id: job for job in jobs}
        return [job.job_id for job in jobs]

    def ended(self) -> Iterator[tuple[str, list[JobReturn] | Lost]]:
        missing = set() if time.monotonic() < self._looked + self.queue_seconds else self._missing()
        for name, job in list(self._jobs.items()):
            if _has_result(job):
                yield self._drop(name), _result(job)
            elif name in missing:
                self._gone.setdefault(name, time.monotonic())
                if time.monotonic() >= self._gone[name] + self.file_system_seconds:
                    yield self._drop(name), Lost(f"it left the queue without a result, see {job.paths.stderr}")

    def stop(self) -> None:
        if self._jobs:
            # SIGINT lets a worker close its W&B runs. submitit's workers ignore scancel's SIGTERM; they are killed in
            # the end, 30 seconds later unless the cluster's KillWait differs.
            for how in (["--signal=INT"], []):
                subprocess.run(["scancel", "--quiet", *how, *self._jobs], check=False, capture_output=True)
            self._jobs.clear()

    def close(self) -> None:
        pass

    def _drop(self, name: str) -> str:
        del self._jobs[name]
        self._gone.pop(name, None)
        return name

    def _missing(self) -> set[str]:
        """Find jobs that are neither queued nor running. While squeue gives no answer, none counts as missing."""
        self._looked = time.monotonic()
        command = ["squeue", f"--user={os.getuid()}", "--array", "--noheader", "--format=%i"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("squeue gave no answer: %s", getattr(error, "stderr", None) or error)
            return set()
        there = set(done.stdout.split())
        self._gone = {name: since for name, since in self._gone.items() if name not in there}
        return set(self._jobs) - there


class LocalPool:
    """Processes on this machine, a given number at once; they share its cores, and end if this process is killed."""

    name = "local"
    poll_seconds = 0.2
    return_seconds = 1.0

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        own = {"jobs_at_once", "gpus_per_node"}
        self._at_once = parameters["jobs_at_once"]
        self._free = _devices(parameters["gpus_per_node"], self._at_once)
        others = {key: value for key, value in parameters.items() if key not in own}
        self._executors = {seen: _executor("local", others, _python_that_sees(seen)) for seen in self._free}
        self._waiting: list[tuple[str, Worker]] = []
        self._running: dict[str, tuple[submitit.Job[list[JobReturn]], str | None]] = {}  # with the GPUs that it sees
        self._sent = 0

    def send(self, workers: Sequence[Worker]) -> list[str]:
        names = [str(self._sent + k) for k in range(1, len(workers) + 1)]
        self._sent += len(workers)
        self._waiting += zip(names, workers, strict=True)
        self._start()
        return names

    def ended(self) -> Iterator[tuple[str, list[JobReturn] | Lost]]:
        for name, (job, devices) in list(self._running.items()):
            if job.done():
                del self._running[name]
                self._free.append(devices)
                lost = Lost(f"its process has ended without a result, see {job.paths.stderr}")
                yield name, _result(job) if _has_result(job) else lost
        self._start()

    def stop(self) -> None:
        self._waiting.clear()
        for signal_, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 1.0)):
            left = [job for job, _ in self._running.values() if not job.done()]
            for job in left:
                os.kill(int(job.job_id), signal_)  # submitit's process, which passes SIGTERM on to the worker
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not all(job.done() for job in left):
                time.sleep(0.05)
        self._running.clear()

    def close(self) -> None:
        pass

    def _start(self) -> None:
        while self._waiting and self._free:
            name, worker = self._waiting.pop(0)
            devices = self._free.pop(0)
            worker.place = functools.partial(local_place, os.getpid(), max(1, cores() // self._at_once))
            # Ctrl-C at a terminal is for this process, which ends the others: submitit's would print tracebacks.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                job = self._executors[devices].submit(worker)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            where = f" on GPU {devices}" if devices and len(self._executors) > 1 else ""
            log.info("%s %s : runs%s, its log is %s", self.name, name, where, job.paths.stdout)
            self._running[name] = job, devices


def slurm_place(seconds: float, notice: float) -> Place:
    """Return a worker's place, called on a node. `seconds`: its time limit; `notice`: Slurm's warning before it."""
    end = float(os.environ.get("SLURM_JOB_END_TIME", time.time() + seconds - 30))
    # If the notice takes more than there is, half of the time left is used.
    deadline = max(end - notice - CLOSING_SECONDS, time.time() + 0.5 * (end - time.time()))
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return Place(Share(deadline, int(cpus) if cpus else None), _ask_for_requeue)


def local_place(parent: int, threads: int) -> Place:
    """Return a worker's place, called on the parent's machine."""
    signal.signal(signal.SIGTERM, _interrupt)  # submitit ignores it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return Place(Share(threads=threads))


def _ask_for_requeue() -> None:
    """Act as if the cluster's notice had come: submitit stores Worker.checkpoint, requeues the job and exits."""
    signal.raise_signal(submitit.JobEnvironment()._usr_sig())


def _interrupt(*_: object) -> None:
    """End once as by Ctrl-C, which closes the W&B runs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """End this process when the parent ends. The work since its last checkpoint is lost."""
    while True:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(0.5)


def _devices(each: int | None, workers: int) -> list[str | None]:
    """Return each worker's GPUs, as CUDA_VISIBLE_DEVICES names them: `each` of its own if it is a number. None: all."""
    if each is None:
        return [None] * workers
    there = on_gpus.names()
    if each * workers > len(there):
        raise CompactHydraException(
            f"hydra/launcher=stacked_local: expected {each} x {workers} GPUs for gpus_per_node={each} and "
            f"jobs_at_once={workers}, found {len(there)}; lower one of them."
        )
    return [",".join(there[k * each : (k + 1) * each]) for k in range(workers)]


def _python_that_sees(devices: str | None) -> str:
    """Return the command that starts a worker, for submitit.

    The worker has these GPUs from its first instruction on, before anything asks for them. submitit itself would hide
    all of them.
    """
    names = (*on_gpus.VARIABLES, "CUDA_VISIBLE_DEVICES")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    chosen = kept if devices is None else {on_gpus.VARIABLES[0]: devices}
    hidden = [word for name in dict.fromkeys(names) for word in ("-u", name)]
    return shlex.join(["env", *hidden, *(f"{name}={value}" for name, value in chosen.items()), sys.executable])


def _executor(cluster: str, parameters: Mapping[str, Any], python: str | None = None) -> submitit.AutoExecutor:
    """Set up an executor as hydra-submitit-launcher does. `python`: the command that starts a local job's worker."""
    parameters = dict(parameters)
    folder = parameters.pop("submitit_folder")
    options: dict[str, Any] = {"local_python": python} if python is not None else {}
    if cluster == "slurm":
        options["slurm_max_num_timeout"] = parameters.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **options)
    executor.update_parameters(
        **{key if key in SHARED else f"{cluster}_{key}": value for key, value in parameters.items()}
    )
    return executor


def _has_result(job: submitit.Job[Any]) -> bool:
    folder = job.paths.folder
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)  # makes a network file system look again
    return Path(job.paths.result_pickle).exists()


def _result(job: submitit.Job[list[JobReturn]]) -> list[JobReturn] | Lost:
    try:
        return job.result()
    except Exception as error:  # of the worker itself: errors of its jobs are results
        found = re.search(r"-{22}\n(.*)\n-{22}", str(error), re.DOTALL)
        lines = [line for line in (found[1] if found else str(error)).splitlines() if line.strip()]
        return Lost(f"{lines[-1] if lines else type(error).__name__}, see {job.paths.stderr}")
