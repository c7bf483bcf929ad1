"""Figure 2: the slopes phi'(h) of all units, layers and samples: plain Tanh (and ELU) go linear, GPN functions don't.

python -m scripts.fig2 results/quick
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.results.claims_synthetic import NEAR_ONE, share_near_one
from bsnn.results.cli import run
from scripts.report.synthetic import Results, draw_and_save

COLUMNS = 4
LINEAR = ("tanh", "elu")  # slope 1 at 0, where their signal ends (Fig. 1); the paper shows Tanh alone


def draw(results: Results) -> Figure:
    """Draw small multiples with common scales: functions that go linear, then all GPN ones. A panel's bars sum to 1."""
    panels = [(key, False) for key in LINEAR if key in results.labels] + [(key, True) for key in results.labels]
    rows = -(-len(panels) // COLUMNS)
    size = (plotting.PAGE_WIDTH, 0.4 + 1.9 * rows)
    figure, axes = plotting.figure(rows, COLUMNS, size=size, sharex=True, sharey=True)
    for number, panel in enumerate(axes.flat):
        if number >= len(panels):
            panel.set_axis_off()
            continue
        key, gpn = panels[number]
        draw_panel(panel, results, key, gpn)
        name = results.labels[key] + ("-GPN" if gpn else ", plain")
        panel.set_title(f"({chr(ord('a') + number)})  {name}", loc="left")
        if number % COLUMNS == 0:
            panel.set_ylabel("share of the values in a bin")
        if number + COLUMNS >= len(panels):
            panel.set_xlabel(r"$\phi'(h_i^{(l)})$")
            panel.tick_params(labelbottom=True)
    return figure


def draw_panel(panel: Axes, results: Results, key: str, gpn: bool) -> None:
    """Draw bars on a log scale, since an atom (ReLU's slopes are 0 and sqrt 2) far outweighs a smooth density."""
    table = results.frame[(results.frame.function == key) & (results.frame.gpn == gpn)]
    outside = ~np.isfinite(table.bin_left) | ~np.isfinite(table.bin_right)
    bars = table[~outside & (table["count"] > 0)]
    panel.axvline(1, ymax=0.87, color=plotting.GREY, linewidth=0.7, linestyle=":")
    color = plotting.looks(results.labels)[key].color
    panel.bar(bars.bin_left, bars.share, bars.bin_right - bars.bin_left, align="edge", color=color, linewidth=0)
    panel.set_yscale("log")
    panel.set_ylim(1e-5, 10)
    told = f"{share_near_one(results.frame, key, gpn):.0%} within 1 ± {NEAR_ONE}"
    if table["count"][outside].sum():
        told += f"\n{table.share[outside].sum():.1e} outside of the axis"
    panel.text(0.03, 0.98, told, transform=panel.transAxes, va="top", fontsize=6.5)


def main(argv: list[str] | None = None) -> None:
    draw_and_save("fig2", draw, __doc__, argv)


if __name__ == "__main__":
    run(main)
