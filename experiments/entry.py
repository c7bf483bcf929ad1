"""What every Hydra entry point shares: how a user's mistake is reported."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from bsnn.errors import UserError

log = logging.getLogger(__name__)


def reports_user_errors(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """A Hydra task whose UserErrors end in one sentence and exit code 1, and whose Ctrl-C ends in exit code 130.

    Hydra prints a CompactHydraException without a traceback, and a multirun goes on with its other jobs first.
    """

    @functools.wraps(task)
    def wrapped(config: DictConfig) -> None:
        try:
            task(config)
        except UserError as error:
            raise CompactHydraException(str(error)) from None
        except KeyboardInterrupt:
            log.warning("interrupted; finished work is kept, and the same command continues from the last checkpoint")
            raise SystemExit(130) from None

    return wrapped
