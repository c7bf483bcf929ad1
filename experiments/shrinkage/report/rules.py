"""The source's statements on wide layers (maps, bounds, Figure 1), and the rules by which they are judged."""

from __future__ import annotations

import math

import pandas as pd

from bsnn.results.rules import Judged, Rules
from experiments.shrinkage.report.columns import (
    exponent,
    rate,
    tail,
)

rules = Rules()

NEAR_ONE = 1e-4
"""Gap 1 - rho below which a correlation counts as near 1, where the source's exponential law is meant to hold.

There ReLU's next term, of relative size sqrt(1 - rho) 2 sqrt 2 / (3 pi), is 0.3 %.
"""

ROUNDING = 1e-9
"""Largest error of float64 in an equality between closed forms and quadrature."""


# ---- the map and its phases -----------------------------------------------------------------------------------------


@rules.states(
    "Section 2.2",
    "Ordered, P'(1) < 1: the fixed point is 1, 1 - rho falls exponentially, by P'(1) a layer.",
    rule="log rate within 2 % of log P'(1) where 1 - rho < 1e-4, every function",
)
def ordered(maps: pd.DataFrame) -> Judged:
    found = {
        str(name): rate(one.layer, one.distance, 1e-10, NEAR_ONE) / math.log(one.slope.iloc[0])
        for name, one in maps[maps.phase == "ordered"].groupby("function")
    }
    worst = max(found.values(), key=lambda ratio: abs(ratio - 1))
    return (
        f"log rate / log P'(1), of {', '.join(found)}: {worst:.4f} farthest from 1; fixed point 1",
        abs(worst - 1) <= 0.02 and bool((maps[maps.phase == "ordered"].fixed_point == 1).all()),
    )


@rules.states(
    "Section 2.2",
    "Critical, P'(1) = 1: rho goes to 1 polynomially.",
    rule="P'(1) = 1 to 1e-9; exponents between -2.2 and -0.8",
)
def critical(maps: pd.DataFrame) -> Judged:
    chosen = maps[maps.phase == "critical"]
    found = {str(name): exponent(*tail(one, "layer")) for name, one in chosen.groupby("function")}
    told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    slopes = float((chosen.slope - 1).abs().max())
    return (
        f"exponents over the last decade of depth: {told}; |P'(1) - 1| <= {slopes:.0e}",
        slopes <= ROUNDING and all(-2.2 <= value <= -0.8 for value in found.values()),
    )


@rules.states(
    "Section 2.2",
    "Chaotic, P'(1) > 1: correlations go to a fixed point below 1.",
    rule="rho_fp < 1, reached to 1e-6",
)
def chaotic(maps: pd.DataFrame) -> Judged:
    told, agrees = [], True
    for name, one in maps[maps.phase == "chaotic"].groupby("function"):
        fixed = float(one.fixed_point.iloc[0])
        off = abs(1 - float(one.distance.iloc[-1]) - fixed)
        told.append(f"{name} P'(1) = {one.slope.iloc[0]:.3f}, rho_fp = {fixed:.3f}, off by {off:.0e} in the end")
        agrees &= fixed < 1 and off <= 1e-6 and one.slope.iloc[0] > 1
    return "; ".join(told), agrees


@rules.states(
    "Section 5.1",
    "ReLU: 1 - rho_L is asymptotically O(L^-2).",
    rule="exponent -2 +- 0.1",
    function="relu",
    power=-2,
)
def asymptotic(maps: pd.DataFrame, function: str, power: float) -> Judged:
    one = maps[(maps.phase == "critical") & (maps.function == function)]
    found = exponent(*tail(one, "layer"))
    return f"exponent {found:.3f} over the last decade, to depth {one.layer.max()}", abs(found - power) <= 0.1


rules.states(
    "Section 5.1",
    "erf: 1 - rho_L is asymptotically O(L^-1).",
    rule="exponent -1 +- 0.1",
    function="erf",
    power=-1,
)(asymptotic)


@rules.states(
    "(2.4)",
    "P is the power series of phi's squared Hermite coefficients.",
    rule="series and quadrature within 1e-9",
)
def series(maps: pd.DataFrame) -> Judged:
    return (
        f"differ by {maps.series_error.max():.0e} at most (degree 200, |rho| <= 0.9)",
        maps.series_error.max() <= 1e-9,
    )


@rules.states(
    "Appendix B",
    "C[phi|rho] of leaky ReLU and erf in closed form.",
    rule="closed forms and quadrature within 1e-10",
)
def closed_forms(maps: pd.DataFrame) -> Judged:
    checked = maps.dropna(subset="closed_error")
    names = ", ".join(checked.function.unique())
    return f"differ by {checked.closed_error.max():.0e} at most ({names})", checked.closed_error.max() <= 1e-10


@rules.states(
    "Appendix B",
    "erf is critical at sigma_b^2 / sigma_w^2 = 2/pi (2/sqrt 5 - arctan(2/sqrt 5)).",
    rule="equal to 1e-9",
)
def critical_erf(maps: pd.DataFrame) -> Judged:
    one = maps[(maps.phase == "critical") & (maps.function == "erf")].iloc[0]
    found, wanted = (one.sigma_b / one.sigma_w) ** 2, 2 / math.pi * (2 / math.sqrt(5) - math.atan(2 / math.sqrt(5)))
    return (
        f"{found:.6f} by quadrature, {wanted:.6f} by the formula, differing by {abs(found - wanted):.0e}",
        abs(found - wanted) <= ROUNDING,
    )


