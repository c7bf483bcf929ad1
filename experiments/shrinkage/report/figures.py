"""The shrinkage section's figures, in the source's colours.

Red: measured, black: infinite width, blue: bound, green: found by ascent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.results.tables import Table
from experiments.shrinkage.report.columns import block_layers, displacements
from experiments.shrinkage.report.rules_limits import deviations
from experiments.shrinkage.report.rules_steps import half_steps, steps_to_bar

MEASURED, INFINITE, BOUND, FOUND = "#D55E00", "#000000", "#0072B2", "#009E73"
ONE_NETWORK = "#A0A0A0"
NAMES = {"relu": "ReLU", "leaky_relu": "LeakyReLU 0.5", "erf": "erf", "tanh": "Tanh"}
PAPERS = {"leaky_relu": "LeakyReLU", "elu": "ELU", "selu": "SELU", "gelu": "GELU"}
FLOOR = 1e-12  # below this the difference of two correlations is rounding


def phases(maps: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 2.6))
    styles = {**plotting.looks(maps.frame.function.unique()), "erf": plotting.FALLBACKS[2]}
    for panel, phase in zip(axes[0], ("ordered", "critical", "chaotic"), strict=True):
        for name, one in maps.frame[maps.frame.phase == phase].groupby("function", sort=False):
            gap = (one.distance - (1 - one.fixed_point)).abs()
            shown = (gap > FLOOR) & (one.layer > 0)
            if phase != "critical":
                shown &= (gap <= FLOOR).cumsum() == 0
            panel.plot(one.layer[shown], gap[shown], label=NAMES[str(name)], **styles[str(name)].line())
        panel.set_yscale("log")
        panel.set_xlabel("layer $l$")
        panel.set_title(f"({'abc'[('ordered', 'critical', 'chaotic').index(phase)]})  {phase}", loc="left")
    axes[0, 1].set_xscale("log")
    axes[0, 0].set_ylabel(r"$1 - \rho_l$")
    axes[0, 2].set_ylabel(r"$|\rho_l - \rho_{\mathrm{fp}}|$")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=3.2)
    return figure


def fig1(fig1: Table) -> Figure:
    frame = fig1.frame
    depths = sorted(frame.depth.unique())
    figure, axes = plotting.figure(2, len(depths), size=(plotting.PAGE_WIDTH, 4.4), sharex=True, sharey="row")
    width = fig1.config["sizes"]["fig1"]["width"]
    for row, (phase, chosen) in enumerate(frame.groupby("phase", sort=False)):
        for panel, depth in zip(axes[row], depths, strict=True):
            every = chosen[chosen.depth == depth]
            one = every[every.draw == 0]
            panel.plot(one.rho_0, one.bound, color=BOUND, label="bound (remark 2)", linestyle="--")
            panel.plot(one.rho_0, one.infinite, color=INFINITE, label="infinite width")
            panel.plot(every.rho_0, every.rho, "o", color=MEASURED, markersize=2.2, label=f"width {width}")
            panel.set_title(f"{phase}, $L = {depth}$", loc="left")
        axes[row, 0].set_ylabel(r"$\rho_L$")
    for panel in axes[1]:
        panel.set_xlabel(r"$\rho_0$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def fig2(depth: Table, slope: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 3.0))
    for panel, name in zip(axes[0], ("relu", "erf"), strict=False):
        _shrinkage(
            panel, depth.frame[depth.frame.function == name], "depth", depth.config["sizes"]["depth"]["search_width"]
        )
        panel.set_xscale("log", base=2)
        panel.set_xlabel("depth $L$")
        panel.set_title(f"({'ab'[name == 'erf']})  {NAMES[name]}, critical", loc="left")
    _shrinkage(axes[0, 2], slope.frame, "slope", slope.config["sizes"]["slope"]["search_width"])
    axes[0, 2].set_xlabel("slope $a$ of leaky ReLU")
    axes[0, 2].set_title(f"(c)  leaky ReLU, $L = {slope.config['sizes']['slope']['depth']}$", loc="left")
    axes[0, 0].set_ylabel(r"$1 - \rho_L$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _shrinkage(panel: Axes, frame: pd.DataFrame, column: str, width: int) -> None:
    pairs, farthest = frame[frame.kind == "pairs"], frame[frame.kind == "farthest"]
    bound = frame.drop_duplicates(column).sort_values(column)
    bound = bound[np.isfinite(bound.bound)]
    panel.plot(bound[column], bound.bound, color=BOUND, linestyle="--", label="bound")
    panel.plot(pairs[column], pairs.distance, ".", color=MEASURED, markersize=2.5, label="random pairs")
    panel.plot(
        farthest[column], farthest.distance, "D", color=FOUND, markersize=3.5, label=f"found by ascent (width {width})"
    )
    first, *others = pairs.rho_0.unique()
    for rho in (first, *others):
        one = pairs[pairs.rho_0 == rho].drop_duplicates(column).sort_values(column)
        label = "infinite width" if rho == first else None
        panel.plot(one[column], one.infinite, color=INFINITE, linewidth=0.9, label=label)
    panel.set_yscale("log")


def fig3(fig3: Table) -> Figure:
    figure, axes = plotting.figure(3, 2, size=(plotting.PAGE_WIDTH, 6.6), sharex=True)
    names = {"correlation": r"$1 - \rho_l$", "jacobian": r"singular values of $\partial z_l / \partial z_0$"}
    names["gradient"] = r"$\|\partial E / \partial W_l\|_F$"
    for column, phase in enumerate(("critical", "chaotic")):
        for row, quantity in enumerate(names):
            panel = axes[row, column]
            one = fig3.frame[(fig3.frame.phase == phase) & (fig3.frame.quantity == quantity)]
            (_jacobian if quantity == "jacobian" else _curves)(panel, one)
            title = {"correlation": "correlations", "jacobian": "Jacobian", "gradient": "gradients"}[quantity]
            panel.set_title(f"({'abcdef'[2 * row + column]})  {title}, {phase}", loc="left")
            panel.set_yscale("log")
            if quantity == "gradient":
                _at_least_two_decades(panel)
            if column == 0:
                panel.set_ylabel(names[quantity])
    for panel in axes[2]:
        panel.set_xlabel("layer $l$")
    axes[1, 1].plot([], [], color=ONE_NETWORK, linewidth=0.7, label="one network (a, b, e, f)")
    handles, labels = axes[1, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _curves(panel: Axes, frame: pd.DataFrame) -> None:
    for _, one in frame.groupby(["series", "draw"]):
        panel.plot(one.layer, one.value, color=ONE_NETWORK, linewidth=0.7)
    for _, one in frame.groupby("series"):
        wanted = one.groupby("layer").infinite.apply(_geometric)
        panel.plot(wanted.index, wanted, color=INFINITE, linewidth=0.9)
    bound = frame[(frame.bound > 0) & np.isfinite(frame.bound)]
    if len(bound):
        mean = bound.groupby("layer").bound.apply(_geometric)
        panel.plot(mean.index, mean, color=BOUND, linestyle="--")


def _at_least_two_decades(panel: Axes) -> None:
    """Widen the panel's range, so that a level line looks level."""
    low, high = panel.get_ylim()
    wider = max(1.0, 10 / np.sqrt(high / low))
    panel.set_ylim(low / wider, high * wider)


