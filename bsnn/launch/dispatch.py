"""The stacked launcher for several processes: a sweep's jobs in groups, each sent to a worker that trains it together.

hydra_plugins/bsnn_dispatch.py registers it as hydra/launcher=stacked_slurm, stacked_local and stacked_ray, which differ
in the pool that runs their workers. A group holds at most cells_per_job cells that can share a stack. The most
informative groups are sent first. In its worker a group runs through bsnn.launch.launcher, so that each job has the
directory, log, number and result that hydra/launcher=stacked gives it. Jobs that are finished already, or can't be
prepared, need no worker and are answered here.

A lost worker (killed, its node gone) is replaced by another one with the same group, at most `retries` times; the new
one goes on from the checkpoints. Parent and workers must see the same files under the same paths. A task without a
batched form, and one whose jobs need a process each (hydra.job.chdir, hydra.job.env_set), gets a worker for each job.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bsnn.launch.launcher import Launches, Numbered, Spread, compose_job, log_failures, log_jobs, run_together
from bsnn.launch.worker import Lost, Pool, Worker
from bsnn.training.meter import duration

log = logging.getLogger(__name__)
LINE_SECONDS = 60.0  # between lines about the progress
STOP_SECONDS = 3.0  # before the command's end: waiting stops, and what still runs is cancelled


def launch(
    launcher: Launches,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
    *,
    pool: Callable[[], Pool],
    cells_per_job: int,
    retries: int,
    gpus: int = 0,
) -> list[JobReturn]:
    """Run all jobs of a batch in workers, also if some fail; return the result of each, in their order.

    gpus: if not 0, the workers are one for each of this machine's GPUs, and the jobs are divided evenly among them. If
        there is nothing to divide, or no job is for a GPU, this process runs the jobs itself.

    KeyboardInterrupt cancels the workers and is raised again.
    """
    setup_globals()
    assert launcher.config is not None
    settings = launcher.config.hydra
    configure_log(settings.hydra_logging, settings.verbose)
    Path(str(settings.sweep.dir)).mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(job_overrides, start=initial_job_idx))

    def announce() -> None:
        each = f" on {gpus} GPUs" if gpus else ""
        log.info("Launching %d jobs%s, sweep output dir : %s", len(numbered), each, settings.sweep.dir)
        log_jobs(numbered)

    if not gpus:
        announce()
    batched: Any = getattr(launcher.task_function, "batched", None)
    own_process = settings.job.chdir or settings.job.env_set
    together = not own_process and batched is not None and batched.spread is not None
    spread: Spread | None = None
    groups = [[k] for k in range(len(numbered))]
    returned: dict[int, JobReturn] = {}
    if together:
        prepared = [_prepared(launcher, number, overrides) for number, overrides in numbered]
        good = [k for k, job in enumerate(prepared) if not isinstance(job, Exception)]
        spread = batched.spread([prepared[k] for k in good])
        groups = [[good[k] for k in group] for group in spread.groups(cells_per_job, max(1, gpus))]
        if gpus and (spread.on_cpu or len(groups) < 2):
            return run_together(launcher, numbered)
        if gpus:
            announce()
        bad = [k for k in range(len(numbered)) if k not in set(good)]
        if bad:
            returned |= zip(bad, _refuse(launcher, [numbered[k] for k in bad], [prepared[k] for k in bad]), strict=True)
    away = [k for group in groups for k in group]
    done = [k for k in range(len(numbered)) if k not in set(away) | set(returned)]
    if done:
        log.info("%d of %d jobs are done already and need no worker", len(done), len(numbered))
        returned |= zip(done, run_together(launcher, [numbered[k] for k in done]), strict=True)
    if groups:
        workers = [Worker(launcher, [numbered[k] for k in group], together) for group in groups]
        with closing(pool()) as opened:
            try:
                answers = _Dispatch(opened, retries, spread).run(workers)
            except KeyboardInterrupt:
                if spread is not None:
                    spread.interrupted()
                raise
        for group, worker, answer in zip(groups, workers, answers, strict=True):
            returned |= zip(group, _answered(launcher, worker, answer), strict=True)
        if spread is not None:
            spread.ended([returned[k]._return_value for k in away])
        log_failures([numbered[k][0] for k in away], [returned[k] for k in away])
    return [returned[k] for k in range(len(numbered))]


class _Dispatch:
    """Workers that are sent, waited for, and sent again if they are lost."""

    def __init__(self, pool: Pool, retries: int, spread: Spread | None) -> None:
        self._pool, self._retries, self._spread = pool, retries, spread
        self._deadline = spread.deadline if spread is not None else None
        self._started = time.monotonic()

    def run(self, workers: Sequence[Worker]) -> list[list[JobReturn] | Lost | None]:
        """Return each worker's answer; None for one that the command's deadline stopped."""
        if self._deadline is not None:
            for worker in workers:
                worker.deadline = self._deadline - STOP_SECONDS - self._pool.return_seconds
        answers: list[list[JobReturn] | Lost | None] = [None] * len(workers)
        attempts = [1] * len(workers)
        try:
            names = self._pool.send(workers)
            which = {name: index for index, name in enumerate(names)}
            for name, worker in zip(names, workers, strict=True):
                log.info("%s %s : %s", self._pool.name, name, _listed(worker.numbers))
            next_line = time.monotonic() + LINE_SECONDS
            while which:
                for name, answer in list(self._pool.ended()):
                    index = which.pop(name)
                    if isinstance(answer, Lost) and attempts[index] <= self._retries:
                        [again] = self._pool.send([workers[index]])
                        which[again] = index
                        log.warning(
                            "%s %s : lost (%s); sent again as %s, retry %d of %d",
                            self._pool.name, name, answer.reason, again, attempts[index], self._retries,
                        )  # fmt: skip
                        attempts[index] += 1
                    else:
                        answers[index] = answer
                        self._tell(len(workers) - len(which), len(workers))
                if self._deadline is not None and time.time() >= self._deadline - STOP_SECONDS:
                    break
                if time.monotonic() >= next_line:
                    next_line = time.monotonic() + LINE_SECONDS
                    self._tell(len(workers) - len(which), len(workers))
                if which:
                    time.sleep(self._pool.poll_seconds)
        except KeyboardInterrupt:
            log.warning("interrupted: the %s jobs that are left are cancelled", self._pool.name)
            self._pool.stop()
            raise
        if which:
            self._pool.stop()
        return answers

    def _tell(self, ended: int, workers: int) -> None:
        cells = f", {self._spread.progress()}" if self._spread is not None else ""
        log.info(
            "%d of %d %s jobs have ended%s, %s",
            ended, workers, self._pool.name, cells, duration(time.monotonic() - self._started),
        )  # fmt: skip


def _prepared(launcher: Launches, number: int, overrides: Sequence[str]) -> Any:
    """Let the task prepare a job, as in Hydra's run_job but without a trace; return the result or the exception."""
    task: Any = launcher.task_function
    before = HydraConfig.instance().cfg
    config = compose_job(launcher, number, overrides)
    try:
        HydraConfig.instance().set_config(config)
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
            config.hydra.runtime.output_dir = str(folder.absolute())
        HydraConfig.instance().set_config(config)
        task_config = copy.deepcopy(config)
        with read_write(task_config), open_dict(task_config):
            del task_config["hydra"]
        return task.batched.prepare(task_config, ())
    except Exception as error:
        return error
    finally:
        HydraConfig.instance().cfg = before


