"""Runs of normalised gradients and of the tricks: their ends, and each method's best rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bsnn.results.statistics import estimate

CHANCE_LOSS = math.log(10)
"""Loss of a constant answer on ten equally frequent classes, in nats."""

METHOD_NAMES = {
    "nothing": "nothing (SGD)",
    "adam": "Adam",
    "batch_norm": "batch norm",
    "clipping": "clipping",
    "normalised": "normalised gradient",
    "shortcuts": "shortcuts",
    "scaled_shortcuts": "shortcuts, branch / sqrt(L)",
    "gpn": "GPN (SGD)",
}


def last_tenth(frame: pd.DataFrame, by: Sequence[str], column: str = "loss") -> pd.Series[float]:
    """Average over the last tenth of a run's steps, for each group; inf for a run that diverged and so ended early."""
    last = frame.step.max()
    ends = frame[frame.step > 0.9 * last].groupby(list(by))[column].mean()
    whole = frame.groupby(list(by)).step.max() == last
    found: pd.Series[float] = ends.reindex(whole.index).where(whole, np.inf).fillna(np.inf)
    return found


def reported(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the runs at each method's chosen rate, without the seed on which it was chosen."""
    return frame[~frame.search]


def end_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the reported runs' losses at the end: a row for each seed, a column for each (method, function).

    A training that diverged is of no use: its loss is that of a constant answer, ln 10.
    """
    ends = last_tenth(reported(frame), ["seed", "method", "function"])
    return ends.where(np.isfinite(ends), CHANCE_LOSS).unstack(["method", "function"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise each method at its chosen rate, for each function: mean over seeds. Index (method, function).

    rate, edge (the rate is the smallest or largest tried), loss, loss_sd (at the end), train, test, se (standard error
    of test), ratio, worst_ratio, least_ratio, norm, first_loss (at the start), last_ratio.
    """
    best = reported(frame)
    keys = ["method", "function"]
    first, last = best[best.step == 0].groupby(keys), best[best.train_accuracy.notna()].groupby(keys)
    ends = last_tenth(best, [*keys, "seed"]).groupby(keys)
    rates = frame.groupby("method").rate.agg(["min", "max"])
    found = pd.DataFrame(
        {
            "rate": best.groupby(keys).rate.first(),
            "loss": ends.mean(),
            "loss_sd": ends.std(),
            "train": last.train_accuracy.mean(),
            "test": last.test_accuracy.mean(),
            "se": last[["test_accuracy", "images"]].apply(_standard_error),
            "ratio": first.ratio.mean(),
            "worst_ratio": first.ratio.max(),
            "least_ratio": first.ratio.min(),
            "norm": first.norm.mean(),
            "first_loss": first.loss.mean(),
            "last_ratio": last.ratio.mean(),
        }
    )
    limits = rates.loc[found.index.get_level_values("method")].to_numpy()
    found["edge"] = (found.rate == limits[:, 0]) | (found.rate == limits[:, 1])
    return found


def floors_of(frame: pd.DataFrame, decades: float) -> pd.Series[float]:
    """Compute the root mean square of ||theta|| over the second half of the steps, by eta."""
    chosen = frame[(frame.rule == "normalised") & (frame.decades == decades)]
    late = chosen[chosen.step >= chosen.step.max() / 2]
    square: pd.Series[float] = late.theta_1**2 + late.theta_2**2
    return square.groupby(late.eta).mean() ** 0.5


def _standard_error(runs: pd.DataFrame) -> float:
    return estimate(runs.test_accuracy.tolist(), int(runs.images.max())).se


def seeds(frame: pd.DataFrame) -> str:
    count = reported(frame).seed.nunique()
    return f"{count} seed{'s' * (count > 1)}"
