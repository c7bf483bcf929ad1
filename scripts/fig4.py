"""Figure 4: test accuracy during training, one panel for each function: plain, GPN, and both with batch norm.

    python -m scripts.fig4 results/quick

Reads the records in results/<budget>/runs/, in seconds, and writes beside them fig4.png, .pdf and .csv (CIFAR-10, the
paper's figure) and fig4_mnist.png, .pdf and .csv (which the paper doesn't show). Curves of unfinished trainings end
where these are. The axis ends at the largest epoch reached and names the epochs of the whole training.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bsnn import plotting
from bsnn.files import write_text
from bsnn.results import budgets, cli, grid
from bsnn.results.budgets import Key
from bsnn.results.claims import CHANCE
from bsnn.results.equal_epochs import span
from bsnn.results.grid import Results, runs_of
from bsnn.results.records import FINISHED, UNFINISHED
from bsnn.results.tables import DIGITS

FIGURES = {"fig4": "cifar10", "fig4_mnist": "mnist"}
COLUMNS = 3


class Variant(NamedTuple):
    gpn: bool
    batch_norm: bool
    label: str
    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str


# Blue is plain, orange GPN. Dark, solid lines are without batch norm; light, dashed ones are with it (Okabe and Ito).
VARIANTS = (
    Variant(False, False, "plain", "#0072B2", "-", "o"),
    Variant(True, False, "GPN", "#D55E00", "-", "s"),
    Variant(False, True, "plain-BN", "#56B4E9", (0, (4, 1.5)), "^"),
    Variant(True, True, "GPN-BN", "#E69F00", (0, (1.2, 1.2)), "v"),
)


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    loaded = grid.load(folder)
    for name, dataset in FIGURES.items():
        table = curves(loaded, dataset)
        write_text(
            folder / f"{name}.csv", table.to_csv(index=False, na_rep="nan", float_format=DIGITS, lineterminator="\n")
        )
        with plotting.style():
            figure = draw(loaded, dataset, table)
        plotting.save(figure, folder / name)


def curves(loaded: Results, dataset: str) -> pd.DataFrame:
    """Compute test accuracy against epoch: mean and sample standard deviation over the seeds of Table 2's mean.

    These are the seeds that ended ok or, if none did, the unfinished ones that got furthest. A seed that diverged has a
    curve of its own (n = 1, diverged = True), up to the last evaluation before its loss was lost.
    """
    mine = loaded.curves[loaded.curves["dataset"] == dataset]
    groups = ["activation", "gpn", "batch_norm", "epoch"]
    trained = mine[mine["status"].isin(["ok", UNFINISHED])]
    reached = trained.groupby([*groups[:-1], "seed"])["epoch"].transform("max")
    furthest = trained.assign(reached=reached).groupby(groups[:-1])["reached"].transform("max")
    ok = (
        trained[(reached == furthest) & (reached > 0)]
        .groupby(groups, sort=False)["test_accuracy"]
        .agg(["mean", "std", "count"])
    )
    ok = ok.rename(columns={"mean": "test_mean", "std": "test_sd", "count": "n"}).reset_index()
    lost = mine[(mine["status"] == "diverged") & (mine["step"] < mine["diverged_at_step"])]
    lost = lost[[*groups, "seed", "test_accuracy"]].rename(columns={"test_accuracy": "test_mean"})
    parts = [ok.assign(seed="", diverged=False), lost.assign(test_sd=math.nan, n=1, diverged=True)]
    table = pd.concat([part for part in parts if len(part)] or parts[:1])
    return table[["activation", "gpn", "batch_norm", "seed", "diverged", "epoch", "test_mean", "test_sd", "n"]]


def draw(loaded: Results, dataset: str, table: pd.DataFrame) -> Figure:
    rows = math.ceil(len(loaded.activations) / COLUMNS)
    figure, axes = plotting.figure(
        rows, COLUMNS, size=(plotting.PAGE_WIDTH, 0.6 + 2.05 * rows), sharex=True, sharey=True
    )
    panels: list[Axes] = list(axes.flat)
    for panel in panels[len(loaded.activations) :]:
        panel.remove()
    for number, (panel, (activation, config)) in enumerate(zip(panels, loaded.activations.items(), strict=False)):
        panel.set_title(f"({chr(ord('a') + number)})  {config.label}", loc="left")
        panel.axhline(CHANCE[dataset, "test"], color=plotting.GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
        chosen = table[table["activation"] == activation]
        for variant_number, variant in enumerate(VARIANTS):
            curve = chosen[(chosen["gpn"] == variant.gpn) & (chosen["batch_norm"] == variant.batch_norm)]
            draw_curve(panel, curve, variant, variant_number)
            mark_end(panel, loaded, Key(dataset, activation, variant.gpn, variant.batch_norm), curve, variant)
        say_absent(panel, loaded, dataset, activation)
        if number % COLUMNS == 0:
            panel.set_ylabel("test accuracy (%)")
        if number + COLUMNS >= len(loaded.activations):
            panel.set_xlabel(x_label(loaded, dataset, table))
            panel.tick_params(labelbottom=True)
    panels[0].set_ylim(bottom=0)
    if not table.empty and table["epoch"].max() > 0:
        end = float(table["epoch"].max())
        panels[0].set_xlim(-0.02 * end, 1.02 * end)
    unfinished = progress(loaded, dataset)
    if unfinished:
        panels[0].xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    handles: list[Any] = [
        Line2D([], [], label=variant.label, marker=variant.marker, **look(variant)) for variant in VARIANTS
    ]
    handles.append(Line2D([], [], label="chance", color=plotting.GREY, linewidth=0.7, linestyle=(0, (1, 2))))
    if table["diverged"].any():
        handles.append(Line2D([], [], label="diverged", color="black", marker="x", markersize=6, linestyle="none"))
    if unfinished:
        handles.append(Line2D([], [], label="unfinished", color="black", marker="o", linestyle="none"))
    spacing = 1.6 if len(handles) < 7 else 1.1
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), handlelength=3, columnspacing=spacing
    )
    label = loaded.datasets[dataset].label
    seeds = int(table["n"].max()) if len(table) else 0
    spread = f", mean ± sd of {seeds} seeds" if seeds > 1 else ""
    note = f"{label}{spread}. {budgets.headline(loaded.budget.name)}"
    if unfinished:
        note += f"; {unfinished}"
    plotting.budget_note(figure, note)
    return figure


def x_label(loaded: Results, dataset: str, table: pd.DataFrame) -> str:
    """Say how much of the training the axis shows, if not all of it: "epoch (first 8 of 100)"."""
    asked = loaded.table.loc[loaded.table["dataset"] == dataset, "epochs"].max()
    reached = table["epoch"].max() if len(table) else math.nan
    return f"epoch (first {reached:.4g} of {asked:.4g})" if reached < asked else "epoch"


def progress(loaded: Results, dataset: str) -> str:
    """Say how far the curves are, if some aren't finished: "12 of 24 networks, 12 unfinished after 2 of 100 epochs"."""
    entries = loaded.table[loaded.table["dataset"] == dataset]
    drawn = entries[(entries["n"] > 0) | (entries["status"] == "diverged")]
    going = drawn[drawn["status"] == UNFINISHED]
    if going.empty:
        return ""
    reached = span(going["epoch"], going["epochs"].max())
    return f"{len(drawn)} of {len(entries)} networks, {len(going)} unfinished after {reached}"


