"""Figure 1: norms of signal and gradient by layer, plain functions against GPN ones, random weights.

python -m scripts.fig1 results/quick
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.results.cli import run
from scripts.report.synthetic import Results, draw_and_save

VANISHED = 1e-6
ROWS = {
    "signal_mean": r"signal:  mean of $\|x^{(l)}\|_2 \,/\, \sqrt{d}$",
    "gradient_mean": r"gradient:  mean of $\|\partial E / \partial W^{(l)}\|_F$",
}


def draw(results: Results) -> Figure:
    """Draw signal and gradient in rows: means over the samples; the gradient is that of one sample (Proposition 1).

    The columns show all plain functions; the plain ones that don't vanish, which the first column squeezes into one
    line; and GPN.
    """
    plain, gpn = (results.frame[results.frame.gpn == value] for value in (False, True))
    smallest = plain.groupby("function")[list(ROWS)].min().min(axis=1)
    survivors = plain[plain.function.map(smallest) > VANISHED]
    columns = {"plain": plain, "plain, not vanishing": survivors, "GPN": gpn}
    figure, axes = plotting.figure(2, 3, size=(plotting.PAGE_WIDTH, 4.7), sharex=True)
    for row, (column, label) in enumerate(ROWS.items()):
        axes[row, 0].set_ylabel(label)
        for side, (title, table) in enumerate(columns.items()):
            panel = axes[row, side]
            draw_panel(panel, results, table, column)
            panel.set_title(f"({'abcdef'[3 * row + side]})  {title}", loc="left")
            if row == 1:
                panel.set_xlabel("layer $l$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), handlelength=3.2, columnspacing=1.4)
    return figure


def draw_panel(panel: Axes, results: Results, table: pd.DataFrame, column: str) -> None:
    norms = {key: table[table.function == key].sort_values("layer")[column].to_numpy() for key in results.labels}
    scale = plotting.LogRange.of(norms.values())
    every = max(1, results.config["depth"] // 6)
    for number, (key, look) in enumerate(plotting.looks(results.labels).items()):
        # Each function's markers start at another layer, so that curves that coincide (ReLU, LeakyReLU) are both
        # visible.
        line = look.line(linewidth=1.0, marker=look.marker, markevery=(number * every // len(norms), every))
        layers = np.arange(1, len(norms[key]) + 1)
        panel.plot(layers, scale.place(norms[key]), label=results.labels[key], **line)
    scale.mark(panel)


def main(argv: list[str] | None = None) -> None:
    draw_and_save("fig1", draw, __doc__, argv)


if __name__ == "__main__":
    run(main)