def _geometric(values: Any) -> float:
    return float(np.exp(np.log(values).mean()))


SERIES = {  # colour and dashes of the singular values
    "largest": (MEASURED, "-"),
    "median": ("#E69F00", "-."),
    "smallest": ("#CC79A7", ":"),
}


def _jacobian(panel: Axes, frame: pd.DataFrame) -> None:
    for name, (color, dashes) in SERIES.items():
        for draw, one in frame[frame.series == name].dropna(subset="value").groupby("draw"):
            label = name if draw == 0 else None
            panel.plot(one.layer, one.value, color=color, linestyle=dashes, linewidth=0.9, label=label)
    for draw, one in frame[frame.series == "root mean square"].groupby("draw"):
        label = "root mean square" if draw == 0 else None
        panel.plot(one.layer, one.value, color=FOUND, linestyle=(0, (6, 2)), linewidth=0.7, label=label)
    mean = frame[frame.series == "root mean square"].groupby("layer").infinite.first()
    panel.plot(mean.index, mean, color=INFINITE, linewidth=0.9, label="infinite width")
    bound = frame[frame.series == "largest"].groupby("layer").bound.first().dropna()
    if len(bound):
        panel.plot(bound.index, bound, color=BOUND, linestyle="--", label="bound")
    panel.set_ylim(bottom=1e-7)