def draw_curve(panel: Axes, curve: pd.DataFrame, variant: Variant, number: int) -> None:
    """Draw a mean line, a ± sd band, and a cross where a seed diverged. Markers are staggered: all curves show."""
    mean = curve[~curve["diverged"]]
    every = max(len(VARIANTS), len(mean) // 6)
    start = number * every // len(VARIANTS) % max(1, len(mean))
    if len(mean):
        panel.plot(
            mean["epoch"],
            mean["test_mean"],
            marker=variant.marker,
            markevery=(start, every),
            zorder=2 + number / 10,
            **look(variant),
        )
        if (mean["n"] > 1).any():
            low, high = mean["test_mean"] - mean["test_sd"], mean["test_mean"] + mean["test_sd"]
            panel.fill_between(mean["epoch"], low, high, color=variant.color, alpha=0.25, linewidth=0)
    for _, lost in curve[curve["diverged"]].groupby("seed"):
        panel.plot(lost["epoch"], lost["test_mean"], **look(variant))
        end = lost.iloc[-1]
        panel.plot(
            [end["epoch"]], [end["test_mean"]], "x", color=variant.color, markersize=6, markeredgewidth=1.8, zorder=6
        )


def mark_end(panel: Axes, loaded: Results, key: Key, curve: pd.DataFrame, variant: Variant) -> None:
    """Draw a filled marker where the curve of an unfinished training ends."""
    entry = loaded.table.iloc[list(loaded.expected).index(key)]
    if entry["status"] == UNFINISHED and entry["n"]:
        end = curve[~curve["diverged"]].iloc[-1]
        panel.plot([end["epoch"]], [end["test_mean"]], marker=variant.marker, color=variant.color, zorder=5)


def say_absent(panel: Axes, loaded: Results, dataset: str, activation: str) -> None:
    """Name the curves that the panel lacks, and those of them whose training crashed."""
    absent: dict[str, list[str]] = {}
    for variant in VARIANTS:
        runs = runs_of(loaded.runs, dataset, activation, variant.gpn, variant.batch_norm)
        if not (runs["status"].isin(FINISHED) | (runs["epoch"] > 0)).any():
            absent.setdefault("crashed" if (runs["status"] == "crashed").any() else "missing", []).append(variant.label)
    if absent:
        text = "\n".join(f"{why}: {', '.join(labels)}" for why, labels in absent.items())
        # below chance, where no curve runs
        panel.text(0.98, 0.03, text, transform=panel.transAxes, ha="right", va="bottom", fontsize=6.5)


def look(variant: Variant) -> dict[str, Any]:
    return {
        "color": variant.color,
        "linestyle": variant.dashes,
        "markerfacecolor": "white",
        "markeredgecolor": variant.color,
    }


if __name__ == "__main__":
    cli.run(main)
