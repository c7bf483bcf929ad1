"""The paper's and the talk's statements on wide layers (lemmas, Theorems 2 and 3), and how they are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bsnn.results.claims import STABLE
from bsnn.results.rules import Judged, Rules
from experiments.theory.report.columns import (
    PRINTED_NORMS,
    exponent,
    largest,
    norm_ratios,
    outs,
    paper_root,
    smallest,
    smallest_and_largest,
)
from experiments.theory.report.rules import ROUNDING

rules = Rules()

EPS = 0.2
"""The eps at which the theorems' probabilities are judged."""

RARE = 0.01
"""A probability counts as gone to 0 if the upper end of its 95 % interval lies below this."""

REJECTED = 0.01
"""p-value, of all tests of a lemma together, at which the lemma is rejected."""


@rules.states(
    "Assumption 4",
    "phi and phi' are Lipschitz for all functions of Table 1 (or for smooth counterparts of them)",
    rule="no phi jumps (difference quotient < 1000); for a phi' that jumps the source takes a smooth counterpart",
)
def assumption_4(lemma1: pd.DataFrame) -> Judged:
    kinds = lemma1.drop_duplicates(["function", "of"]).set_index(["of", "function"]).kind
    jumping = {of: [name for name, kind in kinds[of].items() if kind != "Lipschitz"] for of in ("phi", "slope")}
    measured = "; ".join(
        f"{label} jumps: {', '.join(map(str, jumping[of])) or 'none'}"
        for of, label in (("phi", "phi"), ("slope", "phi'"))
    )
    return measured, not jumping["phi"]


@rules.states(
    "Lemma 1",
    "f(z) is sub-Gaussian for f Lipschitz",
    rule="ln E exp(t (f - E f)) <= K^2 t^2 / 2 for every t; for an f that jumps, K is half of its range (Hoeffding)",
)
def lemma_1(lemma1: pd.DataFrame) -> Judged:
    ratio = lemma1.log_mgf / lemma1.bound
    worst = largest(lemma1, ratio)
    measured = (
        f"ln E exp(t (f - E f)) / (K^2 t^2 / 2) = {ratio.max():.3f} at most ({worst.function}, {worst.of}, t = "
        f"{worst.rate:g}; n = {len(lemma1)})"
    )
    return measured, ratio.max() <= 1 + 1e-6


@rules.states(
    "Lemma 2",
    "1/d sum y_i^2 x_i^2 concentrates for independent x_i = phi(z_i), y bounded",
    rule="as for Theorem 2",
    cases=("lemma 2",),
)
def leaves_the_shell(shell: pd.DataFrame, cases: Sequence[str]) -> Judged:
    """Judge if P{|. - 1| >= EPS} goes to 0 with the width, for each GPN function and case."""

    frame = shell[(shell.route == "sphere") & shell.gpn & shell.case.isin(cases)]
    first, last = smallest_and_largest(frame, ["function", "case"])
    column = f"out_{EPS:g}"
    before, after, draws = first[column] / first.draws, last[column] / last.draws, int(last.draws.min())
    upper = stats.beta.ppf(0.975, last[column] + 1, last.draws - last[column])
    widths = int(frame.width.min()), int(frame.width.max())
    measured = (
        f"d = {widths[0]}: {before.min():.3f} to {before.max():.3f}; d = {widths[1]}: {after.min():.2g} to "
        f"{after.max():.2g}, below {upper.max():.2g} with 97.5 % (n = {draws}, {len(first)} cases)"
    )
    return measured, bool((after < before).all()) and upper.max() < RARE


@rules.states(
    "Lemma 3",
    "P{z leaves the shell of relative width delta} <= 2 exp(-d delta^2) for any 0 < delta < 1",
    rule="at no d up to the largest, and no delta of the grid, is the exact probability larger",
)
def lemma_3(lemma3: pd.DataFrame) -> Judged:
    known = lemma3[lemma3.bound > 0]
    exceeded = known[known.below + known.above > known.bound]
    first = lemma3.dropna(subset="first_exceeded")
    measured = f"exceeded at {len(exceeded)} of {len(known)} points (d, delta)"
    if len(first):
        one = smallest(first, first.first_exceeded)
        measured += f"; delta = {one.delta:g}: first at d = {one.first_exceeded:.0f}"
    return measured, exceeded.empty and first.empty


@rules.states(
    "Lemma 4",
    "z / ||z|| is uniform on the sphere (and W x / ||x||, used for Lemma 6)",
    rule=f"no test rejects at {REJECTED:g} (Bonferroni); each of three other laws is rejected at 1e-4",
)
def lemma_4(lemma4: pd.DataFrame) -> Judged:
    control = lemma4.source.isin(["cube", "raw QR", "stretched"])
    uniform, least = lemma4[~control], lemma4[~control].p.min()
    seen = lemma4[control].groupby(["source", "dimension"]).p.min().max()
    measured = (
        f"smallest p = {least:.3f} of {len(uniform)} tests (n = {lemma4.samples.min()} each); three laws that are not "
        f"uniform: p = {seen:.0e} at most"
    )
    return measured, least * len(uniform) >= REJECTED and seen < 1e-4


