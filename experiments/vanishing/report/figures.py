"""The figures of experiments.vanishing.report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bsnn import plotting
from bsnn.plotting import FALLBACKS, GREY, LOOKS, LogRange
from bsnn.results.tables import Table
from bsnn.vanishing import quadratic as descent
from experiments.vanishing.report.runs import METHOD_NAMES, floors_of, last_tenth, reported

SCALES = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000")
"""Okabe and Ito's colours for an ordered quantity."""
MARKERS = "osD^vXP"
SHOWN_DIVERGING = 10
"""Steps of a diverging path that are drawn."""

DEEP_RULES = {
    "normalised": "normalised",
    "constrained": "normalised, $\\|w_i\\| = 1$",
    "gradient": "plain gradient",
}
METHOD_LOOKS: dict[str, dict[str, Any]] = {
    "nothing": {"color": "#7F7F7F", "linestyle": ":", "marker": "x"},
    "adam": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "batch_norm": {"color": "#D55E00", "linestyle": (0, (5, 1.5)), "marker": "s"},
    "clipping": {"color": "#8C6D00", "linestyle": (0, (1.2, 1.2)), "marker": "<"},
    "normalised": {"color": "#009E73", "linestyle": (0, (6, 1.5, 1.2, 1.5)), "marker": "D"},
    "shortcuts": {"color": "#56B4E9", "linestyle": "-", "marker": "P"},
    "scaled_shortcuts": {"color": "#5B3A8E", "linestyle": "-.", "marker": "^"},
    "gpn": {"color": "#000000", "linestyle": "-", "marker": "*"},
}


def talk(talk: Table) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.0))
    gradients = LogRange.of([talk.frame.gradient.to_numpy()])
    looks = dict(zip(talk.frame.weights.unique(), FALLBACKS, strict=False))
    for weights, look in looks.items():
        chosen = talk.frame[talk.frame.weights == weights].set_index("layer")
        name = "orthogonal, sigmoid-GPN" if weights == "gpn" else rf"$N(0, {float(weights) ** 2:g}\,I)$"
        for panel, column in zip(axes[0], ("gradient", "signal"), strict=True):
            for _, one in chosen.groupby("draw"):
                panel.plot(one.index, one[column], color=look.color, linewidth=0.6, alpha=0.5)
            mean = np.exp(np.log(chosen[column]).groupby("layer").mean())
            panel.plot(mean.index, mean, look.marker, color=look.color, markerfacecolor="white", label=name)
        last = np.exp(np.log(chosen.gradient).groupby("layer").mean()).iloc[-1]
        predicted = chosen.predicted.groupby("layer").first()
        axes[0, 0].plot(predicted.index, last * predicted, "--", color="black", linewidth=0.8)
    gradients.mark(axes[0, 0])
    axes[0, 1].set_ylim(0, 1.15 * talk.frame.signal.max())
    axes[0, 0].plot([], [], "--", color="black", linewidth=0.8, label=r"width $\to\infty$")
    _label_norms(axes[0])
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def _label_norms(panels: Sequence[Axes]) -> None:
    for panel in panels:
        panel.set_xlabel("layer $l$")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(r"mean of $\|\partial E / \partial W^{(l)}\|_F$")
    panels[1].set_ylabel(r"mean of $\|x^{(l)}\|_2 / \sqrt{d}$")


def selu(selu: Table) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 2.8))
    for gpn, color in ((False, GREY), (True, LOOKS["selu"].color)):
        chosen = selu.frame[selu.frame.gpn == gpn]
        look: Any = {"color": color, "linewidth": 1.0, "linestyle": "-" if gpn else "--"}
        for draw, one in chosen.groupby("draw"):
            name = ("SELU-GPN" if gpn else "SELU") if draw == chosen.draw.min() else None
            axes[0, 0].plot(one.layer, one.gradient, label=name, **look)
            axes[0, 1].plot(one.layer, one.signal, **look)
    LogRange.of([selu.frame.gradient.to_numpy()]).mark(axes[0, 0])
    axes[0, 1].set_ylim(0, 1.15 * selu.frame.signal.max())
    _label_norms(axes[0])
    axes[0, 0].legend()
    return figure


