"""What experiments.collapse.report's claims come to: each function takes tables and returns (what we measured, whether
it agrees).

A claim's rule stands beside it, in experiments.collapse.report; the constants that a rule mentions are here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bsnn.collapse import probability
from bsnn.collapse.fate import TARGETS
from experiments.collapse.report.figures import LABELS

SIGMAS = 4  # standard errors that chance is given
MANY_SIGMAS = 5  # the same, for the largest of hundreds of comparisons
ROUNDING = 1e-12

# Appendix J, cases (1), (2), (4), (6), (7), (13), (16): state, next states, probability
FRACTIONS = (
    (1, (1, 6, 11, 16), 17 / 96),
    (1, (2, 3, 5, 8, 9, 12, 14, 15), 1 / 32),
    (1, (4, 7, 10, 13), 1 / 96),
    (2, (1, 6, 11, 16), 7 / 48),
    (2, (2, 3, 5, 8, 9, 12, 14, 15), 1 / 24),
    (2, (4, 7, 10, 13), 1 / 48),
    (4, (4, 8, 12, 16), 1 / 4),
    (6, (1, 6, 11, 16), 1 / 4),
    (7, tuple(range(1, 17)), 1 / 16),
    (13, (13, 14, 15, 16), 1 / 4),
    (16, (16,), 1.0),
)

Judged = tuple[str, bool]
Array = NDArray[np.float64]


def percent(part: float, n: int) -> str:
    """62.5 ± 4.3 %: with its binomial standard error; where that is 0, the 95 % limit of 3 / n instead."""
    if part in (0, 1):
        return f"{100 * part:g} % ({'>' if part else '<'} {100 * abs(part - 3 / n):.3g} %)"
    return f"{100 * part:.3g} ± {100 * math.sqrt(part * (1 - part) / n):.2g} %"


def share(hits: pd.Series[bool]) -> str:
    return percent(float(hits.mean()), len(hits)) if len(hits) else "none"


def off(table: pd.DataFrame, count: str, total: str, theory: Array) -> Array:
    """How many of the theory's binomial standard errors each share is off; inf where it must be exact and is not."""
    totals = table[total].to_numpy(dtype=np.float64)
    error = np.sqrt(theory * (1 - theory) / totals)
    gap = table[count].to_numpy(dtype=np.float64) / totals - theory
    return np.where(error > 0, gap / np.where(error > 0, error, 1), np.where(abs(gap) < ROUNDING, 0, np.inf))