@rules.states(
    "Lemma 5, as used",
    "sums of phi^2 and phi'^2 over z and over its projection on the sphere come together",
    rule="mean difference / d falls at least as d^-0.4 (expected: d^-0.5) for each GPN function",
)
def lemma_5(lemma5: pd.DataFrame) -> Judged:
    frame = lemma5[lemma5.of != "f"]
    slopes = {key: exponent(rows.width, rows["mean"]) for key, rows in moving(frame)}
    still = frame.groupby(["function", "of"]).ngroups - len(slopes)
    measured = (
        f"mean difference ~ d^{min(slopes.values()):.2f} to d^{max(slopes.values()):.2f} ({len(slopes)} functions; n = "
        f"{frame.draws.min()} for each d); {still} do not change at all"
    )
    return measured, max(slopes.values()) <= -0.4


def moving(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield functions that a change of radius changes by more than rounding; ReLU's slope depends on signs alone."""
    for (function, of), rows in frame.groupby(["function", "of"]):
        if rows["mean"].max() > ROUNDING:
            yield (str(function), str(of)), rows


@rules.states(
    "Lemma 5, as stated",
    "the same for any continuous f",
    rule="f = exp(x^2): P{difference / d >= 0.05} < 0.05 at the largest d",
)
def lemma_5_any(lemma5: pd.DataFrame) -> Judged:
    frame = lemma5[lemma5.function == "exp(x^2)"].sort_values("width")
    share = (frame.outside / frame.draws).to_numpy()
    measured = "; ".join(
        f"d = {width}: {value:.3f}, median difference {median:.2g}"
        for width, value, median in zip(frame.width, share, frame["median"], strict=True)
    )
    return f"f = exp(x^2): P = {measured} (n = {frame.draws.min()})", share[-1] < 0.05


@rules.states(
    "Lemma 6",
    "W x -> sqrt(d) theta for thin-shell concentrated x",
    rule=f"x on the shell: one coordinate's law not rejected at {REJECTED:g} (Kolmogorov-Smirnov, Bonferroni); another "
    "x: ||x|| / sqrt(d) - 1 falls at least as d^-0.4",
)
def lemma_6(lemma6: pd.DataFrame) -> Judged:
    haar, exact = lemma6[lemma6.route == "haar"], lemma6[lemma6.route == "exact"]
    shell = haar[haar.input == "ones"]
    slope = exponent(exact.width, exact.radius_rms)
    measured = (
        f"||x|| = sqrt(d): smallest p = {shell.p.min():.3f} of {len(shell)} (n = {shell.draws.min()} matrices each); x "
        f"from a cube: rms of ||x||/sqrt(d) - 1 ~ d^{slope:.2f}"
    )
    return measured, shell.p.min() * len(shell) >= REJECTED and slope <= -0.4


rules.states(
    "Theorem 2",
    "phi(W x) is thin-shell concentrated (x on the shell, or Gaussian)",
    rule=f"P{{| ||phi(W x)||^2/d - 1 | >= {EPS:g}}} falls from the smallest d to the largest, where it is < {RARE:g} "
    "(upper end of its 95 % interval), for every GPN function",
    cases=(
        "forward",
        "forward, x Gaussian",
    ),
)(leaves_the_shell)

rules.states(
    "Theorem 3",
    "||D y||^2/d - ||y||^2/d -> 0 for y fixed with bounded ||y||_inf (|y_i| = 1, or spread over an interval)",
    rule="as for Theorem 2",
    cases=(
        "backward",
        "backward, y bounded",
    ),
)(leaves_the_shell)


@rules.states(
    "Theorem 3, condition",
    "||y||_inf must be bounded",
    rule="with y = sqrt(d) e_1 the standard deviation at the largest d is >= 0.8 times that at the smallest",
)
def spike_does_not_concentrate(shell: pd.DataFrame) -> Judged:
    frame = shell[(shell.route == "sphere") & shell.gpn & (shell.case == "backward, y one unit")]
    first, last = smallest_and_largest(frame, ["function"])
    ratio = last["std"] / first["std"]
    return (
        f"standard deviation at the largest width / at the smallest: {ratio.min():.3f} to {ratio.max():.3f} (n = "
        f"{int(last.draws.min())})",
        ratio.min() >= 0.8,
    )


@rules.states(
    "section 2.2",
    "to normalise both signals the activation function has to be constrained: plain ones leave the shell",
    rule="forward or backward, P at the smallest eps >= 0.9 at the largest d, for every plain function",
)
def plain_functions_leave(shell: pd.DataFrame) -> Judged:
    column = outs(shell)[0]
    frame = shell[(shell.route == "sphere") & ~shell.gpn & shell.case.isin(["forward", "backward"])]
    last = frame[frame.width == frame.width.max()]
    outside = (last[column] / last.draws).groupby(last.function).max()
    measured = ", ".join(f"{name} {value:.3f}" for name, value in outside.items())
    return f"P at eps = {column[4:]}, d = {frame.width.max()}: {measured}", outside.min() >= 0.9


@rules.states(
    "after Theorem 2",
    "the output serves as the next input: each layer keeps the norm, if d is sufficiently large",
    rule="largest eps, last layer: P falls from the smallest d to the largest, or is 0, for every GPN function; no "
    "width decides what is asymptotic",
)
def every_layer(depth: pd.DataFrame) -> Judged:
    frame = depth[paper_root(depth) & (depth.layer == depth.layer.max())]
    column = outs(depth)[-1]
    outside = (frame[column] / frame.draws).groupby([frame.function, frame.width], sort=False).first().unstack()
    first, last = (outside[width] for width in (outside.columns.min(), outside.columns.max()))
    measured = ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in outside.index)
    where = (
        f"d = {outside.columns.min()} -> {outside.columns.max()}, layer {frame.layer.max()}, n = {frame.draws.min()}"
    )
    falls = (last < first) | (last == 0)
    return f"P{{| ||x||^2/d - 1 | >= {column[4:]}}}: {measured} ({where})", bool(falls.all() and outside.shape[1] > 1)


