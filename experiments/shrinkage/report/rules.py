"""What the shrinkage section's sources say, and the rule by which each statement is judged, fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from experiments.shrinkage.report.columns import (
    exponent,
    far_and_near,
    fluctuation,
    last,
    median_displacement,
    rate,
    tail,
)

NEAR_ONE = 1e-4
"""1 - rho below which a correlation counts as near to 1, where the source's exponential law is meant to hold. There
ReLU's next term, of relative size sqrt(1 - rho) 2 sqrt 2 / (3 pi), is 0.3 %."""

ROUNDING = 1e-9
"""What float64 may leave of an equality between closed forms and quadrature."""

Measured = tuple[str, bool]
"""What a statement's numbers say, and whether they agree by its rule."""


# ---- the map and its phases -----------------------------------------------------------------------------------------


def ordered(maps: pd.DataFrame) -> Measured:
    found = {
        str(name): rate(one.layer, one.distance, 1e-10, NEAR_ONE) / math.log(one.slope.iloc[0])
        for name, one in maps[maps.phase == "ordered"].groupby("function")
    }
    worst = max(found.values(), key=lambda ratio: abs(ratio - 1))
    return (
        f"log rate / log P'(1), of {', '.join(found)}: {worst:.4f} farthest from 1; fixed point 1",
        abs(worst - 1) <= 0.02 and bool((maps[maps.phase == "ordered"].fixed_point == 1).all()),
    )


def critical(maps: pd.DataFrame) -> Measured:
    chosen = maps[maps.phase == "critical"]
    found = {str(name): exponent(*tail(one, "layer")) for name, one in chosen.groupby("function")}
    told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    slopes = float((chosen.slope - 1).abs().max())
    return (
        f"exponents over the last decade of depth: {told}; |P'(1) - 1| <= {slopes:.0e}",
        slopes <= ROUNDING and all(-2.2 <= value <= -0.8 for value in found.values()),
    )


def chaotic(maps: pd.DataFrame) -> Measured:
    told, agrees = [], True
    for name, one in maps[maps.phase == "chaotic"].groupby("function"):
        fixed = float(one.fixed_point.iloc[0])
        off = abs(1 - float(one.distance.iloc[-1]) - fixed)
        told.append(f"{name} P'(1) = {one.slope.iloc[0]:.3f}, rho_fp = {fixed:.3f}, off by {off:.0e} in the end")
        agrees &= fixed < 1 and off <= 1e-6 and one.slope.iloc[0] > 1
    return "; ".join(told), agrees


def asymptotic(function: str, power: float) -> Callable[[pd.DataFrame], Measured]:
    def judge(maps: pd.DataFrame) -> Measured:
        one = maps[(maps.phase == "critical") & (maps.function == function)]
        found = exponent(*tail(one, "layer"))
        return f"exponent {found:.3f} over the last decade, to depth {one.layer.max()}", abs(found - power) <= 0.1

    return judge


def series(maps: pd.DataFrame) -> Measured:
    return (
        f"differ by {maps.series_error.max():.0e} at most (degree 200, |rho| <= 0.9)",
        maps.series_error.max() <= 1e-9,
    )


def closed_forms(maps: pd.DataFrame) -> Measured:
    checked = maps.dropna(subset="closed_error")
    names = ", ".join(checked.function.unique())
    return f"differ by {checked.closed_error.max():.0e} at most ({names})", checked.closed_error.max() <= 1e-10


def critical_erf(maps: pd.DataFrame) -> Measured:
    one = maps[(maps.phase == "critical") & (maps.function == "erf")].iloc[0]
    found, wanted = (one.sigma_b / one.sigma_w) ** 2, 2 / math.pi * (2 / math.sqrt(5) - math.atan(2 / math.sqrt(5)))
    return (
        f"{found:.6f} by quadrature, {wanted:.6f} by the formula, differing by {abs(found - wanted):.0e}",
        abs(found - wanted) <= ROUNDING,
    )


def critical_leaky(maps: pd.DataFrame) -> Measured:
    chosen = maps[(maps.phase == "critical") & maps.function.isin(["relu", "leaky_relu"])]
    worst = float(chosen.sigma_b.abs().max())
    return f"sigma_b = {worst:g} for slopes 0 and 0.5", worst == 0


