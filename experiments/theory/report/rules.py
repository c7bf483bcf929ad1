"""How the theory section's statements are judged: each function has the numbers and whether they agree by the rule.

The rules in words are in experiments.theory.report, beside what the sources say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from bsnn import paper
from bsnn.results.claims import STABLE
from experiments.theory.report.columns import (
    PRINTED_NORMS,
    continuous,
    exponent,
    gaussian_functions,
    largest,
    lines,
    nonlinear,
    norm_ratios,
    outs,
    paper_root,
    smallest,
    smallest_and_largest,
)

ROUNDING = 1e-9
"""What float64 may leave of an equality after 200 layers, or of a Gaussian integral."""

EPS = 0.2
"""The eps at which the theorems' probabilities are judged."""

RARE = 0.01
"""A probability that counts as gone to 0: the upper end of its 95 % interval lies below."""

REJECTED = 0.01
"""p-value, of all tests of a lemma together, at which the lemma is rejected."""

PAPER_WIDTH = 500
"""The width of the paper's networks."""

Measured = tuple[str, bool]
"""What a statement's numbers say, and whether they agree by its rule."""


def normalised_exactly(gradient: pd.DataFrame) -> Measured:
    worst = max(spread(gradient, "signal"), spread(gradient, "error"))
    return (
        f"norms differ by {worst:.1e} of themselves at most (n = {gradient.draw.nunique()} networks)",
        worst <= ROUNDING,
    )


def proposition_1(gradient: pd.DataFrame) -> Measured:
    worst = spread(gradient, "gradient")
    count = gradient.draw.nunique()
    return f"max/min - 1 = {worst:.1e} at most (phi(x) = x and -x, n = {count} networks each)", worst <= ROUNDING


def spread(gradient: pd.DataFrame, norm: str) -> float:
    """max / min - 1 over the layers of the linear network where it is largest."""
    linear = gradient[gradient.function.isin(["identity", "negation"])]
    return float((linear[f"{norm}_max"] / linear[f"{norm}_min"] - 1).max())


def gradient_is_a_product(gradient: pd.DataFrame) -> Measured:
    worst = gradient.difference.max()
    return f"largest relative difference {worst:.1e} (n = {len(gradient)} networks, 20 functions)", worst <= ROUNDING


def gradients_are_stable(*, table_root: bool) -> Callable[[pd.DataFrame], Measured]:
    """max_l / min_l of ||dE/dW||_F in every draw, with Table 1's b or with the other root."""

    def judge(gradient: pd.DataFrame) -> Measured:
        frame = gradient[gradient.root.notna()]
        frame = frame[paper_root(frame) == table_root]
        ratios = norm_ratios(frame).groupby(frame.function, sort=False).gradient.agg(["median", "max"])
        measured = ", ".join(f"{name} {row['median']:.3g} ({row['max']:.3g})" for name, row in ratios.iterrows())
        return f"max/min, median (largest) of {gradient.draw.nunique()}: {measured}", ratios["max"].max() <= STABLE

    return judge


def theorem_1(constants: pd.DataFrame) -> Measured:
    discriminant = continuous(constants).discriminant
    measured = f"smallest 1 - Var phi / E phi'^2 = {discriminant.min():.2g} (n = {len(discriminant)} functions)"
    return measured, discriminant.min() >= -ROUNDING


def parseval(hermite: pd.DataFrame) -> Measured:
    gpn = hermite[hermite.gpn]
    degree = int(gpn.degree.max())
    squares = gpn.assign(value=gpn.coefficient**2, slope=gpn.degree * gpn.coefficient**2).groupby("function")
    missing_value, missing_slope = 1 - squares.value.sum(), 1 - squares.slope.sum()
    allowed = kink_share(degree)
    measured = (
        f"to degree {degree} the sums miss {missing_value.max():.1e} and {missing_slope.max():.1e} at most "
        f"({missing_slope.idxmax()}), {missing_slope.min():.0e} at least ({missing_slope.idxmin()})"
    )
    low, high = min(missing_value.min(), missing_slope.min()), max(missing_value.max(), missing_slope.max())
    return measured, low >= -ROUNDING and high <= 1.1 * allowed


def kink_share(degree: int) -> float:
    """sum of k a_k^2 over k > degree for ReLU-GPN, whose slope jumps by sqrt(2): sqrt(2 / pi) / (pi sqrt(degree))."""
    return math.sqrt(2 / math.pi) / (math.pi * math.sqrt(degree))


def lines_are_gpn(constants: pd.DataFrame) -> Measured:
    frame = constants[(constants.family == "lines") & constants.function.isin(["identity", "negation"])]
    worst = max(float(value.abs().max()) for value in (frame["mean"], frame.second - 1, frame.derivative_second - 1))
    return f"E phi, E phi^2 - 1, E phi'^2 - 1 for x and -x: {worst:.1e} at most", worst <= ROUNDING


