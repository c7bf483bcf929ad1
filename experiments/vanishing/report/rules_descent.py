"""The talk's and the paper's statements on descent and on tricks, and how they are judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from bsnn.results.claims import CHANCE, EXPLODED, LEVEL, STABLE
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import holm
from bsnn.vanishing import quadratic as descent
from experiments.vanishing.report.rules import FACTOR, FORMULA
from experiments.vanishing.report.runs import (
    CHANCE_LOSS,
    METHOD_NAMES,
    end_losses,
    floors_of,
    last_tenth,
    seeds,
    summary,
)

rules = Rules()

PROPORTIONAL = (0.8, 1.2)
"""Range of exponents that count as 1.

The rms of an oscillation along a line lies between eta / 2 and eta / sqrt(2), whatever eta. For steps over 1.5 decades
this changes the exponent by 0.1.
"""

LEARNT = 0.9
"""A network has learnt something if its loss is at most nine tenths of a constant answer's."""

TRICKS = ("adam", "batch_norm", "clipping", "shortcuts")


@rules.states(
    "talk, gradient descent on theta^T Q theta",
    "theta_1 <- (1 - 0.01 eta) theta_1, theta_2 <- (1 - eta) theta_2",
    rule="the exact gradient's multipliers are 1 - c eta lambda with one c for both to 1e-12: eta absorbs it",
)
def talk_multipliers(paths: pd.DataFrame) -> Judged:
    """Judge the first step from theta = (1, 1), after which theta is the multiplier."""
    first = paths[(paths.rule == "gradient") & (paths.step == 1)]
    eta, found = first.eta.to_numpy(), first[["theta_1", "theta_2"]].to_numpy()
    said = 1 - np.outer(eta, descent.TALK_EIGENVALUES)
    exact = descent.multipliers(eta, descent.TALK_EIGENVALUES)
    told = f"at eta = {eta[0]:.3g}: {found[0, 0]:.6g} and {found[0, 1]:.6g}, for {said[0, 0]:.6g} and {said[0, 1]:.6g}"
    wrong = np.abs(found - exact).max()
    return f"{told}; they are 1 - 2 eta lambda to {max(wrong, 1e-16):.1g}: c = 2", bool(wrong <= FORMULA)


@rules.states(
    "talk, a simple solution; on theta^T Q theta",
    "for fixed eta, it does not converge",
    rule="rms of ||theta|| over the second half of the steps grows as eta^p, 0.8 <= p <= 1.2",
)
def fixed_step_has_a_floor(paths: pd.DataFrame) -> Judged:
    floors = floors_of(paths, 0.0)
    exponent = np.polyfit(np.log(floors.index), np.log(floors), 1)[0]
    ratios = floors / floors.index
    told = f"||theta|| ends at {ratios.min():.2f} to {ratios.max():.2f} eta: floor ~ eta^{exponent:.2f}"
    return f"{told} (n = {len(floors)} etas)", PROPORTIONAL[0] <= exponent <= PROPORTIONAL[1]


@rules.states(
    "talk, theta^T Q theta",
    "gradients have the same scale -> easy to solve",
    rule="best fixed step: at least 10 times as many steps for condition 100 as for 1; growth from 10 on as "
    "condition^p, 0.9 <= p <= 1.1",
)
def same_scale_is_easy(quadratic: pd.DataFrame) -> Judged:
    best = quadratic[(quadratic.special == "best") & (quadratic.s == descent.EXACT)].set_index("condition").steps
    even, talk = best[1.0], best[100.0]
    steep = best[best.index >= 10]
    exponent = np.polyfit(np.log(steep.index), np.log(steep), 1)[0]
    told = f"steps at the best step size: {even:.0f} for condition 1, {talk:.0f} for the talk's 100, growing as "
    return f"{told}condition^{exponent:.2f}", bool(talk >= FACTOR * even and 0.9 <= exponent <= 1.1)