# ---- theorems -------------------------------------------------------------------------------------------------------


def theorem(number: int) -> Callable[[pd.DataFrame], Measured]:
    def judge(bounds: pd.DataFrame) -> Measured:
        chosen = bounds[bounds.theorem == number]
        ratio = chosen.gain / chosen.bound
        nearest = chosen.iloc[int(ratio.to_numpy().argmin())]
        case = f"{nearest.function}, {nearest.setting}, depth {nearest.depth}"
        return f"gain / bound >= {ratio.min():.3g} ({case}); n = {len(chosen)}", bool((ratio >= 1).all())

    return judge


def excess(bounds: pd.DataFrame) -> Measured:
    ratio = bounds.excess / bounds.excess_bound
    return f"e / bound >= {ratio.min():.3g}, n = {len(bounds)} compositions", bool((ratio >= 1 - ROUNDING).all())


def steepness(bounds: pd.DataFrame) -> Measured:
    ratio = bounds.gain / (1 - bounds.floor) / (1 + bounds.excess)
    return f"g'(1) / (1 + e) >= {ratio.min():.3g}, n = {len(bounds)}", bool((ratio >= 1 - ROUNDING).all())


def linear(slope: pd.DataFrame) -> Measured:
    one = slope[(slope.slope == slope.slope.max()) & (slope.kind == "pairs")]
    kept = float((one.infinite - (1 - one.rho_0)).abs().max())
    return (
        f"bound {one.bound.iloc[0]:g}; at infinite width 1 - rho changes by {kept:.0e} (slope {one.slope.iloc[0]:g})",
        bool(one.slope.iloc[0] == 1 and math.isinf(one.bound.iloc[0]) and kept <= ROUNDING),
    )


# ---- Figures 1 and 2 ------------------------------------------------------------------------------------------------


def fig1_bound(fig1: pd.DataFrame) -> Measured:
    over = (fig1.rho - fig1.bound).max()
    exact = (fig1.infinite - fig1.bound).max()
    return (
        f"largest rho - bound: {exact:.1e} at infinite width, {over:.1e} measured (n = {len(fig1)})",
        bool(exact <= ROUNDING and over <= ROUNDING),
    )


def fig1_match(fig1: pd.DataFrame) -> Measured:
    off = fig1.assign(off=(fig1.rho - fig1.infinite).abs()).groupby(["phase", "depth"], sort=False).off.mean()
    told = ", ".join(f"{row.off:.3f} ({row.phase}, L = {row.depth})" for row in off.reset_index().itertuples())
    return f"mean |measured - infinite|: {told}", bool((off <= 0.05).all())


def fig1_flat(fig1: pd.DataFrame) -> Measured:
    deepest = fig1[(fig1.depth == fig1.depth.max()) & (fig1.rho_0 >= 0) & (fig1.rho_0 <= 0.9)]
    spread = deepest.groupby("phase", sort=False).infinite.apply(lambda rho: rho.max() - rho.min())
    told = ", ".join(f"{value:.4f} ({phase})" for phase, value in spread.items())
    return f"rho_L varies by {told} for rho_0 in [0, 0.9], L = {fig1.depth.max()}", bool((spread <= 0.05).all())


def depth_bound(function: str) -> Callable[[pd.DataFrame], Measured]:
    def judge(depth: pd.DataFrame) -> Measured:
        one = depth[depth.function == function]
        ratio = one.distance / one.bound
        searched = ratio[one.kind == "farthest"]
        return (
            f"(1 - rho) / bound <= {ratio[one.kind == 'pairs'].max():.2f} for sample pairs, {searched.max():.2f} for "
            f"pairs found by ascent (n = {len(one)})",
            bool((ratio <= 1).all()),
        )

    return judge


