"""Run an entry point in this process, as the command line would."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


def run_app(main: Callable[[], None], *overrides: str) -> int:
    """Call a hydra.main function with these command-line arguments; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment", *overrides])
        try:
            main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0
