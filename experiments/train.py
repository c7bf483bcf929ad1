"""Table 2 and Figure 4: train networks of depth 200 on real images.

Claim (Lu, Gould, Ajanthan 2023, section 3.2): with a GPN activation and rows of norm one a plain 200-layer network
trains, whatever the activation; without GPN, ReLU, LeakyReLU and GELU don't; batch norm makes gradients explode.

    python -m experiments.train activation=tanh gpn=true dataset=mnist seed=0          one cell
    python -m experiments.train +experiment=table2                                      the table's 48 cells
    python -m experiments.train -m hydra/launcher=stacked activation='glob(*)' gpn=true,false seed=0,1,2    any grid
    python -m experiments.train +experiment=table2 budget=paper time_limit=540          nine minutes of it

Cost: the table's 48 networks under quick 7 minutes on two cores of an Intel Xeon that also did other work.
Output: results/<budget>/runs/<cell>/record.json (see bsnn.results.records) and a W&B run for each cell. A cell that is
already trained is skipped, an interrupted one resumes. hydra/launcher=stacked trains the cells of a grid together,
which is faster; stacked_slurm, stacked_ray and stacked_local send stacks to a cluster, or to processes of their own.
Launchers that give each cell a process (joblib) work too. Exit code: 0, all cells are trained; 1, something failed;
75, the time limit has stopped it and the same command goes on; 130, Ctrl-C; 143, SIGTERM.
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
from bsnn.launch.launcher import batched
from bsnn.results.records import Record
from bsnn.training.runner import Job, run_cells
from bsnn.training.timelimit import OutOfTime
from experiments.entry import end_with_parent, note, reports_user_errors, run, started, without_traceback

schemas.register()


@reports_user_errors
def job(config: DictConfig, log_files: Sequence[logging.Handler] = ()) -> Job:
    typed = schemas.checked(config, schemas.TrainConfig)
    resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return Job(typed, resolved, _command(), log_files)


def train(jobs: Sequence[Job], progress_bar: bool = True) -> list[Record | BaseException | None]:
    """Train all jobs in stacks: `main`'s batched form for hydra/launcher=stacked. None: stopped by the time limit."""
    bar = progress_bar and sys.stderr.isatty()
    with logging_redirect_tqdm() if bar else nullcontext():
        outcomes = run_cells(jobs, bar, started(), note)
    return [None if isinstance(outcome, OutOfTime) else without_traceback(outcome) for outcome in outcomes]


def spread(jobs: Sequence[Job]) -> CellSpread:
    """Divide jobs among workers, for the launchers that send stacks to other processes or machines."""
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
    """Return the command that trains this cell alone; in a sweep's worker the process's own would be the worker's."""
    return shlex.join(["python", "-m", "experiments.train", *HydraConfig.get().overrides.task])


if __name__ == "__main__":
    run(main)