def measured_rate(function: str, power: float) -> Callable[[pd.DataFrame], Measured]:
    def judge(depth: pd.DataFrame) -> Measured:
        one = depth[(depth.function == function) & (depth.kind == "pairs")]
        found = [exponent(*tail(draw, "depth", per_layer=True)) for _, draw in one.groupby("index")]
        mean, error = fluctuation(found)
        infinite = exponent(*tail(one.assign(distance=one.infinite), "depth", per_layer=True))
        return (
            f"{mean:.2f} +- {error:.2f} (standard error, {len(found)} draws); infinite width {infinite:.2f}, over the "
            f"last decade to depth {one.depth.max()}",
            abs(mean - power) <= 0.4,
        )

    return judge


def slower_than_bound(depth: pd.DataFrame) -> Measured:
    pairs = depth[depth.kind == "pairs"]
    found = {
        str(name): exponent(*tail(one.assign(distance=one.infinite), "depth", per_layer=True))
        for name, one in pairs.groupby("function")
    }
    told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return f"infinite width, last decade: {told}", all(value <= -0.5 for value in found.values())


def leaky_constant(depth: pd.DataFrame) -> Measured:
    one = depth[depth.function == "relu"]
    found = float((one.bound * np.sqrt(one.depth)).mean())
    wanted = 4 * math.sqrt(math.pi / (math.pi - 2))
    return f"{found:.4f} from Theorem 1, {wanted:.4f} by the formula", abs(found - wanted) <= ROUNDING


def erf_constant(depth: pd.DataFrame) -> Measured:
    one = depth[depth.function == "erf"]
    found = float((one.bound * np.sqrt(one.depth)).mean())
    wanted = 4 / math.sqrt((math.atan(2 / math.sqrt(5)) - 2 / 3) * math.sqrt(5))
    return f"{found:.4f} from Theorem 1, {wanted:.4f} as printed", abs(found - wanted) <= ROUNDING


def slope_bound(slope: pd.DataFrame) -> Measured:
    ratio = slope.distance / slope.bound
    return f"(1 - rho) / bound <= {ratio.max():.2f} (n = {len(slope)})", bool((ratio <= 1).all())


def slope_trend(slope: pd.DataFrame) -> Measured:
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


def fig3_shrinks(fig3: pd.DataFrame) -> Measured:
    one = chosen(fig3, "critical", "correlation")
    ratio = (one.value / one.bound).replace(np.inf, np.nan).max()
    at_end = last(one)
    return (
        f"(1 - rho) / bound <= {ratio:.2f}; at layer {one.layer.max()} 1 - rho = {at_end.value.mean():.3g} on average "
        f"(infinite width {at_end.infinite.mean():.3g}), n = {len(at_end)} pairs",
        bool(ratio <= 1 and at_end.value.mean() < 0.1),
    )


def fig3_fixed_point(fig3: pd.DataFrame) -> Measured:
    at_end = last(chosen(fig3, "chaotic", "correlation"))
    limit = float(at_end.infinite.mean())
    off = (at_end.value - at_end.infinite).abs().max()
    return (
        f"rho at layer {at_end.layer.max()}: {1 - at_end.value.min():.3f} at most, {1 - at_end.value.max():.3f} at "
        f"least, rho_fp = {1 - limit:.3f} (n = {len(at_end)} pairs)",
        bool(off <= 0.1),
    )


def fig3_norm(fig3: pd.DataFrame) -> Measured:
    one = chosen(fig3, "critical", "jacobian")
    growth = [
        exponent(draw.layer, draw.value)
        for _, draw in one[(one.series == "largest") & (one.layer >= 8)].groupby("draw")
        if len(draw) > 1
    ] or [exponent(one[one.series == "largest"].layer, one[one.series == "largest"].value)]
    mean, error = fluctuation(growth)
    return f"largest singular value ~ L^({mean:.2f} +- {error:.2f}), {len(growth)} draws", mean <= 0.1


def fig3_mean_square(fig3: pd.DataFrame) -> Measured:
    at_end = last(chosen(fig3, "critical", "jacobian").query("series == 'root mean square'"))
    return (
        f"root mean square singular value at layer {at_end.layer.max()}: {at_end.value.mean():.2f} "
        f"(n = {len(at_end)} draws, {at_end.value.min():.2f} to {at_end.value.max():.2f}); infinite width 1",
        bool(0.5 <= at_end.value.mean() <= 2),
    )


