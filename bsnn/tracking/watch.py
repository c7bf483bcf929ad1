"""A guard that ends an upload to Weights & Biases when the server is gone; wandb itself would go on for hours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import wandb

from bsnn.errors import UserError
from bsnn.tracking.login import server, silence

AGAIN = "repeat the command, it goes on with what is missing"
SILENT_SECONDS, LOOK_SECONDS = 60.0, 5.0
"""Seconds without any answer after which a server is given up, and seconds between questions to it."""


@contextmanager
def watched() -> Iterator[threading.Event]:
    """Watch the server within a block. If it stays silent, end W&B's process, and with it what waits there.

    Yields an event, set when that happens. Then it raises UserError instead of any error from the block.
    """
    over, silent = threading.Event(), threading.Event()
    told: list[str] = []

    def watch() -> None:
        heard = time.monotonic()
        while not over.wait(LOOK_SECONDS):
            reason = silence()
            if reason is None:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                told.append(reason)
                silent.set()
                end_service()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="watch W&B")
    watcher.start()
    try:
        yield silent
    except Exception:
        if not told:
            raise
    finally:
        over.set()
        watcher.join()
    if told:
        raise UserError(
            f"W&B: expected an answer from {server()}, found none for {SILENT_SECONDS:g} s ({told[0]}); {AGAIN}."
        )


def end_service() -> None:
    """Kill W&B's own process. Asked to end, it would first try to send what is left, for hours if need be."""
    connection: Any = getattr(wandb.setup(), "_connection", None)
    process: Any = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        process.wait()  # wandb.teardown waits only for a process that answers
    with suppress(Exception, SystemExit):  # of the process that was killed
        wandb.teardown(exit_code=1)
