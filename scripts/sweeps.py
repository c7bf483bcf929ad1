"""Sweeps over depth, width, learning rate, batch size and initialisation: their effect on accuracy and gradients.

    python -m scripts.sweeps results/quick

Reads the records in results/<budget>/runs/, in seconds, and writes beside them sweep_<name>.png, .pdf and .csv for
every conf/experiment/sweep_<name>.yaml that has more trained cells than Table 2. Cells without a record are left out;
the report counts them. If some are unfinished, all are shown after the largest epoch that all have reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from bsnn import plotting
from bsnn.files import write_text
from bsnn.plotting import LogRange
from bsnn.results import budgets, cli, grid
from bsnn.results.claims import CHANCE
from bsnn.results.grid import Results
from bsnn.results.sweeps import Sweep, runs, so_far, summary, sweeps, varied
from bsnn.results.tables import DIGITS

LABELS = {
    "depth": "depth (layers)",
    "width": "width (units)",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
}
ROWS = (
    ("test_mean", "test accuracy (%)"),
    ("initial_ratio", "gradient ratio,\nfirst update"),
    ("ratio_last", "gradient ratio,\nlast interval"),
)


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    loaded = grid.load(folder)
    for sweep, table, told in made(loaded):
        text = table.to_csv(index=False, na_rep="nan", float_format=DIGITS, lineterminator="\n")
        write_text(folder / f"{sweep.stem}.csv", text)
        with plotting.style():
            figure = draw(loaded, sweep, table, told)
        plotting.save(figure, folder / sweep.stem)


def made(loaded: Results) -> list[tuple[Sweep, pd.DataFrame, str]]:
    """List the sweeps with more networks than Table 2, each with its summary and bsnn.results.sweeps.so_far."""
    found = [(sweep, runs(sweep, loaded)) for sweep in sweeps()]
    return [(sweep, summary(sweep, table), so_far(table)) for sweep, table in found if varied(sweep, table)]


def draw(loaded: Results, sweep: Sweep, table: pd.DataFrame, so_far: str) -> Figure:
    """Draw columns (plain and GPN for each value of the setting with words), rows (accuracy, two gradient ratios)."""
    words: Sequence[Any] = (None,) if sweep.across is None else sweep.axes[sweep.across]
    columns = [(gpn, word) for gpn in sweep.cells["gpn"] for word in words]
    figure, axes = plotting.figure(len(ROWS), len(columns), size=(plotting.PAGE_WIDTH, 6.0), sharex=True, sharey="row")
    ranges = {quantity: LogRange.of([table[quantity].to_numpy(dtype=float)]) for quantity, _ in ROWS[1:]}
    chance = CHANCE[sweep.cells["dataset"][0], "test"]
    for column, (gpn, word) in enumerate(columns):
        chosen = table[table["gpn"] == gpn]
        if sweep.across is not None:
            chosen = chosen[chosen[sweep.across] == word]
        name = ("GPN" if gpn else "plain") + ("" if word is None else f", {name_of_value(word)}")
        axes[0, column].set_title(f"({chr(ord('a') + column)})  {name}", loc="left")
        axes[0, column].axhline(chance, color=plotting.GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
        for row, (quantity, _) in enumerate(ROWS):
            draw_panel(axes[row, column], chosen, sweep.x, quantity, ranges.get(quantity))
        axes[-1, column].set_xlabel(LABELS[sweep.x])
    for row, (_, label) in enumerate(ROWS):
        axes[row, 0].set_ylabel(label)
    axes[0, 0].set_ylim(0, 100)
    for panel in axes.flat:
        panel.set_xscale("log")
        values = [float(value) for value in sweep.axes[sweep.x] if (table[sweep.x] == value).any()]
        panel.xaxis.set_major_locator(FixedLocator(values))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticklabels([f"{value:g}" for value in values])
        panel.set_xlim(values[0] / 1.15, values[-1] * 1.15)
    figure.legend(
        handles=handles(loaded, sweep, table), loc="outside upper center", ncols=4, handlelength=3, columnspacing=1.6
    )
    seeds = sorted({int(n) for n in table["n"] if n > 0})
    spread = f", {seeds[0]} seed{'s' * (seeds[0] > 1)}" if len(seeds) == 1 else f", {seeds[0]} to {seeds[-1]} seeds"
    label = loaded.datasets[sweep.cells["dataset"][0]].label
    told = f", after {so_far}" if so_far else ""
    plotting.budget_note(figure, f"{label}{spread if seeds else ''}{told}. {headline(loaded.budget.name, sweep)}")
    return figure


def headline(budget: str, sweep: Sweep) -> str:
    """Return bsnn.results.budgets.headline without the settings on the figure's axis."""
    kept = [(name, ours, theirs) for name, ours, theirs in budgets.differences(budget) if name not in sweep.axes]
    kept = [difference for difference in kept if not difference[0].startswith("synthetic ")]
    if not kept:
        return f"{budget} budget: else the paper's own settings"
    listed = ", ".join(f"{name} {ours} instead of {theirs}" for name, ours, theirs in kept)
    return f"{budget} budget, NOT the paper's: {listed}"


def draw_panel(panel: Axes, table: pd.DataFrame, x: str, quantity: str, log: LogRange | None) -> None:
    """Draw one line a function; bars are ± sd over seeds, a cross at the bottom is a cell of which no seed ended."""
    if log is not None:
        log.mark(panel)
    for name, look in plotting.looks(map(str, table["activation"].unique())).items():
        curve = table[table["activation"] == name]
        at, values = curve[x].to_numpy(dtype=float), curve[quantity].to_numpy(dtype=float)
        panel.plot(at, values if log is None else log.place(values), **look.line(markers=1))
        if log is None:
            panel.errorbar(
                at, values, yerr=curve["test_sd"], fmt="none", ecolor=look.color, elinewidth=0.8, capsize=1.5
            )
            lost = curve[curve["n"] == 0]
            panel.plot(lost[x], np.full(len(lost), 2.0), "x", color=look.color, markeredgewidth=1.6, zorder=6)


def handles(loaded: Results, sweep: Sweep, table: pd.DataFrame) -> list[Any]:
    drawn = plotting.looks(map(str, table["activation"].unique()))
    made_of: list[Any] = [
        Line2D([], [], label=loaded.activations[name].label, **look.line(markers=1)) for name, look in drawn.items()
    ]
    made_of.append(Line2D([], [], label="chance", color=plotting.GREY, linewidth=0.7, linestyle=(0, (1, 2))))
    if (table["n"] == 0).any():
        made_of.append(Line2D([], [], label="diverged", color="black", marker="x", linestyle="none"))
    return made_of


def name_of_value(word: str) -> str:
    """Return a value's name in a text."""
    return {"gaussian": "Gaussian"}.get(word, word)


if __name__ == "__main__":
    cli.run(main)
