"""Mistakes a user can mend: reported as one sentence, without a traceback, with exit code 1."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake: what was expected, what was found, what to do. Commands print the message alone and exit with
    1."""
