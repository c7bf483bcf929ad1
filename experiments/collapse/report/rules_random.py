"""The paper's statements on random networks (section 3, Theorems 8 to 10, Figure 6A), and how they are judged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bsnn.collapse import probability as theory
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import share_error
from experiments.collapse.report.rules import ROUNDING, Array, percent

rules = Rules()

SIGMAS = 4  # standard errors that chance is given

MANY_SIGMAS = 5  # the same, for the largest of hundreds of comparisons

CHANCE = f"every share within {SIGMAS} standard errors"

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


def off(table: pd.DataFrame, count: str, total: str, theory: Array) -> Array:
    """Compute each share's deviation in the theory's binomial standard errors; inf if it must be exact and isn't."""
    totals = table[total].to_numpy(dtype=np.float64)
    error = share_error(theory, totals)
    gap = table[count].to_numpy(dtype=np.float64) / totals - theory
    return np.where(error > 0, gap / np.where(error > 0, error, 1), np.where(abs(gap) < ROUNDING, 0, np.inf))


@rules.states(
    "section 3, equation 3",
    "He normal and ReLU keep E q^l, at any width",
    rule=f"the mean within {SIGMAS} standard errors of E q^1, in every layer where such an error is below 5 % of it",
)
def keeps_length(length: pd.DataFrame) -> Judged:
    relu = length[length.phi == "relu"]
    n = int(relu.members.iloc[0])
    error = np.sqrt(relu.relu_relative_variance.to_numpy() / n)  # exact: the sample's own error would be no guide
    tight = error < 0.05
    deviation = (relu["mean"].to_numpy() / relu.predicted.to_numpy() - 1) / error
    worst = float(abs(deviation[tight]).max())
    text = f"largest deviation {worst:.2g} standard errors, in {tight.sum()} layers of {len(relu)} (n = {n})"
    return text, bool(worst < SIGMAS)


@rules.states(
    "Lemma 7, Theorem 8",
    "without biases the output for a given input is 0 with probability 1 - prod(1 - 2^-N^l) over the ReLU layers",
    rule=CHANCE,
    with_biases=False,
)
def for_an_input(biases: pd.DataFrame, with_biases: bool) -> Judged:
    rows = biases[biases.biases == with_biases]
    worst = float(abs(off(rows, "zero", "members", rows.theory.to_numpy())).max())
    n = rows.members.iloc[0]
    return f"largest deviation {worst:.2g} standard errors, of {len(rows)} shares (n = {n} each)", worst < SIGMAS


rules.states(
    "Lemma 7, Theorem 9",
    "with random biases it is 0 (or b^L) with probability 2^-N, N the width of the last ReLU layer",
    rule=CHANCE,
    with_biases=True,
)(for_an_input)