@rules.states(
    "Appendix B",
    "Leaky ReLU is critical at sigma_b = 0.",
    rule="sigma_b = 0",
)
def critical_leaky(maps: pd.DataFrame) -> Judged:
    chosen = maps[(maps.phase == "critical") & maps.function.isin(["relu", "leaky_relu"])]
    worst = float(chosen.sigma_b.abs().max())
    return f"sigma_b = {worst:g} for slopes 0 and 0.5", worst == 0


# ---- theorems -------------------------------------------------------------------------------------------------------


@rules.states(
    "Theorem 1",
    "Squared gain >= (1 - rho_max)^2 / 8 sum of the layers' nonlinearities.",
    rule="holds for every function, phase and depth, at infinite width",
    number=1,
)
def theorem(bounds: pd.DataFrame, number: int) -> Judged:
    chosen = bounds[bounds.theorem == number]
    ratio = chosen.gain / chosen.bound
    nearest = chosen.iloc[int(ratio.to_numpy().argmin())]
    case = f"{nearest.function}, {nearest.setting}, depth {nearest.depth}"
    return f"gain / bound >= {ratio.min():.3g} ({case}); n = {len(chosen)}", bool((ratio >= 1).all())


rules.states(
    "Theorem 2",
    "The same for residual networks, terms sigma^2 |phi - phi~|^2 / (1 + sigma^2 |phi'|^2).",
    rule="holds for every function, sigma and depth, at infinite width",
    number=2,
)(theorem)


@rules.states(
    "Appendix A, (A.5), (A.6)",
    "Excess convexity adds up: e(P_L .. P_1) >= (1 - rho_max) / 2 times the sum.",
    rule="holds in every case",
)
def excess(bounds: pd.DataFrame) -> Judged:
    ratio = bounds.excess / bounds.excess_bound
    return f"e / bound >= {ratio.min():.3g}, n = {len(bounds)} compositions", bool((ratio >= 1 - ROUNDING).all())


@rules.states(
    "Appendix A.3, property 4",
    "g'(1) >= 1 + e(g).",
    rule="holds in every case",
)
def steepness(bounds: pd.DataFrame) -> Judged:
    ratio = bounds.gain / (1 - bounds.floor) / (1 + bounds.excess)
    return f"g'(1) / (1 + e) >= {ratio.min():.3g}, n = {len(bounds)}", bool((ratio >= 1 - ROUNDING).all())


@rules.states(
    "Section 3",
    "For a linear network the theorem is vacuous and correlations are kept.",
    rule="bound infinite, 1 - rho unchanged to 1e-9 at infinite width",
)
def linear(slope: pd.DataFrame) -> Judged:
    one = slope[(slope.slope == slope.slope.max()) & (slope.kind == "pairs")]
    kept = float((one.infinite - (1 - one.rho_0)).abs().max())
    return (
        f"bound {one.bound.iloc[0]:g}; at infinite width 1 - rho changes by {kept:.0e} (slope {one.slope.iloc[0]:g})",
        bool(one.slope.iloc[0] == 1 and math.isinf(one.bound.iloc[0]) and kept <= ROUNDING),
    )


# ---- Figures 1 and 2 ------------------------------------------------------------------------------------------------


@rules.states(
    "Figure 1",
    "The blue curve is an upper bound of rho_L.",
    rule="rho <= bound at every point at infinite width, which the bound is about",
)
def fig1_bound(fig1: pd.DataFrame) -> Judged:
    over = (fig1.rho - fig1.bound).max()
    exact = (fig1.infinite - fig1.bound).max()
    return (
        f"largest rho - bound: {exact:.1e} at infinite width, {over:.1e} measured (n = {len(fig1)})",
        bool(exact <= ROUNDING),
    )


@rules.states(
    "Figure 1",
    "Networks of width 1024 follow the infinite-width curve.",
    rule="mean difference at most 0.05 at every depth",
)
def fig1_match(fig1: pd.DataFrame) -> Judged:
    off = fig1.assign(off=(fig1.rho - fig1.infinite).abs()).groupby(["phase", "depth"], sort=False).off.mean()
    told = ", ".join(f"{row.off:.3f} ({row.phase}, L = {row.depth})" for row in off.reset_index().itertuples())
    return f"mean |measured - infinite|: {told}", bool((off <= 0.05).all())


@rules.states(
    "Appendix A, remark 3",
    "rho_L is nearly constant for a large range of rho_0 in deep networks.",
    rule="varies by at most 0.05 for rho_0 in [0, 0.9] at the largest depth",
)
def fig1_flat(fig1: pd.DataFrame) -> Judged:
    deepest = fig1[(fig1.depth == fig1.depth.max()) & (fig1.rho_0 >= 0) & (fig1.rho_0 <= 0.9)]
    spread = deepest.groupby("phase", sort=False).infinite.apply(lambda rho: rho.max() - rho.min())
    told = ", ".join(f"{value:.4f} ({phase})" for phase, value in spread.items())
    return f"rho_L varies by {told} for rho_0 in [0, 0.9], L = {fig1.depth.max()}", bool((spread <= 0.05).all())
