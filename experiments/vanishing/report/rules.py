"""What the sources say of vanishing gradients, and the rule by which each statement of the section is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from bsnn.results.claims import CHANCE, EXPLODED, STABLE, TRAINED_SE
from bsnn.results.grid import rank_correlation
from bsnn.results.section import Parts
from bsnn.results.statements import Statement
from bsnn.vanishing import quadratic
from experiments.vanishing.report.runs import METHOD_NAMES, floors_of, last_tenth, seeds, summary

# The rules, fixed before the numbers.
FACTOR = 10.0
"""Gradients of the talk's network explode (vanish) if the first layer's is ten times (a tenth of) the last one's."""
MONOTONE = 0.9
"""... and rank correlation with the layer is at least that strong."""
FORMULA = 1e-12
"""Relative error up to which a formula is what autograd gives: some tens of roundings at depth 50."""
GONE, GREAT = 1e-6, 1e6
"""A derivative has vanished, or exploded, if it has changed by a million."""
RARE = 0.05
PROPORTIONAL = (0.8, 1.2)
"""Exponents that count as 1. The rms of an oscillation along a line lies between eta / 2 and eta / sqrt(2), whatever
eta: 0.1 for steps over 1.5 decades."""
HELPS = 0.9
"""A trick helps if it ends with at most nine tenths of the loss that doing nothing ends with."""
TRICKS = ("adam", "batch_norm", "clipping", "shortcuts")

Judged = tuple[str, bool]
Rule = tuple[str, str, str, Callable[[pd.DataFrame], Judged]]


def first_to_last(frame: pd.DataFrame, weights: str) -> tuple[np.ndarray, np.ndarray]:
    """First layer's gradient / last one's, and rank correlation of gradient and layer, of every draw."""
    chosen = frame[frame.weights.astype(str) == weights]
    norms = chosen.pivot(index="draw", columns="layer", values="gradient")
    trends = [rank_correlation(norms.columns.to_numpy(), row) for _, row in norms.iterrows()]
    return (norms.iloc[:, 0] / norms.iloc[:, -1]).to_numpy(), np.array(trends)


def explodes(frame: pd.DataFrame) -> Judged:
    ratios, trends = first_to_last(frame, "1.0")
    return _ratio_told(ratios, trends), bool((ratios >= FACTOR).all() and (trends <= -MONOTONE).all())


def vanishes(frame: pd.DataFrame) -> Judged:
    ratios, trends = first_to_last(frame, "0.1")
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


def selu_explodes(frame: pd.DataFrame) -> Judged:
    ratios = _selu(frame, False)
    return f"max / min over layers {_mean_sd(ratios)}", bool((ratios > STABLE).all())


def selu_gpn_is_even(frame: pd.DataFrame) -> Judged:
    ratios = _selu(frame, True)
    return f"max / min over layers {_mean_sd(ratios)}", bool((ratios <= STABLE).all())


def formula_is_exact(frame: pd.DataFrame) -> Judged:
    deepest = frame.depth.max()
    chains = len(frame.groupby(["function", "law", "scale"]))
    worst = frame.error.max()
    return f"largest relative error {worst:.2g}, all weights, depths 1 to {deepest}, {chains} kinds", worst <= FORMULA


def far_slopes_are_small(frame: pd.DataFrame) -> Judged:
    largest = frame[frame.function != "relu"].groupby("function").far_max.max()
    told = ", ".join(f"{name} {value:.3g}" for name, value in largest.items())
    return f"largest slope where |z| > 3: {told}", bool((largest.fillna(0) <= 0.05).all())


def slopes_multiply_to_nothing(function: str) -> Callable[[pd.DataFrame], Judged]:
    def judge(frame: pd.DataFrame) -> Judged:
        rows = _deepest(frame, function, 1.0)
        told = ", ".join(f"{law} weights 1e{value:.1f}" for law, value in zip(rows.law, rows.slopes, strict=True))
        deepest = frame.depth.max()
        text = f"geometric mean of the {deepest} slopes' product: {told}"
        return text, bool((rows.slopes <= math.log10(GONE)).all())

    return judge


def fewer_factors_above(frame: pd.DataFrame) -> Judged:
    trends = {}
    for function in ("sigmoid", "tanh"):
        one = frame[(frame.function == function) & (frame.law == "random") & (frame.scale == frame.scale.min())]
        trends[function] = rank_correlation(one.layer, one.mean_log10)
    told = ", ".join(f"{name} {trend:.2f}" for name, trend in trends.items())
    return f"rank correlation of mean log |df/dw_l| with l: {told}", min(trends.values()) >= MONOTONE