def chain(chain: Table) -> Figure:
    functions = list(chain.frame.function.unique())
    figure, axes = plotting.figure(2, len(functions), size=(plotting.PAGE_WIDTH, 4.6), sharex=True, sharey="row")
    for row, law in enumerate(("fixed", "random")):
        for panel, function in zip(axes[row], functions, strict=True):
            chosen = chain.frame[(chain.frame.law == law) & (chain.frame.function == function)]
            for number, (scale, one) in enumerate(chosen.groupby("scale")):
                color, name = SCALES[number * 2 % len(SCALES)], rf"$w_l = {scale:g}$"
                if law == "random":
                    panel.fill_between(one.depth, one.low, one.high, color=color, alpha=0.15, linewidth=0)
                    name = rf"$w_l \sim N(0, {scale:g}^2)$"
                panel.plot(
                    one.depth, one["median"], color=color, label=name, marker=MARKERS[number], markevery=(0.1, 0.2)
                )
            panel.set_title(f"{function}, {law} weights", loc="left")
            if law == "random" and (chosen.vanished > 0.9).any():
                _tell_survivors(panel, chosen)
        axes[row, 0].set_ylabel(r"median $\log_{10} |\partial f / \partial w_1|$")
        axes[row, 0].legend(fontsize=6.5, handlelength=1.6)
    for panel in axes[-1]:
        panel.set_xlabel("depth $L$")
    return figure


def _tell_survivors(panel: Axes, chosen: pd.DataFrame) -> None:
    last = int(chosen[chosen.vanished < 1].depth.max())
    text = f"median of the chains whose\nderivative is not 0;\nnone left beyond $L = {last}$"
    panel.text(0.97, 0.06, text, transform=panel.transAxes, ha="right", va="bottom", fontsize=6.5, color=GREY)


def factors(factors: Table) -> Figure:
    functions = list(factors.frame.function.unique())
    kinds = [("fixed", factors.frame.scale.min()), ("random", factors.frame.scale.min())]
    figure, axes = plotting.figure(2, len(functions), size=(plotting.PAGE_WIDTH, 4.4), sharex=True)
    products = LogRange.of([factors.frame[["derivative", "autograd"]].abs().to_numpy()])
    single = LogRange.of([factors.frame[["slope", "w"]].abs().to_numpy()])
    for side, function in enumerate(functions):
        for (law, scale), color, marker in zip(kinds, ("#0072B2", "#D55E00"), "os", strict=True):
            chosen = factors.frame[factors.frame.function == function]
            one = chosen[(chosen.law == law) & (chosen.scale == scale)]
            name = rf"$w_l = {scale:g}$" if law == "fixed" else rf"$w_l \sim N(0, {scale:g}^2)$"
            place = single.place(one.slope.to_numpy())
            look = {"marker": marker, "markersize": 3}
            axes[0, side].plot(one.layer, place, "-", color=color, label=rf"$\sigma'(z_l)$, {name}", **look)
            if law == "random":
                weights = single.place(one.w.abs().to_numpy())
                axes[0, side].plot(
                    one.layer, weights, ":", color=color, label=r"$|w_l|$, the same chain", linewidth=0.9
                )
            axes[1, side].plot(one.layer, products.place(one.derivative.abs().to_numpy()), color=color, label=name)
            shown = products.place(one.autograd.abs().to_numpy())
            axes[1, side].plot(one.layer, shown, marker, color=color, markerfacecolor="none", markersize=4.5)
        axes[0, side].set_title(function, loc="left")
        single.mark(axes[0, side])
        products.mark(axes[1, side])
        axes[1, side].set_xlabel("layer $l$")
    axes[0, 0].set_ylabel("one factor")
    axes[1, 0].set_ylabel(r"$|\partial f / \partial w_l|$")
    axes[1, 0].plot([], [], "o", color=GREY, markerfacecolor="none", markersize=4.5, label="autograd")
    axes[1, 0].legend(fontsize=6.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def quadratic_steps(quadratic: Table) -> Figure:
    settings = quadratic.config["sizes"]["quadratic"]
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.0), width_ratios=(1.7, 1))
    exact = quadratic.frame[quadratic.frame.s == descent.EXACT]
    left, right = axes[0]
    for number, (condition, one) in enumerate(exact.groupby("condition")):
        color = SCALES[number % len(SCALES)]
        limit = descent.threshold((1 / float(condition), 1.0))  # type: ignore[arg-type]
        grid, best = one[one.special.isna()].sort_values("eta"), one[one.special == "best"]
        curve = pd.concat([grid, best]).sort_values("eta")
        curve = curve[curve.steps_bound <= settings["most"]]
        left.plot(curve.eta / limit, curve.steps_bound, color=color, linewidth=1.0)
        found = grid[np.isfinite(grid.steps)].iloc[::3]
        look: Any = {"color": color, "markerfacecolor": "white", "markersize": 3.5}
        left.plot(found.eta / limit, found.steps, MARKERS[number % 7], label=rf"$\kappa = {condition:g}$", **look)
        left.plot(best.eta / limit, best.steps, "*", color=color, markersize=8, zorder=4)
        right.plot([condition], best.steps, "*", color=color, markersize=9)
    left.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    look = {"fontsize": 6.5, "color": GREY, "rotation": 90, "va": "top"}
    left.text(1.12, 0.97, "diverges", transform=left.get_xaxis_transform(), **look)
    left.plot([], [], "*", color=GREY, markersize=8, label="best step")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlim(8e-4, 1.7)
    left.set_xlabel(r"$\eta$ / largest stable $\eta$")
    left.set_ylabel(rf"steps to $\|\theta\| / \|\theta_0\| \leq$ {settings['tolerance']:g}")
    left.legend(loc="lower left", fontsize=6.5)
    kappas = np.geomspace(1.05, exact.condition.max(), 100)
    steps = [descent.steps_to(settings["tolerance"], (kappa - 1) / (kappa + 1)) for kappa in kappas]
    right.plot(kappas, steps, color=GREY, linewidth=1.0, label=r"$\rho = (\kappa - 1)/(\kappa + 1)$")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel(r"condition number $\kappa$")
    right.set_ylabel("steps at the best step")
    right.legend()
    return figure


