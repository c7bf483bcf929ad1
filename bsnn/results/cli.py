"""The end of every script: a user's mistake is one sentence and exit code 1, not a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bsnn.errors import UserError
from bsnn.files import user_path


def run(main: Callable[[], object]) -> None:
    """Call `main`; print a UserError's message and exit with 1. Ctrl-C exits with 130, as a shell expects."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def budget_dir(description: str | None, argv: list[str] | None = None) -> Path:
    """Parse the only argument of a script that makes something from records: the folder results/<budget>."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "budget_dir", type=user_path, metavar="results/BUDGET", help="paper, quick or smoke: where records lie"
    )
    folder: Path = parser.parse_args(argv).budget_dir
    return folder
