"""Claims of the paper on random networks (section 3.1, Figs 1-3), each with the rule by which it is judged.

The frames are those of results/<budget>/fig<k>.csv, whose columns experiments/synthetic.py defines. The thresholds were
fixed before the figures were computed. Nothing is trained: at the paper's size every answer is final.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from bsnn import paper
from bsnn.results.claims import STABLE
from bsnn.results.rules import Claims
from bsnn.results.statistics import rank_correlation
from bsnn.results.verdicts import Check, Part

SIGNAL_LOST = 0.1
"""||x^(L)||_2 / sqrt(d) below which the signal has gone to 0; the input has 1. There Tanh differs from the identity by
less than x^3 / 3, 0.3 % of a typical unit's value."""

NEAR_ONE = 0.11
"""phi' is near one if it lies in [1 - 0.11, 1 + 0.11): a tenth, widened to the edges of Fig. 2's bins. Two-sided, since
a network is linear wherever phi' is one, whether it comes there from below or from above."""

LINEAR_SHARE = 0.9
"""Share of phi'(h) near one from which a network counts as linear: nine units in ten pass the signal on unchanged."""

WIDTH_TREND = -0.8
"""Spearman's correlation of mean ratio and width up to which the ratio falls with width. For seven widths one-sided
p = 0.02; it leaves room for one or two neighbours out of order."""

claims = Claims()


@claims.states(
    5,
    "Plain Tanh is stable only because it goes linear (x^(l) -> 0).",
    rule=f"Stable: gradient norms (mean over samples) within a factor {STABLE:g} over the layers. Goes linear: at the "
    f"last layer ||x||/sqrt(d) < {SIGNAL_LOST:g}, and at least {LINEAR_SHARE:.0%} of phi'(h), over all layers, within "
    f"{NEAR_ONE:g} of 1. Each in every draw. The GPN functions must do neither. A coincidence is tested, "
    "not that it is the cause.",
)
def tanh_goes_linear(fig1: pd.DataFrame | None, fig2: pd.DataFrame | None) -> list[Part]:
    stable, linear, nonlinear = [], [], []
    ratios = _gradient_ratios(fig1, "tanh", False)
    stable.append(_check("tanh: max/min gradient", ratios, f"<= {STABLE:g}", lambda value: value <= STABLE))
    for activation, gpn in (("tanh", False), *((name, True) for name in paper.ACTIVATIONS)):
        name = activation + "-GPN" * gpn
        signal = _last_signals(fig1, activation, gpn)
        found = share_near_one(fig2, activation, gpn)
        share = None if found is None else [found]
        if gpn:
            nonlinear.append(
                _check(f"{name}: ||x||/sqrt(d)", signal, f">= {SIGNAL_LOST:g}", lambda value: value >= SIGNAL_LOST)
            )
            nonlinear.append(
                _check(
                    f"{name}: share of phi' near 1", share, f"< {LINEAR_SHARE:g}", lambda value: value < LINEAR_SHARE
                )
            )
        else:
            linear.append(
                _check(f"{name}: ||x||/sqrt(d)", signal, f"< {SIGNAL_LOST:g}", lambda value: value < SIGNAL_LOST)
            )
            linear.append(
                _check(
                    f"{name}: share of phi' near 1", share, f">= {LINEAR_SHARE:g}", lambda value: value >= LINEAR_SHARE
                )
            )
    return [
        Part("plain Tanh is stable", stable),
        Part("plain Tanh goes linear", linear),
        Part("the GPN functions do not", nonlinear),
    ]


@claims.states(
    6,
    "The wider the network, the more equal the gradient norms (Fig. 3).",
    rule="For every GPN function the mean over draws of max_l / min_l is smaller at the largest width than at the "
    f"smallest, and its rank correlation with the width is at most {WIDTH_TREND:g}.",
)
def wider_is_more_equal(fig3: pd.DataFrame | None) -> list[Part]:
    checks = []
    for activation in paper.ACTIVATIONS:
        name, required = f"{activation}-GPN", f"falls, trend <= {WIDTH_TREND:g}"
        chosen = None if fig3 is None else fig3[fig3["function"] == activation]
        if chosen is None or chosen["width"].nunique() < 3:
            checks.append(Check(name, "no data", required, None))
            continue
        means = chosen.groupby("width")["ratio"].mean()
        first, last = means.iloc[0], means.iloc[-1]
        trend = rank_correlation(means.index, means)
        measured = (
            f"{first:.3g} at width {means.index[0]}, {last:.3g} at {means.index[-1]}, trend {trend:.2f} "
            f"(n = {chosen.groupby('width').size().min()} draws)"
        )
        checks.append(Check(name, measured, required, bool(last < first and trend <= WIDTH_TREND)))
    return [Part("the ratio falls with width", checks)]


def share_near_one(fig2: pd.DataFrame | None, activation: str, gpn: bool) -> float | None:
    """Share of phi'(h) in the bins that lie within `NEAR_ONE` of 1."""
    chosen = _of(fig2, activation, gpn)
    if chosen is None:
        return None
    rounding = 1e-9  # bin edges are decimal fractions
    inside = (chosen["bin_left"] >= 1 - NEAR_ONE - rounding) & (chosen["bin_right"] <= 1 + NEAR_ONE + rounding)
    return float(chosen["count"].where(inside, 0).sum() / chosen["count"].sum())


def _gradient_ratios(fig1: pd.DataFrame | None, activation: str, gpn: bool) -> list[float] | None:
    """max_l / min_l, of each draw."""
    chosen = _of(fig1, activation, gpn)
    if chosen is None:
        return None
    ends = chosen.groupby("draw")["gradient_mean"].agg(["min", "max"])
    return [largest / smallest if smallest else math.inf for smallest, largest in ends.to_numpy().tolist()]


def _last_signals(fig1: pd.DataFrame | None, activation: str, gpn: bool) -> list[float] | None:
    """||x^(L)|| / sqrt(d), of each draw."""
    chosen = _of(fig1, activation, gpn)
    return None if chosen is None else chosen[chosen["layer"] == chosen["layer"].max()]["signal_mean"].tolist()


def _of(frame: pd.DataFrame | None, activation: str, gpn: bool) -> pd.DataFrame | None:
    if frame is None:
        return None
    chosen = frame[(frame["function"] == activation) & (frame["gpn"] == gpn)]
    return None if chosen.empty else chosen


def _check(subject: str, draws: list[float] | None, required: str, rule: Callable[[float], bool]) -> Check:
    """Check a rule that has to hold in every draw."""
    if draws is None:
        return Check(subject, "no data", required, None)
    low, high = (f"{end:.3g}" for end in (min(draws), max(draws)))
    measured = low if low == high else f"{low} to {high}"
    measured += "" if len(draws) == 1 else f" (n = {len(draws)} draws)"
    return Check(subject, measured, required, all(map(rule, draws)))
