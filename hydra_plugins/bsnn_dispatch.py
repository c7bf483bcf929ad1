"""hydra/launcher=stacked_slurm, stacked_local, stacked_ray: a multirun's jobs in groups, a worker for each group.

    python -m experiments.train -m hydra/launcher=stacked_slurm hydra.launcher.partition=gpu \
        hydra.launcher.gpus_per_node=1 hydra.launcher.timeout_min=240 activation='glob(*)' gpn=true,false seed=0,1,2
    python -m experiments.train -m hydra/launcher=stacked_local hydra.launcher.jobs_at_once=2 ...
    python -m experiments.train -m hydra/launcher=stacked_ray hydra.launcher.ray.init.address=auto ...

The first two have the parameters of hydra-submitit-launcher, whose package they need, the third the arguments of
ray.init and ray.remote, and all of them those of `Groups`. Like bsnn_stacked.py, and for the same reasons, this file
imports neither bsnn nor what a worker needs.
"""

import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

try:
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
except ImportError:
    LocalQueueConf = SlurmQueueConf = None


class _DispatchLauncher(Launcher):
    """A launcher that hands the jobs to bsnn.launch.dispatch, with a pool made by its subclass."""

    name: str
    package: str
    extra: str

    def __init__(self, cells_per_job: int, retries: int, **parameters: Any) -> None:
        self.cells_per_job, self.retries, self.parameters = cells_per_job, retries, parameters
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if importlib.util.find_spec(self.package) is None:
            raise CompactHydraException(
                f"hydra/launcher={self.name}: expected the package {self.package}, found none; "
                f'pip install "{self.extra}".'
            )
        for setting, least in (("cells_per_job", 1), ("retries", 0), ("jobs_at_once", 1)):
            found = getattr(self, setting, self.parameters.get(setting, least))
            if found < least:
                raise CompactHydraException(
                    f"hydra.launcher.{setting}: expected a whole number >= {least}, found {found}."
                )
        from bsnn.launch.dispatch import launch

        parameters = OmegaConf.to_container(OmegaConf.create(self.parameters), resolve=True)
        return launch(
            self,
            job_overrides,
            initial_job_idx,
            pool=lambda: self._pool(parameters),
            cells_per_job=self.cells_per_job,
            retries=self.retries,
        )

    @abstractmethod
    def _pool(self, parameters: Any) -> Any:
        """Make a bsnn.launch.worker.Pool."""


class StackedSlurmLauncher(_DispatchLauncher):
    name, package, extra = "stacked_slurm", "submitit", "bsnn[slurm]"

    def _pool(self, parameters: Any) -> Any:
        from bsnn.launch.on_slurm import SlurmPool

        return SlurmPool(parameters)


class StackedLocalLauncher(_DispatchLauncher):
    name, package, extra = "stacked_local", "submitit", "bsnn[slurm]"

    def _pool(self, parameters: Any) -> Any:
        from bsnn.launch.on_slurm import LocalPool

        return LocalPool(parameters)


class StackedRayLauncher(_DispatchLauncher):
    name, package, extra = "stacked_ray", "ray", "bsnn[ray]"

    def _pool(self, parameters: Any) -> Any:
        from bsnn.launch.on_ray import RayPool

        return RayPool(**parameters["ray"])


@dataclass
class Groups:
    # the most cells in a job; a GPU trains as many of them at once as its memory holds
    cells_per_job: int = 24
    # how many times the group of a lost worker is sent again
    retries: int = 2


if SlurmQueueConf is not None:

    @dataclass
    class StackedSlurmConf(SlurmQueueConf, Groups):
        _target_: str = "hydra_plugins.bsnn_dispatch.StackedSlurmLauncher"
        # how many times a job is requeued because of its time limit, timeout_min: it goes on from where it was
        max_num_timeout: int = 100

    @dataclass
    class StackedLocalConf(LocalQueueConf, Groups):
        _target_: str = "hydra_plugins.bsnn_dispatch.StackedLocalLauncher"
        # processes side by side, which share the cores
        jobs_at_once: int = 2
        # GPUs that each process has to itself; null: each sees all of them
        gpus_per_node: int | None = None
        timeout_min: int = 60 * 24 * 365


@dataclass
class RayConf:
    # arguments of ray.init, more with +hydra.launcher.ray.init.KEY=VALUE. Without an address, and without RAY_ADDRESS
    # in the environment, Ray starts on this machine.
    init: dict[str, Any] = field(
        default_factory=lambda: {
            "address": None,
            "num_cpus": None,
            "num_gpus": None,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "warning",
        }
    )
    # arguments of ray.remote: what a job takes of a node; num_gpus null: 1 where the cluster has any
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "num_gpus": None})


@dataclass
class StackedRayConf(Groups):
    _target_: str = "hydra_plugins.bsnn_dispatch.StackedRayLauncher"
    ray: RayConf = field(default_factory=RayConf)


def _without_submitit(launcher: str) -> DictConfig:
    """Accept any parameter, and fail with the sentence that says what to install."""
    settings = {"_target_": f"hydra_plugins.bsnn_dispatch.{launcher}", "cells_per_job": 24, "retries": 2}
    return OmegaConf.create(settings, flags={"struct": False})


_CONFIGURATIONS = {
    "stacked_slurm": StackedSlurmConf if SlurmQueueConf is not None else _without_submitit("StackedSlurmLauncher"),
    "stacked_local": StackedLocalConf if LocalQueueConf is not None else _without_submitit("StackedLocalLauncher"),
    "stacked_ray": StackedRayConf,
}
for _name, _node in _CONFIGURATIONS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="bsnn")
