"""The paper's statements on its own mathematics (sections 2.1 to 2.3, appendix), and how they are judged."""

from __future__ import annotations

import math

import pandas as pd

from bsnn import paper
from bsnn.results.rules import Judged, Rules
from experiments.theory.report.columns import (
    continuous,
    counted,
    gaussian_functions,
    lines,
    nonlinear,
    smallest,
)

rules = Rules()

ROUNDING = 1e-9
"""Largest error of float64 in an equality after 200 layers, or in a Gaussian integral."""


@rules.states(
    "section 2.1",
    "orthogonal W guarantee bidirectional self-normalisation of linear networks (Definition 2)",
    rule=f"max/min - 1 of ||x|| and of ||y|| over the layers <= {ROUNDING:g}",
)
def normalised_exactly(gradient: pd.DataFrame) -> Judged:
    worst = max(spread(gradient, "signal"), spread(gradient, "error"))
    return (
        f"norms differ by {worst:.1e} of themselves at most (n = {gradient.draw.nunique()} networks)",
        worst <= ROUNDING,
    )


@rules.states(
    "Proposition 1",
    "then all ||dE/dW||_F are equal",
    rule=f"max/min - 1 over the layers <= {ROUNDING:g}",
)
def proposition_1(gradient: pd.DataFrame) -> Judged:
    worst = spread(gradient, "gradient")
    count = gradient.draw.nunique()
    return f"max/min - 1 = {worst:.1e} at most (phi(x) = x and -x, n = {count} networks each)", worst <= ROUNDING


def spread(gradient: pd.DataFrame, norm: str) -> float:
    """Compute max / min - 1 over the layers of the linear network where it is largest."""
    linear = gradient[gradient.function.isin(["identity", "negation"])]
    return float((linear[f"{norm}_max"] / linear[f"{norm}_min"] - 1).max())


@rules.states(
    "Proposition 1, (17)-(21)",
    "||dE/dW||_F = ||x|| ||y||",
    rule=f"autograd's differs by <= {ROUNDING:g} of itself",
)
def gradient_is_a_product(gradient: pd.DataFrame) -> Judged:
    worst = gradient.difference.max()
    return f"largest relative difference {worst:.1e} (n = {len(gradient)} networks, 20 functions)", worst <= ROUNDING


@rules.states(
    "Theorem 1",
    "Var phi <= E phi'^2",
    rule=f"1 - Var phi / E phi'^2 >= -{ROUNDING:g} for every function",
)
def theorem_1(constants: pd.DataFrame) -> Judged:
    frame = continuous(constants)
    discriminant = frame.discriminant
    measured = f"smallest 1 - Var phi / E phi'^2 = {discriminant.min():.2g} ({counted(frame)})"
    return measured, discriminant.min() >= -ROUNDING


@rules.states(
    "Proposition 2, (31)-(33)",
    "sum a_k^2 = E phi^2 = 1 and sum k a_k^2 = E phi'^2 = 1 for a GPN function",
    rule=f"sums to degree K miss -{ROUNDING:g} to 1.1 times what ReLU's kink costs, sqrt(2/pi) / (pi sqrt(K))",
)
def parseval(hermite: pd.DataFrame) -> Judged:
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
    """Compute sum of k a_k^2, k > degree, for ReLU-GPN (slope jump sqrt(2)): sqrt(2 / pi) / (pi sqrt(degree))."""
    return math.sqrt(2 / math.pi) / (math.pi * math.sqrt(degree))


@rules.states(
    "Proposition 2, if",
    "x and -x are GPN with mean 0",
    rule=f"each moment off by <= {ROUNDING:g}",
)
def lines_are_gpn(constants: pd.DataFrame) -> Judged:
    frame = constants[(constants.family == "lines") & constants.function.isin(["identity", "negation"])]
    worst = max(float(value.abs().max()) for value in (frame["mean"], frame.second - 1, frame.derivative_second - 1))
    return f"E phi, E phi^2 - 1, E phi'^2 - 1 for x and -x: {worst:.1e} at most", worst <= ROUNDING


@rules.states(
    "Proposition 2, only if",
    "no other GPN function has mean 0 (by (35), since each k - 1 >= 1 for k >= 2)",
    rule="E phi'^2 - Var phi >= E (phi - line)^2 (1 - 1e-6) for every other function, 0 for lines",
)
def proposition_2(constants: pd.DataFrame) -> Judged:
    frame = nonlinear(constants)
    ratio = frame.discriminant * frame.derivative_second / frame.nonlinearity
    least = smallest(frame, ratio)
    measured = (
        f"(E phi'^2 - Var phi) / E (phi - line)^2 = {ratio.min():.6f} at least ({least.family}; {counted(frame)})"
    )
    return measured, ratio.min() >= 1 - 1e-6 and lines(constants).discriminant.abs().max() <= ROUNDING


@rules.states(
    "after Proposition 2",
    "a nonlinear function with mean 0 (Tanh, SELU) is not GPN, whatever its scale",
    rule=f"|E phi| <= {ROUNDING:g} and E phi'^2 / E phi^2 - 1 > 0.01 for both",
)
def zero_mean_is_not_gpn(constants: pd.DataFrame) -> Judged:
    frame = constants[(constants.family == "paper") & constants.function.isin(["tanh", "selu"])].set_index("function")
    excess = frame.derivative_second / frame.second - 1
    measured = "; ".join(
        f"{name}: E phi = {frame['mean'][name]:.0e}, E phi'^2 / E phi^2 = {1 + excess[name]:.4f}"
        for name in frame.index
    )
    return measured, frame["mean"].abs().max() <= ROUNDING and excess.min() > 0.01


@rules.states(
    "Proposition 3",
    "a and b exist for any differentiable phi",
    rule=f"E (a phi + b)^2 and E a^2 phi'^2 within {ROUNDING:g} of 1 for every function and both roots",
)
def proposition_3(constants: pd.DataFrame) -> Judged:
    frame = continuous(constants)
    worst = frame.residual.max()
    measured = f"both roots solve (10) and (11) to {worst:.1e} ({counted(frame)})"
    return measured, worst <= ROUNDING


@rules.states(
    "Table 1, and the talk's",
    "a and b of the six functions, to four decimals",
    rule="all twelve agree, as rounded",
)
def table_1(constants: pd.DataFrame) -> Judged:
    ours = gaussian_functions(constants)
    off = []
    for row in paper.table1().itertuples():
        a, b = ours[str(row.activation)]
        for name, value, printed in (("a", a, float(row.a)), ("b", b, float(row.b))):  # type: ignore[arg-type]
            if abs(value - printed) > 0.5e-4 + ROUNDING:
                off.append(f"{row.activation} {name} = {value:.6f}, printed {printed:.4f}")
    count = 2 * len(ours)
    return f"{count - len(off)} of {count} agree" + (f"; {'; '.join(off)}" if off else ""), not off
