"""Statements about the constraint on W, with their rules."""

from __future__ import annotations

import math

import pandas as pd

from bsnn.engine.reference import ORTHOGONAL
from bsnn.optim.stiefel import SAFE
from bsnn.results.claims import LEVEL
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import Estimate, difference, estimate, holm

rules = Rules()

IMAGES = 10_000
"""MNIST's test images."""
EXACT = 1e-5
"""|W W^T - I|, largest entry, up to which a float32 matrix counts as exactly orthogonal."""
DEARER = 2.0
"""Ratio of an update's time to that with rows of norm one from which a constraint counts as expensive."""
PAPER_WIDTH = 500


def best(orthogonal: pd.DataFrame) -> pd.DataFrame:
    """Choose the rate of the lowest mean training loss, by function and constraint; all draws at that rate."""
    mean = orthogonal.assign(loss=orthogonal.loss.fillna(math.inf)).groupby(["function", "constraint", "rate"]).loss
    chosen = mean.mean().unstack("rate").idxmin(axis=1).rename("best")
    found = orthogonal.join(chosen, on=["function", "constraint"])
    return found[found.rate == found.best].drop(columns="best")


def accuracy(rows: pd.DataFrame, function: str, constraint: str) -> Estimate:
    of = rows[(rows.function == function) & (rows.constraint == constraint)]
    return estimate(of.test_accuracy.tolist(), IMAGES)


def exact_is_better(exact: pd.DataFrame, relaxed: pd.DataFrame) -> Judged:
    """Tell whether the polar retraction's accuracy is above that of rows of norm one, for every function.

    exact: its runs, at one rate for each function. relaxed: those with rows of norm one, every rate compared. No: it is
    significantly below for some function and rate. Undecided: neither.
    """
    told, pairs = [], []
    for name in dict.fromkeys(exact.function):
        better = accuracy(exact, name, "orthogonal")
        others = {float(str(rate)): accuracy(of, name, "row") for rate, of in relaxed.groupby("rate")}
        pairs += [difference(one, better) for one in others.values()]
        listed = ", ".join(f"{one.mean:.1f} +- {one.se:.1f} ({rate:g})" for rate, one in others.items())
        told.append(f"{name}: rows {listed}, orthogonal {better.mean:.1f} +- {better.se:.1f} %")
    signs = [
        math.copysign(differs, pair.in_se)
        for differs, pair in zip(holm([pair.p for pair in pairs], LEVEL), pairs, strict=True)
    ]
    verdict = False if min(signs) < 0 else True if min(signs) > 0 else None
    return f"{'; '.join(told)} (n = {exact.draw.nunique()})", verdict


def cost(orthogonal_cost: pd.DataFrame) -> pd.DataFrame:
    """Time of an update over that with rows of norm one: width x constraint."""
    seconds = orthogonal_cost.pivot(index="width", columns="constraint", values="seconds")
    return seconds.div(seconds["row"], axis=0)


@rules.states(
    "ours, from BSNN paper, section 3.2",
    "W stays exactly orthogonal while a network trains, and near it by landing",
    rule=f"after the last update, all functions, rates and draws: entries of |W W^T - I| at most {EXACT:g} by polar, "
    f"QR and Cayley; ||W W^T - I||_F at most {SAFE:g} by landing",
)
def exact(orthogonal: pd.DataFrame) -> Judged:
    ways = orthogonal[orthogonal.constraint.isin([name for name in ORTHOGONAL if name != "landing"])]
    landing = orthogonal[orthogonal.constraint == "landing"]
    text = f"entries at most {ways.entry.max():.1g}; landing: norm at most {landing.frobenius.max():.1g}"
    return text, bool(ways.entry.max() <= EXACT and landing.frobenius.max() <= SAFE)


@rules.states(
    "BSNN paper, section 3.2, cost",
    "it is computationally expensive to enforce the orthogonality constraint",
    rule=f"at width {PAPER_WIDTH}, the cheapest way that keeps W orthogonal: an update takes at least {DEARER:g} times "
    "as long as with rows of norm one (medians in turn)",
)
def expensive(orthogonal_cost: pd.DataFrame) -> Judged:
    ratios = cost(orthogonal_cost)[list(ORTHOGONAL)].min(axis=1)
    told = ", ".join(f"width {width}: {ratio:.2g}" for width, ratio in ratios.items())
    decides = PAPER_WIDTH in ratios.index
    text = f"{told} (batch {orthogonal_cost.batch.max()})"
    return text, bool(ratios[PAPER_WIDTH] >= DEARER) if decides else None


@rules.states(
    "ours, from BSNN paper, section 3.2",
    "the relaxation to rows of norm one costs accuracy: exactly orthogonal GPN networks learn more in as many updates",
    rule="test accuracy by the polar retraction, at its best rate by training loss, above that with rows of norm one "
    f"at every rate, significantly by Welch's test and Holm's procedure at {LEVEL:.0%}, for every function; no if it "
    "is significantly below for one of them",
)
def relaxation_limits(orthogonal: pd.DataFrame) -> Judged:
    return exact_is_better(best(orthogonal), orthogonal)


@rules.states(
    "ours, from BSNN paper, section 3.2",
    "exactly orthogonal GPN networks bear larger learning rates than rows of norm one",
    rule="the same, both at the largest rate, for every function",
)
def larger_rates(orthogonal: pd.DataFrame) -> Judged:
    rows = orthogonal[orthogonal.rate == orthogonal.rate.max()]
    return exact_is_better(rows, rows)
