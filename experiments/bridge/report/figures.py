"""The figures of the bridge study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsnn import paper, plotting
from bsnn.results.statistics import share_error
from bsnn.results.tables import Table
from bsnn.shrinkage.bounds import shrinkage_bound

LAWS = {
    "haar": ("Haar-uniform W", "#0072B2", "o"),
    "rows": ("Gaussian rows of norm one", "#D55E00", "s"),
    "gaussian": ("i.i.d. N(0, 1/N)", "#009E73", "^"),
}
VARIANTS = {"plain": "#999999", "gpn": "#0072B2", "rows": "#D55E00"}
PROPERTIES = {
    "mean_square": r"$(E\varphi)^2$: what all inputs share",
    "error": "Theorem 1's term: nonlinearity",
    "gap": r"$1-\rho$ at the last layer",
    "fourth": r"$E\varphi'^4$",
}


def correlation(meanfield: Table, correlation: Table) -> Figure:
    figure, axes = plotting.figure(2, 3, size=(plotting.PAGE_WIDTH, 5.0), sharex=True, sharey=True)
    start = _nearest(correlation.frame.rho_0, 0)
    shown: list[float] = []
    for name, panel in _panels(axes):
        theory = meanfield.frame[meanfield.frame.function == name]
        for gpn, label, dashes in ((True, "GPN, infinite width", "-"), (False, "plain, infinite width", (0, (4, 2)))):
            curve = _from(theory[theory.gpn == gpn], _nearest(theory.rho_0, start))
            panel.plot(curve.layer, curve.gap, color="black", linestyle=dashes, label=label, linewidth=1.1, zorder=3)
            shown += curve.gap.tolist()
        gpn_terms = theory[theory.gpn].drop_duplicates("layer").query("layer > 0")
        bounds = [shrinkage_bound(total) for total in gpn_terms.error]
        panel.plot(gpn_terms.layer, bounds, color=plotting.GREY, linestyle=":", label="Theorem 1: at most", zorder=1)
        measured = correlation.frame.query("function == @name and gpn and rho_0 == @start and layer > 0")
        measured = measured[measured.layer.isin(_thinned(measured.layer, 9))]
        for law, (label, color, marker) in LAWS.items():
            rows = measured[measured.law == law]
            low = np.maximum(rows.gap - rows.gap_std, rows.gap / 4)
            bars = [rows.gap - low, rows.gap_std]
            panel.errorbar(
                rows.layer, rows.gap, bars, label=label, color=color, linestyle="none", elinewidth=0.7, zorder=2,
                marker=marker, markersize=3.2, markerfacecolor="white",
            )  # fmt: skip
            shown += rows.gap.tolist()
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(paper.LABELS[name], loc="left")
    axes[0, 0].set_ylim(min(shown) / 2, 3)
    for panel in axes[1]:
        panel.set_xlabel("functions passed")
    for panel in axes[:, 0]:
        panel.set_ylabel(r"$1-\rho$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def tradeoff(meanfield: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 2.9))
    frame = meanfield.frame
    frame = _from(frame, _nearest(frame.rho_0, 0))
    titles = {
        "gap": r"(a)  $1-\rho$",
        "error": r"(b)  sum of Theorem 1's terms",
        "jacobian": r"(c)  squared gain of gradients",
    }
    for panel, (column, title) in zip(axes[0], titles.items(), strict=True):
        gpn = frame[frame.gpn].groupby("layer")[column]
        panel.fill_between(gpn.min().index, gpn.min(), gpn.max(), color="#dddddd", label="GPN functions", linewidth=0)
        if column == "jacobian":
            panel.axhline(1, color="#bbbbbb", linewidth=3)
        for name, look in plotting.looks(paper.ACTIVATIONS).items():
            rows = frame[(frame.function == name) & ~frame.gpn]
            panel.plot(rows.layer, rows[column], label=f"plain {paper.LABELS[name]}", **look.line())
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(title, loc="left")
        panel.set_xlabel("functions passed")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4)
    return figure


def trained(trained: Table) -> Figure:
    names = list(paper.ACTIVATIONS)
    figure, axes = plotting.figure(2, len(names), size=(plotting.PAGE_WIDTH, 3.9), sharex=True, sharey="row")
    means = trained.frame.groupby(["function", "gpn", "trained", "layer"]).mean(numeric_only=True).reset_index()
    for row, gpn in enumerate((False, True)):
        values: list[float] = []
        for column, name in enumerate(names):
            panel = axes[row, column]
            for after, color, wide in ((False, "#BBBBBB", 3.0), (True, "black", 1.0)):  # where they agree both show
                rows = means.query("function == @name and gpn == @gpn and trained == @after")
                when = "after" if after else "before"
                for kind, dashes in (("different", "-"), ("same", ":")):
                    label = f"{when} training, {'two classes' if kind == 'different' else 'one class'}"
                    panel.plot(rows.layer, rows[kind], color=color, linestyle=dashes, linewidth=wide, label=label)
                    values += rows[kind].tolist()
            accuracy = means.query("function == @name and gpn == @gpn and trained").test_accuracy.iloc[0]
            panel.set_title(f"{paper.LABELS[name]}{'-GPN' * gpn}\n{accuracy:.0f} %", fontsize=7.5)
            panel.set_yscale("log")
            if row == 1:
                panel.set_xlabel("layer")
        proper = [value for value in values if value > 0]
        axes[row, 0].set_ylim(min(proper) / 1.5, max(proper) * 1.5)
        axes[row, 0].set_ylabel(r"$1-\rho$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.2)
    return figure


def narrow(narrow: Table) -> Figure:
    frame = narrow.frame
    law = "haar"
    widths = sorted(frame.width.unique())
    figure, axes = plotting.figure(1, len(widths), size=(plotting.PAGE_WIDTH, 2.7), sharex=True, sharey=True)
    shown = frame[(frame.law == law) & frame.gpn]
    scale = plotting.LogRange.of([_floored(shown["median"])])
    for panel, width in zip(axes[0], widths, strict=True):
        for name, look in plotting.looks(paper.ACTIVATIONS).items():
            rows = frame.query("law == @law and width == @width and function == @name and gpn")
            every = max(1, len(rows) // 4)
            place = len(panel.lines) % every  # curves that agree have their marks side by side
            style = look.line(markers=1, linewidth=1.1, markersize=3, markevery=(place, every))
            panel.plot(rows.layer, scale.place(_floored(rows["median"])), label=paper.LABELS[name], **style)
        panel.set_title(f"width {width}", loc="left")
        panel.set_xlabel("functions passed")
    scale.mark(axes[0, -1])
    axes[0, 0].set_ylabel("median variation")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=6, handlelength=3)
    return figure


def fitted(fitted: Table) -> Figure:
    widths = sorted(fitted.frame.width.unique())
    figure, axes = plotting.figure(1, len(widths), size=(plotting.PAGE_WIDTH, 2.6), sharey=True)
    places = np.arange(len(paper.ACTIVATIONS))
    for panel, width in zip(axes[0], widths, strict=True):
        for index, (variant, color) in enumerate(VARIANTS.items()):
            shares = [share_constant(fitted.frame, width, name, variant) for name in paper.ACTIVATIONS]
            label = {"plain": "plain", "gpn": "GPN", "rows": "GPN, rows of norm one"}[variant]
            values, errors = np.array([value for value, _ in shares]), np.array([error for _, error in shares])
            panel.bar(
                places + 0.27 * (index - 1), values, 0.25, yerr=errors, color=color, label=label, error_kw={"lw": 0.7}
            )
        panel.set_xticks(places, [paper.LABELS[name] for name in paper.ACTIVATIONS], rotation=30, ha="right")
        panel.set_title(f"width {width}", loc="left")
        panel.set_ylim(0, 1.05)
    axes[0, 0].set_ylabel("share constant")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def _floored(values: pd.Series) -> np.ndarray:
    """Set values that are mere rounding to 0."""
    return np.where(values < 1e-12, 0.0, values)


def share_constant(frame: pd.DataFrame, width: int, name: str, variant: str) -> tuple[float, float]:
    """Compute the share of a setting's networks that end as a constant, and its binomial standard error."""
    chosen = frame[(frame.width == width) & (frame.function == name) & (frame.variant == variant)]
    share = float((chosen.outcome == "constant").mean())
    return share, share_error(share, len(chosen))


