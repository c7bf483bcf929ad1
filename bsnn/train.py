"""The command that trains networks: `bsnn-train` where bsnn is installed, `python -m experiments.train` in a checkout.

    bsnn-train activation=tanh gpn=true dataset=mnist budget=smoke tracking=none        one cell
    bsnn-train -m hydra/launcher=stacked activation='glob(*)' gpn=true,false            any grid

experiments/train.py explains settings, output and exit codes.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from bsnn import config as schemas
from bsnn.launch.cells import CellSpread, confined
from bsnn.launch.entry import end_with_parent, note, reports_user_errors, run, started, without_traceback
from bsnn.launch.launcher import batched
from bsnn.results.records import Record
from bsnn.training.runner import Job, run_cells
from bsnn.training.timelimit import OutOfTime

schemas.register()


@reports_user_errors
def job(config: DictConfig, log_files: Sequence[logging.Handler] = ()) -> Job:
    typed = schemas.checked(config, schemas.TrainConfig)
    resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return Job(typed, resolved, _command(), log_files)


def train(jobs: Sequence[Job], progress_bar: bool = True) -> list[Record | BaseException | None]:
    """Train all jobs in stacks: the batched form of `main`, for hydra/launcher=stacked. None: stopped by the time
    limit."""
    bar = progress_bar and sys.stderr.isatty()
    with logging_redirect_tqdm() if bar else nullcontext():
        outcomes = run_cells(jobs, bar, started(), note)
    return [None if isinstance(outcome, OutOfTime) else without_traceback(outcome) for outcome in outcomes]


def spread(jobs: Sequence[Job]) -> CellSpread:
    """Divide the jobs among workers, for the launchers that send stacks to other processes or machines."""
    return CellSpread(jobs, started(), note)


@hydra.main(version_base="1.3", config_path=str(schemas.CONF), config_name="train")
@batched(job, train, spread, confined)
def main(config: DictConfig) -> Record | None:
    side_by_side = "JoblibLauncher" in HydraConfig.get().launcher._target_
    if side_by_side:
        end_with_parent()
    # Bars of several processes would overwrite each other.
    [outcome] = train([job(config)], progress_bar=not side_by_side)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _command() -> str:
    """The command that trains this cell alone; in a sweep's worker the process's own would be the worker's."""
    return shlex.join([*schemas.TRAIN_COMMAND, *HydraConfig.get().overrides.task])


def command() -> None:
    """Run the command to its exit code."""
    run(main)


if __name__ == "__main__":
    command()