def proposition_2(constants: pd.DataFrame) -> Measured:
    frame = nonlinear(constants)
    ratio = frame.discriminant * frame.derivative_second / frame.nonlinearity
    least = smallest(frame, ratio)
    measured = (
        f"(E phi'^2 - Var phi) / E (phi - line)^2 = {ratio.min():.6f} at least ({least.family}; n = {len(frame)})"
    )
    return measured, ratio.min() >= 1 - 1e-6 and lines(constants).discriminant.abs().max() <= ROUNDING


def zero_mean_is_not_gpn(constants: pd.DataFrame) -> Measured:
    frame = constants[(constants.family == "paper") & constants.function.isin(["tanh", "selu"])].set_index("function")
    excess = frame.derivative_second / frame.second - 1
    measured = "; ".join(
        f"{name}: E phi = {frame['mean'][name]:.0e}, E phi'^2 / E phi^2 = {1 + excess[name]:.4f}"
        for name in frame.index
    )
    return measured, frame["mean"].abs().max() <= ROUNDING and excess.min() > 0.01


def proposition_3(constants: pd.DataFrame) -> Measured:
    frame = continuous(constants)
    worst = frame.residual.max()
    measured = f"both roots solve (10) and (11) to {worst:.1e} (n = {len(frame)} functions, 4 random families)"
    return measured, worst <= ROUNDING


def table_1(constants: pd.DataFrame) -> Measured:
    ours = gaussian_functions(constants)
    off = []
    for row in paper.table1().itertuples():
        a, b = ours[str(row.activation)]
        for name, value, printed in (("a", a, float(row.a)), ("b", b, float(row.b))):  # type: ignore[arg-type]
            if abs(value - printed) > 0.5e-4 + ROUNDING:
                off.append(f"{row.activation} {name} = {value:.6f}, printed {printed:.4f}")
    count = 2 * len(ours)
    return f"{count - len(off)} of {count} agree" + (f"; {'; '.join(off)}" if off else ""), not off


def leaves_the_shell(*cases: str) -> Callable[[pd.DataFrame], Measured]:
    """P{|. - 1| >= EPS} goes to 0 with the width, for each GPN function and case."""

    def judge(shell: pd.DataFrame) -> Measured:
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

    return judge


def spike_does_not_concentrate(shell: pd.DataFrame) -> Measured:
    frame = shell[(shell.route == "sphere") & shell.gpn & (shell.case == "backward, y one unit")]
    first, last = smallest_and_largest(frame, ["function"])
    ratio = last["std"] / first["std"]
    return (
        f"standard deviation at the largest width / at the smallest: {ratio.min():.3f} to {ratio.max():.3f} (n = "
        f"{int(last.draws.min())})",
        ratio.min() >= 0.8,
    )


def plain_functions_leave(shell: pd.DataFrame) -> Measured:
    column = outs(shell)[0]
    frame = shell[(shell.route == "sphere") & ~shell.gpn & shell.case.isin(["forward", "backward"])]
    last = frame[frame.width == frame.width.max()]
    outside = (last[column] / last.draws).groupby(last.function).max()
    measured = ", ".join(f"{name} {value:.3f}" for name, value in outside.items())
    return f"P at eps = {column[4:]}, d = {frame.width.max()}: {measured}", outside.min() >= 0.9


def every_layer(depth: pd.DataFrame) -> Measured:
    width = PAPER_WIDTH if (depth.width == PAPER_WIDTH).any() else depth.width.max()
    frame = depth[paper_root(depth) & (depth.width == width) & (depth.layer == depth.layer.max())]
    column = outs(depth)[-1]
    outside = (frame[column] / frame.draws).set_axis(frame.function)
    measured = ", ".join(f"{name} {value:.3f}" for name, value in outside.items())
    where = f"d = {width}, layer {frame.layer.max()}, n = {frame.draws.min()}"
    return f"P{{| ||x||^2/d - 1 | >= {column[4:]}}}: {measured} ({where})", outside.max() < 0.05


def assumption_4(lemma1: pd.DataFrame) -> Measured:
    kinds = lemma1.drop_duplicates(["function", "of"]).set_index(["of", "function"]).kind
    jumping = {of: [name for name, kind in kinds[of].items() if kind != "Lipschitz"] for of in ("phi", "slope")}
    measured = "; ".join(
        f"{label} jumps: {', '.join(map(str, jumping[of])) or 'none'}"
        for of, label in (("phi", "phi"), ("slope", "phi'"))
    )
    return measured, not any(jumping.values())


def lemma_1(lemma1: pd.DataFrame) -> Measured:
    ratio = lemma1.log_mgf / lemma1.bound
    worst = largest(lemma1, ratio)
    measured = (
        f"ln E exp(t (f - E f)) / (K^2 t^2 / 2) = {ratio.max():.3f} at most ({worst.function}, {worst.of}, t = "
        f"{worst.rate:g}; n = {len(lemma1)})"
    )
    return measured, ratio.max() <= 1 + 1e-6