def _refuse(launcher: Launches, numbered: Numbered, errors: Sequence[Exception]) -> list[JobReturn]:
    """End unprepared jobs as under hydra/launcher=stacked: with a directory, and with their errors."""
    left = iter(errors)

    def prepare(config: DictConfig, files: Sequence[logging.Handler]) -> Any:
        raise next(left)

    task = SimpleNamespace(batched=SimpleNamespace(prepare=prepare))
    refusing = SimpleNamespace(config=launcher.config, hydra_context=launcher.hydra_context, task_function=task)
    return run_together(refusing, numbered)


def _answered(launcher: Launches, worker: Worker, answer: list[JobReturn] | Lost | None) -> list[JobReturn]:
    """Return the results of a worker's jobs, also if the worker gave no answer."""
    if not isinstance(answer, list):
        return [_unanswered(launcher, number, overrides, answer) for number, overrides in worker.jobs]
    return answer


def _unanswered(launcher: Launches, number: int, overrides: Sequence[str], answer: Lost | None) -> JobReturn:
    config = compose_job(launcher, number, overrides)
    chosen = OmegaConf.to_container(config.hydra.overrides.task)
    returned = JobReturn(overrides=chosen, hydra_cfg=OmegaConf.create({"hydra": config.hydra}))  # type: ignore[arg-type]
    with read_write(config), open_dict(config):
        del config["hydra"]
    returned.cfg = config
    returned.return_value = answer if answer is None else RuntimeError(f"its worker was lost: {answer.reason}")
    returned.status = JobStatus.COMPLETED if answer is None else JobStatus.FAILED
    return returned


def _listed(numbers: Sequence[int]) -> str:
    """List jobs by their numbers: #0-#11, #24."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"#{a}" if a == b else f"#{a}-#{b}" for a, b in runs)