def paths(paths: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 2.9))
    gradient = paths.frame[paths.frame.rule == "gradient"]
    limit = descent.threshold(descent.TALK_EIGENVALUES)
    for number, (eta, one) in enumerate(gradient.groupby("eta")):
        color = SCALES[2 * number % len(SCALES)]
        if float(eta) > limit:  # type: ignore[arg-type]
            one = one[one.step <= SHOWN_DIVERGING]
        name = rf"$\eta = {float(eta):.3g}$" + (" (diverges)" if float(eta) > limit else "")  # type: ignore[arg-type]
        axes[0, 0].plot(one.theta_1, one.theta_2, ".-", color=color, linewidth=0.7, markersize=3, label=name)
    axes[0, 0].set_yscale("symlog", linthresh=1e-3)  # else paths that converge at once lie on the axis
    axes[0, 0].set_ylim(-3, 1e3)  # the legend's place is above
    axes[0, 0].set_title("gradient descent", loc="left")
    normalised = paths.frame[paths.frame.rule == "normalised"]
    fixed = normalised[normalised.decades == 0]
    for number, (eta, one) in enumerate(fixed.groupby("eta")):
        color = SCALES[2 * number % len(SCALES)]
        axes[0, 1].plot(
            one.step, np.hypot(one.theta_1, one.theta_2), color=color, label=rf"$\eta = {eta:g}$", linewidth=0.9
        )
    axes[0, 1].set_title("normalised, fixed $\\eta$", loc="left")
    for number, (decades, one) in enumerate(normalised.groupby("decades")):
        floors = floors_of(one, float(decades))  # type: ignore[arg-type]
        name = "fixed" if decades == 0 else f"over {decades:g} decade{'s' * (decades != 1)}"
        axes[0, 2].plot(floors.index, floors, MARKERS[number] + "-", color=SCALES[2 * number % 7], label=name)
    axes[0, 2].set_title("the second half of the steps", loc="left")
    axes[0, 0].set_xlabel(r"$\theta_1$  (eigenvalue 0.01)")
    axes[0, 0].set_ylabel(r"$\theta_2$  (eigenvalue 1)")
    axes[0, 1].set_xlabel("step")
    axes[0, 1].set_ylabel(r"$\|\theta\|_2$")
    axes[0, 1].set_yscale("log")
    axes[0, 2].set_xlabel(r"$\eta$ (of the first step)")
    axes[0, 2].set_ylabel(r"$\|\theta\|_2$, root mean square")
    axes[0, 2].set_xscale("log")
    axes[0, 2].set_yscale("log")
    for panel in axes[0]:
        panel.legend(fontsize=6)
    return figure


