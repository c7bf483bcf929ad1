"""hydra/launcher=stacked on a machine with several GPUs: a worker process for each, which sees no other.

The workers are those of hydra/launcher=stacked_local. The most informative cells are sent first, and if there are
enough cells, each GPU gets the same number. Where one process does as well (one GPU, cells for the CPU, a single cell)
the jobs run in this one. CUDA_VISIBLE_DEVICES chooses the GPUs, as for any program.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn

from bsnn.launch import dispatch, launcher

log = logging.getLogger(__name__)
CELLS_PER_JOB = 24  # a limit, so that of many seeds the first ones come first
RETRIES = 2
VARIABLES = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if torch.version.hip else ("CUDA_VISIBLE_DEVICES",)
"""Environment variables that choose GPUs; the first one that is set counts."""


def names() -> list[str]:
    """Name the GPUs that torch sees, as `VARIABLES` do: by numbers, or as the user's variable has them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0  # with an old driver there are some, unusable
    chosen = next((os.environ[name] for name in VARIABLES if name in os.environ), None)
    listed = map(str, range(count)) if chosen is None else (name.strip() for name in chosen.split(","))
    return list(listed)[:count]  # CUDA stops at the first name that it doesn't find


def in_use() -> list[str]:
    """Name the GPUs that a sweep uses: all that torch sees, or the first one where workers can't be started."""
    seen = names()
    return seen if importlib.util.find_spec("submitit") is not None else seen[:1]


def launch(caller: BasicLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Run all jobs of a batch on all GPUs, see bsnn.launch.launcher.launch."""
    gpus = in_use()
    if len(gpus) < len(names()):
        log.warning(
            'this machine has %d GPUs, of which the first is used: the others need the package submitit; '
            'pip install "bsnn[slurm]"',
            len(names()),
        )  # fmt: skip
    batched: Any = caller.task_function.batched  # type: ignore[union-attr]
    if len(gpus) < 2 or batched.spread is None:
        return launcher.launch(caller, job_overrides, initial_job_idx)
    from bsnn.launch.on_slurm import LocalPool

    assert caller.config is not None
    parameters = {
        "submitit_folder": f"{caller.config.hydra.sweep.dir}/.submitit/%j",
        "timeout_min": 60 * 24 * 365,
        "jobs_at_once": len(gpus),
        "gpus_per_node": 1,
    }
    return dispatch.launch(
        caller,
        job_overrides,
        initial_job_idx,
        pool=lambda: LocalPool(parameters),
        cells_per_job=CELLS_PER_JOB,
        retries=RETRIES,
        gpus=len(gpus),
    )
