"""The figures of the theory section."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from scipy import stats

from bsnn import paper, plotting
from bsnn.results.tables import Table
from bsnn.theory.concentration import error_peak
from experiments.theory.config import functions
from experiments.theory.report.columns import PRINTED_NORMS, nonlinear, outs, paper_root
from experiments.theory.report.rules_matrices import EDELMAN

NOISE = 1e-28  # squared coefficients below are rounding (odd or even functions have exact zeros)
FAMILY_MARKERS = {
    "paper": ("*", "#D55E00", "the paper's six"),
    "polynomials": ("o", "#0072B2", "random polynomials"),
    "sums of tanh": ("s", "#009E73", "random sums of tanh"),
    "sums of sines": ("^", "#CC79A7", "random sums of sines"),
    "piecewise linear": ("D", "#E69F00", "random, piecewise linear"),
}


def coefficients(hermite: Table, constants: Table) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.3))
    panel = axes[0, 0]
    gpn = hermite.frame[hermite.frame.gpn]
    # The first ten degrees all, then pairs of neighbours, since the coefficients of odd and of even degree differ.
    starts = np.geomspace(10, gpn.degree.max(), 16).round()
    shown = {*range(1, 11), *starts, *(starts - 1)}
    for name, look in plotting.looks(paper.ACTIVATIONS).items():
        rows = gpn[(gpn.function == name) & (gpn.degree > 0)]
        rows = rows[(rows.coefficient**2 > NOISE) & rows.degree.isin(shown)]
        line = look.line(linestyle="none", marker=look.marker, markersize=3, markeredgewidth=0.7)
        panel.plot(rows.degree, rows.coefficient**2, label=paper.LABELS[name], **line)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("degree $k$")
    panel.set_ylabel("$a_k^2$")
    panel.set_title("(a)  Hermite coefficients, GPN functions", loc="left")
    panel.legend(loc="lower left", handletextpad=0.3)

    panel = axes[0, 1]
    frame = nonlinear(constants.frame)
    # For the GPN version a phi + b: its squared mean is the discriminant, and distances scale with a.
    nonlinearity = frame.nonlinearity * frame.a**2
    for family, (marker, color, label) in FAMILY_MARKERS.items():
        members = frame.family == family
        panel.plot(
            nonlinearity[members],
            frame.discriminant[members],
            marker,
            color=color,
            markersize=7 if family == "paper" else 3.5,
            markerfacecolor=color if family == "paper" else "white",
            label=label,
            zorder=3 if family == "paper" else 2,
        )
    low = 0.5 * min(nonlinearity[frame.family.isin(FAMILY_MARKERS)].min(), 0.1)
    panel.plot([low, 1], [low, 1], color=plotting.GREY, linewidth=0.8)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(low, 1)
    panel.set_ylim(low, 1.2)
    panel.set_xlabel(r"nonlinearity: $\min_{\mathrm{lines}}\; E(\phi - \mathrm{line})^2$")
    panel.set_ylabel(r"squared mean $(E\,\phi)^2$")
    random = frame.family.isin(FAMILY_MARKERS).sum() - frame.family.eq("paper").sum()
    panel.set_title(f"(b)  the paper's 6 and {random} random ones, GPN", loc="left")
    panel.legend(loc="lower right", handletextpad=0.3)
    return figure


def lemma3(lemma3: Table) -> Figure:
    frame = lemma3.frame[lemma3.frame.bound > 0]
    ratio = (frame.below + frame.above) / frame.bound
    figure, axes = plotting.figure(1, 1, size=(5.2, 3.4))
    panel = axes[0, 0]
    top = 1e12
    for delta in sorted(frame.delta.unique())[::2]:  # every second one: all of them are in the table
        rows = (frame.delta == delta) & (ratio > 0)
        width, height = frame.width[rows].to_numpy(dtype=float), ratio[rows].to_numpy(dtype=float)
        panel.plot(width, height, "o-", color="black", markersize=2.5, linewidth=0.9)
        out = np.flatnonzero(height > top)
        if len(out):  # where the line leaves at the top
            last = np.log(height[out[0] - 1 : out[0] + 1])
            at = np.log(width[out[0] - 1 : out[0] + 1])
            end = (np.exp(np.interp(math.log(top), last, at)), top)
        else:
            end = (width[-1], height[-1])
        side = "left" if not len(out) else "right" if delta == frame.delta.max() else "center"
        panel.annotate(
            f"{delta:g}", end, (0, 4) if len(out) else (5, 0), textcoords="offset points", annotation_clip=False,
            ha=side, va="bottom" if len(out) else "center", fontsize=7,
        )  # fmt: skip
    panel.axhline(1, color="black", linewidth=0.9)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(1e-2, top)
    panel.text(0.02, 0.97, "larger than the lemma allows", transform=panel.transAxes, va="top", color=plotting.GREY)
    panel.text(
        1.0, 1.06, r"$\delta$, at the lines' ends", transform=panel.transAxes, ha="right", va="bottom", fontsize=8
    )
    panel.set_xlabel("dimension $d$")
    panel.set_ylabel(r"$P\{|\,\|z\|-\sqrt{d}\,| > \delta\sqrt{d}\}\;/\;2e^{-d\delta^2}$")
    return figure


def shell(shell: Table) -> Figure:
    gpn = shell.frame[shell.frame.gpn & (shell.frame.route == "sphere")]
    out = "out_0.1" if "out_0.1" in gpn.columns else outs(gpn)[0]
    figure, axes = plotting.figure(2, 2, size=(plotting.PAGE_WIDTH, 5.2), sharex=True)
    cases = {"forward": "forward", "backward": "backward, $|y_i| = 1$"}
    for column, (case, title) in enumerate(cases.items()):
        frame = gpn[gpn.case == case].sort_values("width")
        top, bottom = axes[:, column]
        top.set_title(f"({'ab'[column]})  {title}", loc="left")
        bottom.set_title(f"({'cd'[column]})  {title}", loc="left")
        for name, look in plotting.looks(paper.ACTIVATIONS).items():
            rows = frame[frame.function == name]
            mark = look.line(linestyle="none", marker=look.marker)
            top.plot(rows.width, rows.limit_std, **look.line(linewidth=0.9))
            top.plot(rows.width, rows["std"], **mark)
            share = rows[out] / rows.draws
            seen = share > 0
            limit = rows[out.replace("out", "limit")]
            bottom.plot(rows.width, limit.where(limit > 0.1 / rows.draws), **look.line(linewidth=0.9))
            bottom.plot(rows.width[seen], share[seen], **mark)
            bottom.plot(rows.width[~seen], np.full((~seen).sum(), 0.5 / rows.draws.max()), **mark | {"alpha": 0.35})
        plotting.LogRange.of([frame["std"].to_numpy()]).mark(top)
        bottom.set_yscale("log")
        for panel in (top, bottom):
            panel.set_xscale("log", base=2)
            panel.set_xticks(sorted(frame.width.unique()), [str(width) for width in sorted(frame.width.unique())])
            panel.xaxis.set_minor_locator(NullLocator())
        bottom.set_xlabel("width $d$")
        bottom.set_ylim(0.25 / frame.draws.max(), 1.5)
        floor = 0.5 / frame.draws.max()
        bottom.axhline(floor, color=plotting.GREY, linewidth=0.8, linestyle=":")
        bottom.text(
            1.01, floor, "0", transform=bottom.get_yaxis_transform(), va="center", color=plotting.GREY, fontsize=7
        )
    axes[0, 0].set_ylabel("standard deviation")
    axes[1, 0].set_ylabel(rf"$P\{{|\,\cdot - 1| \geq {out[4:]}\}}$")
    _legend(figure)
    return figure


def depth(depth: Table) -> Figure:
    frame = depth.frame
    widest = frame[frame.width == frame.width.max()]
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.4))
    titles = ("b as in Table 1", "the other root b")
    for column, title in enumerate(titles):
        panel = axes[0, column]
        half = widest[paper_root(widest) == (column == 0)]
        scale = plotting.LogRange.of([half["std"].to_numpy(), half.limit_std.to_numpy()])
        for name, look in plotting.looks(paper.ACTIVATIONS).items():
            rows = half[half.function == name].sort_values("layer")
            panel.plot(rows.layer, scale.place(rows.limit_std.to_numpy()), **look.line(linewidth=0.9))
            mark = look.line(linestyle="none", marker=look.marker)
            panel.plot(rows.layer, scale.place(rows["std"].to_numpy()), **mark)
        scale.mark(panel)
        panel.set_xscale("log")
        panel.set_xlabel("layer $l$")
        panel.set_title(f"({'ab'[column]})  {title}", loc="left")
    axes[0, 0].set_ylabel(rf"standard deviation of $\|x^{{(l)}}\|^2/d$,  $d = {frame.width.max()}$")
    _legend(figure)
    return figure


def lemma5(lemma5: Table) -> Figure:
    frame = lemma5.frame
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.3), sharex=True)
    panel = axes[0, 0]
    for name, look in plotting.looks(paper.ACTIVATIONS).items():
        for of, filled in (("phi", True), ("slope", False)):
            rows = frame[(frame.function == name) & (frame.of == of)].sort_values("width")
            rows = rows[rows["mean"] > 1e-9]
            if len(rows):
                color = look.color if filled else "white"
                panel.plot(
                    rows.width, rows.limit_mean, color=look.color, linewidth=0.8, linestyle="-" if filled else ":"
                )
                panel.plot(rows.width, rows["mean"], look.marker, color=look.color, markerfacecolor=color)
    handles = [Line2D([], [], **look.line(linestyle="none", marker=look.marker), label=paper.LABELS[name])
               for name, look in plotting.looks(paper.ACTIVATIONS).items()]  # fmt: skip
    panel.legend(handles=handles, loc="lower left", handletextpad=0.3)
    panel.set_title(r"(a)  $\phi^2$ (filled), $\phi'^2$ (open) of GPN functions", loc="left")
    panel.set_ylabel("mean difference $/ d$")
    panel = axes[0, 1]
    for name, column, look in zip(("exp(x^2/8)", "exp(x^2)"), ("mean", "median"), plotting.FALLBACKS, strict=False):
        rows = frame[frame.function == name].sort_values("width")
        label = rf"$\exp(x^2{name[7:-1]})$, {column}"
        panel.plot(rows.width, rows[column], **look.line(marker=look.marker), label=label)
    panel.legend(loc="center right")
    panel.set_title("(b)  other continuous functions", loc="left")
    for panel in axes[0]:
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("dimension $d$")
    return figure


def talk(talk: Table, histogram: Table) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.2))
    panel = axes[0, 0]
    panel.plot(talk.frame.z_norm, talk.frame.f_norm, "o", color="#0072B2", markersize=2, alpha=0.5, label="ours")
    panel.plot(
        *PRINTED_NORMS.T, "X", color="#D55E00", markersize=8, markeredgecolor="white", label="printed in the talk"
    )
    width = talk.config["sizes"]["talk"]["width"]
    ends = talk.frame.z_norm.agg(["min", "max"]).to_numpy()
    panel.plot(ends, ends, color=plotting.GREY, linewidth=0.8)
    panel.set_xlabel(r"$\|z\|_2$")
    panel.set_ylabel(r"$\|f(z)\|_2$")
    panel.set_title(f"(a)  Tanh-GPN, $d = {width}$, n = {len(talk.frame)}", loc="left")
    panel.legend(loc="upper left", handletextpad=0.3)
    panel = axes[0, 1]
    rows = histogram.frame[histogram.frame.source == "polar factor"]
    panel.hist(rows.value, bins=100, density=True, color="#56B4E9", label="entries of $W x$")
    grid = np.linspace(-4, 4, 401)
    panel.plot(grid, stats.norm.pdf(grid), color="black", linewidth=1, label="normal density")
    panel.set_xlabel("$(W x)_i$")
    panel.set_ylabel("density")
    panel.set_title(f"(b)  $d = {len(rows)}$", loc="left")
    panel.legend(loc="upper left", bbox_to_anchor=(0.0, 1.0))
    panel.set_ylim(0, 0.62)
    return figure


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], **look.line(marker=look.marker), label=paper.LABELS[name])
        for name, look in plotting.looks(paper.ACTIVATIONS).items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, handlelength=3.2, columnspacing=1.4)


def matrices(spectra: pd.DataFrame, peaks: pd.DataFrame) -> Figure:
    figure, axes = plotting.figure(1, 2, size=(plotting.PAGE_WIDTH, 3.2))
    first, second = axes[0]
    for (law, rows), look in zip(spectra.groupby("law", sort=False), plotting.FALLBACKS, strict=False):
        first.plot(rows.width, rows.condition, ".", color=look.color, markersize=2, alpha=0.4)
        medians = rows.groupby("width").condition.median()
        first.plot(medians.index, medians, label=law, **look.line(markers=1))
    widths = np.array(sorted(spectra.width.unique()))
    first.plot(widths, np.exp(EDELMAN) * widths, color=plotting.GREY, linestyle=":", label="Edelman")
    first.set_yscale("log")
    first.set_title("(a)  condition number", loc="left")
    first.legend()
    grid = np.array(sorted(peaks.width.unique()))
    for name, look in plotting.looks(dict.fromkeys(peaks.function)).items():
        means = peaks[peaks.function == name].groupby("width").peak.mean()
        expected = [error_peak(functions()[name, True], int(width)) for width in grid]
        second.plot(grid, expected, color=look.color, linestyle=look.dashes, linewidth=0.9)
        points = {"color": look.color, "markerfacecolor": "white"}
        second.plot(means.index, means, look.marker, label=f"{paper.LABELS[name]}-GPN", **points)
    normal = [error_peak(lambda z: z, int(width)) for width in grid]
    second.plot(grid, normal, color=plotting.GREY, linestyle=":", label="normal")
    second.set_ylim(top=1.25 * second.get_ylim()[1])
    second.set_title(r"(b)  $\max_i |y_i| \,/\, (\|y\|_2 / \sqrt{d})$", loc="left")
    second.legend(ncols=2)
    for panel, ticks, symbol in ((first, widths, "N"), (second, grid, "d")):
        panel.set_xscale("log")
        panel.set_xticks(ticks, [str(width) for width in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(f"width ${symbol}$")
    return figure
