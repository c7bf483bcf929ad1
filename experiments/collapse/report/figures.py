"""The figures of experiments.collapse.report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import binomtest

from bsnn import plotting
from bsnn.collapse import probability as collapse
from bsnn.collapse.fate import OPTIMISERS, OUTCOMES, SECOND_ORDER, TARGETS
from bsnn.results.statistics import share_error
from bsnn.results.tables import Table
from experiments.collapse.report import rules_remedies
from experiments.collapse.report.rules import LABELS
from experiments.collapse.training import CURVE_POINTS, METHODS
from experiments.collapse.widths import REMEDIES

COLOURS = {
    "constant": "#D55E00",
    "partial": "#E69F00",
    "approximates": "#009E73",
    "other": "#BBBBBB",
    "diverged": "#000000",
}
HATCHES = {"partial": "////", "approximates": "....", "other": "xx"}
"""Hatches, which tell the outcomes apart without colour."""
OPTIMISER_LABELS = {
    "sgd": "SGD",
    "nesterov": "Nesterov",
    "adagrad": "AdaGrad",
    "adadelta": "AdaDelta",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "bfgs": "BFGS",
    "lbfgs": "L-BFGS",
}
START_LABELS = {"he": "He normal", "lecun": "LeCun normal", "glorot_uniform": "Glorot uniform"}
WIDTH_LOOKS = dict(
    zip(
        (2, 3, 4, 5, 10),
        (("#000000", "o"), ("#0072B2", "s"), ("#009E73", "D"), ("#CC79A7", "v"), ("#D55E00", "^")),
        strict=True,
    )
)
"""Colour and marker of a width."""


def outcomes(targets: Table) -> Figure:
    shown = [name for name in TARGETS if TARGETS[name].inputs == 1]
    kinds = [kind for kind in OUTCOMES if kind != "diverged"]
    figure, axes = plotting.figure(len(shown), len(kinds), size=(plotting.PAGE_WIDTH, 5.0), sharex="row", sharey="row")
    for row, name in enumerate(shown):
        runs = targets.frame[targets.frame.target == name]
        x = TARGETS[name].grid(CURVE_POINTS[1], torch.float64)
        y = TARGETS[name].function(x)
        for column, kind in enumerate(kinds):
            panel = axes[row, column]
            panel.plot(x[:, 0], y[:, 0], color=plotting.GREY, linewidth=1.0)
            for text, look in zip(kept(runs, kind), plotting.FALLBACKS, strict=False):
                panel.plot(x[:, 0], values(text), color=COLOURS[kind], linestyle=look.dashes, linewidth=1.2)
            panel.set_title(f"{kind}: {100 * (runs.outcome == kind).mean():.3g} %")
            if not (runs.outcome == kind).any():
                panel.text(0.5, 0.08, "no run", transform=panel.transAxes, ha="center", color=plotting.GREY)
            panel.margins(x=0)
        axes[row, 0].set_ylabel(f"y = {LABELS[name]}")
        low, high = float(y.min()), float(y.max())
        axes[row, 0].set_ylim(low - 0.25 * (high - low), high + 0.25 * (high - low))
    for panel in axes[-1]:
        panel.set_xlabel("x")
    return figure


def pair(targets: Table) -> Figure:
    target, side = TARGETS["pair"], CURVE_POINTS[2]
    runs = targets.frame[targets.frame.target == "pair"]
    surface = target.function(target.grid(side, torch.float64))[:, 0]
    panels = [("target", surface.numpy())]
    for kind in OUTCOMES:
        texts = kept(runs, kind)
        if len(texts) and kind != "diverged":
            panels.append((f"{kind}\n{100 * (runs.outcome == kind).mean():.3g} %", values(texts[0])))
    figure, axes = plotting.figure(1, len(panels), size=(plotting.PAGE_WIDTH, 2.1), sharey=True)
    reach = target.limit
    for panel, (title, heights) in zip(axes[0], panels, strict=True):
        image = panel.imshow(
            heights.reshape(side, side).T,
            origin="lower",
            extent=(-reach, reach, -reach, reach),
            vmin=0,
            vmax=float(surface.max()),
            cmap="viridis",
        )
        panel.set_title(title)
        panel.set_xlabel("$x_1$")
        panel.grid(visible=False)
    axes[0, 0].set_ylabel("$x_2$")
    figure.colorbar(image, ax=list(axes[0]), shrink=0.85, label="$y_1$")
    return figure


def by_optimiser(optimisers: Table) -> Figure:
    frame = optimisers.frame
    starts = [start for start in START_LABELS if start in set(frame.initialisation)]
    names = [*OPTIMISERS, *SECOND_ORDER]
    figure, axes = plotting.figure(1, len(starts), size=(plotting.PAGE_WIDTH, 2.7), sharey=True)
    for panel, start in zip(axes[0], starts, strict=True):
        runs = frame[frame.initialisation == start]
        stacked(panel, [runs[runs.optimiser == name] for name in names], [OPTIMISER_LABELS[name] for name in names])
        panel.set_title(START_LABELS[start])
        panel.set_xlabel("share of the runs, %")
    legend(figure, axes[0, 0])
    return figure


def by_remedy(remedies: Table) -> Figure:
    frame = remedies.frame
    targets = [name for name in TARGETS if name in set(frame.target)]
    figure, axes = plotting.figure(1, len(targets), size=(plotting.PAGE_WIDTH, 2.4), sharey=True)
    for panel, target in zip(axes[0], targets, strict=True):
        runs = frame[frame.target == target]
        stacked(panel, [runs[runs.method == method] for method in METHODS], list(METHODS))
        panel.set_title(f"y = {LABELS[target]}")
        panel.set_xlabel("share of the runs, %")
    legend(figure, axes[0, 0])
    return figure


def by_width(remedies: Table, widths: Table) -> Figure:
    runs = rules_remedies.by_width(remedies.frame, widths.frame)
    runs = runs[runs.target == "abs"]
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 2.8), sharex=True, sharey=True)
    looks = dict(zip(REMEDIES, (*plotting.LOOKS.values(), *plotting.FALLBACKS), strict=False))
    places = {width: place for place, width in enumerate(sorted(runs.width.unique()))}
    for number, (remedy, look) in enumerate(looks.items()):
        shift = 0.06 * (number - len(looks) / 2)
        for panel, outcome in zip(axes[0], ("approximates", "constant"), strict=True):
            grouped = (runs[runs.remedy == remedy].outcome == outcome).groupby(runs.width)
            tests = [binomtest(int(hits.sum()), len(hits)) for _, hits in grouped]
            middle = np.array([test.statistic for test in tests])
            ends = np.array([test.proportion_ci(method="wilson") for test in tests]).T
            x = [places[int(str(width))] + shift for width, _ in grouped]
            errors = np.abs(ends - middle)
            panel.errorbar(x, 100 * middle, yerr=100 * errors, label=remedy, **look.line(1), elinewidth=0.7)
    for panel, title in zip(axes[0], ("(a)  approximates", "(b)  constant"), strict=True):
        panel.set_title(title, loc="left")
        panel.set_xlabel("width $N$")
        panel.set_xticks(list(places.values()), [str(width) for width in places])
    axes[0, 0].set_ylabel("share of the runs, %")
    legend(figure, axes[0, 0])
    return figure


def constants(targets: Table, losses: Table) -> Figure:
    shown = [name for name in TARGETS if name in set(losses.frame.target)]
    figure, axes = plotting.figure(1, len(shown), size=(plotting.PAGE_WIDTH, 2.5))
    for panel, name in zip(axes[0], shown, strict=True):
        x = TARGETS[name].grid(CURVE_POINTS[1], torch.float64)
        panel.plot(x[:, 0], TARGETS[name].function(x)[:, 0], color=plotting.GREY, linewidth=1.0, label="target")
        for table, label, colour, look, ends in (
            (targets, "MSE, left half", "#0072B2", "-", (0.0, 0.5)),
            (losses, "MAE, right half", "#D55E00", "--", (0.5, 1.0)),
        ):
            runs = table.frame[(table.frame.target == name) & (table.frame.outcome == "constant")]
            for number, value in enumerate(runs.value):
                named = None if number else label
                panel.axhline(value, *ends, color=colour, linestyle=look, linewidth=0.8, alpha=0.5, label=named)
        panel.set_title(f"y = {LABELS[name]}")
        panel.set_xlabel("x")
        panel.margins(x=0)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def lengths(length: Table) -> Figure:
    relu = length.frame[length.frame.phi == "relu"]
    widths = sorted(relu.width.unique())
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 2.8), sharex=True)
    for column, (statistic, title) in enumerate((("mean", "mean of $q^l$"), ("median", "median of $q^l$"))):
        panel = axes[0, column]
        scale = plotting.LogRange.of([relu[statistic].to_numpy(), relu.predicted.to_numpy()])
        for width, look in zip(widths, plotting.LOOKS.values(), strict=False):
            rows = relu[relu.width == width]
            placed = scale.place(rows[statistic].to_numpy())
            panel.plot(rows.layer, placed, label=f"width {width}", **look.line(markers=4))
        if statistic == "mean":
            rows = relu[relu.width == widths[0]]
            panel.plot(rows.layer, rows.predicted, color=plotting.GREY, linestyle="--", label="equation 3")
            drawn = f"{int(relu.members.iloc[0])} networks drawn"
            told = f"{drawn}; narrow: the mean is that\nof networks too rare to be among them"
            panel.text(0.03, 0.05, told, transform=panel.transAxes, fontsize=7, color=plotting.GREY)
        scale.mark(panel)
        panel.set_title(title)
        panel.set_xlabel("layer $l$")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def probability(probability: Table, safe: Table) -> Figure:
    frame = probability.frame[probability.frame.law == "he"]
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 3.0))
    first, second, third = axes[0]
    for width, (colour, marker) in WIDTH_LOOKS.items():
        rows = frame[frame.width == width]
        if rows.empty:
            continue
        bound = [collapse.zero_for_an_input([width] * depth) for depth in rows.depth]
        first.plot(rows.depth, bound, color=colour, linestyle="--", linewidth=0.8)
        first.plot(rows.depth, rows.dead / rows.members, marker, color=colour, markersize=2.8, label=f"width {width}")
    two = frame[frame.width == 2]
    first.plot(two.depth, two.paper, color="#000000", linewidth=1.0, label="Theorem 10")
    first.plot([], [], color=plotting.GREY, linestyle="--", linewidth=0.8, label="Theorem 8")
    first.set_ylim(0, 1.02)
    first.set_xlabel("layers")
    first.set_title("(A)  probability of 0", loc="left")
    looks = (("#0072B2", "o", "--"), ("#D55E00", "s", "-."))
    for share, (colour, marker, dashes) in zip(sorted(safe.frame.share.unique()), looks, strict=False):
        rows = safe.frame[safe.frame.share == share].sort_values("width")
        second.plot(rows.width, rows.depth, marker, color=colour, markersize=3, label=f"{100 * share:g} %, measured")
        bounded = rows[rows.bound > 0]
        told = f"{100 * share:g} %, equation 5"
        second.plot(bounded.width, bounded.bound, color=colour, linestyle=dashes, linewidth=0.9, label=told)
    second.set_yscale("log")
    second.set_xlabel("width")
    second.set_title("(B)  largest number of layers", loc="left")
    second.legend()
    gap, error = 100 * (two.exact - two.paper), 100 * share_error(two.exact, two.members)
    simulated = 100 * (two.dead / two.members - two.paper)
    third.plot(two.depth, gap, color="#000000", label="exact")
    third.errorbar(
        two.depth, simulated, yerr=error, fmt="o", color="#0072B2", markersize=2.5, linewidth=0.8, label="simulated"
    )
    third.axhline(0, color=plotting.GREY, linewidth=0.8)
    third.set_xlabel("layers")
    third.set_title("(C)  what Theorem 10 lacks", loc="left")
    third.set_ylabel("points of probability, width 2")
    third.legend()
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), handlelength=1.4, columnspacing=1.2)
    for panel in (first, third):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def orthogonal(probability: Table, orthogonal: Table) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 2.9), sharex=True)
    he = probability.frame[probability.frame.law == "he"]
    for width, (colour, marker) in WIDTH_LOOKS.items():
        one, other = he[he.width == width], orthogonal.frame[orthogonal.frame.width == width]
        if one.empty or other.empty:
            continue
        p, q = (table.dead.to_numpy() / table.members.to_numpy() for table in (one, other))
        axes[0, 0].plot(one.depth, p, marker, color=colour, markersize=2.5, label=f"width {width}")
        axes[0, 0].plot(other.depth, q, marker, color=colour, markersize=5, markerfacecolor="none")
        error = np.hypot(share_error(p, one.members.to_numpy()), share_error(q, other.members.to_numpy()))
        look = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.0}
        axes[0, 1].errorbar(one.depth, 100 * (q - p), yerr=100 * error, **look)
    axes[0, 0].plot([], [], "o", color=plotting.GREY, markersize=5, markerfacecolor="none", label="orthogonal (open)")
    legend(figure, axes[0, 0])
    axes[0, 0].set_title("(a)  probability of a zero function", loc="left")
    axes[0, 1].set_title("(b)  orthogonal less He normal, points", loc="left")
    axes[0, 1].axhline(0, color=plotting.GREY, linewidth=0.8)
    for panel in axes[0]:
        panel.set_xlabel("layers")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def stacked(panel: Axes, groups: list[pd.DataFrame], names: list[str]) -> None:
    """Draw one horizontal bar for each group: the shares of the outcomes."""
    left = np.zeros(len(groups))
    for outcome in OUTCOMES:
        shares = np.array([100 * (group.outcome == outcome).mean() for group in groups])
        look: dict[str, Any] = {
            "color": COLOURS[outcome],
            "hatch": HATCHES.get(outcome),
            "edgecolor": "white",
            "linewidth": 0,
        }
        panel.barh(names, shares, left=left, height=0.7, label=outcome, **look)
        left = left + shares
    panel.invert_yaxis() if not panel.yaxis_inverted() else None
    panel.set_xlim(0, 100)
    panel.grid(visible=False, axis="y")


def legend(figure: Figure, panel: Axes) -> None:
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))


def kept(runs: pd.DataFrame, outcome: str) -> list[str]:
    """List the curves of an outcome that the table has."""
    return list(runs[(runs.outcome == outcome) & runs.curve.notna()].curve)


def values(text: str) -> NDArray[np.float64]:
    return np.array([float(value) for value in text.split()])
