"""The common part of Hydra entry points: how a user's mistake, an interruption and a time limit are reported."""

from __future__ import annotations

import functools
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from hydra.errors import CompactHydraException

from bsnn.errors import UserError
from bsnn.process import STARTED
from bsnn.training.tally import Tally

MORE_TO_DO = 75
"""Exit code for a reached time limit, if the same command goes on: sysexits.h calls it a temporary failure."""
HOST = platform.node()

P = ParamSpec("P")
R = TypeVar("R")


def reports_user_errors(task: Callable[P, R]) -> Callable[P, R]:
    """Make a Hydra task end its UserErrors in one sentence and exit code 1, in a multirun after the other jobs."""

    @functools.wraps(task)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return task(*args, **kwargs)
        except UserError as error:
            raise CompactHydraException(str(error)) from None

    return wrapped


def without_traceback(outcome: R) -> R | CompactHydraException:
    """Return the outcome of a job; Hydra prints a UserError without a traceback."""
    return CompactHydraException(str(outcome)) if isinstance(outcome, UserError) else outcome


@functools.cache
def end_with_parent() -> None:
    """Make this process, a sweep's worker, end when the sweep is killed: joblib's workers would stay for ever.

    The worker then loses the work since its last checkpoint, as in any killed run.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Command(NamedTuple):
    """The command that this process is, or is a worker of; kept in the environment, which workers inherit."""

    pid: int
    started: float  # time.time()
    notes: str  # a file that all of its processes append to
    host: str = HOST

    @classmethod
    def current(cls) -> Command | None:
        """Return the command; None in a process that no command has started, such as a notebook.

        A cluster's worker also gets None: it inherits the variable, and on another machine may by chance have its
        numbers.
        """
        text = os.environ.get("BSNN_COMMAND")
        command = cls(*json.loads(text)) if text else None
        if command is None or command.host != HOST or command.pid not in (os.getpid(), os.getppid()):
            return None
        return command


def started() -> float | None:
    """Return the time.time() at which the command began; None if it isn't known."""
    command = Command.current()
    return None if command is None else command.started


def note(tally: Tally) -> None:
    """Tell the command how far some of its cells are, from any of its processes."""
    command = Command.current()
    if command is not None:
        with Path(command.notes).open("a") as file:
            file.write(json.dumps(asdict(tally)) + "\n")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def run(main: Callable[[], None]) -> None:
    """Call a `hydra.main` function, and end with one line and an exit code.

    Ctrl-C and SIGTERM end it, a sweep too, with exit codes 130 and 143. A time limit ends it with MORE_TO_DO, also if
    some cells have failed: the command that ends in time will report those.
    """
    signal.signal(signal.SIGTERM, _terminate)
    with tempfile.TemporaryDirectory(prefix="bsnn-") as folder:
        notes = Path(folder) / "notes"
        os.environ["BSNN_COMMAND"] = json.dumps(Command(os.getpid(), STARTED, str(notes)))
        code: str | int | None = None
        interrupted: KeyboardInterrupt | None = None
        try:
            main()
        except KeyboardInterrupt as error:
            interrupted = error
        except SystemExit as ended:
            code = ended.code
        tally = Tally()
        if notes.exists():
            tally = sum((Tally(**json.loads(line)) for line in notes.read_text().splitlines()), tally)
        if interrupted is not None:
            kept = "what is finished is kept, and the same command goes on"
            told = replace(tally, limit=None).sentence(time.time() - STARTED)
            print(f"interrupted: {told if tally.left else kept}")
            sys.exit(143 if isinstance(interrupted, Terminated) else 130)
        if tally.left and tally.limit is not None:
            print(tally.sentence(time.time() - STARTED), file=sys.stdout if tally.goes_on else sys.stderr)
            code = MORE_TO_DO if tally.goes_on else 1
        sys.exit(code)


def _terminate(*_: object) -> None:
    raise Terminated