def residual(residual: Table) -> Figure:
    frame = residual.frame
    sigmas = sorted(frame.sigma.unique())
    figure, axes = plotting.figure(2, 2, size=(plotting.PAGE_WIDTH, 4.6), sharex=True)
    marked = dict(zip(sigmas, ((BOUND, "o"), (FOUND, "s"), (MEASURED, "^")), strict=False))
    for column, (name, one) in enumerate(frame.groupby("function", sort=False)):
        for sigma, (color, marker) in marked.items():
            chosen = one[(one.sigma == sigma) & (one.rho_0 == 0)]
            for _, drawn in chosen.groupby("draw"):
                axes[0, column].plot(drawn.layer, drawn.distance, color=color, linewidth=0.6, alpha=0.8)
                axes[1, column].plot(drawn.layer, drawn.measured_gain, color=color, linewidth=0.6, alpha=0.8)
            first = chosen[chosen.draw == 0]
            look = {"color": color, "marker": marker, "markevery": 0.2, "markerfacecolor": "white"}
            axes[0, column].plot(first.layer, first.infinite, label=rf"$\sigma = {sigma:g}$", linewidth=1.4, **look)
            axes[1, column].plot(first.layer, first.gain, linewidth=1.4, **look)
            bound = first[first.bound > 0]
            axes[1, column].plot(bound.layer, bound.bound, linestyle="--", linewidth=1.0, **look)
        axes[0, column].set_title(f"({'ab'[column]})  {NAMES[str(name)]}", loc="left")
        axes[1, column].set_xlabel("block $l$")
        axes[0, column].set_ylim(bottom=0)
        axes[1, column].set_yscale("log")
    axes[0, 0].set_ylabel(r"$1 - \rho_l$, orthogonal inputs")
    axes[1, 0].set_ylabel("squared gain")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles += [axes[1, 0].plot([], [], **look)[0] for look in LEGEND.values()]
    figure.legend(handles, [*labels, *LEGEND], loc="outside upper center", ncols=6, columnspacing=1.2)
    return figure


LEGEND: dict[str, Any] = {
    "infinite width": {"color": plotting.GREY, "linewidth": 1.4},
    "measured": {"color": plotting.GREY, "linewidth": 0.6},
    "Theorem 2": {"color": plotting.GREY, "linewidth": 1.0, "linestyle": "--"},
}


def fig4(fig4: Table) -> Figure:
    frame = fig4.frame
    first, final = block_layers(frame)
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 3.1))
    shrinkage, displacement, learning = axes[0]
    full = frame[(frame.network == "full") & (frame.draw == 0)]
    for stage, color, marker in (("before", MEASURED, None), ("after", FOUND, "o")):
        for quantity, dashes in (("mean distance", "-"), ("largest distance", ":")):
            one = full[(full.quantity == quantity) & (full.stage == stage)]
            label = f"{stage}, {'mean' if quantity == 'mean distance' else 'farthest pair'}"
            look: dict[str, Any] = {
                "color": color,
                "linestyle": dashes,
                "marker": marker,
                "markersize": 3,
                "markevery": 8,
            }
            shrinkage.plot(one["index"], one.value, label=label, linewidth=1.0, **look)
    infinite = frame[(frame.quantity == "infinite") & (frame.draw == 0)]
    shrinkage.plot(infinite["index"], infinite.value, color=INFINITE, linewidth=0.9, label="infinite width")
    shrinkage.axhline(0.03, color=plotting.GREY, linewidth=0.7, linestyle="--")
    shrinkage.text(0, 0.028, r"$\rho = 0.97$", va="top", fontsize=6.5, color=plotting.GREY)
    shrinkage.set_yscale("log")
    shrinkage.set_ylabel(r"$1 - \rho_l$, MNIST test pairs")
    handles, labels = shrinkage.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=6.5, columnspacing=1.2)
    for _, one in frame[frame.quantity == "displacement"].groupby("draw"):
        displacement.plot(one["index"], one.value, ".", color=MEASURED, markersize=4)
    mean = displacements(frame)
    displacement.axhline(0, color=plotting.GREY, linewidth=0.7)
    displacement.set_ylim(min(-0.2, float(mean.min()) - 0.05), 1)
    displacement.set_ylabel("Pearson correlation")
    for panel in (shrinkage, displacement):
        panel.axvspan(first - 0.5, final + 0.5, color="#bbbbbb", alpha=0.4, linewidth=0)
        panel.set_xlabel("layer $l$")
    for name, color, dashes in (("full", INFINITE, "-"), ("skimmed", MEASURED, "--")):
        for draw, one in frame[(frame.quantity == "accuracy") & (frame.network == name)].groupby("draw"):
            named = f"{name} ({_layers(frame, name)} layers)" if draw == 0 else None
            look = {"color": color, "linestyle": dashes, "marker": "o", "markersize": 2.5}
            learning.plot(one["index"], one.value, label=named, **look)
    learning.set_xlabel("step")
    learning.set_ylabel("test accuracy")
    learning.legend(fontsize=6.5)
    for panel, title in zip(axes[0], ("(a)  shrinkage, full", "(b)  displacement", "(c)  learning"), strict=True):
        panel.set_title(title, loc="left")
    return figure


def _layers(frame: pd.DataFrame, name: str) -> int:
    return int(frame[(frame.quantity == "layers") & (frame.network == name)].value.iloc[0])


FORMATS = {"float64": (INFINITE, "-", None), "float32": (BOUND, "--", "s"), "bfloat16": (MEASURED, "-.", "^")}


