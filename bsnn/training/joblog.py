"""Log files for cells that are trained side by side: a line goes to the files of the cells that it concerns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Files = Callable[[], Iterable[logging.Handler]]
_files: ContextVar[Files] = ContextVar("_files", default=list)


@contextmanager
def about(files: Files) -> Iterator[None]:
    """Send what this thread logs in the block to `files()` as well, called anew for each line. Needs `routed`."""
    token = _files.set(files)
    try:
        yield
    finally:
        _files.reset(token)


@contextmanager
def routed() -> Iterator[None]:
    """Make `about` work, beside whatever handlers the root logger has."""
    router = _Router()
    root = logging.getLogger()
    root.addHandler(router)
    try:
        yield
    finally:
        root.removeHandler(router)


class _Router(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for file in _files.get()():
            if record.levelno >= file.level:
                file.handle(record)
