"""Figures of the study about what the theory leaves open."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bsnn import paper, plotting
from bsnn.engine.reference import ORTHOGONAL
from experiments.beyond.report.rules_orthogonal import cost

KEYS = ["function", "depth", "width"]


def walk(law: pd.DataFrame, walk: pd.DataFrame) -> Figure:
    """Plot ln(max/min) against L / d: of single samples, and of the mean over samples."""
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.2), sharex=True, sharey=True)
    looks = plotting.looks(paper.ACTIVATIONS)
    for panel, quantity, title in zip(axes[0], ("single", "mean"), ("one sample", "mean over samples"), strict=True):
        measured = walk.groupby(KEYS)[quantity].agg(["mean", "sem"]).reset_index()
        for name, look in looks.items():
            for _, rows in law[law.function == name].groupby("depth"):
                panel.plot(rows.depth / rows.width, rows[quantity], color=look.color, linewidth=0.7, alpha=0.7)
            points = measured[measured.function == name]
            panel.errorbar(
                points.depth / points.width, points["mean"], yerr=points["sem"], fmt=look.marker, color=look.color,
                markersize=3.5, linewidth=0.8, markerfacecolor="none",
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("depth / width")
        panel.set_title(title, loc="left")
    axes[0, 0].set_ylabel("ln max/min of the gradient norms")
    handles = [Line2D([], [], color=look.color, marker=look.marker, markerfacecolor="none", label=paper.LABELS[name])
               for name, look in looks.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


def jacobian(jacobian: pd.DataFrame) -> Figure:
    """Plot rms and participation of the singular values against depth, GPN and plain, at the largest width."""
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.2))
    widest = jacobian[jacobian.width == jacobian.width.max()]
    looks = plotting.looks(paper.ACTIVATIONS)
    for panel, quantity in zip(axes[0], ("rms", "participation"), strict=True):
        for name, look in looks.items():
            for gpn in (True, False):
                rows = widest[(widest.function == name) & (widest.gpn.astype(bool) == gpn) & (widest.rms > 0)]
                means = np.exp(rows.assign(value=np.log(rows[quantity])).groupby("depth")["value"].mean())
                panel.plot(
                    means.index, means, marker=look.marker, markersize=3.5, linewidth=1.0, color=look.color,
                    linestyle="-" if gpn else ":", markerfacecolor=look.color if gpn else "none",
                )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("depth")
    predicted = widest[widest.gpn.astype(bool)].groupby(["function", "depth"]).law.first().unstack(0)
    axes[0, 1].plot(predicted.index, predicted, color=plotting.GREY, linewidth=0.6, zorder=0)
    axes[0, 0].set_title("(a)  rms singular value", loc="left")
    axes[0, 1].set_title("(b)  share that carries the sum of squares", loc="left")
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, label=paper.LABELS[name]) for name, look in looks.items()
    ]
    handles.append(Line2D([], [], color="black", linestyle=":", marker="o", markerfacecolor="none", label="plain"))
    figure.legend(handles=handles, loc="outside upper center", ncols=7)
    return figure


WATCHED = {
    "drift": r"$\|W W^T - I\|_F \,/\, \sqrt{N}$",
    "near": r"share of $\phi'(h)$ near 1",
    "distance": "distance of $h$ from $N(0, 1)$",
}


def during(during: pd.DataFrame) -> Figure:
    """Plot what is looked at against the updates, a column for each version; lines are medians over the layers."""
    versions = list(dict.fromkeys(during.version))
    figure, axes = plotting.figure(
        len(WATCHED), len(versions), size=(plotting.PAGE_WIDTH, 6.0), sharex=True, sharey="row"
    )
    looks = plotting.looks(paper.ACTIVATIONS)
    steps = sorted(during.step.unique())
    for row, (quantity, label) in enumerate(WATCHED.items()):
        axes[row, 0].set_ylabel(label)
        for column, version in enumerate(versions):
            panel = axes[row, column]
            for name, look in looks.items():
                of = during[(during.version == version) & (during.function == name)].groupby("step")[quantity]
                if not len(of):
                    continue
                middle, low, high = (getattr(of, end)() for end in ("median", "min", "max"))
                panel.fill_between(range(len(steps)), low, high, color=look.color, alpha=0.12, linewidth=0)
                panel.plot(range(len(steps)), middle, **look.line(markers=1, linewidth=1.0))
            panel.set_title(f"({'abcdefghi'[len(versions) * row + column]})  {version}", loc="left")
            if quantity == "drift":
                panel.set_yscale("symlog", linthresh=1e-3)
    for panel in axes[-1]:
        panel.set_xticks(range(len(steps)), [str(step) for step in steps])
        panel.set_xlabel("updates")
    handles = [Line2D([], [], label=paper.LABELS[name], **look.line(markers=1)) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, handlelength=3)
    return figure


def convolution(convolution: pd.DataFrame) -> Figure:
    """Plot the first update's gradient norms against the layer, a panel for each version."""
    rate = convolution.rate.min()
    versions = list(dict.fromkeys(convolution.version))
    figure, axes = plotting.figure(1, len(versions), size=(plotting.PAGE_WIDTH, 2.8), sharey=True)
    looks = plotting.looks(dict.fromkeys(convolution.function))
    for panel, version in zip(axes[0], versions, strict=True):
        of = convolution[(convolution.version == version) & (convolution.rate == rate)]
        for name, look in looks.items():
            rows = of[(of.function == name) & (of.gradient > 0)]
            every = max(1, len(rows) // 5)
            panel.plot(rows.layer, rows.gradient, **look.line(markers=every, linewidth=1.0))
        panel.set_yscale("log")
        panel.set_xlabel("layer $l$")
        panel.set_title(f"({'abcd'[versions.index(version)]})  {version}", loc="left")
    axes[0, 0].set_ylabel(r"$\|\partial E / \partial V^{(l)}\|_F$")
    handles = [Line2D([], [], label=paper.LABELS[name], **look.line(markers=1)) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, handlelength=3)
    return figure


def orthogonal(orthogonal: pd.DataFrame) -> Figure:
    """Plot test accuracy under each constraint at the smallest and the largest rate: every draw, and the mean."""
    constraints, rates = list(dict.fromkeys(orthogonal.constraint)), sorted(orthogonal.rate.unique())
    ends = [rates[0], rates[-1]] if len(rates) > 1 else rates
    looks = plotting.looks(dict.fromkeys(orthogonal.function))
    figure, axes = plotting.figure(1, len(looks), size=(plotting.PAGE_WIDTH, 3.0), sharey=True)
    for panel, (name, look), letter in zip(axes[0], looks.items(), "abcdef", strict=False):
        for end, rate in enumerate(ends):
            fill = look.color if end else "none"
            for place, constraint in enumerate(constraints):
                at = place + 0.2 * (2 * end - 1)
                rows = orthogonal[(orthogonal.function == name) & (orthogonal.rate == rate)]
                of = rows[rows.constraint == constraint].test_accuracy
                panel.plot([at] * len(of), of, look.marker, color=look.color, markersize=3, markerfacecolor=fill)
                panel.plot([at - 0.17, at + 0.17], [of.mean()] * 2, color=look.color, linewidth=1.5)
        panel.set_xticks(range(len(constraints)), [one.replace("_", "\n") for one in constraints], rotation=60)
        panel.set_title(f"({letter})  {paper.LABELS[name]}-GPN", loc="left")
        panel.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("test accuracy, %")
    handles = [
        Line2D(
            [], [], label=f"learning rate {rate:g}", linestyle="none", color=plotting.GREY, marker="o", markersize=4,
            markerfacecolor=plotting.GREY if end else "none",
        )
        for end, rate in enumerate(ends)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def orthogonal_cost(orthogonal_cost: pd.DataFrame) -> Figure:
    """Plot an update's time over that with rows of norm one against the width, and what matrix products predict."""
    ratios = cost(orthogonal_cost)
    figure, axes = plotting.figure(1, 1, size=(plotting.PAGE_WIDTH * 0.62, 3.2))
    panel = axes[0, 0]
    for name, look in plotting.looks(ORTHOGONAL).items():
        panel.plot(ratios.index, ratios[name], **look.line(markers=1, linewidth=1.2, label=name))
    for name, style in (("weight_norm", "-."), ("free", ":")):
        panel.plot(ratios.index, ratios[name], color="black", linestyle=style, linewidth=1.0, label=name)
    widths = np.array(ratios.index, dtype=float)
    products = 1 + 4 * widths / (3 * orthogonal_cost.batch.max())
    panel.plot(widths, products, color=plotting.GREY, linewidth=0.8, linestyle="--", label="products, 1 + 4 N / 3 B")
    panel.axhline(1, color=plotting.GREY, linewidth=0.6)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(widths, [f"{width:g}" for width in widths])
    panel.minorticks_off()
    panel.set_xlabel("width $N$")
    panel.set_ylabel("time of an update / rows of norm one")
    figure.legend(loc="outside right upper")
    return figure


def rivals(rivals: pd.DataFrame) -> Figure:
    """Plot every method's test accuracies and first gradient ratios, a mark for each seed; best method on top."""
    test = rivals[rivals.stage == "test"]
    order = test.groupby("method", sort=False).accuracy.mean().sort_values(kind="stable").index
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 4.2), sharey=True, width_ratios=[3, 2])
    for place, method in enumerate(order):
        rows = test[test.method == method]
        color = plotting.LOOKS["tanh"].color if "GPN" in method else "black"
        axes[0, 0].plot(rows.accuracy, [place] * len(rows), "o", color=color, markersize=3.5, markerfacecolor="none")
        axes[0, 0].plot([rows.accuracy.mean()] * 2, [place - 0.3, place + 0.3], color=color, linewidth=1.5)
        finite = rows.ratio[np.isfinite(rows.ratio)]
        axes[0, 1].plot(finite, [place] * len(finite), "o", color=color, markersize=3.5, markerfacecolor="none")
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_xlabel("test accuracy, %")
    axes[0, 0].set_title("(a)  after equally many updates", loc="left")
    axes[0, 1].set_xscale("log")
    axes[0, 1].set_xlabel("max / min layer gradient")
    axes[0, 1].set_title("(b)  first update", loc="left")
    return figure
