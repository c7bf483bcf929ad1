"""Mistakes a user can mend: reported as one sentence, without a traceback, with exit code 1."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user. The message says what was expected, what was found and what to do.

    Entry points print the message alone and exit with 1.
    """
