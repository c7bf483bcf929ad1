"""Test accuracy against training loss: which network generalises better when both are equally well trained.

python -m scripts.generalisation results/quick
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from bsnn import paper, plotting
from bsnn.data import DATASETS
from bsnn.results import cli, grid
from bsnn.results.generalisation import LEARNT, compared, whole_epochs
from bsnn.results.grid import Results


def draw(loaded: Results) -> Figure:
    """Draw the networks without batch norm, a panel for each dataset; training goes to the right."""
    figure, axes = plotting.figure(1, len(paper.DATASETS), size=(plotting.PAGE_WIDTH, 3.3))
    looks = plotting.looks(loaded.activations)
    curves = whole_epochs(loaded.curves)
    for panel, dataset in zip(axes[0], paper.DATASETS, strict=True):
        for (name, gpn, _), curve in curves[curves["dataset"] == dataset].groupby(["activation", "gpn", "seed"]):
            learnt = curve[curve["train_loss"] < LEARNT].sort_values("epoch")
            look = looks[str(name)]
            panel.plot(
                learnt["train_loss"], learnt["test_accuracy"], linestyle="-" if gpn else ":", color=look.color,
                marker=look.marker, markersize=3.5, markerfacecolor=look.color if gpn else "white",
            )  # fmt: skip
        losses = [loss for line in panel.lines for loss in np.asarray(line.get_xdata())]
        if losses and max(losses) > 10 * min(losses):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.invert_xaxis()
        panel.set_xlabel("training loss (nats)")
        panel.set_title(DATASETS[dataset].label, loc="left")
    axes[0, 0].set_ylabel("test accuracy (%)")
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, label=loaded.activations[name].label)
        for name, look in looks.items()
    ]
    handles.append(Line2D([], [], color="black", linestyle=":", marker="o", markerfacecolor="white", label="plain"))
    figure.legend(handles=handles, loc="outside upper center", ncols=7)
    return figure


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    loaded = grid.load(folder)
    if compared(loaded.curves).empty:
        print("no plain and GPN network have learnt to an equal training loss yet: nothing to draw")
        return
    with plotting.style():
        figure = draw(loaded)
        plotting.budget_note(figure, f"{folder.absolute().name} budget: an evaluation at the end of each epoch")
        png, pdf = plotting.save(figure, folder / "generalisation")
    print(f"{png}, {pdf.name}")


if __name__ == "__main__":
    cli.run(main)
