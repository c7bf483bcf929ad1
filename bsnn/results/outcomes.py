"""Two outcomes of training that no claim's rule judges: SELU's acceleration by GPN, and the other root b.

Both are told over whole training curves: the mean test accuracy over all evaluations up to an epoch is the area under a
curve of Fig. 4, so that a network that gets to the same accuracy sooner is ahead.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from bsnn import paper
from bsnn.data import DATASETS
from bsnn.results.equal_epochs import has_rows
from bsnn.results.grid import RUN_COLUMNS, Results, history, identity, runs_of
from bsnn.results.records import cell_of
from bsnn.results.statistics import difference, estimate

COLUMNS = ("dataset", "activation", "epoch", "first", "second", "seeds", "in_se", "p", "sooner")


def accelerated(history: pd.DataFrame, activation: str) -> pd.DataFrame:
    """Compare a function's GPN networks (second) with its plain ones (first), without batch norm.

    BSNN paper, section 3.2: "the training is accelerated when SELU is GPN".

    Columns: dataset, activation; epoch: the largest that all runs have reached; first, second: mean test accuracy over
    the evaluations up to it, in %, mean over the seeds that both have; seeds; in_se, p: second - first, see
    bsnn.results.statistics.difference; sooner: the epoch after which the second's mean first is what the first's is at
    `epoch`, nan if never.
    """
    mine = history[(history["activation"] == activation) & ~history["batch_norm"]]
    return _compared(mine[~mine["gpn"]], mine[mine["gpn"]])


def other_roots(loaded: Results) -> pd.DataFrame:
    """Compare GPN networks with the root of b that Table 1 doesn't have (second) with those of Table 1 (first).

    Columns as of `accelerated`.
    """
    keys = {identity(cell): key for key, cell in loaded.expected.items() if key.gpn and not key.batch_norm}
    cells = [(cell, record) for record in loaded.others if (cell := cell_of(record)) is not None]
    found = [(keys.get(identity(replace(cell, gpn_root="paper"))), record) for cell, record in cells]
    second = [row for key, record in found if key is not None for row in history(key, record)]
    first = loaded.history[loaded.history["gpn"] & ~loaded.history["batch_norm"]]
    return _compared(first, pd.DataFrame(second, columns=RUN_COLUMNS))


def _compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for dataset in paper.DATASETS:
        for activation in dict.fromkeys(second["activation"]):
            both = [
                runs_of(of[has_rows(of) & (of["status"] != "diverged")], dataset, activation) for of in (first, second)
            ]
            seeds = sorted(set(both[0]["seed"]) & set(both[1]["seed"]))
            if not seeds:
                continue
            both = [of[of["seed"].isin(seeds)] for of in both]
            epoch = min(float(of.groupby("seed")["epoch"].max().min()) for of in both)
            upto = [of[of["epoch"] <= epoch] for of in both]
            images = DATASETS[dataset].test_size
            means = [estimate(of.groupby("seed")["test_accuracy"].mean().tolist(), images) for of in upto]
            curves = [of.groupby("epoch")["test_accuracy"].mean() for of in upto]
            reached = curves[1].index[curves[1] >= curves[0].iloc[-1]]
            sooner = float(reached[0]) if len(reached) else math.nan
            told = [mean.mean for mean in means]
            rows.append([dataset, activation, epoch, *told, len(seeds), *difference(*means), sooner])
    return pd.DataFrame(rows, columns=COLUMNS)
