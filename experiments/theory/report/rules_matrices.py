"""Statements on what the theory's assumptions leave out, and how they are judged: Gaussian W, unbounded errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bsnn.results.rules import Judged, Rules
from bsnn.theory.concentration import normal_peak

rules = Rules()

EDELMAN = 1.537
"""Limit of E ln kappa - ln N for the condition number kappa of a real Gaussian N x N matrix (Edelman, SIAM J. Matrix
Anal. Appl. 9, 1988)."""
SIGMAS = 4
ROUNDING = 1e-9


@rules.states(
    "section 4",
    "matrices of i.i.d. N(0, 1/N) have a condition number that increases with N; orthogonal ones don't",
    rule="Gaussian: the median rises from each width to the next; Haar-uniform: 1 within 1e-9 in every draw",
)
def condition_grows(spectra: pd.DataFrame) -> Judged:
    medians = spectra.groupby(["law", "width"]).condition.median()
    gaussian, worst = medians["gaussian"], float(spectra[spectra.law == "haar"].condition.max())
    told = ", ".join(f"{width} {value:.3g}" for width, value in gaussian.items())
    text = f"median by width: {told} (n = {spectra.draw.nunique()} each); Haar 1 + {worst - 1:.0e} at most"
    return text, bool((np.diff(gaussian) > 0).all() and worst - 1 <= ROUNDING)


@rules.states(
    "ours, from section 4",
    "it grows in proportion to N: E ln kappa = ln N + 1.537 (Edelman), and rows of norm one don't change that",
    rule=f"mean of ln kappa - ln N at the largest width within {SIGMAS} standard errors of {EDELMAN}, both laws",
)
def edelman(spectra: pd.DataFrame) -> Judged:
    widest = spectra[spectra.width == spectra.width.max()]
    told, good = [], True
    for law in ("gaussian", "rows"):
        values = np.log(widest[widest.law == law].condition / widest.width.max())
        mean, error = float(values.mean()), float(values.sem())
        told.append(f"{law} {mean:.2f} ± {error:.2f}")
        good &= abs(mean - EDELMAN) <= SIGMAS * error
    return f"width {widest.width.max()}: {', '.join(told)} (n = {widest.draw.nunique()})", good


@rules.states(
    "ours, from Theorem 3, condition",
    "in the paper's own experiment ||y||_inf isn't bounded: it grows with d as that of a normal vector, like "
    "sqrt(2 ln d), too slowly to matter",
    rule="max |y_i| / (||y||/sqrt(d)), mean over layers and samples, rises from each width to the next, and from the "
    "smallest to the largest by what a normal vector's does within 25 %, every GPN function",
)
def peaks_grow(peaks: pd.DataFrame) -> Judged:
    means = peaks.groupby(["function", "width"], sort=False).peak.mean().unstack("width")
    ends = means.columns.min(), means.columns.max()
    normal = normal_peak(int(ends[1])) - normal_peak(int(ends[0]))
    rise = (means[ends[1]] - means[ends[0]]) / normal
    told = ", ".join(f"{name} {means[ends[0]][name]:.2f} -> {means[ends[1]][name]:.2f}" for name in means.index)
    text = (
        f"width {ends[0]} -> {ends[1]}: {told}; a normal vector {normal_peak(int(ends[0])):.2f} -> "
        f"{normal_peak(int(ends[1])):.2f}; rise / normal rise {rise.min():.2f} to {rise.max():.2f}"
    )
    rises = bool((np.diff(means[sorted(means.columns)], axis=1) > 0).all())
    return text, rises and bool(rise.between(0.75, 1.25).all())
