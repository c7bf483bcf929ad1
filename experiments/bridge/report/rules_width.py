"""Statements that the sources imply for random GPN networks, infinitely wide and not, beside our measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.results.rules import Judged, Rules
from bsnn.results.tables import Table
from bsnn.shrinkage.bounds import shrinkage_bound
from experiments.bridge.report.figures import LAWS

rules = Rules()

SIGMAS = 2.0
"""Standard errors between two laws' fluctuations from which on they differ."""

SHRINKAGE, COLLAPSE, BSNN = "shrinkage paper", "collapse paper", "BSNN paper"
KINKED = ("relu", "leaky_relu", "selu")  # phi' jumps at 0
ROUNDING = 1e-10


@rules.states(
    f"{BSNN}, Definition 3; {SHRINKAGE}, section 2.2",
    "a GPN function is critical: E phi'^2 = E phi^2 = 1 is P'(1) = 1, (P_L o ... o P_1)'(1) = 1",
    rule=f"(P_l o ... o P_1)'(1) = 1 to {ROUNDING:g} for the six GPN functions, every l",
)
def critical(meanfield: pd.DataFrame) -> Judged:
    worst = float((meanfield[meanfield.gpn].jacobian - 1).abs().max())
    depth = meanfield.layer.max()
    measured, agrees = (
        f"largest |gain - 1| after any of {depth} layers {worst:.1e} (6 functions)",
        worst <= ROUNDING,
    )
    return measured, agrees


def largest_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute 1 - rho_max by function, gpn and layer: the least, over layers so far, of the pairs' largest gap."""
    by = ["function", "gpn", "layer"]
    gaps = frame.groupby(by, as_index=False)[["gap"]].max()
    gaps["gap"] = gaps.groupby(["function", "gpn"])["gap"].cummin()
    return gaps[gaps.layer > 0]


@rules.states(
    f"{SHRINKAGE}, Theorem 1",
    "1 - rho_max <= sqrt(8 (P_L o ... o P_1)'(1) / sum_l e_l), plain and GPN",
    rule="holds for the 12 functions at every layer shown, infinite width, rho_max over the initial correlations shown",
)
def theorem_1(meanfield: pd.DataFrame) -> Judged:
    terms = meanfield.drop_duplicates(["function", "gpn", "layer"])[["function", "gpn", "layer", "jacobian", "error"]]
    found = largest_gaps(meanfield).merge(terms)
    bounds = np.array([shrinkage_bound(e, j) for e, j in zip(found.error, found.jacobian, strict=True)])
    ratios = found.gap / bounds
    at = found.loc[ratios.idxmax()]
    name = paper.LABELS[at.function] + "-GPN" * bool(at.gpn)
    measured = (
        f"{int((ratios > 1).sum())} of {len(found)} exceed it; nearest {ratios.max():.2f} of it "
        f"({name}, layer {at.layer})"
    )
    agrees = bool((ratios <= 1).all())
    return measured, agrees


@rules.states(
    f"{SHRINKAGE}, Theorem 1",
    "the same bound, which is about infinite width, for GPN networks of finite width",
    rule="the mean gap over the draws keeps below it: six GPN functions, three laws of W, every layer shown",
)
def theorem_1_at_finite_width(correlation: Table, meanfield: pd.DataFrame) -> Judged:
    gpn = correlation.frame[correlation.frame.gpn]
    terms = meanfield[meanfield.gpn].drop_duplicates(["function", "layer"])[["function", "layer", "error"]]
    found = pd.concat([largest_gaps(gpn[gpn.law == law]) for law in LAWS]).merge(terms, on=["function", "layer"])
    ratios = found.gap / np.array([shrinkage_bound(total) for total in found.error])
    draws = correlation.config["sizes"]["correlation"]["draws"]
    width = correlation.config["sizes"]["correlation"]["width"]
    measured = (
        f"{int((ratios > 1).sum())} of {len(found)} exceed it, nearest {ratios.max():.2f} of it "
        f"(width {width}, mean of {draws} draws)"
    )
    agrees = bool((ratios <= 1).all())
    return measured, agrees


