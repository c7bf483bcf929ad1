"""The talk's and the lecture's statements about approximation and isometries, with their rules."""

from __future__ import annotations

import pandas as pd

from bsnn.results.rules import Judged, Rules
from bsnn.vanishing.approximation import SUMS

rules = Rules()

CLOSE = 0.02
"""Largest error that counts as close, of functions of size one."""
NETWORKS = ("ReLU", "sigmoid")
DISCONTINUOUS = "step"
DIFFERENT = 0.99
"""Correlation of inputs below which a layer must change distances, by at least 1 - DIFFERENT."""


def _ends(approximation: pd.DataFrame, families: tuple[str, ...], error: str) -> pd.DataFrame:
    """Take an error with the fewest and the most terms, by target and family."""
    of = approximation[approximation.family.isin(families)].sort_values("terms")
    return of.groupby(["target", "family"], sort=False)[error].agg(["first", "last"])


@rules.states(
    "lecture, section 8, sup norm",
    "for a continuous F there is a network of one hidden layer with |F(x) - f(x)| < eps for all x",
    rule=f"largest error of {' and '.join(NETWORKS)} networks at the most units at most {CLOSE:g} and below that at "
    "the fewest, every continuous target",
)
def sup_norm(approximation: pd.DataFrame) -> Judged:
    ends = _ends(approximation[approximation.target != DISCONTINUOUS], NETWORKS, "largest")
    most = approximation.terms.max()
    return f"at most {ends['last'].max():.2g} at {most} units", bool(
        (ends["last"] <= CLOSE).all() and (ends["last"] < ends["first"]).all()
    )


@rules.states(
    "lecture, section 8, squared error",
    "in mean square more functions can be approximated: also a discontinuous one, whose largest error stays",
    rule=f"the step: root mean square error of {' and '.join(NETWORKS)} networks at the most units at most {CLOSE:g}, "
    "the largest error still at least half of the jump",
)
def squared_error(approximation: pd.DataFrame) -> Judged:
    step = approximation[approximation.target == DISCONTINUOUS]
    rms, largest = (_ends(step, NETWORKS, error)["last"] for error in ("rms", "largest"))
    text = f"root mean square {rms.max():.2g}, largest {largest.min():.2g} and more"
    return text, bool((rms <= CLOSE).all() and (largest >= 0.5).all())


@rules.states(
    "talk, function approximation, superposition",
    "F is approximately a sum of polynomials, of a Fourier series, of radial functions",
    rule="root mean square error of every sum falls from the fewest to the most terms, or is below 1e-9, and is at "
    f"most {2 * CLOSE:g} at the end, every target",
)
def superposition(approximation: pd.DataFrame) -> Judged:
    ends = _ends(approximation, tuple(SUMS), "rms")
    falls = (ends["last"] < ends["first"]) | (ends["last"] < 1e-9)
    most = approximation[approximation.family.isin(SUMS)].terms.max()
    text = f"at most {ends['last'].max():.2g} with {most} terms; falls in {falls.sum()} of {len(ends)}"
    return text, bool(falls.all() and (ends["last"] <= 2 * CLOSE).all())


@rules.states(
    "talk, function approximation, composition",
    "F is approximately a composition; how deep, how accurate? x^2: exponentially accurate in the depth",
    rule="largest error of n compositions of the tent map for x^2 within 1e-3 of 4^-(n + 1), and below that of a ReLU "
    "network of one layer with twice as many units",
)
def composition(approximation: pd.DataFrame) -> Judged:
    square = approximation[approximation.target == "square"]
    composed = square[square.family == "composition"].set_index("terms").largest
    exact = (composed * 4.0**composed.index - 1).abs().max() <= 1e-3
    flat = square[square.family == "ReLU"].set_index("terms").largest
    deepest = composed.index.max()
    wide = flat[flat.index <= 2 * deepest]
    text = f"{deepest - 1} compositions: {composed[deepest]:.2g}"
    if not len(wide):
        return text, None
    text += f"; one layer of {wide.index.max()} units: {wide.iloc[-1]:.2g}"
    return text, bool(exact and composed[deepest] < wide.iloc[-1])


@rules.states(
    "talk, Mazur-Ulam theorem",
    "a surjective isometry is affine: a layer that isn't linear can't keep all distances, only norms",
    rule=f"squared distances after over before an infinitely wide GPN layer, at all correlations up to {DIFFERENT:g}: "
    f"below 1 for the paper's six functions, by {1 - DIFFERENT:.0%} at least somewhere; 1 to 1e-9 for the identity",
)
def mazur_ulam(isometry: pd.DataFrame) -> Judged:
    of = isometry[isometry.rho <= DIFFERENT].groupby("function", sort=False).ratio
    smallest, largest = of.min(), of.max()
    others = [name for name in smallest.index if name != "identity"]
    told = ", ".join(f"{name} {smallest[name]:.2g}" for name in others)
    linear = max(abs(smallest["identity"] - 1), abs(largest["identity"] - 1)) <= 1e-9
    return f"smallest ratio: {told}", bool(
        linear and (largest[others] < 1).all() and (smallest[others] <= DIFFERENT).all()
    )