def deep(deep: Table) -> Figure:
    figure, axes = plotting.figure(1, 3, size=(plotting.PAGE_WIDTH, 2.9))
    left, middle, right = axes[0]
    normalised = deep.frame[deep.frame.rule == "normalised"]
    ends = last_tenth(deep.frame, ["rule", "decades", "eta"])
    scale = LogRange.of([normalised.loss.tolist(), ends.tolist()])
    for number, (eta, one) in enumerate(normalised.groupby("eta")):
        look: Any = {"color": SCALES[2 * number % 7], "label": rf"$\eta = {eta:g}$"}
        fixed = one[one.decades == 0]
        left.plot(fixed.step, scale.place(fixed.loss.tolist()), linewidth=0.9, **look)
        of_decades = ends.xs(("normalised", eta), level=("rule", "eta"))
        middle.plot(of_decades.index, scale.place(of_decades.tolist()), MARKERS[number] + "-", **look)
    for number, (rule, name) in enumerate(DEEP_RULES.items()):
        of_etas = ends.xs((rule, 0.0), level=("rule", "decades"))
        look = {"color": SCALES[2 * number + 1], "label": name}
        right.plot(of_etas.index, scale.place(of_etas.tolist()), MARKERS[number] + "-", **look)
    titles = ("fixed $\\eta$", "exponentially decaying $\\eta$", "fixed $\\eta$, other rules")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, loc="left")
        scale.mark(panel)
        panel.legend(fontsize=6)
    left.set_xlabel("step")
    left.set_ylabel("loss")
    middle.set_xlabel("decades that $\\eta$ falls by")
    middle.set_ylabel("loss, last tenth of the steps")
    right.set_xlabel("$\\eta$")
    right.set_xscale("log")
    return figure


def tricks(tricks: Table) -> Figure:
    functions = list(tricks.frame.function.unique())
    figure, axes = plotting.figure(2, len(functions), size=(plotting.PAGE_WIDTH, 5.0), sharex=True)
    chosen = reported(tricks.frame)
    for side, function in enumerate(functions):
        of_function = chosen[chosen.function == function]
        diverged = sorted(of_function[of_function.loss.isna() | np.isinf(of_function.loss)].method.unique())
        shown = of_function[~of_function.method.isin(diverged)]
        for row, column in enumerate(("loss", "ratio")):
            panel = axes[row, side]
            curves = shown[(shown.step > 0) | (column == "ratio")].groupby(["method", "step"])[column].mean()
            scale = LogRange.of([curves[curves.notna()].tolist()])
            for method, look in METHOD_LOOKS.items():
                curve = curves[method] if method not in diverged else pd.Series(dtype=float)
                place = scale.place(curve.tolist())
                panel.plot(curve.index, place, label=METHOD_NAMES[method], **{**look, "markevery": 0.2})
            scale.mark(panel)
        if diverged:
            told = f"diverged: {', '.join(METHOD_NAMES[method] for method in diverged)}"
            axes[0, side].text(0.98, 0.98, told, transform=axes[0, side].transAxes, ha="right", va="top", fontsize=6.5)
        axes[0, side].set_title({"tanh": "Tanh", "relu": "ReLU"}.get(function, function), loc="left")
        axes[1, side].set_xlabel("step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel(r"gradient ratio, $\max_l / \min_l$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4)
    return figure
