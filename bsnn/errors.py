"""Mistakes a user can mend: reported as one sentence, without a traceback, with exit code 1."""

from __future__ import annotations


class UserError(Exception):
    """What was expected, what was found, what to do. Entry points print the message alone and exit with 1."""
