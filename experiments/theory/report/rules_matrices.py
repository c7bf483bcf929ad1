"""Statements on what the theory's assumptions leave out, and how they are judged: Gaussian W, unbounded errors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn.results.rules import Judged, Rules
from bsnn.theory.concentration import error_peak
from experiments.theory.config import functions

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
    rule=f"mean of ln kappa - ln N over all widths within {SIGMAS} standard errors of {EDELMAN}, both laws",
)
def edelman(spectra: pd.DataFrame) -> Judged:
    told, good = [], True
    for law in ("gaussian", "rows"):
        of = spectra[spectra.law == law]
        values = np.log((of.condition / of.width).to_numpy())
        mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
        told.append(f"{law} {mean:.2f} ± {error:.2f}")
        good &= abs(mean - EDELMAN) <= SIGMAS * error
    return f"{', '.join(told)} (n = {len(spectra) // spectra.law.nunique()} matrices)", good


@rules.states(
    "ours, from Theorem 3, condition",
    "in the paper's own experiment ||y||_inf isn't bounded: it grows like max |phi'| sqrt(2 ln d), too slow to matter",
    rule="max |y_i| / (||y||/sqrt(d)), mean over layers and samples, rises from each width to the next and is within "
    "10 % of E max |phi'(z_i) e_i| for independent normal z_i and e_i, at every width, every GPN function",
)
def peaks_grow(peaks: pd.DataFrame) -> Judged:
    means = peaks.groupby(["function", "width"], sort=False).peak.mean().unstack("width")
    widths = sorted(means.columns)
    phis = functions()
    expected = pd.DataFrame(
        {width: {name: error_peak(phis[name, True], int(width)) for name in means.index} for width in widths}
    )
    off = means[widths] / expected.loc[means.index] - 1
    told = ", ".join(f"{name} {means[widths[0]][name]:.2f} -> {means[widths[-1]][name]:.2f}" for name in means.index)
    text = (
        f"width {widths[0]} -> {widths[-1]}: {told}; off the expected by {100 * off.to_numpy().min():+.1f} to "
        f"{100 * off.to_numpy().max():+.1f} %"
    )
    rises = bool((np.diff(means[widths], axis=1) > 0).all())
    return text, rises and bool((off.abs() <= 0.1).to_numpy().all())