def relu_slope_is_one(frame: pd.DataFrame) -> Judged:
    relu = frame[frame.function == "relu"]
    low, high = relu.on_slope_min.min(), relu.on_slope_max.max()
    return f"all slopes where z > 0 lie in [{low:g}, {high:g}]", bool(low == high == 1)


def relu_does_not_vanish(frame: pd.DataFrame) -> Judged:
    one = frame[(frame.function == "relu") & (frame.law == "random") & (frame.scale == 1.0)].set_index("depth").vanished
    depth = min(20, int(one.index.max()))
    told = f"df/dw_1 is exactly 0 in {one[depth]:.1%} of random chains of depth {depth} ({one[1]:.1%} at depth 1)"
    return told, bool(one[depth] <= RARE)


def small_weights_vanish(frame: pd.DataFrame) -> Judged:
    rows = _deepest(frame, None, 0.5)
    rows = rows[rows.law == "fixed"]
    told = _medians(rows)
    return f"all w_l = 0.5: {told}", bool((rows["median"] <= math.log10(GONE)).all())


def large_weights_explode(functions: Sequence[str]) -> Callable[[pd.DataFrame], Judged]:
    def judge(frame: pd.DataFrame) -> Judged:
        rows = _deepest(frame, None, 4.0)
        rows = rows[(rows.law == "fixed") & rows.function.isin(functions)]
        return f"all w_l = 4: {_medians(rows)}", bool((rows["median"] >= math.log10(GREAT)).all())

    return judge


def _deepest(frame: pd.DataFrame, function: str | None, scale: float) -> pd.DataFrame:
    rows: pd.DataFrame = frame[(frame.depth == frame.depth.max()) & (frame.scale == scale)]
    return rows if function is None else rows.loc[rows.function == function]


def _medians(rows: pd.DataFrame) -> str:
    shown = zip(rows.function, rows["median"], strict=True)
    return "median |df/dw_1| of those not 0 " + ", ".join(f"{name} 1e{value:.1f}" for name, value in shown)


def talk_multipliers(frame: pd.DataFrame) -> Judged:
    """The first step from theta = (1, 1): theta after it is the multiplier."""
    first = frame[(frame.rule == "gradient") & (frame.step == 1)]
    eta, found = first.eta.to_numpy(), first[["theta_1", "theta_2"]].to_numpy()
    said = 1 - np.outer(eta, quadratic.TALK_EIGENVALUES)
    exact = quadratic.multipliers(eta, quadratic.TALK_EIGENVALUES)
    told = f"at eta = {eta[0]:.3g}: {found[0, 0]:.6g} and {found[0, 1]:.6g}, not {said[0, 0]:.6g} and {said[0, 1]:.6g}"
    wrong = np.abs(found - exact).max()
    return f"{told}; they are 1 - 2 eta lambda to {max(wrong, 1e-16):.1g}", bool(np.abs(found - said).max() <= FORMULA)


def same_scale_is_easy(frame: pd.DataFrame) -> Judged:
    best = frame[(frame.special == "best") & (frame.s == quadratic.EXACT)].set_index("condition").steps
    even, talk = best[1.0], best[100.0]
    steep = best[best.index >= 10]
    exponent = np.polyfit(np.log(steep.index), np.log(steep), 1)[0]
    told = f"steps at the best step size: {even:.0f} for condition 1, {talk:.0f} for the talk's 100, growing as "
    return f"{told}condition^{exponent:.2f}", bool(talk >= FACTOR * even and 0.9 <= exponent <= 1.1)


def fixed_step_has_a_floor(frame: pd.DataFrame) -> Judged:
    floors = floors_of(frame, 0.0)
    exponent = np.polyfit(np.log(floors.index), np.log(floors), 1)[0]
    ratios = floors / floors.index
    told = f"||theta|| ends at {ratios.min():.2f} to {ratios.max():.2f} eta: floor ~ eta^{exponent:.2f}"
    return f"{told} (n = {len(floors)} etas)", PROPORTIONAL[0] <= exponent <= PROPORTIONAL[1]


def fixed_step_hovers(frame: pd.DataFrame) -> Judged:
    """A run hovers if its loss stays within a factor 2 from the third quarter of the steps to the last."""
    fixed = frame[(frame.rule == "normalised") & (frame.decades == 0)]
    steps = fixed.step.max() + 1
    third = fixed[(fixed.step >= steps / 2) & (fixed.step < 3 * steps / 4)].groupby("eta").loss.mean()
    fourth = fixed[fixed.step >= 3 * steps / 4].groupby("eta").loss.mean()
    hovering = fourth[fourth >= third / 2]
    told = ", ".join(f"{eta:g}: {third[eta]:.2g} -> {fourth[eta]:.2g}" for eta in fourth.index)
    moved = (fixed[fixed.step == fixed.step.max()].set_index("eta").moved / fourth.index).max()
    told = f"loss, third -> last quarter of the steps, by eta: {told}"
    told = f"{told}; the last step still moves each layer by {moved:.3f} eta"
    return told, len(hovering) == len(fourth)