@rules.states(
    "talk, a simple solution; on a deep network",
    "for fixed eta, it does not converge",
    rule="for every eta the loss (mean of the last tenth of the steps) is at least twice that of the same eta with the "
    "best decay: the step is what keeps it up. An eta for which it isn't, but whose loss still falls by a tenth from "
    "the third quarter of the steps to the last, is not decided",
)
def fixed_step_hovers(deep: pd.DataFrame) -> Judged:
    runs = deep[deep.rule == "normalised"]
    ends = last_tenth(runs, ["decades", "eta"])
    by_decay = ends.unstack("decades")
    fixed, decayed = by_decay[0.0], by_decay.drop(columns=0.0).min(axis=1)
    still = runs[runs.decades == 0]
    steps = still.step.max() + 1
    third = still[(still.step >= steps / 2) & (still.step < 3 * steps / 4)].groupby("eta").loss.mean()
    fourth = still[still.step >= 3 * steps / 4].groupby("eta").loss.mean()
    hovers, falls = fixed >= 2 * decayed, fourth < 0.9 * third
    told = ", ".join(
        f"{eta:g}: {fixed[eta]:.2g} and {decayed[eta]:.2g}" + " (still falling)" * bool(falls[eta])
        for eta in fixed.index
    )
    told = f"final loss, fixed eta and the same eta decayed: {told} ({steps} steps)"
    if (~hovers & ~falls).any():
        return told, False
    return told, True if hovers.all() else None


@rules.states(
    "talk, a simple solution; on a deep network",
    "for adaptive eta, it is hard to tune learning rate schedule",
    rule="the share of pairs (eta, decay) that end within a factor 2 of their lowest final loss is less than the share "
    f"of plain gradient descent's rates that do, on the same network: Fisher's exact test, p < {LEVEL:g}; not decided "
    "if the shares differ by less",
)
def schedule_is_hard_to_tune(deep: pd.DataFrame) -> Judged:
    near, count, told = [], [], []
    for rule in ("normalised", "gradient"):
        ends = last_tenth(deep[deep.rule == rule], ["decades", "eta"])
        near.append(int((ends <= 2 * ends.min()).sum()))
        count.append(len(ends))
        best = ends.reset_index().sort_values("loss").iloc[0]
        told.append(f"{near[-1]} of {count[-1]} settings, the best {best.loss:.2g} at eta = {best.eta:g}")
    table = [near, [total - some for some, total in zip(near, count, strict=True)]]
    less, more = (float(stats.fisher_exact(table, alternative=side).pvalue) for side in ("less", "greater"))
    text = f"within a factor 2 of the lowest loss: {told[0]}; plain gradient descent {told[1]} (p = {less:.2g})"
    return text, True if less < LEVEL else False if more < LEVEL else None


def trick_helps(tricks: pd.DataFrame, method: str) -> Judged:
    """Compare pairs of trainings that start from the same weights and see the same mini-batches."""
    ends = end_losses(tricks)
    told, p, gains = [], [], []
    for function in tricks.function.unique():
        ours, nothing = ends[method, function], ends["nothing", function]
        gain = np.log(nothing / ours)
        gains.append(float(gain.mean()))
        p.append(float(stats.ttest_1samp(gain, 0).pvalue) if gain.std() > 0 else float(gains[-1] == 0 or len(gain) < 2))
        told.append(f"{function} {ours.mean():.3g} against {nothing.mean():.3g} (p = {p[-1]:.1g})")
    differs = holm(p, LEVEL)
    helps = any(gain > 0 and found for gain, found in zip(gains, differs, strict=True))
    harms = all(gain < 0 and found for gain, found in zip(gains, differs, strict=True))
    text = f"training loss at the end: {', '.join(told)} ({seeds(tricks)})"
    return text, True if helps else False if harms else None


for method in TRICKS:
    rules.states(
        "talk, tricks",
        f"{METHOD_NAMES[method]} (a remedy)",
        rule="final training loss lower than plain SGD's with one function at least: paired t test over the seeds of "
        f"ln(loss), Holm's procedure at {LEVEL:g} over the functions; refuted if it is higher with all of them. The "
        "talk claims no size of the effect",
        method=method,
    )(trick_helps)