def deep_powers(frame: pd.DataFrame) -> dict[str, float]:
    """Compute each function's d log gap / d log layer over the last factor of two of depth, at least two layers."""
    found = {}
    for name, rows in frame.groupby("function"):
        last = rows[rows.layer >= rows.layer.max() / 2]
        last = last if len(last) > 1 else rows.tail(2)
        found[str(name)] = float(np.polyfit(np.log(last.layer), np.log(last.gap), 1)[0])
    return found


@rules.states(
    f"{SHRINKAGE}, remark 1",
    "at criticality 1 - rho_l shrinks at least like l^(-1/2)",
    rule="power of l over the last factor of 2 of depth <= -0.5 for every GPN function, infinite width",
)
def rate(decay: pd.DataFrame) -> Judged:
    slopes = deep_powers(decay)
    slowest = max(slopes, key=lambda name: slopes[name])
    measured = f"slowest: {paper.LABELS[slowest]}-GPN, power {slopes[slowest]:.3f} at layer {decay.layer.max()}"
    agrees = slopes[slowest] <= -0.5
    return measured, agrees


def powers(decay: pd.DataFrame, names: Sequence[str], power: int) -> Judged:
    slopes = {name: slope for name, slope in deep_powers(decay).items() if name in names}
    told = ", ".join(f"{paper.LABELS[name]} {slope:.3f}" for name, slope in slopes.items())
    return told, all(abs(slope - power) <= 0.1 for slope in slopes.values())


for kind, names, power in (
    ("a slope that jumps (ReLU, LeakyReLU, SELU)", KINKED, -2),
    ("a continuous slope (Tanh, ELU, GELU)", [name for name in paper.ACTIVATIONS if name not in KINKED], -1),
):
    rules.states(
        f"ours, from {SHRINKAGE}, equation 2.4",
        f"GPN functions with {kind}: 1 - rho_l ~ l^{power}",
        rule=f"power of l over the last factor of 2 of depth within 0.1 of {power}, infinite width",
        names=names,
        power=power,
    )(powers)


@rules.states(
    f"{SHRINKAGE}, equation 2.3",
    "rho_l = P o ... o P(rho_0): infinite width describes GPN networks of the width at hand",
    rule="mean gap within 4 standard errors of the infinite-width one in 95 % of layers and pairs; Haar-uniform W",
)
def infinite_width(correlation: Table, meanfield: pd.DataFrame) -> Judged:
    settings = correlation.config["sizes"]["correlation"]
    errors, count = deviations(correlation.frame, meanfield, settings["draws"])
    measured = (
        f"{100 * float((errors <= 4).mean()):.0f} % of {count} within 4 SE, largest {errors.max():.1f} SE "
        f"(width {settings['width']}, {settings['draws']} draws)"
    )
    agrees = bool((errors <= 4).mean() >= 0.95)
    return measured, agrees


def deviations(frame: pd.DataFrame, theory: pd.DataFrame, draws: int, law: str = "haar") -> tuple[pd.Series, int]:
    """Compute |mean over draws - infinite width| in standard errors, of GPN functions."""
    rows = frame[(frame.law == law) & frame.gpn & (frame.layer > 0)]
    both = rows.merge(theory[theory.gpn], on=["function", "layer", "rho_0"], suffixes=("", "_theory"))
    spread = both.gap_std.clip(lower=1e-12)
    return (both.gap - both.gap_theory).abs() / (spread / math.sqrt(draws)), len(both)


