"""hydra/sweeper=nonempty: Hydra's own sweeper, which refuses a sweep without jobs.

Hydra launches nothing where a glob matches nothing, and exits with 0. The commands' configs in conf/ choose this
sweeper, so that it holds under every launcher. Like bsnn_stacked.py, and for the same reasons, this file imports no
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException


class NonemptySweeper(BasicSweeper):
    """hydra/sweeper=basic for sweeps with at least one job."""

    @staticmethod
    def split_arguments(overrides: Sequence[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        batches = BasicSweeper.split_arguments(list(overrides), max_batch_size)
        if not any(batches):
            empty = [o.input_line for o in overrides if o.is_discrete_sweep() and not list(o.sweep_string_iterator())]
            raise CompactHydraException(
                f"{' '.join(map(str, empty))}: expected at least one value, found none, and so nothing to do; compare "
                "it with the names of the files in conf/."
            )
        return batches


@dataclass
class NonemptySweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.bsnn_sweeper.NonemptySweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="nonempty", node=NonemptySweeperConf, provider="bsnn")