def by_target(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(label, runs) of the targets that the table has."""
    for name in TARGETS:
        runs = table[table.target == name]
        if len(runs):
            yield LABELS[name], runs


def mean_or_part(table: pd.DataFrame, target: str) -> Judged:
    runs = table[table.target == target]
    constant, partial = runs.outcome == "constant", runs.outcome == "partial"
    at_mean = runs[constant].at_mean
    text = f"constant {share(constant)} (at the mean: {share(at_mean)}), partial {share(partial)}; n = {len(runs)}"
    mostly = constant.mean() > 0.5 and at_mean.mean() >= 0.9
    return text, bool(mostly and 0 < partial.mean() < constant.mean())


def about_ninety(table: pd.DataFrame) -> Judged:
    settings = [
        (f"{start}, {optimiser}", table[(table.initialisation == start) & (table.optimiser == optimiser)])
        for start in table.initialisation.unique()
        for optimiser in table.optimiser.unique()
    ]
    shares = [float((runs.outcome == "constant").mean()) for _, runs in settings]
    ends = []
    for index in (int(np.argmin(shares)), int(np.argmax(shares))):
        name, runs = settings[index]
        ends.append(f"{percent(shares[index], len(runs))} ({name}, n = {len(runs)})")
    text = f"{share(table.outcome == 'constant')} of all {len(table)}; from {ends[0]} to {ends[1]}"
    return text, min(shares) >= 0.8 and max(shares) <= 0.97


def dead_inside(table: pd.DataFrame) -> Judged:
    constant = table[table.outcome == "constant"]
    return f"{share(constant.dead == 1)} of {len(constant)} constant runs", bool((constant.dead == 1).mean() > 0.5)


def medians(table: pd.DataFrame) -> Judged:
    texts, shares = [], []
    for label, runs in by_target(table[table.outcome == "constant"]):
        texts.append(f"{label}: {share(runs.at_median)} of {len(runs)}")
        shares.append(float(runs.at_median.mean()))
    return "; ".join(texts) or "no constant runs", bool(shares) and min(shares) >= 0.9


def either_loss(mse: pd.DataFrame, mae: pd.DataFrame) -> Judged:
    texts, gaps, other = [], [], dict(by_target(mae))
    for label, runs in by_target(mse):
        if label in other:
            one, two = (table.outcome == "constant" for table in (runs, other[label]))
            texts.append(f"{label}: MSE {share(one)} (n = {len(one)}), MAE {share(two)} (n = {len(two)})")
            gaps.append(abs(one.mean() - two.mean()))
    return "; ".join(texts), bool(max(gaps) < 0.1)


def stays_dead(targets: pd.DataFrame, optimisers: pd.DataFrame) -> Judged:
    dead = pd.concat([table[table.dead_at_start] for table in (targets, optimisers)])
    return f"{int((dead.outcome == 'constant').sum())} of {len(dead)} runs", bool((dead.outcome == "constant").all())


def keeps_length(table: pd.DataFrame) -> Judged:
    relu = table[table.phi == "relu"]
    n = int(relu.members.iloc[0])
    error = np.sqrt(relu.relu_relative_variance.to_numpy() / n)  # exact: the sample's own would be no guide
    tight = error < 0.05
    deviation = (relu["mean"].to_numpy() / relu.predicted.to_numpy() - 1) / error
    worst = float(abs(deviation[tight]).max())
    text = f"largest deviation {worst:.2g} standard errors, in {tight.sum()} layers of {len(relu)} (n = {n})"
    return text, bool(worst < SIGMAS)


def for_an_input(table: pd.DataFrame, biases: bool) -> Judged:
    rows = table[table.biases == biases]
    worst = float(abs(off(rows, "zero", "members", rows.theory.to_numpy())).max())
    n = rows.members.iloc[0]
    return f"largest deviation {worst:.2g} standard errors, of {len(rows)} shares (n = {n} each)", worst < SIGMAS


def below_bound(symmetric: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    table = pd.concat([symmetric, orthogonal])
    bound = 1 - (1 - 0.5 ** table.width.to_numpy()) ** table.depth.to_numpy()
    worst = float(off(table, "dead", "members", bound).max())
    ratio = (table.dead / table.members / bound)[table.depth == table.depth.max()]
    text = (
        f"{len(table)} shares, none above; share / bound at {table.depth.max()} layers {ratio.min():.3g} to "
        f"{ratio.max():.3g}"
        if worst <= 0
        else f"{len(table)} shares, the largest {worst:.2g} standard errors above"
    )
    return text, bool(worst < SIGMAS)


def paper_matrix(table: pd.DataFrame) -> Array:
    rows = table[table.law == "paper"]
    matrix = np.zeros((probability.STATES, probability.STATES))
    matrix[rows.state.to_numpy() - 1, rows.next.to_numpy() - 1] = rows.probability
    return matrix


def the_matrix(table: pd.DataFrame) -> Judged:
    matrix = paper_matrix(table)
    gaps = [abs(matrix[state - 1, next_ - 1] - value) for state, following, value in FRACTIONS for next_ in following]
    sums = float(abs(matrix.sum(axis=1) - 1).max())
    text = f"{len(gaps)} entries of states 1, 2, 4, 6, 7, 13, 16 within {max(gaps):.1g}; 16 sums within {sums:.1g}"
    return text, max(*gaps, sums) < ROUNDING


def as_drawn(table: pd.DataFrame) -> Judged:
    drawn = table[table.law == "drawn"]
    theory = paper_matrix(table)[drawn.state.to_numpy() - 1, drawn.next.to_numpy() - 1]
    worst = float(abs(off(drawn, "count", "total", theory)).max())
    return f"largest deviation {worst:.2g} standard errors (n = {drawn.total.iloc[0]:.0f} a state)", worst < MANY_SIGMAS


def theorem_10(table: pd.DataFrame) -> Judged:
    rows = table[(table.width == 2) & (table.law == "he")]
    paper, exact, members = rows.paper.to_numpy(), rows.exact.to_numpy(), int(rows.members.iloc[0])
    gap = exact - paper
    worst, agreed = int(abs(gap).argmax()), int((abs(gap) < ROUNDING).sum())
    simulated = rows.dead.to_numpy() / members
    sigmas = (simulated[worst] - paper[worst]) / math.sqrt(paper[worst] * (1 - paper[worst]) / members)
    text = (
        f"equal for L <= {agreed}; then too low, by {100 * gap[worst]:.2f} points at most (L = {worst + 1}: Theorem 10 "
        f"{100 * paper[worst]:.2f} %, exact {100 * exact[worst]:.2f} %, simulated "
        f"{percent(simulated[worst], members)}, n = {members}, {sigmas:.2g} standard errors from Theorem 10)"
    )
    return text, bool(abs(gap).max() < 1e-6)


def near_theorem_10(table: pd.DataFrame) -> Judged:
    rows = table[(table.width == 2) & (table.law == "he")]
    gap = abs(rows.dead / rows.members - rows.paper)
    return f"largest difference {100 * gap.max():.2f} points (n = {rows.members.iloc[0]})", bool(gap.max() < 0.01)


def deeper_narrower(table: pd.DataFrame) -> Judged:
    he = table[table.law == "he"]
    n = int(he.members.iloc[0])
    dead = {int(width): he[he.width == width].sort_values("depth").dead.to_numpy() / n for width in he.width.unique()}
    shares = np.stack([dead[width] for width in sorted(dead)])
    slack = SIGMAS * np.sqrt((shares[1:] * (1 - shares[1:]) + shares[:-1] * (1 - shares[:-1])) / n)
    ends = ", ".join(f"width {width} {percent(float(dead[width][-1]), n)}" for width in sorted(dead))
    text = f"at {len(shares[0])} layers: {ends} (n = {n} each)"
    return text, bool((np.diff(shares, axis=1) >= 0).all() and (np.diff(shares, axis=0) <= slack).all())


def ten_layers(table: pd.DataFrame, width: int, low: float, high: float) -> Judged:
    rows = table[(table.width == width) & (table.law == "he")].set_index("depth")
    n = int(rows.members.iloc[0])
    with_10, with_9 = (float(rows.dead.to_numpy()[depth - 1]) / n for depth in (10, 9))
    text = (
        f"{percent(with_10, n)} (n = {n}), Theorem 8's bound "
        f"{100 * probability.zero_for_an_input([width] * 10):.3g} %; with a linear last layer {percent(with_9, n)}"
    )
    return text, bool(low < with_10 < high)


def safe_indeed(table: pd.DataFrame) -> Judged:
    ends = table[table.width.isin([4, int(table.width.max())])].to_dict("records")
    texts = [
        f"width {row['width']}, {100 * row['share']:g} %: {row['depth']} layers, bound {row['bound']}" for row in ends
    ]
    return "; ".join(texts), bool((table.high >= table.bound).all())


def bound_tightens(table: pd.DataFrame) -> Judged:
    texts, good = [], True
    for level in table.share.unique():
        rows = table[(table.share == level) & (table.bound > 0)].sort_values("width")
        if rows.empty:
            continue
        ratio = (rows.depth / rows.bound).to_numpy()
        first, last = int(rows.width.iloc[0]), int(rows.width.iloc[-1])
        texts.append(f"{100 * level:g} %: {ratio[0]:.3g} at width {first}, {ratio[-1]:.3g} at width {last}")
        good = good and abs(ratio[-1] - 1) < 0.05 and abs(ratio[-1] - 1) < abs(ratio[0] - 1)
    return "; ".join(texts) or "no width with a bound of one layer or more", bool(good and texts)


def difference(symmetric: pd.DataFrame, orthogonal: pd.DataFrame) -> pd.DataFrame:
    """width, depth, gap: the share with orthogonal weights less that with He normal; error: its standard error."""
    both = symmetric[symmetric.law == "he"].merge(orthogonal, on=["width", "depth"], suffixes=("_he", ""))
    p, q = both.dead_he / both.members_he, both.dead / both.members
    error = np.sqrt(p * (1 - p) / both.members_he + q * (1 - q) / both.members)
    return both[["width", "depth"]].assign(gap=q - p, error=error)


def very_close(symmetric: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    gaps = difference(symmetric, orthogonal)
    worst = gaps.loc[[gaps.gap.abs().idxmax()]].to_dict("records")[0]
    text = (
        f"at most {100 * worst['gap']:.2g} ± {100 * worst['error']:.1g} points (width {worst['width']:g}, "
        f"{worst['depth']:g} layers)"
    )
    return text, bool(gaps.gap.abs().max() < 0.05)


def little_lower(symmetric: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    gaps = difference(symmetric, orthogonal)
    sigmas = (gaps.gap / gaps.error.where(gaps.error > 0)).dropna()
    texts = []
    for width in gaps.width.unique():
        found = sigmas[gaps.width == width]
        if len(found):
            texts.append(f"width {width} {found.min():.2g} to {found.max():.2g}")
    text = "in standard errors of the difference: " + ", ".join(texts)
    return text, bool(sigmas.max() < SIGMAS and sigmas.min() < -SIGMAS)


def of_method(table: pd.DataFrame, method: str, outcome: str) -> tuple[str, list[float]]:
    texts, shares = [], []
    for label, runs in by_target(table[table.method == method]):
        texts.append(f"{label}: {share(runs.outcome == outcome)}")
        shares.append(float((runs.outcome == outcome).mean()))
    n = len(table[table.method == method]) // len(texts)
    return "; ".join(texts) + f" (n = {n} each)", shares


def escapes(table: pd.DataFrame, method: str) -> Judged:
    text, shares = of_method(table, method, "constant")
    return f"constant {text}", max(shares) < 0.1


def approximates(table: pd.DataFrame, method: str) -> Judged:
    text, shares = of_method(table, method, "approximates")
    errors = [f"{runs.error.median():.2g}" for _, runs in by_target(table[table.method == method])]
    return f"{text}; median error {', '.join(errors)} standard deviations", min(shares) > 0.5


def stays_collapsed(table: pd.DataFrame, method: str) -> Judged:
    text, shares = of_method(table, method, "constant")
    return f"constant {text}", min(shares) > 0.5