def table2(table2: Table) -> Figure:
    figure, axes = plotting.figure(2, 4, size=(plotting.PAGE_WIDTH, 3.8), sharey="row", sharex="col")
    for row, (column, label) in enumerate(
        {"paper_mnist_train": "MNIST train, %", "paper_cifar10_train": "CIFAR-10 train, %"}.items()
    ):
        for side, (quantity, title) in enumerate(PROPERTIES.items()):
            panel = axes[row, side]
            for name, look in plotting.looks(paper.ACTIVATIONS).items():
                point = table2.frame[table2.frame.function == name]
                panel.plot(
                    point[quantity],
                    point[column],
                    look.marker,
                    color=look.color,
                    label=paper.LABELS[name],
                    markersize=5,
                    markerfacecolor="none",  # equal values stay visible
                )
            if row == 1:
                panel.set_xlabel(title, fontsize=7)
            if quantity == "gap":
                panel.set_xscale("log")
        axes[row, 0].set_ylabel(label)
        axes[row, 0].set_ylim(0, 105)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=6)
    return figure


def _panels(axes: np.ndarray) -> Iterator[tuple[str, Axes]]:
    return zip(paper.ACTIVATIONS, axes.flat, strict=True)


def _nearest(values: pd.Series, target: float) -> float:
    """Return the value nearest to the target."""
    return float(values.iloc[(values - target).abs().argmin()])


def _from(frame: pd.DataFrame, rho: float) -> pd.DataFrame:
    """Select the curves that start at rho, without layer 0, which log axes can't show."""
    return frame[(frame.rho_0 == rho) & (frame.layer > 0)]


def _thinned(layers: pd.Series, count: int) -> list[int]:
    """Select about `count` of the layers, evenly on a log axis, first and last among them."""
    known = np.unique(layers)
    wanted = np.geomspace(known[0], known[-1], count)
    return sorted({int(known[np.abs(np.log(known / value)).argmin()]) for value in wanted})
