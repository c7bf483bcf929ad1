"""Statements about networks while they train, with their rules."""

from __future__ import annotations

import pandas as pd

from bsnn.results.claims_synthetic import LINEAR_SHARE, SIGNAL_LOST
from bsnn.results.rules import Judged, Rules

rules = Rules()

NEAR_ORTHOGONAL = 0.1
"""||W W^T - I||_F / sqrt(N) up to which W counts as near orthogonal. Independent rows of norm one have 1."""
FURTHER = 0.05
"""Growth of Kolmogorov's distance from N(0, 1) up to which h counts as no less normal than before training."""
GREAT_GRADIENT = 100.0
"""||dE/dV||_F of the median layer above which a first update, at the paper's learning rates, exceeds V itself."""


def by_function(during: pd.DataFrame, version: str) -> pd.DataFrame:
    """Take the median over the layers, by function and step."""
    of = during[during.version == version].drop(columns=["version", "layer"])
    found: pd.DataFrame = of.groupby(["function", "step"], sort=False)[list(of.columns[2:])].median()
    return found


def last(during: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = during[during.step == during.step.max()]
    return found


def _told(values: pd.Series) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


@rules.states(
    "BSNN paper, section 4, in training",
    "the networks stay nonlinear during the training, even when the weights are constrained",
    rule=f"in every layer shown and at every step, GPN: less than {LINEAR_SHARE:.0%} of phi'(h) near 1 and "
    f"||x||/sqrt(d) at least {SIGNAL_LOST:g}",
)
def stays_nonlinear(during: pd.DataFrame) -> Judged:
    gpn = during[during.version == "GPN"]
    shares, signals = gpn.groupby("function").near.max(), gpn.groupby("function")["value"].min() ** 0.5
    text = f"largest share near 1: {_told(shares)}; smallest ||x||/sqrt(d): {_told(signals)} ({gpn.step.max()} updates)"
    return text, bool(shares.max() < LINEAR_SHARE and signals.min() >= SIGNAL_LOST)


@rules.states(
    "ours, from BSNN paper, section 3.2",
    "rows of norm one keep W near orthogonal while a GPN network trains, at the paper's learning rate",
    rule=f"||W W^T - I||_F / sqrt(N) at most {NEAR_ORTHOGONAL:g} in every layer shown and at every step, GPN",
)
def stays_orthogonal(during: pd.DataFrame) -> Judged:
    worst = during[during.version == "GPN"].groupby("function").drift.max()
    return f"{_told(worst)} after up to {during.step.max()} updates", bool(worst.max() <= NEAR_ORTHOGONAL)


@rules.states(
    "ours, from BSNN paper, section 2.3, in training",
    "E phi'^2 = 1 still holds in a GPN network that trains",
    rule="mean of phi'(h)^2 in the median layer within 10 % of 1 after the last update, every function",
)
def slopes_stay(during: pd.DataFrame) -> Judged:
    slopes = by_function(last(during), "GPN").droplevel("step").slope
    return f"{_told(slopes)} after {during.step.max()} updates", bool(slopes.between(0.9, 1.1).all())


@rules.states(
    "ours, from talk, limitation",
    "the assumptions hold at the start only: training takes h away from N(0, 1)",
    rule=f"Kolmogorov's distance of h from N(0, 1), median layer, grows by more than {FURTHER:g} for most functions",
)
def leaves_normality(during: pd.DataFrame) -> Judged:
    distance = by_function(during, "GPN").distance.unstack("step", sort=False)
    first, end = distance[distance.columns.min()], distance[distance.columns.max()]
    told = ", ".join(f"{name} {first[name]:.2f} -> {end[name]:.2f}" for name in distance.index)
    return f"{told} ({during.step.max()} updates)", bool(((end - first) > FURTHER).mean() > 0.5)


@rules.states(
    "ours, from BSNN paper, introduction",
    "with batch norm, exploding gradients destroy the layers in the first updates; where they are small they don't",
    rule=f"W is not near orthogonal (> {NEAR_ORTHOGONAL:g}, median layer) at the first look after the start if and "
    f"only if the gradient of the median layer exceeds {GREAT_GRADIENT:g} at the start, every function",
)
def batch_norm_destroys(during: pd.DataFrame) -> Judged:
    found = by_function(during, "batch norm").reset_index("step")
    steps = sorted(during.step.unique())
    start, after = (found[found.step == step] for step in steps[:2])
    told = ", ".join(f"{name} {start.gradient[name]:.2g} -> {after.drift[name]:.2g}" for name in start.index)
    holds = ((start.gradient > GREAT_GRADIENT) == (after.drift > NEAR_ORTHOGONAL)).all()
    return f"gradient at the start -> ||W W^T - I||_F / sqrt(N) after {steps[1]} updates: {told}", bool(holds)
