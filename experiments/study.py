"""The common part of the studies: a study has parts, each a table in results/<budget>/<study>/.

    python -m experiments.theory budget=paper                 all parts, side by side; what is finished is skipped
    python -m experiments.theory part=talk                    one of them
    python -m experiments.theory -m part=talk seed=0,1,2      others lie in other_settings/

A part is a function from the study's config to its `Work` (experiments.units). The same settings are computed once, and
a killed command goes on after the last whole unit. A table's identity consists of the seed, the part's settings
(`config.sizes.<part>` from conf/<study>/<budget>.yaml), the constants that its code names (experiments.constants), and
the part's `Work.identity`: a `version`, raised when the code begins to compute other numbers from the same settings and
constants, and whatever else the numbers depend on.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bsnn.config import StudyConfig, checked
from bsnn.errors import UserError
from bsnn.launch.entry import end_with_parent
from bsnn.results import provenance
from experiments import constants, places
from experiments.units import Work, compute, finished, threads_for

ALL = "all"
STUDIES = ("theory", "vanishing", "shrinkage", "collapse", "bridge", "beyond")

C = TypeVar("C", bound=StudyConfig)


def register(study: str, schema: type[StudyConfig]) -> None:
    """Register the study's schema with Hydra under the name that conf/<study>.yaml uses."""
    ConfigStore.instance().store(name=f"{study}_schema", node=schema)


def run(
    study: str,
    config: DictConfig,
    schema: type[C],
    parts: Mapping[str, Callable[[C], Work]],
    alone: Collection[str] = (),
) -> None:
    """Compute what is missing of results/<budget>/<study>/<part>.csv, of one part or of all of them.

    Several missing parts are computed side by side on a CPU, a process each, as many as there are threads, which they
    share. A table with other settings than the budget's own goes to other_settings/ there (experiments.places). If one
    of all parts can't be computed, the others still are. Raises UserError for a part that the study doesn't have.

    alone: parts that measure times, for which nothing else may run.
    """
    if config.part != ALL and config.part not in parts:
        raise UserError(f"part: expected {ALL} or one of {', '.join(parts)}, found {config.part!r}.")
    problems: list[str] = []
    jobs = []
    for part in parts if config.part == ALL else [config.part]:
        with _noted(problems):
            # the budget's own settings are composed once for all parts
            job = _Job(study, config, places.own_settings(study, f"part={ALL}", config)).changed(part=part)
            if not finished(*job.work(schema, parts[part])):
                jobs.append(job)
    together = [job for job in jobs if job.part not in alone]
    threads = threads_for(provenance.choose_device(config.device), config.threads) if jobs else 1
    processes = min(threads, len(together))
    if processes > 1:
        share = threads // processes
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_start, initargs=(share,)) as pool:
            futures = [pool.submit(_compute_in_process, job.changed(threads=share), schema) for job in together]
            for future in futures:
                with _noted(problems):
                    _outcome(future)
        jobs = [job for job in jobs if job.part in alone]
    for job in jobs:
        with _noted(problems):
            job.compute(schema, parts[job.part])
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Note a UserError instead of raising it."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


class _Job(NamedTuple):
    """A part of a study to compute, in this process or another one.

    config, own: its settings, and those that the budget has.
    """

    study: str
    config: DictConfig
    own: DictConfig

    @property
    def part(self) -> str:
        return str(self.config.part)

    def work(self, schema: type[C], part: Callable[[C], Work]) -> tuple[Work, Path]:
        """Return the table to compute and its path, without suffix."""
        typed = checked(self.config, schema)
        work = work_of(self.study, self.config, typed, part)
        same = _seen(self.config) == _seen(self.own)
        own_work = work if same else work_of(self.study, self.own, checked(self.own, schema), part)
        folder = Path(typed.results_dir) / typed.budget.name / self.study
        return work, places.place(folder, self.part, work.identity, own_work.identity)

    def compute(self, schema: type[C], part: Callable[[C], Work]) -> None:
        work, path = self.work(schema, part)
        device = provenance.choose_device(self.config.device)
        about = {"study": self.study, "part": self.part, "config": OmegaConf.to_container(self.config, resolve=True)}
        compute(work, path, about, device, threads_for(device, self.config.threads))

    def changed(self, **settings: Any) -> _Job:
        """Return the job with other settings, in the budget's own, too."""
        config, own = (OmegaConf.merge(one, settings) for one in (self.config, self.own))
        assert isinstance(config, DictConfig)
        assert isinstance(own, DictConfig)
        return self._replace(config=config, own=own)


def _outcome(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "expected the parts' processes to end by themselves, found one that was killed (is there enough memory?); "
            "the same command goes on, with threads=1 one part after the other."
        ) from error


def _start(threads: int) -> None:
    """Prepare a process for parts: it ends with its parent, or at once when interrupted, and logs like its parent."""
    end_with_parent()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")


def _compute_in_process(job: _Job, schema: type[StudyConfig]) -> None:
    parts = import_module(f"experiments.{job.study}.__main__").PARTS
    job.compute(schema, parts[job.part])


def work_of(study: str, config: DictConfig, typed: C, part: Callable[[C], Work]) -> Work:
    """Return the part's work with its whole identity."""
    work = part(typed)
    settings = OmegaConf.to_container(config.sizes[typed.part], resolve=True)
    identity = {"study": study, "part": typed.part, "seed": typed.seed, "sizes": settings, **work.identity}
    depends = {f"{study}.{typed.part}.{name}": value for name, value in work.depends.items()}
    changed = constants.changed(constants.found(part) | depends)
    return replace(work, identity={**identity, **({"constants": changed} if changed else {})})


def _seen(config: DictConfig) -> dict[str, Any]:
    """Collect all settings that a part can see."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {**{str(key): value for key, value in settings.items()}, "sizes": settings["sizes"][config.part]}
