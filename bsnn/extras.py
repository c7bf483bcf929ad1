"""Extras of the installation: parts of bsnn that need more packages than its public names do, see pyproject.toml."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Inside, a package that isn't installed ends in one sentence. Raises ImportError: which one, and what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "bsnn":
            raise
        raise ImportError(
            f"{what}: expected the package {error.name}, found none; install it with `pip install 'bsnn[{extra}]'`."
        ) from error


def train() -> None:
    """Run `bsnn-train`, see bsnn.train."""
    try:
        with needs("experiments", "bsnn-train"):
            from bsnn.train import command
    except ImportError as error:
        sys.exit(str(error))
    command()