@rules.states(
    f"{BSNN}, section 4",
    "orthogonality is crucial: i.i.d. Gaussian W lacks its norm preservation. Here: fluctuations of 1 - rho",
    rule="standard deviation / mean of the gap at the last layer (rho_0 = 0, mean of six GPN functions) less for Haar "
    f"than for each other law by {SIGMAS:g} standard errors; not decided if they differ by less",
)
def laws_agree(correlation: Table) -> Judged:
    depth, start = correlation.frame.layer.max(), 0.0
    last = correlation.frame[(correlation.frame.layer == depth) & correlation.frame.gpn]
    start = float(last.rho_0.iloc[(last.rho_0 - start).abs().argmin()])
    relative = (last.gap_std / last.gap)[last.rho_0 == start].groupby(last.law).mean()
    draws = correlation.config["sizes"]["correlation"]["draws"]
    # ln of a sample's standard deviation errs by 1 / sqrt(2 (n - 1)) for normal values
    error = math.sqrt(1 / max(draws - 1, 1))
    distance = np.log(np.array([relative[law] for law in LAWS if law != "haar"]) / relative["haar"]) / error
    measured = ", ".join(f"{law} {relative[law]:.2f}" for law in LAWS)
    measured += f" ({draws} draws; Haar's is less by {distance.min():.1f} to {distance.max():.1f} SE)"
    agrees = True if distance.min() > SIGMAS else False if distance.min() < -SIGMAS else None
    return measured, agrees


@rules.states(
    f"{SHRINKAGE}, section 3",
    "nonlinear, critical and deep: representations shrink. Every GPN network, from orthogonal inputs",
    rule="1 - rho < 0.1 at the last layer for every GPN function, rho_0 = 0, infinite width",
)
def shrinks(meanfield: pd.DataFrame) -> Judged:
    last = at_end(meanfield, gpn=True)
    measured = ", ".join(f"{paper.LABELS[name]} {value:.2g}" for name, value in _by_name(last.gap))
    agrees = bool((last.gap < 0.1).all())
    return measured, agrees


def at_end(frame: pd.DataFrame, gpn: bool, rho: float = 0.0) -> pd.DataFrame:
    """Select the last layer of each function, in the paper's order."""
    chosen = frame[(frame.gpn == gpn) & (frame.layer == frame.layer.max()) & (frame.rho_0 == rho)]
    found: pd.DataFrame = chosen.set_index("function").loc[list(paper.ACTIVATIONS)]
    return found


def _by_name(values: pd.Series) -> list[tuple[str, float]]:
    return [(str(name), float(value)) for name, value in values.items()]


@rules.states(
    f"{BSNN}, section 3.1",
    "BSNNs do not exhibit pseudo-linearity and maintain nonlinear functionality",
    rule="Theorem 1's term e_l, 0 for a linear layer, >= 0.01 on average over the layers for every GPN function",
)
def nonlinear(meanfield: pd.DataFrame) -> Judged:
    last = at_end(meanfield, gpn=True)
    terms = last.error / last.layer
    measured = ", ".join(f"{paper.LABELS[name]} {value:.3f}" for name, value in _by_name(terms)) + " of at most 0.5"
    agrees = bool((terms >= 0.01).all())
    return measured, agrees


@rules.states(
    f"{BSNN}, section 3.1; {SHRINKAGE}, section 3, item 3",
    "plain Tanh goes linear (pseudo-linearity), so it does not shrink",
    rule="sum of e_l < 0.5 over all layers and 1 - rho within 0.1 of 1 at the last layer, rho_0 = 0, infinite width",
)
def pseudo_linear(meanfield: pd.DataFrame) -> Judged:
    rows = meanfield.query("function == 'tanh' and not gpn and rho_0 == 0")
    last = rows.iloc[-1]
    measured = f"sum of e_l {last.error:.3f}, 1 - rho {last.gap:.4f} from 1 (layer {last.layer})"
    agrees = bool(last.error < 0.5 and abs(last.gap - 1) < 0.1)
    return measured, agrees


@rules.states(
    f"{BSNN}, section 4; {SHRINKAGE}, section 2.2",
    "plain SELU is chaotic: gradients explode, near inputs part",
    rule="squared gain > 1000 and 1 - rho > 0.1 at the last layer for the nearest pair shown, infinite width",
)
def explodes(meanfield: pd.DataFrame) -> Judged:
    rho = meanfield.rho_0[meanfield.rho_0 < 1].max()
    last = meanfield.query("function == 'selu' and not gpn and rho_0 == @rho").iloc[-1]
    measured = f"squared gain {last.jacobian:.3g}, 1 - rho {last.gap:.3g} from {1 - rho:.2g} (layer {last.layer})"
    agrees = bool(last.jacobian > 1e3 and last.gap > 0.1)
    return measured, agrees
