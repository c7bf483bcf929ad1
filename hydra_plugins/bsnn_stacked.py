"""hydra/launcher=stacked: a multirun's jobs are handed over together to a task that can run them together.

Hydra imports this file at every start, whatever the command: nothing here may import torch, and so not bsnn either.
Hydra runs the file before it is in sys.modules, where dataclasses would look up annotations that are strings. So there
is no `from __future__ import annotations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn


class StackedLauncher(BasicLauncher):
    """The launcher of bsnn.launch.launcher, for tasks with a batched form, on all GPUs.

    Any other task runs job by job, as with Hydra's own launcher.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.config is not None
        own_process = self.config.hydra.job.chdir or self.config.hydra.job.env_set
        if own_process or not hasattr(self.task_function, "batched"):
            return super().launch(job_overrides, initial_job_idx)
        from bsnn.launch.on_gpus import launch

        return launch(self, job_overrides, initial_job_idx)


@dataclass
class StackedLauncherConf:
    _target_: str = "hydra_plugins.bsnn_stacked.StackedLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="bsnn")