def lemma_3(lemma3: pd.DataFrame) -> Measured:
    known = lemma3[lemma3.bound > 0]
    exceeded = known[known.below + known.above > known.bound]
    first = lemma3.dropna(subset="first_exceeded")
    measured = f"exceeded at {len(exceeded)} of {len(known)} points (d, delta)"
    if len(first):
        one = smallest(first, first.first_exceeded)
        measured += f"; delta = {one.delta:g}: first at d = {one.first_exceeded:.0f}"
    return measured, exceeded.empty and first.empty


def lemma_4(lemma4: pd.DataFrame) -> Measured:
    control = lemma4.source.isin(["cube", "raw QR", "stretched"])
    uniform, least = lemma4[~control], lemma4[~control].p.min()
    seen = lemma4[control].groupby(["source", "dimension"]).p.min().max()
    measured = (
        f"smallest p = {least:.3f} of {len(uniform)} tests (n = {lemma4.samples.min()} each); three laws that are not "
        f"uniform: p = {seen:.0e} at most"
    )
    return measured, least * len(uniform) >= REJECTED and seen < 1e-4


def lemma_5(lemma5: pd.DataFrame) -> Measured:
    frame = lemma5[lemma5.of != "f"]
    slopes = {key: exponent(rows.width, rows["mean"]) for key, rows in moving(frame)}
    still = frame.groupby(["function", "of"]).ngroups - len(slopes)
    measured = (
        f"mean difference ~ d^{min(slopes.values()):.2f} to d^{max(slopes.values()):.2f} ({len(slopes)} functions; n = "
        f"{frame.draws.min()} for each d); {still} do not change at all"
    )
    return measured, max(slopes.values()) <= -0.4


def moving(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Those that a change of radius changes by more than rounding: ReLU's slope depends on the sign alone."""
    for (function, of), rows in frame.groupby(["function", "of"]):
        if rows["mean"].max() > ROUNDING:
            yield (str(function), str(of)), rows


def lemma_5_any(lemma5: pd.DataFrame) -> Measured:
    frame = lemma5[lemma5.function == "exp(x^2)"].sort_values("width")
    share = (frame.outside / frame.draws).to_numpy()
    measured = "; ".join(
        f"d = {width}: {value:.3f}, median difference {median:.2g}"
        for width, value, median in zip(frame.width, share, frame["median"], strict=True)
    )
    return f"f = exp(x^2): P = {measured} (n = {frame.draws.min()})", share[-1] < 0.05


def lemma_6(lemma6: pd.DataFrame) -> Measured:
    haar, exact = lemma6[lemma6.route == "haar"], lemma6[lemma6.route == "exact"]
    shell = haar[haar.input == "ones"]
    slope = exponent(exact.width, exact.radius_rms)
    measured = (
        f"||x|| = sqrt(d): smallest p = {shell.p.min():.3f} of {len(shell)} (n = {shell.draws.min()} matrices each); x "
        f"from a cube: rms of ||x||/sqrt(d) - 1 ~ d^{slope:.2f}"
    )
    return measured, shell.p.min() * len(shell) >= REJECTED and slope <= -0.4


def norms_agree(talk: pd.DataFrame) -> Measured:
    off = (talk.f_norm / talk.z_norm - 1).abs()
    measured = f"||f(z)|| / ||z|| - 1: rms {math.sqrt((off**2).mean()):.4f}, largest {off.max():.4f} (n = {len(talk)})"
    return measured, float(off.quantile(0.95)) <= 0.02


def printed_norms(talk: pd.DataFrame) -> Measured:
    ours = talk[["z_norm", "f_norm"]].to_numpy()
    away = PRINTED_NORMS - ours.mean(0)
    distance = np.einsum("bi,ij,bj->b", away, np.linalg.inv(np.cov(ours.T)), away)
    together = float(stats.chi2.sf(distance.sum(), 2 * len(distance)))
    each = ", ".join(f"{p:.2f}" for p in stats.chi2.sf(distance, 2))
    return f"p = {each}; together {together:.2f} (normal law, ours from n = {len(talk)})", together >= REJECTED


def normal_histogram(histogram: pd.DataFrame) -> Measured:
    tests = {str(name): stats.kstest(rows.value, "norm") for name, rows in histogram.groupby("source")}
    measured = "; ".join(f"{name}: D = {one.statistic:.4f}, p = {one.pvalue:.2f}" for name, one in tests.items())
    count = len(histogram) // len(tests)
    return f"Kolmogorov-Smirnov, {measured} (d = {count})", min(one.pvalue for one in tests.values()) >= REJECTED / 2


def marginals_become_normal(lemma6: pd.DataFrame) -> Measured:
    exact = lemma6[lemma6.route == "exact"]
    slope = exponent(exact.width, exact.normal_distance)
    last = largest(exact, exact.width)
    measured = (
        f"one coordinate: sup |P - Phi| = {last.normal_distance:.1e} at d = {last.width}, ~ d^{slope:.2f} (exact)"
    )
    return measured, slope < -0.4