def schedule_is_hard_to_tune(frame: pd.DataFrame) -> Judged:
    ends = last_tenth(frame[frame.rule == "normalised"], ["decades", "eta"])
    near = int((ends <= 2 * ends.min()).sum())
    best = ends.reset_index().sort_values("loss").iloc[0]
    told = (
        f"{near} of {len(ends)} pairs (eta, decay) end within a factor 2 of the lowest loss, {ends.min():.2g} at eta = "
    )
    return f"{told}{best.eta:g} over {best.decades:g} decades; the highest {ends.max():.2g}", near < len(ends) / 2


def trick_helps(method: str) -> Callable[[pd.DataFrame], Judged]:
    def judge(frame: pd.DataFrame) -> Judged:
        ends = summary(frame).loss
        told, holds = [], True
        for function in frame.function.unique():
            ours, nothing = ends[method, function], ends["nothing", function]
            told.append(f"{function} {ours:.3g} against {nothing:.3g}")
            holds &= bool(ours <= HELPS * nothing)
        return f"training loss at the end: {', '.join(told)} ({seeds(frame)})", holds

    return judge


def batch_norm_explodes(frame: pd.DataFrame) -> Judged:
    ratios = summary(frame).ratio["batch_norm"]
    told = ", ".join(f"{name} {value:.3g}" for name, value in ratios.items())
    return f"gradient ratio at the start: {told} ({seeds(frame)})", bool((ratios > EXPLODED).all())


def shortcuts_do_not_solve(frame: pd.DataFrame) -> Judged:
    found = summary(frame).loc["shortcuts"]
    told = [
        f"{name}: ratio {row.ratio:.3g}, largest norm {row.norm:.3g}, loss of the first batch {row.first_loss:.3g}"
        for name, row in found.iterrows()
    ]
    return f"at the start {'; '.join(told)} ({seeds(frame)})", bool((found.ratio > STABLE).any())


def gpn_is_even(frame: pd.DataFrame) -> Judged:
    ratios = summary(frame).ratio["gpn"]
    told = ", ".join(f"{name} {value:.3g}" for name, value in ratios.items())
    return f"gradient ratio at the start: {told} ({seeds(frame)})", bool((ratios <= STABLE).all())


def gpn_trains(frame: pd.DataFrame) -> Judged:
    found = summary(frame).loc["gpn"]
    chance = CHANCE["mnist", "test"]
    told, holds = [], True
    for function, row in found.iterrows():
        told.append(f"{function} {row.test:.1f} % ± {row.se:.1f}")
        holds &= bool(row.test - chance > TRAINED_SE * row.se)
    return f"test accuracy at the best rate: {', '.join(told)}; chance {chance:.1f} % ({seeds(frame)})", holds


def _mean_sd(values: np.ndarray) -> str:
    return f"{values.mean():.3g} ± {values.std(ddof=1):.2g} (n = {len(values)} draws, standard deviation)"


