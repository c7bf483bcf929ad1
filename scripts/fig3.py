"""Figure 3: the wider the random network, the more equal its layers' gradient norms (GPN functions).

python -m scripts.fig3 results/quick
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bsnn import plotting
from bsnn.results.cli import run
from scripts.report.synthetic import Results, draw_and_save

SPREAD = 0.012  # the functions' points at one width lie side by side, this share of the width apart


PANELS = {
    "ratio": "(a)  gradients of the samples, mean norm",
    "batch_ratio": "(b)  gradient of the batch, as in the paper's code",
}


def draw(results: Results) -> Figure:
    """Draw the mean over the draws, with their standard deviation (n - 1; none for one draw) as error bars."""
    figure, axes = plotting.figure(1, len(PANELS), size=(plotting.PAGE_WIDTH, 3.4), sharex=True)
    for panel, (column, title) in zip(axes[0], PANELS.items(), strict=True):
        draw_panel(panel, results, column)
        panel.set_title(title, loc="left")
    axes[0, 0].set_ylabel("max / min over the layers of\n" + r"$\|\partial E / \partial W^{(l)}\|_F$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), handlelength=3.2, columnspacing=1.2)
    return figure


def draw_panel(panel: Axes, results: Results, column: str) -> None:
    middle = (len(results.labels) - 1) / 2
    for number, (key, look) in enumerate(plotting.looks(results.labels).items()):
        ratios = results.frame[results.frame.function == key].groupby("width")[column]
        mean, deviation = ratios.mean(), ratios.std()
        widths = mean.index.to_numpy() * (1 + SPREAD * (number - middle))
        style = {"capsize": 2, "elinewidth": 0.8, "capthick": 0.8, **look.line(markers=1, linewidth=1.0)}
        panel.errorbar(widths, mean, deviation, label=f"{results.labels[key]}-GPN", **style)
    panel.set_xscale("log")
    panel.set_xticks(sorted(set(results.frame.width)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="x", rotation=45)
    panel.axhline(1, color=plotting.GREY, linewidth=0.8, linestyle=":")
    panel.set_ylim(bottom=0.8)
    panel.set_xlabel("width $d$")
    infinite = int((~np.isfinite(results.frame[column])).sum())
    if infinite:
        panel.text(0.02, 0.97, f"{infinite} ratios are infinite: not shown", transform=panel.transAxes, va="top")


def main(argv: list[str] | None = None) -> None:
    draw_and_save("fig3", draw, __doc__, argv)


if __name__ == "__main__":
    run(main)
