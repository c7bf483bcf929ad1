"""Statements about random GPN networks of finite width, with their rules. Most are expectations of ours."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from bsnn.results.claims import CHANCE
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import binomial_se

rules = Rules()

KEYS = ["function", "depth", "width"]
WITHIN = 0.15
FAMILY = 0.05
"""Probability that any of a rule's settings is taken for different by chance (Bonferroni's t quantile)."""
MODERATE = 1.0
"""Predicted ln(max / min) up to which the law, of first order in 1/d, is asked to hold."""
ALIKE = (
    f"within {WITHIN:.0%}, or not significantly different ({FAMILY:.0%} for all settings together), wherever at most "
    f"{MODERATE:g} is predicted"
)


def compared(law: pd.DataFrame, walk: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Set measured beside predicted ranges: measured, error, draws and predicted, by function, depth and width."""
    of = walk.groupby(KEYS)[quantity]
    measured = pd.DataFrame({"measured": of.mean(), "error": of.sem(), "draws": of.size()})
    return measured.join(law.set_index(KEYS)[quantity].rename("predicted"), how="inner")


@rules.states(
    "BSNN paper, section 3.1, Fig. 3",
    "the wider the network, the more equal the gradient norms, for every GPN function",
    rule="the mean over samples: max/min falls from each width to the next, at the largest depth",
)
def wider(walk: pd.DataFrame) -> Judged:
    deepest = walk[walk.depth == walk.depth.max()]
    means = np.exp(deepest.groupby(["function", "width"])["mean"].mean().unstack())
    falls = bool((np.diff(means.to_numpy(), axis=1) < 0).all())
    ends = ", ".join(f"{name} {row.iloc[0]:.3g} -> {row.iloc[-1]:.3g}" for name, row in means.iterrows())
    return f"{deepest.depth.max()} layers, width {means.columns[0]} -> {means.columns[-1]}: {ends}", falls


@rules.states(
    "ours, bsnn.beyond.walk",
    "one sample's gradient norms walk randomly: mean ln(max/min) follows from phi, depth and width",
    rule=ALIKE,
    quantity="single",
)
@rules.states(
    "ours, bsnn.beyond.walk",
    "the mean over samples, as in Fig. 3, walks with the part that samples share: mean ln(max/min) follows",
    rule=ALIKE,
    quantity="mean",
)
def follows_law(law: pd.DataFrame, walk: pd.DataFrame, quantity: str) -> Judged:
    both = compared(law, walk, quantity)
    both = both[both.predicted <= MODERATE]
    off, error = both.measured / both.predicted - 1, both.error / both.predicted
    chance = stats.t.isf(FAMILY / 2 / len(both), both.draws - 1)
    good = off.abs() <= np.maximum(WITHIN, chance * error)
    worst = int(off.abs().argmax())
    name, depth, width = both.reset_index()[KEYS].iloc[worst]
    text = (
        f"{int(good.sum())} of {len(both)} settings; median deviation {100 * off.median():+.0f} %, largest "
        f"{100 * off.iloc[worst]:+.0f} ± {100 * error.iloc[worst]:.0f} % ({name}, {depth} layers, width {width}; "
        f"n = {int(both.draws.min())} draws)"
    )
    return text, bool(len(good) and good.all())


@rules.states(
    "ours, bsnn.beyond.walk",
    "depth / width alone decides: ln(max/min) is proportional to sqrt(L / d)",
    rule="slope of ln ln(max/min) against ln(L / d), one sample, L <= d, within 0.5 +- 0.1 for every function",
)
def root_of_depth_over_width(walk: pd.DataFrame) -> Judged:
    means = walk[walk.depth <= walk.width].groupby(KEYS)["single"].mean().reset_index()
    slopes = {}
    for name, rows in means.groupby("function"):
        fit = stats.linregress(np.log(rows.depth / rows.width), np.log(rows.single))
        slopes[name] = (fit.slope, fit.stderr)
    told = ", ".join(f"{name} {slope:.2f} ± {error:.2f}" for name, (slope, error) in slopes.items())
    return told, all(abs(slope - 0.5) <= 0.1 for slope, _ in slopes.values())


@rules.states(
    "ours, bsnn.beyond.walk, deeper",
    "GPN networks train at any depth if their width grows with it, and fall behind if it doesn't",
    rule="for every function and each depth that has two widths: test accuracy at the wider one above that at the "
    "narrower one by more than 3 standard errors of the difference, and at least halfway from chance to that of the "
    "shallowest network",
)
def width_grows(deeper: pd.DataFrame) -> Judged:
    told, good = [], True
    shallow = deeper.depth.min()
    for name, rows in deeper.groupby("function"):
        base = float(rows[rows.depth == shallow].test_accuracy.iloc[0])
        for depth, at in rows.groupby("depth"):
            if at.width.nunique() < 2:
                continue
            narrow, wide = (float(one) for one in at.sort_values("width").test_accuracy.iloc[[0, -1]])
            error = math.hypot(*(binomial_se(one, 10_000) for one in (narrow, wide)))
            half = (base + CHANCE["mnist", "test"]) / 2
            good &= wide - narrow > 3 * error and wide >= half
            told.append(
                f"{name}, {depth} layers: {narrow:.1f} % at width {at.width.min()}, {wide:.1f} % at {at.width.max()}"
            )
        told.append(f"{name}, {shallow} layers: {base:.1f} %")
    return f"{'; '.join(told)} (n = 1 each)", good and len(told) > deeper.function.nunique()


@rules.states(
    "ours, from BSNN paper, Definition 3",
    "a GPN network keeps the mean square of its Jacobian's singular values",
    rule="geometric mean over the draws of tr J J^T / d within a factor 2 of 1 where L (E phi'^4 - 1) <= d / 10, GPN",
)
def mean_square_stays(jacobian: pd.DataFrame) -> Judged:
    gpn = jacobian[jacobian.gpn.astype(bool) & (jacobian.law * jacobian.width >= 10)]
    means = np.exp(gpn.assign(value=2 * np.log(gpn.rms)).groupby(KEYS)["value"].mean())
    text = f"{means.min():.2f} to {means.max():.2f} in {len(means)} settings (n = {jacobian.draw.nunique()} draws)"
    return text, bool(len(means) and means.between(0.5, 2).all())


@rules.states(
    "ours, bsnn.beyond.jacobian",
    "but not each of them: their spread grows with depth, participation 1 / (1 + L (E phi'^4 - 1))",
    rule="geometric mean of measured / predicted within 25 % where L (E phi'^4 - 1) <= d / 10, GPN",
)
def participation_falls(jacobian: pd.DataFrame) -> Judged:
    gpn = jacobian[jacobian.gpn.astype(bool) & (jacobian.law * jacobian.width >= 10)]
    ratio = np.exp(gpn.assign(value=np.log(gpn.participation / gpn.law)).groupby(KEYS)["value"].mean())
    deepest = jacobian[jacobian.gpn.astype(bool) & (jacobian.depth == jacobian.depth.max())]
    share = deepest.groupby("function").participation.mean()
    text = (
        f"measured / predicted {ratio.min():.2f} to {ratio.max():.2f} in {len(ratio)} settings; at "
        f"{jacobian.depth.max()} layers {100 * share.min():.1f} to {100 * share.max():.1f} % of the singular values "
        "carry the sum of squares"
    )
    return text, bool(len(ratio) and ratio.between(0.75, 1.25).all())