def fig3_jacobian_bound(fig3: pd.DataFrame) -> Measured:
    one = chosen(fig3, "chaotic", "jacobian").query("series == 'largest'")
    ratio = one.value / one.bound
    grown = last(one).value.mean() / one[one.layer == one.layer.min()].value.mean()
    return (
        f"norm / bound >= {ratio.min():.2f}; the norm grows {grown:.3g}-fold over {one.layer.max()} layers",
        bool((ratio >= 1).all() and grown > 1),
    )


def chaos_constant(fig3: pd.DataFrame) -> Measured:
    one = chosen(fig3, "chaotic", "jacobian").query("series == 'largest'")
    fixed = float(last(chosen(fig3, "chaotic", "correlation")).infinite.mean())
    found = float((one.bound / np.sqrt(one.layer)).mean())
    wanted = math.sqrt((math.atan(2 / math.sqrt(5)) - 2 / 3) * math.sqrt(5)) / 4
    return (
        f"{found / fixed:.6f} from Theorem 1, {wanted:.6f} as printed",
        abs(found / fixed / wanted - 1) <= 1e-3,
    )


def fig3_gradients(fig3: pd.DataFrame) -> Measured:
    norms = chosen(fig3, "critical", "gradient").groupby("layer").value.apply(lambda v: np.exp(np.log(v).mean()))
    ratio = float(norms.max() / norms.min())
    return f"max / min over {len(norms)} layers {ratio:.2f} (geometric mean of the draws)", ratio <= 10


def fig3_exploding(fig3: pd.DataFrame) -> Measured:
    one = chosen(fig3, "chaotic", "gradient")
    mean = one.groupby("layer")[["value", "bound"]].apply(lambda v: np.exp(np.log(v.clip(lower=1e-300)).mean()))
    ratio = float((mean.value / mean.bound).min())
    grown = float(mean.value.iloc[0] / mean.value.iloc[-1])
    return f"norm / bound >= {ratio:.2f}; layer 1 has {grown:.3g} times the last layer's", ratio >= 1 and grown >= 10


# ---- residual networks ----------------------------------------------------------------------------------------------


def residual_map(residual: pd.DataFrame) -> Measured:
    at_end = last(residual)
    logs = at_end.assign(off=np.log(at_end.distance / at_end.infinite))
    by_case = logs.groupby(["function", "sigma"]).off.mean()
    worst = max(by_case, key=abs)
    return (
        f"measured / infinite 1 - rho at layer {residual.layer.max()}, geometric mean over pairs and draws: "
        f"{math.exp(worst):.2f} farthest from 1 (of {len(by_case)} networks)",
        bool(by_case.abs().max() <= math.log(1.25)),
    )


def residual_bound(residual: pd.DataFrame) -> Measured:
    one = residual[residual.bound > 0]
    ratio = one.measured_gain / one.bound
    return (
        f"measured squared gain / bound >= {ratio.min():.2f}, at infinite width {(one.gain / one.bound).min():.2f}",
        bool((ratio >= 1).all()),
    )


def residual_scaling(residual: pd.DataFrame) -> Measured:
    depth, sigma = int(residual.layer.max()), float(residual.sigma.min())
    at_end = last(residual[(residual.sigma == sigma) & (residual.rho_0 == 0)])
    return (
        f"sigma = {sigma:g}, {depth} blocks: 1 - rho {at_end.distance.min():.2f} at least (from 1), squared gain "
        f"{at_end.measured_gain.max():.2f} at most (n = {len(at_end)})",
        bool(at_end.distance.min() >= 0.5 and at_end.measured_gain.max() <= 2),
    )


# ---- Figure 4 -------------------------------------------------------------------------------------------------------


def fig4_layers(fig4: pd.DataFrame) -> Measured:
    layers = fig4[fig4.quantity == "layers"].groupby("network").value.first()
    return f"{layers.full:.0f} and {layers.skimmed:.0f}", layers.full == 82 and layers.skimmed == 67


def entrance(fig4: pd.DataFrame) -> int:
    return int(fig4[fig4.quantity == "farthest"]["index"].iloc[0])


