"""Figure 3: the wider the random network, the more equal its layers' gradient norms (GPN functions).

python -m scripts.fig3 results/quick
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bsnn import plotting
from bsnn.results.cli import run
from scripts.report.synthetic import Results, draw_and_save

SPREAD = 0.012  # the functions' points at one width lie side by side, this share of the width apart


def draw(results: Results) -> Figure:
    """Draw the mean over the draws, with their standard deviation (n - 1; none for one draw) as error bars."""
    figure, axes = plotting.figure(1, 1, size=(plotting.PAGE_WIDTH * 0.8, 3.6))
    panel = axes[0, 0]
    middle = (len(results.labels) - 1) / 2
    for number, (key, look) in enumerate(plotting.looks(results.labels).items()):
        ratios = results.frame[results.frame.function == key].groupby("width").ratio
        mean, deviation = ratios.mean(), ratios.std()
        widths = mean.index.to_numpy() * (1 + SPREAD * (number - middle))
        bars = {"capsize": 2, "elinewidth": 0.8, "capthick": 0.8}
        label = f"{results.labels[key]}-GPN"
        panel.errorbar(widths, mean, deviation, label=label, **bars, **look.line(markers=1, linewidth=1.0))
    panel.set_xscale("log")
    panel.set_xticks(sorted(set(results.frame.width)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.axhline(1, color=plotting.GREY, linewidth=0.8, linestyle=":")
    panel.set_ylim(bottom=0.8)
    panel.set_xlabel("width $d$")
    panel.set_ylabel(
        "max / min over the layers of the\n" + r"mean over samples of $\|\partial E / \partial W^{(l)}\|_F$"
    )
    panel.legend(handlelength=3.2)
    infinite = int((~np.isfinite(results.frame.ratio)).sum())
    if infinite:
        panel.text(0.02, 0.97, f"{infinite} ratios are infinite: not shown", transform=panel.transAxes, va="top")
    return figure


def main(argv: list[str] | None = None) -> None:
    draw_and_save("fig3", draw, __doc__, argv)


if __name__ == "__main__":
    run(main)