@rules.states(
    "Theorem 8",
    "its probability is an upper bound of that of a zero function",
    rule=f"no share more than {SIGMAS} standard errors above it",
)
def below_bound(probability: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    table = pd.concat([probability, orthogonal])
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
    matrix = np.zeros((theory.STATES, theory.STATES))
    matrix[rows.state.to_numpy() - 1, rows.next.to_numpy() - 1] = rows.probability
    return matrix


@rules.states(
    "Theorem 10",
    "the transition matrix: 17/96, 1/32, 1/96; 7/48, 1/24, 1/48; 1/4; 1/16; each state's probabilities sum to 1",
    rule=f"all of them, derived by quadrature, within {ROUNDING:g}",
)
def the_matrix(chain: pd.DataFrame) -> Judged:
    matrix = paper_matrix(chain)
    gaps = [abs(matrix[state - 1, next_ - 1] - value) for state, following, value in FRACTIONS for next_ in following]
    sums = float(abs(matrix.sum(axis=1) - 1).max())
    text = f"{len(gaps)} entries of states 1, 2, 4, 6, 7, 13, 16 within {max(gaps):.1g}; 16 sums within {sums:.1g}"
    return text, max(*gaps, sums) < ROUNDING


@rules.states(
    "appendix J",
    "directions that are uniform and independent have these transition probabilities",
    rule=f"256 simulated shares within {MANY_SIGMAS} standard errors",
)
def as_drawn(chain: pd.DataFrame) -> Judged:
    drawn = chain[chain.law == "drawn"]
    theory = paper_matrix(chain)[drawn.state.to_numpy() - 1, drawn.next.to_numpy() - 1]
    worst = float(abs(off(drawn, "count", "total", theory)).max())
    return f"largest deviation {worst:.2g} standard errors (n = {drawn.total.iloc[0]:.0f} a state)", worst < MANY_SIGMAS


@rules.states(
    "Theorem 10",
    "the probability of a zero function, width 2, is the last component of pi^L",
    rule="equal to the exact probability for Gaussian weights (bsnn.collapse.exact) within 1e-6 at every depth",
)
def theorem_10(probability: pd.DataFrame) -> Judged:
    rows = probability[(probability.width == 2) & (probability.law == "he")]
    paper, exact, members = rows.paper.to_numpy(), rows.exact.to_numpy(), int(rows.members.iloc[0])
    gap = exact - paper
    worst, agreed = int(abs(gap).argmax()), int((abs(gap) < ROUNDING).sum())
    simulated = rows.dead.to_numpy() / members
    sigmas = (simulated[worst] - paper[worst]) / share_error(paper[worst], members)
    text = (
        f"equal for L <= {agreed}; then too low, by {100 * gap[worst]:.2f} points at most (L = {worst + 1}: Theorem 10 "
        f"{100 * paper[worst]:.2f} %, exact {100 * exact[worst]:.2f} %, simulated "
        f"{percent(simulated[worst], members)}, n = {members}, {sigmas:.2g} standard errors from Theorem 10)"
    )
    return text, bool(abs(gap).max() < 1e-6)


@rules.states(
    "Fig. 6A",
    "simulated networks lie on Theorem 10's line",
    rule="within 1 point at every depth",
)
def near_theorem_10(probability: pd.DataFrame) -> Judged:
    rows = probability[(probability.width == 2) & (probability.law == "he")]
    gap = abs(rows.dead / rows.members - rows.paper)
    return f"largest difference {100 * gap.max():.2f} points (n = {rows.members.iloc[0]})", bool(gap.max() < 0.01)


@rules.states(
    "Fig. 6A",
    "the deeper and the narrower, the higher the probability",
    rule=f"the simulated share rises with depth and falls with width, up to {SIGMAS} standard errors",
)
def deeper_narrower(probability: pd.DataFrame) -> Judged:
    he = probability[probability.law == "he"]
    n = int(he.members.iloc[0])
    dead = {int(width): he[he.width == width].sort_values("depth").dead.to_numpy() / n for width in he.width.unique()}
    shares = np.stack([dead[width] for width in sorted(dead)])
    slack = SIGMAS * np.hypot(share_error(shares[1:], n), share_error(shares[:-1], n))
    ends = ", ".join(f"width {width} {percent(float(dead[width][-1]), n)}" for width in sorted(dead))
    text = f"at {len(shares[0])} layers: {ends} (n = {n} each)"
    return text, bool((np.diff(shares, axis=1) >= 0).all() and (np.diff(shares, axis=0) <= slack).all())


def ten_layers(probability: pd.DataFrame, width: int, low: float, high: float) -> Judged:
    rows = probability[(probability.width == width) & (probability.law == "he")].set_index("depth")
    n = int(rows.members.iloc[0])
    with_10, with_9 = (float(rows.dead.to_numpy()[depth - 1]) / n for depth in (10, 9))
    bound = theory.zero_for_an_input([width] * 10)
    text = (
        f"{percent(with_10, n)} (n = {n}), Theorem 8's bound {100 * bound:.3g} %; with a linear last layer "
        f"{percent(with_9, n)}"
    )
    return text, bool(low < with_10 < high or (low < bound < high and with_10 <= bound))


for width, says, bounds, low, high in (
    (10, "of only 1 %", "rounds to 1 %", 0.005, 0.015),
    (5, "greater than 10 %", "above 10 %", 0.1, 1.0),
    (3, "greater than 60 %", "above 60 %", 0.6, 1.0),
):
    rules.states(
        "section 4",
        f"10 layers of width {width} collapse with a probability {says}",
        rule=f"simulated share {bounds}, 10 layers with ReLU as in Fig. 6, or the bound does and the share is below it",
        width=width,
        low=low,
        high=high,
    )(ten_layers)
