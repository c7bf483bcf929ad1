"""The paper's statements on trained networks (section 2, Figures 1 to 5, Theorem 4), and how they are judged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bsnn.collapse.fate import TARGETS
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import clustered_error, share_error

rules = Rules()

LABELS = {name: target.label for name, target in TARGETS.items()}

MEAN_RULE = (
    "constant in more than half of the runs, at the mean in 90 % of these; partial in some runs, fewer than constant; "
    "undecided where the runs that are none of these yet (`other`) could still make it so"
)

ROUNDING = 1e-12

Array = NDArray[np.float64]


def percent(part: float, n: int) -> str:
    """Format 62.5 ± 4.3 %, with the binomial standard error; where that is 0, with the 95 % limit of 3 / n instead."""
    if part in (0, 1):
        return f"{100 * part:g} % ({'>' if part else '<'} {100 * abs(part - 3 / n):.3g} %)"
    return f"{100 * part:.3g} ± {100 * share_error(part, n):.2g} %"


def share(hits: pd.Series[bool]) -> str:
    return percent(float(hits.mean()), len(hits)) if len(hits) else "none"


def by_target(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (label, runs) of the targets that the table has."""
    for name in TARGETS:
        runs = table[table.target == name]
        if len(runs):
            yield LABELS[name], runs


@rules.states(
    "section 2",
    "y = |x|, 10 layers of width 2: collapse with high probability (about 90 %), no matter which initialiser (3) "
    "or optimiser (8)",
    rule="80 to 97 % of the runs constant in each of the 24 settings",
)
def about_ninety(optimisers: pd.DataFrame) -> Judged:
    settings = [
        (
            f"{start}, {optimiser}",
            optimisers[(optimisers.initialisation == start) & (optimisers.optimiser == optimiser)],
        )
        for start in optimisers.initialisation.unique()
        for optimiser in optimisers.optimiser.unique()
    ]
    shares = [float((runs.outcome == "constant").mean()) for _, runs in settings]
    ends = []
    for index in (int(np.argmin(shares)), int(np.argmax(shares))):
        name, runs = settings[index]
        ends.append(f"{percent(shares[index], len(runs))} ({name}, n = {len(runs)})")
    constant = 100 * (optimisers.outcome == "constant")
    starts = optimisers.initialisation + " " + optimisers.member.astype(str)
    error = clustered_error(constant, starts)
    text = (
        f"{constant.mean():.3g} ± {error:.2g} % of all {len(optimisers)} (error by starts: the optimisers share "
        f"{starts.nunique()}); from {ends[0]} to {ends[1]}"
    )
    return text, min(shares) >= 0.8 and max(shares) <= 0.97


def mean_or_part(targets: pd.DataFrame, target: str) -> Judged:
    runs = targets[targets.target == target]
    constant, partial = runs.outcome == "constant", runs.outcome == "partial"
    at_mean = runs[constant].at_mean
    text = f"constant {share(constant)} (at the mean: {share(at_mean)}), partial {share(partial)}; n = {len(runs)}"
    unsettled = runs.outcome == "other"
    text += f", of which {share(unsettled)} none of these yet" if unsettled.any() else ""
    expected = at_mean.mean() >= 0.9 and 0 < partial.mean() < constant.mean()
    mostly = True if constant.mean() > 0.5 else None if (constant | unsettled).mean() > 0.5 else False
    return text, mostly if expected else False


for number, target in enumerate(("abs", "wave", "step", "pair"), start=1):
    rules.states(
        f"Fig. {number}",
        f"{LABELS[target]}: the mean with very high probability, a partial mean with low probability",
        rule=MEAN_RULE,
        target=target,
    )(mean_or_part)


@rules.states(
    "section 2",
    "when this happens, in most cases all layers but the last are together a zero function",
    rule="a layer is dead on the whole domain in more than half of the constant runs",
)
def dead_inside(targets: pd.DataFrame) -> Judged:
    constant = targets[targets.outcome == "constant"]
    return f"{share(constant.dead == 1)} of {len(constant)} constant runs", bool((constant.dead == 1).mean() > 0.5)


@rules.states(
    "Fig. 5, Theorem 4",
    "mean absolute error: the constant is the median",
    rule="at the median in 90 % of the constant runs of every target whose median isn't its mean",
)
def medians(losses: pd.DataFrame) -> Judged:
    texts, shares = [], []
    for label, runs in by_target(losses[losses.outcome == "constant"]):
        same = bool((runs.at_median & runs.at_mean).any())
        texts.append(f"{label}: {share(runs.at_median)} of {len(runs)}" + ", which is also the mean" * same)
        if not same:
            shares.append(float(runs.at_median.mean()))
    return "; ".join(texts) or "no constant runs", bool(shares) and min(shares) >= 0.9


@rules.states(
    "Fig. 5",
    "the collapse is independent of the loss function",
    rule="shares of constant runs differ by less than 10 points, for every target",
)
def either_loss(targets: pd.DataFrame, losses: pd.DataFrame) -> Judged:
    texts, gaps, other = [], [], dict(by_target(losses))
    for label, runs in by_target(targets):
        if label in other:
            one, two = (table.outcome == "constant" for table in (runs, other[label]))
            texts.append(f"{label}: MSE {share(one)} (n = {len(one)}), MAE {share(two)} (n = {len(two)})")
            gaps.append(abs(one.mean() - two.mean()))
    return "; ".join(texts), bool(max(gaps) < 0.1)


@rules.states(
    "Theorem 4",
    "a network that starts as a zero function is optimised to a constant",
    rule="all of them, with any optimiser",
)
def stays_dead(targets: pd.DataFrame, optimisers: pd.DataFrame) -> Judged:
    dead = pd.concat([table[table.dead_at_start] for table in (targets, optimisers)])
    return f"{int((dead.outcome == 'constant').sum())} of {len(dead)} runs", bool((dead.outcome == "constant").all())
