"""What every Hydra entry point shares: how a user's mistake and an interruption are reported."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hydra.errors import CompactHydraException

from bsnn.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def reports_user_errors(task: Callable[P, R]) -> Callable[P, R]:
    """A Hydra task whose UserErrors end in one sentence and exit code 1, in a multirun after the other jobs."""

    @functools.wraps(task)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return task(*args, **kwargs)
        except UserError as error:
            raise CompactHydraException(str(error)) from None

    return wrapped


def without_traceback(outcome: R) -> R | CompactHydraException:
    """The outcome of a job; a UserError as Hydra prints it, without a traceback."""
    return CompactHydraException(str(outcome)) if isinstance(outcome, UserError) else outcome


@functools.cache
def end_with_parent() -> None:
    """Make this process, a sweep's worker, end when the sweep is killed: joblib's workers would stay for ever.

    What a worker loses by it is the work since its last checkpoint, as in any killed run.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(main: Callable[[], None]) -> None:
    """Call a `hydra.main` function; Ctrl-C ends it, a sweep too, with one line and exit code 130."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: finished work is kept, and the same command continues from the last checkpoint")
        sys.exit(130)