@rules.states(
    "paper, introduction",
    "batch normalisation does not solve the problem, it can worsen it",
    rule=f"gradient ratio at the start > {EXPLODED:g}, both functions, every seed",
)
def batch_norm_explodes(tricks: pd.DataFrame) -> Judged:
    ratios = summary(tricks).least_ratio["batch_norm"]
    told = ", ".join(f"{name} {value:.3g}" for name, value in ratios.items())
    return f"smallest gradient ratio at the start: {told} ({seeds(tricks)})", bool((ratios > EXPLODED).all())


@rules.states(
    "paper, introduction",
    "residual connections do not solve the problem in principle",
    rule=f"gradient ratio at the start > {STABLE:g}, or the largest gradient > {EXPLODED:g}, for at least one function",
)
def shortcuts_do_not_solve(tricks: pd.DataFrame) -> Judged:
    found = summary(tricks).loc["shortcuts"]
    told = [
        f"{name}: ratio {row.ratio:.3g}, largest norm {row.norm:.3g}, loss of the first batch {row.first_loss:.3g}"
        for name, row in found.iterrows()
    ]
    return f"at the start {'; '.join(told)} ({seeds(tricks)})", bool(
        ((found.ratio > STABLE) | (found.norm > EXPLODED)).any()
    )


@rules.states(
    "talk and paper",
    "GPN gives all layers gradients of the same scale",
    rule=f"gradient ratio at the start <= {STABLE:g}, both functions, every seed",
)
def gpn_is_even(tricks: pd.DataFrame) -> Judged:
    ratios = summary(tricks).worst_ratio["gpn"]
    told = ", ".join(f"{name} {value:.3g}" for name, value in ratios.items())
    return f"largest gradient ratio at the start: {told} ({seeds(tricks)})", bool((ratios <= STABLE).all())


@rules.states(
    "talk and paper",
    "we solved the vanishing/exploding gradients problem: GPN trains",
    rule="training loss at the end below that of a constant answer, ln 10, both functions: one-sided t test over the "
    f"seeds, Holm's procedure at {LEVEL:g}; refuted if it isn't below on average",
)
def gpn_trains(tricks: pd.DataFrame) -> Judged:
    ends, found = end_losses(tricks)["gpn"], summary(tricks).loc["gpn"]
    p = [float(stats.ttest_1samp(ends[name], CHANCE_LOSS, alternative="less").pvalue) for name in ends]
    told = [
        f"{name} {row.loss:.3g} (p = {value:.1g}; test accuracy {row.test:.1f} ± {row.se:.1f} %)"
        for (name, row), value in zip(found.loc[list(ends)].iterrows(), p, strict=True)
    ]
    trained = True if all(holm(p, LEVEL)) else None
    text = f"training loss at the end: {', '.join(told)}; chance {CHANCE['mnist', 'test']:.1f} % ({seeds(tricks)})"
    return text, trained if found.loss.max() < CHANCE_LOSS else False


@rules.states(
    "ours, from talk, tricks",
    "that Adam doesn't help a network whose gradients vanish is a matter of eps: with a smaller one plain ReLU trains",
    rule=f"training loss at the end, at the best rate: above {LEARNT:g} ln 10 with eps = 1e-8, below with another one. "
    "(Where the gradients' squares underflow, eps alone is left in the denominator: too small a one diverges)",
)
def adam_needs_a_small_eps(epsilon: pd.DataFrame) -> Judged:
    ends = last_tenth(epsilon, ["eps", "rate"]).groupby("eps").min()
    first = epsilon[epsilon.step == 0].norm.max()
    accuracy = epsilon.dropna(subset="test_accuracy").groupby("eps").test_accuracy.max()
    told = ", ".join(
        f"{eps:g}: {ends[eps]:.3f} ({accuracy[eps]:.1f} %)" if np.isfinite(ends[eps]) else f"{eps:g}: diverged"
        for eps in ends.index[::-1]
    )
    text = f"largest gradient at the start {first:.1g}; loss (test accuracy) by eps: {told} (n = 1)"
    bar = LEARNT * CHANCE_LOSS
    return text, bool(ends[ends.index.max()] > bar and ends.min() < bar)
