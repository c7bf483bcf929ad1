"""What every Hydra entry point shares: how a user's mistake and an interruption are reported."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from bsnn.errors import UserError


def reports_user_errors(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """A Hydra task whose UserErrors end in one sentence and exit code 1.

    Hydra prints a CompactHydraException without a traceback, and a multirun goes on with its other jobs first.
    """

    @functools.wraps(task)
    def wrapped(config: DictConfig) -> None:
        try:
            task(config)
        except UserError as error:
            raise CompactHydraException(str(error)) from None

    return wrapped


def run(main: Callable[[], None]) -> None:
    """Call a `hydra.main` function; Ctrl-C ends it, a sweep too, with one line and exit code 130."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: finished work is kept, and the same command continues from the last checkpoint")
        sys.exit(130)