RULES: dict[str, list[Rule]] = {
    "talk": [
        (
            "talk, 20 x 500 sigmoid network",
            "W ~ N(0, I): gradients explode",
            "in every draw the first layer's gradient is at least 10 times the last one's, rank correlation <= -0.9",
            explodes,
        ),
        (
            "talk, 20 x 500 sigmoid network",
            "W ~ N(0, 0.01 I), variance 0.01: gradients vanish",
            "in every draw the first layer's gradient is at most 1/10 of the last one's, rank correlation >= 0.9",
            vanishes,
        ),
    ],
    "selu": [
        (
            "talk, 200 x 500 with orthogonal W",
            "SELU: gradients vanish or explode",
            f"max / min over layers > {STABLE:g} in every draw",
            selu_explodes,
        ),
        (
            "talk, 200 x 500 with orthogonal W",
            "SELU-GPN: gradients have the same scale",
            f"max / min over layers <= {STABLE:g} in every draw",
            selu_gpn_is_even,
        ),
    ],
    "chain": [
        (
            "lecture, equation (23)",
            "df/dw_1 is the product of alpha, weights, slopes and x",
            "largest relative difference from autograd <= 1e-12",
            formula_is_exact,
        ),
        (
            "lecture, section 7.3",
            "sigma' of sigmoid and tanh is small if |z| >> 0",
            "every slope where |z| > 3 is at most 0.05",
            far_slopes_are_small,
        ),
        *(
            (
                "lecture, section 7.3",
                f"the slopes' product makes df/dw_1 nearly zero: {function}",
                "geometric mean of the product over all layers <= 1e-6, for w_l = 1 and for w_l ~ N(0, 1)",
                slopes_multiply_to_nothing(function),
            )
            for function in ("sigmoid", "tanh")
        ),
        (
            "lecture, section 7.3",
            "ReLU: sigma'(z) = 1 for z > 0",
            "all slopes where z > 0 are exactly 1",
            relu_slope_is_one,
        ),
        (
            "lecture, section 7.3",
            "ReLU: thus the gradient will not vanish due to sigma",
            "at most 5 % of chains with w_l ~ N(0, 1) of depth 20 have df/dw_1 = 0",
            relu_does_not_vanish,
        ),
        (
            "lecture, section 7.3",
            "weights too small make the gradient vanish",
            "all w_l = 0.5: median |df/dw_1| <= 1e-6 at the greatest depth, all three functions",
            small_weights_vanish,
        ),
        (
            "lecture, section 7.3",
            "weights too large make the gradient explode: ReLU",
            "all w_l = 4: median |df/dw_1| of those not 0 >= 1e6 at the greatest depth",
            large_weights_explode(["relu"]),
        ),
        (
            "lecture, section 7.3",
            "weights too large make the gradient explode: sigmoid, tanh",
            "all w_l = 4: median |df/dw_1| >= 1e6 at the greatest depth, both",
            large_weights_explode(["sigmoid", "tanh"]),
        ),
    ],
    "factors": [
        (
            "lecture, section 7.3",
            "the other weights' derivatives have fewer factors (and are larger)",
            "rank correlation of mean log |df/dw_l| with l >= 0.9, sigmoid and tanh, w_l ~ N(0, 1)",
            fewer_factors_above,
        ),
    ],
    "paths": [
        (
            "talk, gradient descent on theta^T Q theta",
            "theta_1 <- (1 - 0.01 eta) theta_1, theta_2 <- (1 - eta) theta_2",
            "the exact gradient's multipliers are these to 1e-12",
            talk_multipliers,
        ),
        (
            "talk, a simple solution; on theta^T Q theta",
            "for fixed eta, it does not converge",
            "rms of ||theta|| over the second half of the steps grows as eta^p, 0.8 <= p <= 1.2",
            fixed_step_has_a_floor,
        ),
    ],
    "quadratic": [
        (
            "talk, theta^T Q theta",
            "gradients have the same scale -> easy to solve",
            "best fixed step: at least 10 times as many steps for condition 100 as for 1; growth from 10 on as "
            "condition^p, 0.9 <= p <= 1.1",
            same_scale_is_easy,
        ),
    ],
    "deep": [
        (
            "talk, a simple solution; on a deep network",
            "for fixed eta, it does not converge",
            "for every eta the mean loss of the last quarter of the steps is at least half of the third quarter's",
            fixed_step_hovers,
        ),
        (
            "talk, a simple solution; on a deep network",
            "for adaptive eta, it is hard to tune learning rate schedule",
            "fewer than half of the pairs (eta, decay) end within a factor 2 of the lowest final loss",
            schedule_is_hard_to_tune,
        ),
    ],
    "tricks": [
        *(
            (
                "talk, tricks",
                f"{METHOD_NAMES[method]} (a remedy)",
                "final training loss at the best rate at most 0.9 of plain SGD's, both functions",
                trick_helps(method),
            )
            for method in TRICKS
        ),
        (
            "paper, introduction",
            "batch normalisation does not solve the problem, it can worsen it",
            f"gradient ratio at the start > {EXPLODED:g}, both functions",
            batch_norm_explodes,
        ),
        (
            "paper, introduction",
            "residual connections do not solve the problem in principle",
            f"gradient ratio at the start > {STABLE:g} for at least one function",
            shortcuts_do_not_solve,
        ),
        (
            "talk and paper",
            "GPN gives all layers gradients of the same scale",
            f"gradient ratio at the start <= {STABLE:g}, both functions",
            gpn_is_even,
        ),
        (
            "talk and paper",
            "we solved the vanishing/exploding gradients problem: GPN trains",
            f"test accuracy more than {TRAINED_SE:g} standard errors above chance, both functions",
            gpn_trains,
        ),
    ],
}


def statements(parts: Parts) -> Sequence[Statement]:
    said = []
    for part, rules in RULES.items():
        found = parts[part]
        for source, says, rule, judge in rules:
            measured, agrees = ("", None) if found is None else judge(found.frame)
            said.append(Statement(source, says, measured, rule, None if agrees is None else bool(agrees)))
    return said
