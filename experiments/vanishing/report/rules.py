"""The talk's and the lecture's statements on random networks and chains, and how they are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bsnn.results.claims import STABLE
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import rank_correlation

rules = Rules()

# These rules were fixed before the numbers.
FACTOR = 10.0
"""Gradients of the talk's network explode (vanish) if the first layer's is ten times (a tenth of) the last one's."""

MONOTONE = 0.9
"""They also need a rank correlation with the layer that is at least so strong."""

FORMULA = 1e-12
"""Relative error up to which a formula equals autograd's value: some tens of roundings at depth 50."""

GONE, GREAT = 1e-6, 1e6
"""A derivative has vanished, or exploded, if it has changed by a million."""

RARE = 0.05


def first_to_last(frame: pd.DataFrame, weights: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute first layer's gradient / last one's, and the rank correlation of gradient and layer, of every draw."""
    chosen = frame[frame.weights.astype(str) == weights]
    norms = chosen.pivot(index="draw", columns="layer", values="gradient")
    trends = [rank_correlation(norms.columns.to_numpy(), row) for _, row in norms.iterrows()]
    return (norms.iloc[:, 0] / norms.iloc[:, -1]).to_numpy(), np.array(trends)


@rules.states(
    "talk, 20 x 500 sigmoid network",
    "W ~ N(0, I): gradients explode",
    rule="in every draw the first layer's gradient is at least 10 times the last one's, rank correlation <= -0.9",
)
def explodes(talk: pd.DataFrame) -> Judged:
    ratios, trends = first_to_last(talk, "1.0")
    return _ratio_told(ratios, trends), bool((ratios >= FACTOR).all() and (trends <= -MONOTONE).all())


@rules.states(
    "talk, 20 x 500 sigmoid network",
    "W ~ N(0, 0.01 I), variance 0.01: gradients vanish",
    rule="in every draw the first layer's gradient is at most 1/10 of the last one's, rank correlation >= 0.9",
)
def vanishes(talk: pd.DataFrame) -> Judged:
    ratios, trends = first_to_last(talk, "0.1")
    return _ratio_told(ratios, trends), bool((ratios <= 1 / FACTOR).all() and (trends >= MONOTONE).all())


def _ratio_told(ratios: np.ndarray, trends: np.ndarray) -> str:
    mean = float(np.exp(np.log(ratios).mean()))
    spread = f"{ratios.min():.3g} to {ratios.max():.3g}"
    weakest = trends[np.abs(trends).argmin()]
    return f"first / last layer: {mean:.3g} ({spread}; n = {len(ratios)} draws), weakest rank correlation {weakest:.2f}"


def _selu(frame: pd.DataFrame, gpn: bool) -> np.ndarray:
    norms = frame[frame.gpn == gpn].pivot(index="draw", columns="layer", values="gradient")
    ratios: np.ndarray = (norms.max(axis=1) / norms.min(axis=1)).to_numpy()
    return ratios


@rules.states(
    "talk, 200 x 500 with orthogonal W",
    "SELU: gradients vanish or explode",
    rule=f"max / min over layers > {STABLE:g} in every draw",
)
def selu_explodes(selu: pd.DataFrame) -> Judged:
    ratios = _selu(selu, False)
    return f"max / min over layers {mean_and_spread(ratios)}", bool((ratios > STABLE).all())


@rules.states(
    "talk, 200 x 500 with orthogonal W",
    "SELU-GPN: gradients have the same scale",
    rule=f"max / min over layers <= {STABLE:g} in every draw",
)
def selu_gpn_is_even(selu: pd.DataFrame) -> Judged:
    ratios = _selu(selu, True)
    return f"max / min over layers {mean_and_spread(ratios)}", bool((ratios <= STABLE).all())


@rules.states(
    "lecture, equation (23)",
    "df/dw_1 is the product of alpha, weights, slopes and x",
    rule="largest relative difference from autograd <= 1e-12",
)
def formula_is_exact(chain: pd.DataFrame) -> Judged:
    deepest = chain.depth.max()
    chains = len(chain.groupby(["function", "law", "scale"]))
    worst = chain.error.max()
    return f"largest relative error {worst:.2g}, all weights, depths 1 to {deepest}, {chains} kinds", worst <= FORMULA


@rules.states(
    "lecture, section 7.3",
    "sigma' of sigmoid and tanh is small if |z| >> 0",
    rule="every slope where |z| > 3 is at most 0.05",
)
def far_slopes_are_small(chain: pd.DataFrame) -> Judged:
    largest = chain[chain.function != "relu"].groupby("function").far_max.max()
    told = ", ".join(f"{name} {value:.3g}" for name, value in largest.items())
    return f"largest slope where |z| > 3: {told}", bool((largest.fillna(0) <= 0.05).all())


def slopes_multiply_to_nothing(chain: pd.DataFrame, function: str, scale: float) -> Judged:
    rows = _deepest(chain, function, scale)
    told = ", ".join(f"{law} weights 1e{value:.1f}" for law, value in zip(rows.law, rows.slopes, strict=True))
    deepest = chain.depth.max()
    text = f"geometric mean of the {deepest} slopes' product: {told}"
    return text, bool((rows.slopes <= math.log10(GONE)).all())


for function, scale, premise in (("sigmoid", 1.0, ""), ("tanh", 2.0, " where |z| >> 0, here by weights of 2")):
    rules.states(
        "lecture, section 7.3",
        f"the slopes' product makes df/dw_1 nearly zero{premise}: {function}",
        rule="geometric mean of the product over all layers <= 1e-6, for w_l = "
        f"{scale:g} and for w_l ~ N(0, {scale**2:g})",
        function=function,
        scale=scale,
    )(slopes_multiply_to_nothing)


@rules.states(
    "lecture, section 7.3",
    "ReLU: sigma'(z) = 1 for z > 0",
    rule="all slopes where z > 0 are exactly 1",
)
def relu_slope_is_one(chain: pd.DataFrame) -> Judged:
    relu = chain[chain.function == "relu"]
    low, high = relu.on_slope_min.min(), relu.on_slope_max.max()
    return f"all slopes where z > 0 lie in [{low:g}, {high:g}]", bool(low == high == 1)


@rules.states(
    "ours, from lecture, section 7.3",
    "ReLU: the gradient of a random chain does not vanish due to sigma (the lecture says so where z > 0)",
    rule="at most 5 % of chains with w_l ~ N(0, 1) of depth 20 have df/dw_1 = 0",
)
def relu_does_not_vanish(chain: pd.DataFrame) -> Judged:
    one = chain[(chain.function == "relu") & (chain.law == "random") & (chain.scale == 1.0)].set_index("depth").vanished
    depth = min(20, int(one.index.max()))
    told = f"df/dw_1 is exactly 0 in {one[depth]:.1%} of random chains of depth {depth} ({one[1]:.1%} at depth 1)"
    return told, bool(one[depth] <= RARE)


@rules.states(
    "lecture, section 7.3",
    "weights too small make the gradient vanish",
    rule="all w_l = 0.5: median |df/dw_1| <= 1e-6 at the greatest depth, all three functions",
)
def small_weights_vanish(chain: pd.DataFrame) -> Judged:
    rows = _deepest(chain, None, 0.5)
    rows = rows[rows.law == "fixed"]
    told = _medians(rows)
    return f"all w_l = 0.5: {told}", bool((rows["median"] <= math.log10(GONE)).all())


@rules.states(
    "lecture, section 7.3",
    "weights too large make the gradient explode: ReLU",
    rule="all w_l = 4: median |df/dw_1| of those not 0 >= 1e6 at the greatest depth",
    functions=["relu"],
)
def large_weights_explode(chain: pd.DataFrame, functions: Sequence[str]) -> Judged:
    rows = _deepest(chain, None, 4.0)
    rows = rows[(rows.law == "fixed") & rows.function.isin(functions)]
    return f"all w_l = 4: {_medians(rows)}", bool((rows["median"] >= math.log10(GREAT)).all())


def _deepest(frame: pd.DataFrame, function: str | None, scale: float) -> pd.DataFrame:
    rows: pd.DataFrame = frame[(frame.depth == frame.depth.max()) & (frame.scale == scale)]
    return rows if function is None else rows.loc[rows.function == function]


def _medians(rows: pd.DataFrame) -> str:
    shown = zip(rows.function, rows["median"], strict=True)
    return "median |df/dw_1| of those not 0 " + ", ".join(f"{name} 1e{value:.1f}" for name, value in shown)


rules.states(
    "ours, from lecture, section 7.3",
    "weights too large make the gradient explode: sigmoid, tanh (the lecture says it of ReLU)",
    rule="all w_l = 4: median |df/dw_1| >= 1e6 at the greatest depth, both",
    functions=["sigmoid", "tanh"],
)(large_weights_explode)


@rules.states(
    "lecture, section 7.3",
    "the other weights' derivatives have fewer factors (and are larger)",
    rule="rank correlation of mean log |df/dw_l| with l >= 0.9, sigmoid and tanh, w_l ~ N(0, 1)",
)
def fewer_factors_above(factors: pd.DataFrame) -> Judged:
    trends = {}
    for function in ("sigmoid", "tanh"):
        one = factors[
            (factors.function == function) & (factors.law == "random") & (factors.scale == factors.scale.min())
        ]
        trends[function] = rank_correlation(one.layer, one.mean_log10)
    told = ", ".join(f"{name} {trend:.2f}" for name, trend in trends.items())
    return f"rank correlation of mean log |df/dw_l| with l: {told}", min(trends.values()) >= MONOTONE


def mean_and_spread(values: np.ndarray) -> str:
    return f"{values.mean():.3g} ± {values.std(ddof=1):.2g} (n = {len(values)} draws, standard deviation)"
