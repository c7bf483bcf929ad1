"""The source's statements on finite networks, Figure 2 and the rates, and how they are judged."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn.results.rules import Judged, Rules
from experiments.shrinkage.report.columns import (
    exponent,
    fluctuation,
    tail,
)
from experiments.shrinkage.report.rules import ROUNDING

rules = Rules()


@rules.states(
    "(4.1), Fig. 2a",
    "1 - rho of ReLU networks stays below the bound, for sample pairs and the farthest.",
    rule="holds for every pair and depth",
    function="relu",
)
def depth_bound(depth: pd.DataFrame, function: str) -> Judged:
    one = depth[depth.function == function]
    ratio = one.distance / one.bound
    searched = ratio[one.kind == "farthest"]
    return (
        f"(1 - rho) / bound <= {ratio[one.kind == 'pairs'].max():.2f} for sample pairs, {searched.max():.2f} for "
        f"pairs found by ascent (n = {len(one)})",
        bool((ratio <= 1).all()),
    )


rules.states(
    "(4.2)",
    "The same for critical erf networks.",
    rule="holds for every pair and depth",
    function="erf",
)(depth_bound)


@rules.states(
    "(4.1)",
    "1 - rho_max <= 4 sqrt(pi / (pi - 2)) / sqrt L for ReLU, from the norms in appendix B.",
    rule="equal to 1e-9",
)
def leaky_constant(depth: pd.DataFrame) -> Judged:
    one = depth[depth.function == "relu"]
    found = float((one.bound * np.sqrt(one.depth)).mean())
    wanted = 4 * math.sqrt(math.pi / (math.pi - 2))
    return f"{found:.4f} from Theorem 1, {wanted:.4f} by the formula", abs(found - wanted) <= ROUNDING


@rules.states(
    "(4.2)",
    "1 - rho_max <= 4 / sqrt((arctan(2/sqrt 5) - 2/3) sqrt 5) / sqrt L.",
    rule="equal to 1e-9",
)
def erf_constant(depth: pd.DataFrame) -> Judged:
    one = depth[depth.function == "erf"]
    found = float((one.bound * np.sqrt(one.depth)).mean())
    wanted = 4 / math.sqrt((math.atan(2 / math.sqrt(5)) - 2 / 3) * math.sqrt(5))
    return f"{found:.4f} from Theorem 1, {wanted:.4f} as printed", abs(found - wanted) <= ROUNDING


@rules.states(
    "Remark 1",
    "Critical representations shrink at least as O(L^-1/2).",
    rule="exponent <= -1/2",
)
def slower_than_bound(depth: pd.DataFrame) -> Judged:
    pairs = depth[depth.kind == "pairs"]
    found = {
        str(name): exponent(*tail(one.assign(distance=one.infinite), "depth", per_layer=True))
        for name, one in pairs.groupby("function")
    }
    told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return f"infinite width, last decade: {told}", all(value <= -0.5 for value in found.values())


@rules.states(
    "Section 5.1",
    "ReLU: O(L^-2), measured.",
    rule="exponent -2 +- 0.4",
    function="relu",
    power=-2,
)
def measured_rate(depth: pd.DataFrame, function: str, power: float) -> Judged:
    one = depth[(depth.function == function) & (depth.kind == "pairs")]
    found = [exponent(*tail(draw, "depth", per_layer=True)) for _, draw in one.groupby("index")]
    mean, error = fluctuation(found)
    infinite = exponent(*tail(one.assign(distance=one.infinite), "depth", per_layer=True))
    return (
        f"{mean:.2f} +- {error:.2f} (standard error, {len(found)} draws); infinite width {infinite:.2f}, over the "
        f"last decade to depth {one.depth.max()}",
        abs(mean - power) <= 0.4,
    )


rules.states(
    "Section 5.1",
    "erf: O(L^-1), measured.",
    rule="exponent -1 +- 0.4",
    function="erf",
    power=-1,
)(measured_rate)


@rules.states(
    "(4.1), Fig. 2b",
    "1 - rho stays below the bound for every slope.",
    rule="holds everywhere",
)
def slope_bound(slope: pd.DataFrame) -> Judged:
    ratio = slope.distance / slope.bound
    return f"(1 - rho) / bound <= {ratio.max():.2f} (n = {len(slope)})", bool((ratio <= 1).all())


@rules.states(
    "Fig. 2b",
    "The nearer to linear, the less shrinkage.",
    rule="rank correlation of 1 - rho and slope >= 0.9 measured, 1 at infinite width",
)
def slope_trend(slope: pd.DataFrame) -> Judged:
    pairs = slope[slope.kind == "pairs"]
    by_slope = pairs.groupby("slope")[["distance", "infinite"]].mean()
    rank = by_slope.reset_index().corr(method="spearman")["slope"]
    first, final = by_slope.distance.iloc[0], by_slope.distance.iloc[-1]
    return (
        f"mean 1 - rho from {first:.2g} (slope {by_slope.index[0]:g}) to {final:.2g} (slope {by_slope.index[-1]:g}); "
        f"rank correlation with the slope {rank.distance:.2f}, infinite width {rank.infinite:.2f}",
        bool(rank.distance >= 0.9 and rank.infinite >= 0.999),
    )


# ---- Figure 3 -------------------------------------------------------------------------------------------------------


def chosen(fig3: pd.DataFrame, phase: str, quantity: str) -> pd.DataFrame:
    return fig3[(fig3.phase == phase) & (fig3.quantity == quantity)]
