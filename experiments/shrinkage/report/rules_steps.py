"""The source's remarks on training, depth and linear starts, and how they are judged."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from bsnn.results.claims import LEVEL
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import holm, rank_correlation
from experiments.shrinkage.report.columns import exponent
from experiments.shrinkage.report.rules_limits import all_above

rules = Rules()

CRITICAL = ("relu", "erf")
SPREAD = 2.0
"""Ratio of the 90th percentile of the layers' half steps to the 10th from which layers count as one after another."""
SIMULTANEOUS = 1.25
"""Ratio of the same percentiles below which layers count as simultaneous."""
BY_T = f"one-sided t tests over the draws, Holm's procedure at {100 * LEVEL:g} % over both functions"


def steps_to_bar(steps: pd.DataFrame) -> pd.DataFrame:
    """Select the judged runs: network, depth, draw, steps, which is nan if the bar wasn't reached."""
    chosen = steps[(steps.stage == "test") & (steps.quantity == "steps")]
    runs: pd.DataFrame = chosen[["network", "depth", "draw", "value"]].rename(columns={"value": "steps"})
    return runs


def half_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Select the half steps of critical networks of the largest depth that reached the bar, aligned layers only."""
    test = steps[(steps.stage == "test") & (steps.depth == steps.depth.max()) & steps.network.isin(CRITICAL)]
    reached = test[(test.quantity == "steps") & test.value.notna()][["network", "draw"]]
    found = test[(test.quantity == "half step") & test.value.notna()]
    halves: pd.DataFrame = found.merge(reached, on=["network", "draw"])[["network", "draw", "layer", "value"]]
    return halves


def by_depth(steps: pd.DataFrame, network: str) -> pd.DataFrame:
    """Arrange the steps of a network: a row for each draw, a column for each depth."""
    found = steps_to_bar(steps)
    return found[found.network == network].pivot(index="draw", columns="depth", values="steps")


def exponents(steps: pd.DataFrame, network: str) -> pd.Series[float]:
    """Fit n of steps ~ depth^n, for each draw; nan where a run didn't reach the bar."""
    table = by_depth(steps, network)
    fitted = {draw: exponent(table.columns, row) if row.notna().all() else math.nan for draw, row in table.iterrows()}
    return pd.Series(fitted)


def _above_unless_missing(samples: dict[str, pd.Series]) -> bool | None:
    """Judge by `all_above`; undecided if a run didn't reach the bar."""
    return None if any(of.isna().any() for of in samples.values()) else all_above(samples)


def _told(steps: pd.DataFrame, network: str) -> str:
    table = by_depth(steps, network)
    middle = ", ".join("not reached" if np.isnan(one) else str(round(one)) for one in table.median(skipna=False))
    return f"{network} {middle} steps"


@rules.states(
    "Section 3, item 2, steps",
    "Deeper networks require more optimization steps.",
    rule="critical networks, steps to a training loss of 1 nat, each depth at its best rate: the exponent n of steps ~ "
    f"depth^n is above 0 for both functions ({BY_T}); undecided if a run doesn't get there",
)
def deeper_needs_more(steps: pd.DataFrame) -> Judged:
    samples = {name: exponents(steps, name) for name in CRITICAL}
    told = [
        f"{_told(steps, name)}, n = {float(of.mean()):.2f} ± {float(stats.sem(of)):.2f}" for name, of in samples.items()
    ]
    depths = ", ".join(map(str, sorted(map(int, steps.depth.unique()))))
    text = f"depth {depths}, medians of {steps_to_bar(steps).draw.nunique()} draws: {'; '.join(told)}"
    return text, _above_unless_missing(samples)


@rules.states(
    "Section 3, item 2, steps",
    "The alignment of preactivations tends to disappear layer by layer rather than at all the layers simultaneously.",
    rule="deepest critical networks, layers aligned at the start: the step at which half of the final distance is "
    "there for good. Its rank correlation with the layer differs from 0 for both functions (t tests over the draws, "
    f"Holm's procedure at {100 * LEVEL:g} %), and the ratio of the layers' 90th percentile to the 10th is at least "
    f"{SPREAD:g} (median of the draws); no if it is below {SIMULTANEOUS:g} for one of them",
)
def layer_by_layer(steps: pd.DataFrame) -> Judged:
    told, p, spreads = [], [], []
    for name in CRITICAL:
        of = half_steps(steps).query("network == @name")
        if of.empty:
            continue
        draws = [one for _, one in of.groupby("draw")]
        rho = [rank_correlation(one.layer, one["value"]) for one in draws]
        spread = float(np.median([one["value"].quantile(0.9) / one["value"].quantile(0.1) for one in draws]))
        p.append(float(stats.ttest_1samp(rho, 0).pvalue))
        spreads.append(spread)
        told.append(
            f"{name}: rank correlation {np.mean(rho):.2f} ({min(rho):.2f} to {max(rho):.2f}, p = {p[-1]:.1g}), 90th to "
            f"10th percentile {spread:.1f}"
        )
    if len(p) < len(CRITICAL):
        return f"{'; '.join(told) or 'no layer'}: too few networks reached the bar", None
    ordered = all(holm(p, LEVEL)) and min(spreads) >= SPREAD
    return "; ".join(told), False if min(spreads) < SIMULTANEOUS else True if ordered else None


def fewer(steps: pd.DataFrame, others: dict[str, str]) -> Judged:
    """Tell whether networks need fewer steps at the largest depth than the `others` named for each, in pairs."""
    depth = steps.depth.max()
    samples, told = {}, []
    for name, other in others.items():
        mine, theirs = by_depth(steps, name)[depth], by_depth(steps, other)[depth]
        samples[name] = np.log(theirs / mine)
        ratio = float(np.exp(samples[name].mean()))
        told.append(f"{name} {mine.median():.0f}, {other} {theirs.median():.0f} steps, ratio {ratio:.2f}")
    text = f"depth {depth}: {'; '.join(told)} (n = {steps_to_bar(steps).draw.nunique()} draws)"
    return text, _above_unless_missing(samples)


@rules.states(
    "Section 5.2, trainable",
    "... suggests using trainable nonlinearities, initialized as linear functions.",
    rule="deepest networks, steps to a training loss of 1 nat at the best rates: fewer than critical networks of the "
    f"same function and draw ({BY_T}); undecided if a run doesn't get there",
)
def linear_start_helps(steps: pd.DataFrame) -> Judged:
    return fewer(steps, {f"{name} from linear": name for name in CRITICAL})


@rules.states(
    "ours, from Section 5.2, trainable",
    "it isn't only that a linear network would do: trainable functions need fewer steps than ones that stay linear",
    rule=f"the same against linear networks of the same draw ({BY_T})",
)
def better_than_linear(steps: pd.DataFrame) -> Judged:
    return fewer(steps, {f"{name} from linear": "linear" for name in CRITICAL})
