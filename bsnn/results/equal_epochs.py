"""Comparison of networks at equal epochs, however far each of them is trained.

The paper has no schedule, so the first epochs of an unfinished training are those of the finished one. Two networks
can therefore be compared after any epoch that both have reached. The frames here are histories
(bsnn.results.grid.history): one row for each evaluation of each run, with what the table would have shown if the
training had ended there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from bsnn.results.budgets import Key


def at_equal_epochs(history: pd.DataFrame, networks: Sequence[str] = Key._fields) -> pd.DataFrame:
    """Cut the histories of networks down to the largest epoch that all of them have reached.

    A network has reached an epoch if one of its runs has; runs that are not there yet don't count. A training that
    diverged has ended: its row counts at every epoch and sets no limit. A network without trained weights sets no limit
    either, and has no rows in the result.

    Args:
        history: of all networks that are compared.
        networks: the columns that identify a network.

    Returns:
        The rows at that epoch, and those of diverged trainings.
    """
    trained = history[(history["status"] != "diverged") & has_rows(history)]
    reached = [set(rows) for _, rows in trained.groupby(list(networks), observed=True)["epoch"]]
    common = max(set.intersection(*reached), default=math.nan) if reached else math.nan
    return history[(history["status"] == "diverged") | (has_rows(history) & (history["epoch"] == common))]


def has_rows(history: pd.DataFrame) -> pd.Series:
    """Tell which rows belong to trained weights: neither to a crash nor to the first weights."""
    return (history["status"] != "crashed") & (history["epoch"] > 0)


def after(rows: pd.DataFrame) -> str:
    """Say how far the trainings of these rows are: "8 of 50 epochs", or "1 to 8 of 50 epochs"; empty for none.

    Those that diverged are left out, unless all did.
    """
    if rows.empty:
        return ""
    going = rows[rows["status"] != "diverged"]
    if going.empty:
        return "divergence"
    return span(going["epoch"], going["epochs"].max())


def span(epochs: pd.Series, asked: float) -> str:
    """Say how far several trainings are: "1 to 8 of 50 epochs"."""
    first, last = epochs.min(), epochs.max()
    reached = f"{last:.4g}" if first == last else f"{first:.4g} to {last:.4g}"
    return f"{reached} of {asked:.4g} epoch" + ("" if asked == 1 else "s")


def final(rows: pd.DataFrame) -> bool:
    """True if all rows belong to trainings that have ended, so that more training can't change them."""
    return bool(rows["final"].all())