def fig4_correlation(fig4: pd.DataFrame) -> Measured:
    block = entrance(fig4)
    found = fig4[fig4.quantity == "farthest"].query("stage == 'before'").value
    here = fig4[(fig4["index"] == block) & (fig4.stage == "before") & (fig4.network == "full")]
    pairs = here[here.quantity == "largest distance"].value
    mean = here[here.quantity == "mean distance"].value.mean()
    infinite = fig4[(fig4.quantity == "infinite") & (fig4["index"] == block)].value.iloc[0]
    return (
        f"entering layer {block + 1}: {1 - found.max():.3f} (found by ascent), {1 - pairs.max():.3f} (least of the "
        f"test pairs), {1 - mean:.3f} (their mean), {1 - infinite:.3f} (least at infinite width)",
        bool(found.max() <= 0.035),
    )


def skimming_error(fig4: pd.DataFrame) -> tuple[float, float]:
    """Mean 1 - rho, after the block before training, of the two networks for one input and of the full one for two."""
    error = fig4[fig4.quantity == "skimming error"]
    here = (fig4.quantity == "mean distance") & (fig4.stage == "before") & (fig4.network == "full")
    return float(error.value.mean()), float(fig4[here & (fig4["index"] == error["index"].iloc[0])].value.mean())


def fig4_linear(fig4: pd.DataFrame) -> Measured:
    error, apart = skimming_error(fig4)
    return (
        f"1 - rho: {error:.4f} by skimming, {apart:.4f} between inputs, ratio {error / apart:.2f}",
        error <= 0.1 * apart,
    )


def fig4_unchanged(fig4: pd.DataFrame) -> Measured:
    here = fig4[(fig4.quantity == "mean distance") & (fig4.network == "full") & (fig4["index"] == entrance(fig4))]
    before, after = (here[here.stage == stage].value.mean() for stage in ("before", "after"))
    return f"mean 1 - rho {before:.3f} before, {after:.3f} after training", 0.5 <= after / before <= 2


def fig4_curves(fig4: pd.DataFrame) -> Measured:
    loss = fig4[fig4.quantity == "loss"].pivot_table(index="index", columns="network", values="value")
    accuracy = fig4[fig4.quantity == "accuracy"].pivot_table(index="index", columns="network", values="value")
    apart = float((accuracy.full - accuracy.skimmed).abs().mean())
    return (
        f"test accuracy in the end {accuracy.full.iloc[-1]:.3f} and {accuracy.skimmed.iloc[-1]:.3f}, apart by "
        f"{apart:.3f} on average; loss {loss.full.iloc[-1]:.2f} and {loss.skimmed.iloc[-1]:.2f}",
        bool(apart <= 0.05 and accuracy.full.iloc[-1] > 0.2),
    )


def fig4_far(fig4: pd.DataFrame) -> Measured:
    far, _ = far_and_near(fig4)
    best = far.max()
    return f"{best:.2f} in layer {far.idxmax()}, the largest of the {len(far)} farthest from the block", best >= 0.7


def fig4_near(fig4: pd.DataFrame) -> Measured:
    _, near = far_and_near(fig4)
    mean, error = fluctuation(near.to_list())
    return (
        f"{mean:.2f} +- {error:.2f} (mean and standard error of the {len(near)} layers nearest to the block; median of "
        f"all layers {median_displacement(fig4):.2f})",
        bool(0 < mean <= 0.3),
    )


