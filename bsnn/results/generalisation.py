"""Test accuracy at equal training loss: GPN networks against plain ones, from the records.

After equally many epochs the better trained network tests better, whatever it generalises like. Here both are asked at
the same training loss, the lowest that both have reached.

The training loss is the mean over an epoch's mini-batches, each before its update, so it is that of slightly older
weights than the test accuracy, and by more where training is faster. Only whole epochs are used, so that this lag is
at most half an epoch's progress for both.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.data import DATASETS
from bsnn.results.statistics import difference, estimate

LEARNT = 0.95 * math.log(10)
"""Training loss, in nats, below which a network has learnt something: a constant answer's is ln 10 on balanced data."""

COLUMNS = ("dataset", "activation", "loss", "plain", "gpn", "seeds", "in_se", "p")


def whole_epochs(curves: pd.DataFrame) -> pd.DataFrame:
    """Select evaluations at the ends of epochs, without batch norm, of networks that didn't diverge."""
    ends = np.isclose(curves["epoch"], curves["epoch"].round()) & (curves["epoch"] > 0)
    chosen: pd.DataFrame = curves[ends & ~curves["batch_norm"] & (curves["status"] != "diverged")]
    return chosen.dropna(subset=["train_loss"])


def accuracy_at(curve: pd.DataFrame, loss: float) -> float:
    """Interpolate the test accuracy where the training loss first comes down to `loss`; nan if it never does."""
    losses, accuracies = curve["train_loss"].to_numpy(), curve["test_accuracy"].to_numpy()
    reached = np.flatnonzero(losses <= loss)
    if not len(reached):
        return math.nan
    after = int(reached[0])
    if after == 0 or losses[after] == loss:
        return float(accuracies[after])
    share = (losses[after - 1] - loss) / (losses[after - 1] - losses[after])
    return float(accuracies[after - 1] + share * (accuracies[after] - accuracies[after - 1]))


def compared(curves: pd.DataFrame) -> pd.DataFrame:
    """Compare each function's two networks at the lowest training loss that all of their seeds have reached.

    Columns: dataset, activation; loss (nats); plain, gpn: test accuracy in %, mean over the seeds that both have;
    seeds; in_se, p: GPN - plain, see bsnn.results.statistics.difference. Pairs are left out of which one hasn't learnt
    anything yet, or whose first epoch already ended below that loss.
    """
    rows = []
    chosen = whole_epochs(curves)
    for (dataset, activation), of in chosen.groupby(["dataset", "activation"], sort=False):
        runs = {
            bool(gpn): {int(str(seed)): run.sort_values("epoch") for seed, run in one.groupby("seed")}
            for gpn, one in of.groupby("gpn")
        }
        seeds = sorted(set(runs.get(False, {})) & set(runs.get(True, {})))
        both = [runs[gpn][seed] for gpn in (False, True) for seed in seeds]
        if not both:
            continue
        loss = max(float(one["train_loss"].min()) for one in both)
        if loss > LEARNT or min(float(one["train_loss"].iloc[0]) for one in both) < loss:
            continue
        images = DATASETS[str(dataset)].test_size
        plain, gpn = (
            estimate([accuracy_at(runs[kind][seed], loss) for seed in seeds], images) for kind in (False, True)
        )
        rows.append([dataset, activation, loss, plain.mean, gpn.mean, len(seeds), *difference(plain, gpn)])
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {name: place for place, name in enumerate([*paper.DATASETS, *paper.ACTIVATIONS])}
    return table.sort_values(["dataset", "activation"], key=lambda column: column.map(order), ignore_index=True)