def limits(batch_norm: Table, block: Table, precision: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 3.3))
    growth, first, formats = axes[0]
    means = batch_norm.frame.groupby(["function", "batch"], sort=False).log_growth.mean()
    names = list(batch_norm.frame.function.unique())
    looks = {**plotting.looks(names), "linear": plotting.Look(INFINITE, "*", ":")}
    for name in names:
        label = {**NAMES, **PAPERS}.get(name, name)
        growth.plot(means[name].index, np.expm1(means[name]), label=label, **looks[name].line(1))
    growth.set_xscale("log", base=2)
    growth.set_yscale("log")
    growth.set_xlabel("batch size")
    growth.set_ylabel("growth by a layer less 1")
    growth.set_ylim(bottom=growth.get_ylim()[0] / 8)
    growth.legend(fontsize=6, ncols=2, loc="lower left")
    found = deviations(block.frame)
    for name, of in found.groupby("function"):
        sizes = of.index.get_level_values("size")
        label = NAMES[str(name)]
        first.plot(sizes, of["first"], label=f"{label}, layer ln L", **looks[str(name)].line(1))
        filled = looks[str(name)].line(1, markerfacecolor=None)
        first.plot(sizes, of["last"], label=f"{label}, layer L", **filled)
    first.set_xscale("log", base=2)
    first.set_yscale("log")
    first.set_xlabel("depth L = width")
    first.set_ylabel("rms of ln(measured / infinite width)")
    first.legend(fontsize=6)
    chosen = precision.frame[(precision.frame.function == "erf") & (precision.frame.draw == 0)]
    for name, (color, dashes, marker) in FORMATS.items():
        for phase in ("ordered", "critical"):
            one = chosen[(chosen.dtype == name) & (chosen.phase == phase)]
            look: dict[str, Any] = {
                "color": color,
                "linestyle": dashes,
                "marker": marker,
                "markersize": 3,
                "markevery": 4,
            }
            formats.plot(one.layer, one.distance, label=name if phase == "ordered" else None, **look)
    for phase, place in (("ordered", (-20, 0)), ("critical", (-4, 18))):
        end = chosen[(chosen.dtype == "float64") & (chosen.phase == phase)].iloc[-1]
        look = {"textcoords": "offset points", "ha": "right", "fontsize": 6.5, "color": plotting.GREY}
        formats.annotate(phase, (end.layer, end.distance), place, **look)
    formats.set_yscale("log")
    formats.set_xlabel("layer $l$")
    formats.set_ylabel(r"$1 - \rho_l$, erf")
    formats.legend(fontsize=6, loc="lower left")
    for panel, title in zip(axes[0], ("(a)  batch norm", "(b)  the first layers", "(c)  precision"), strict=True):
        panel.set_title(title, loc="left")
    return figure


def steps(steps: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 3.4))
    needed, halves, distances = axes[0]
    looks = {
        "relu": plotting.LOOKS["relu"],
        "erf": plotting.FALLBACKS[0],
        "relu from linear": plotting.Look(plotting.LOOKS["relu"].color, "X", ":"),
        "erf from linear": plotting.Look(BOUND, "^", "-."),
        "linear": plotting.Look(INFINITE, "*", "--"),
    }
    for name, of in steps_to_bar(steps.frame).groupby("network", sort=False):
        look = looks[str(name)]
        needed.plot(of.depth, of["steps"], look.marker, color=look.color, markersize=2, alpha=0.5)
        middle = of.groupby("depth")["steps"].median()
        needed.plot(middle.index, middle, label=str(name).replace("relu", "ReLU"), **look.line(1))
    needed.set_xscale("log", base=2)
    needed.set_yscale("log")
    needed.set_xlabel("depth $L$")
    needed.set_ylabel("steps to a loss of 1 nat")
    for name, of in half_steps(steps.frame).groupby("network", sort=False):
        look = looks[str(name)]
        halves.plot(of.layer, of["value"], look.marker, color=look.color, markersize=2, alpha=0.4)
        middle = of.groupby("layer")["value"].median()
        halves.plot(middle.index, middle, **look.line())
    halves.set_yscale("log")
    halves.set_xlabel("layer $l$")
    halves.set_ylabel("step at half of the final distance")
    deepest = steps.frame[(steps.frame.depth == steps.frame.depth.max()) & (steps.frame.stage == "test")]
    for name, of in deepest.groupby("network", sort=False):
        for stage, width, markers in (("before", 0.7, None), ("after", 1.4, 12)):
            middle = of[of.quantity == f"distance {stage}"].groupby("layer").value.median()
            distances.plot(middle.index, middle, linewidth=width, **looks[str(name)].line(markers))
    distances.set_yscale("log")
    distances.set_xlabel("layer $l$")
    distances.set_ylabel(r"$1 - \rho_l$ (thin: before training)")
    titles = ("(a)  steps", "(b)  layer by layer", "(c)  distances")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, loc="left")
    handles, labels = needed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, handlelength=3.2, columnspacing=1.2)
    return figure