RULES: Sequence[tuple[str, str, str, str, Callable[[pd.DataFrame], Measured]]] = (
    (
        "Section 2.2",
        "Ordered, P'(1) < 1: the fixed point is 1, 1 - rho falls exponentially, by P'(1) a layer.",
        "log rate within 2 % of log P'(1) where 1 - rho < 1e-4, every function",
        "maps",
        ordered,
    ),
    (
        "Section 2.2",
        "Critical, P'(1) = 1: rho goes to 1 polynomially.",
        "P'(1) = 1 to 1e-9; exponents between -2.2 and -0.8",
        "maps",
        critical,
    ),
    (
        "Section 2.2",
        "Chaotic, P'(1) > 1: correlations go to a fixed point below 1.",
        "rho_fp < 1, reached to 1e-6",
        "maps",
        chaotic,
    ),
    ("Section 5.1", "ReLU: 1 - rho_L is asymptotically O(L^-2).", "exponent -2 +- 0.1", "maps", asymptotic("relu", -2)),
    ("Section 5.1", "erf: 1 - rho_L is asymptotically O(L^-1).", "exponent -1 +- 0.1", "maps", asymptotic("erf", -1)),
    (
        "(2.4)",
        "P is the power series of phi's squared Hermite coefficients.",
        "series and quadrature within 1e-9",
        "maps",
        series,
    ),
    (
        "Appendix B",
        "C[phi|rho] of leaky ReLU and erf in closed form.",
        "closed forms and quadrature within 1e-10",
        "maps",
        closed_forms,
    ),
    (
        "Appendix B",
        "erf is critical at sigma_b^2 / sigma_w^2 = 2/pi (2/sqrt 5 - arctan(2/sqrt 5)).",
        "equal to 1e-9",
        "maps",
        critical_erf,
    ),
    ("Appendix B", "Leaky ReLU is critical at sigma_b = 0.", "sigma_b = 0", "maps", critical_leaky),
    (
        "Theorem 1",
        "Squared gain >= (1 - rho_max)^2 / 8 sum of the layers' nonlinearities.",
        "holds for every function, phase and depth, at infinite width",
        "bounds",
        theorem(1),
    ),
    (
        "Theorem 2",
        "The same for residual networks, terms sigma^2 |phi - phi~|^2 / (1 + sigma^2 |phi'|^2).",
        "holds for every function, sigma and depth, at infinite width",
        "bounds",
        theorem(2),
    ),
    (
        "Appendix A, (A.5), (A.6)",
        "Excess convexity adds up: e(P_L .. P_1) >= (1 - rho_max) / 2 times the sum.",
        "holds in every case",
        "bounds",
        excess,
    ),
    ("Appendix A.3, property 4", "g'(1) >= 1 + e(g).", "holds in every case", "bounds", steepness),
    (
        "Section 3",
        "For a linear network the theorem is vacuous and correlations are kept.",
        "bound infinite, 1 - rho unchanged to 1e-9 at infinite width",
        "slope",
        linear,
    ),
    (
        "Figure 1",
        "The blue curve is an upper bound of rho_L.",
        "rho <= bound at every point, measured and at infinite width",
        "fig1",
        fig1_bound,
    ),
    (
        "Figure 1",
        "Networks of width 1024 follow the infinite-width curve.",
        "mean difference at most 0.05 at every depth",
        "fig1",
        fig1_match,
    ),
    (
        "Appendix A, remark 3",
        "rho_L is nearly constant for a large range of rho_0 in deep networks.",
        "varies by at most 0.05 for rho_0 in [0, 0.9] at the largest depth",
        "fig1",
        fig1_flat,
    ),
    (
        "(4.1), Fig. 2a",
        "1 - rho of ReLU networks stays below the bound, for sample pairs and the farthest.",
        "holds for every pair and depth",
        "depth",
        depth_bound("relu"),
    ),
    (
        "(4.2)",
        "The same for critical erf networks.",
        "holds for every pair and depth",
        "depth",
        depth_bound("erf"),
    ),
    (
        "(4.1)",
        "1 - rho_max <= 4 sqrt(pi / (pi - 2)) / sqrt L for ReLU, from the norms in appendix B.",
        "equal to 1e-9",
        "depth",
        leaky_constant,
    ),
    (
        "(4.2)",
        "1 - rho_max <= 4 / sqrt((arctan(2/sqrt 5) - 2/3) sqrt 5) / sqrt L.",
        "equal to 1e-9",
        "depth",
        erf_constant,
    ),
    (
        "Remark 1",
        "Critical representations shrink at least as O(L^-1/2).",
        "exponent <= -1/2",
        "depth",
        slower_than_bound,
    ),
    ("Section 5.1", "ReLU: O(L^-2), measured.", "exponent -2 +- 0.4", "depth", measured_rate("relu", -2)),
    ("Section 5.1", "erf: O(L^-1), measured.", "exponent -1 +- 0.4", "depth", measured_rate("erf", -1)),
    ("(4.1), Fig. 2b", "1 - rho stays below the bound for every slope.", "holds everywhere", "slope", slope_bound),
    (
        "Fig. 2b",
        "The nearer to linear, the less shrinkage.",
        "rank correlation of 1 - rho and slope >= 0.9 measured, 1 at infinite width",
        "slope",
        slope_trend,
    ),
    (
        "Fig. 3a, (4.2)",
        "Critical erf: all inputs get squeezed, at least as the bound says.",
        "below the bound everywhere; mean 1 - rho < 0.1 at the last layer",
        "fig3",
        fig3_shrinks,
    ),
    (
        "Fig. 3b",
        "Chaotic erf: correlations of any two inputs approach rho_fp < 1.",
        "every pair within 0.1 of it at the last layer",
        "fig3",
        fig3_fixed_point,
    ),
    (
        "Fig. 3c",
        "Critical: the operator norm of the Jacobian does not grow with depth.",
        "exponent of the largest singular value at most 0.1, from layer 8",
        "fig3",
        fig3_norm,
    ),
    (
        "Section 2.2, Fig. 3c",
        "Critical: perturbations keep their size on average.",
        "root mean square singular value at the last layer between 0.5 and 2",
        "fig3",
        fig3_mean_square,
    ),
    (
        "Fig. 3d, (4.3)",
        "Chaotic: the Jacobian's norm grows, and is at least the bound.",
        "norm >= bound at every layer, and larger at the last than at the first",
        "fig3",
        fig3_jacobian_bound,
    ),
    (
        "(4.3)",
        "norm >= sqrt((arctan(2/sqrt 5) - 2/3) sqrt 5) / 4 (1 - rho_fp) sqrt L.",
        "equal to 0.1 % (rho_fp is taken from the last layer)",
        "fig3",
        chaos_constant,
    ),
    (
        "Fig. 3e",
        "Critical: gradients are well-behaved.",
        "norms of dE/dW_l within a factor 10 over all layers",
        "fig3",
        fig3_gradients,
    ),
    (
        "Fig. 3f",
        "Chaotic: large gradients in low layers, at least the bound.",
        "norm >= bound at every layer; ten times larger in the first than in the last",
        "fig3",
        fig3_exploding,
    ),
    (
        "(A.10)",
        "Residual networks follow P(rho) = (rho + sigma^2 C) / (1 + sigma^2 |phi|^2).",
        "within a factor 1.25 at the last layer, every network",
        "residual",
        residual_map,
    ),
    (
        "Theorem 2",
        "Residual networks' squared gain is at least the bound.",
        "holds at every layer, measured",
        "residual",
        residual_bound,
    ),
    (
        "Section 5.1",
        "sigma^2 ~ 1/L keeps deep residual networks well-behaved.",
        "smallest sigma: 1 - rho >= 0.5 from orthogonal inputs, squared gain <= 2",
        "residual",
        residual_scaling,
    ),
    ("Section 4.2", "82 layers, 67 when a block of 16 is made one.", "82 and 67", "fig4", fig4_layers),
    (
        "Section 4.2",
        "Pre-activations entering the middle block have correlation >= 0.97 on any pair of inputs.",
        "at least 0.965 for the pair found by gradient ascent",
        "fig4",
        fig4_correlation,
    ),
    (
        "Section 4.2",
        "So the block can be replaced by its linearisation without affecting the outputs significantly (hypothesis).",
        "before training, after the block: 1 - rho of full and skimmed at most 0.1 of that of two inputs",
        "fig4",
        fig4_linear,
    ),
    (
        "Fig. 4a",
        "Training does not change that significantly.",
        "mean 1 - rho of test pairs within a factor 2",
        "fig4",
        fig4_unchanged,
    ),
    (
        "Fig. 4c",
        "Both networks improve at similar rates.",
        "test accuracies apart by 0.05 at most on average over training; above 0.2 in the end",
        "fig4",
        fig4_curves,
    ),
    (
        "Fig. 4b",
        "Pearson correlation of parameter displacements: up to 0.8 far from the block.",
        "at least 0.7 in one of the five first or last layers",
        "fig4",
        fig4_far,
    ),
    ("Fig. 4b", "About 0.1, positive, near it.", "mean of the four layers on each side in (0, 0.3]", "fig4", fig4_near),
)
