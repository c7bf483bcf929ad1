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
    "signal_mean": "signal of a sample\n" + r"$\|x^{(l)}\|_2 \,/\, \sqrt{d}$, mean",
    "gradient_mean": "gradient of a sample\n" + r"$\|\partial E / \partial W^{(l)}\|_F$, mean",
    "batch_gradient": "gradient of the batch, as in\nthe paper's code " + r"$\|\partial E / \partial W^{(l)}\|_F$",
}


def draw(results: Results) -> Figure:
    """Draw signal and gradient in rows: the mean over the samples of each one's norm, of which Proposition 1 speaks.

    The last row has the norm of the samples' mean gradient, which the paper's code computes. Lines are geometric means
    over the draws, bands reach from the smallest draw to the largest. The columns show all plain functions; the plain
    ones that don't vanish, which the first column squeezes into one line; and GPN.
    """
    plain, gpn = (results.frame[results.frame.gpn == value] for value in (False, True))
    smallest = plain.groupby("function")[list(ROWS)].min().min(axis=1)
    survivors = plain[plain.function.map(smallest) > VANISHED]
    columns = {"plain": plain, "plain, not vanishing": survivors, "GPN": gpn}
    figure, axes = plotting.figure(len(ROWS), 3, size=(plotting.PAGE_WIDTH, 6.6), sharex=True)
    for row, (column, label) in enumerate(ROWS.items()):
        axes[row, 0].set_ylabel(label)
        for side, (title, table) in enumerate(columns.items()):
            panel = axes[row, side]
            draw_panel(panel, results, table, column)
            panel.set_title(f"({'abcdefghi'[3 * row + side]})  {title}", loc="left")
            if row == len(ROWS) - 1:
                panel.set_xlabel("layer $l$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), handlelength=3.2, columnspacing=1.4)
    return figure


def draw_panel(panel: Axes, results: Results, table: pd.DataFrame, column: str) -> None:
    curves = {
        key: table[table.function == key].pivot(index="layer", columns="draw", values=column).to_numpy()
        for key in results.labels
    }
    scale = plotting.LogRange.of(curves.values())
    every = max(1, results.config["depth"] // 6)
    for number, (key, look) in enumerate(plotting.looks(results.labels).items()):
        # Each function's markers start at another layer, so that curves that coincide (ReLU, LeakyReLU) are both
        # visible.
        line = look.line(linewidth=1.0, marker=look.marker, markevery=(number * every // len(curves), every))
        norms = curves[key]
        if not norms.size:  # a function that this column doesn't show
            continue
        layers = np.arange(1, len(norms) + 1)
        with np.errstate(divide="ignore"):
            middle = np.exp(np.log(norms).mean(axis=1))
        if norms.shape[1] > 1:
            low, high = (scale.place(end(norms, axis=1)) for end in (np.min, np.max))
            panel.fill_between(layers, low, high, color=look.color, alpha=0.15, linewidth=0)
        panel.plot(layers, scale.place(middle), label=results.labels[key], **line)
    scale.mark(panel)


def main(argv: list[str] | None = None) -> None:
    draw_and_save("fig1", draw, __doc__, argv)


if __name__ == "__main__":
    run(main)