@rules.states(
    "section 2.3",
    "with GPN functions and wide layers the vanishing/exploding gradients problem disappears (b as in Table 1)",
    rule=f"max/min over the layers of ||dE/dW||_F <= {STABLE:g} for every GPN function and draw",
    table_root=True,
)
def gradients_are_stable(gradient: pd.DataFrame, table_root: bool) -> Judged:
    """Judge max_l / min_l of ||dE/dW||_F in every draw, with Table 1's b or with the other root."""

    frame = gradient[gradient.root.notna()]
    frame = frame[paper_root(frame) == table_root]
    ratios = norm_ratios(frame).groupby(frame.function, sort=False).gradient.agg(["median", "max"])
    measured = ", ".join(f"{name} {row['median']:.3g} ({row['max']:.3g})" for name, row in ratios.iterrows())
    return f"max/min, median (largest) of {gradient.draw.nunique()}: {measured}", ratios["max"].max() <= STABLE


rules.states(
    "ours, from Proposition 3",
    "the same for the other b: the paper says that b is not unique, and Definition 3 doesn't choose",
    rule=f"max/min over the layers of ||dE/dW||_F <= {STABLE:g} for every GPN function and draw",
    table_root=False,
)(gradients_are_stable)


@rules.states(
    "the talk, first lemma",
    "||f(z)|| ~ ||z|| for Tanh-GPN, d = 10000",
    rule="ratio within 2 % of 1 in 95 % of the draws",
)
def norms_agree(talk: pd.DataFrame) -> Judged:
    off = (talk.f_norm / talk.z_norm - 1).abs()
    measured = f"||f(z)|| / ||z|| - 1: rms {math.sqrt((off**2).mean()):.4f}, largest {off.max():.4f} (n = {len(talk)})"
    return measured, float(off.quantile(0.95)) <= 0.02


@rules.states(
    "the talk, printed norms",
    "(||z||, ||f(z)||) = (98.8555, 99.8824), (99.2121, 98.8777), (100.5818, 99.9690)",
    rule=f"they lie in the law of ours: p >= {REJECTED:g} together",
)
def printed_norms(talk: pd.DataFrame) -> Judged:
    ours = talk[["z_norm", "f_norm"]].to_numpy()
    away = PRINTED_NORMS - ours.mean(0)
    distance = np.einsum("bi,ij,bj->b", away, np.linalg.inv(np.cov(ours.T)), away)
    together = float(stats.chi2.sf(distance.sum(), 2 * len(distance)))
    each = ", ".join(f"{p:.2f}" for p in stats.chi2.sf(distance, 2))
    return f"p = {each}; together {together:.2f} (normal law, ours from n = {len(talk)})", together >= REJECTED


@rules.states(
    "the talk, second lemma",
    "W x ~ N(0, I_d) as d -> inf: each coordinate becomes normal",
    rule="the exact distance of one coordinate's law from normal falls at least as d^-0.4",
)
def marginals_become_normal(lemma6: pd.DataFrame) -> Judged:
    exact = lemma6[lemma6.route == "exact"]
    slope = exponent(exact.width, exact.normal_distance)
    last = largest(exact, exact.width)
    measured = (
        f"one coordinate: sup |P - Phi| = {last.normal_distance:.1e} at d = {last.width}, ~ d^{slope:.2f} (exact)"
    )
    return measured, slope < -0.4


@rules.states(
    "the talk, histogram",
    "the entries of W x look normal",
    rule=f"Kolmogorov-Smirnov's p >= {REJECTED / 2:g} for W by either route",
)
def normal_histogram(histogram: pd.DataFrame) -> Judged:
    tests = {str(name): stats.kstest(rows.value, "norm") for name, rows in histogram.groupby("source")}
    measured = "; ".join(f"{name}: D = {one.statistic:.4f}, p = {one.pvalue:.2f}" for name, one in tests.items())
    count = len(histogram) // len(tests)
    return f"Kolmogorov-Smirnov, {measured} (d = {count})", min(one.pvalue for one in tests.values()) >= REJECTED / 2
