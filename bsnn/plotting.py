"""The house style of every figure: one look for each function, log axes that show 0 and inf, reproducible files.

    with plotting.style():  # labels and legends take their sizes from here when they are made
        figure, axes = plotting.figure(2, 2, size=(7.0, 5.0))
        for key, look in plotting.looks(keys).items():
            axes[0, 0].plot(layers, norms[key], label=labels[key], **look.line())
        plotting.budget_note(figure, "quick budget: ...")
        plotting.save(figure, folder / "fig1")  # fig1.png and fig1.pdf

Figures are made without pyplot: nothing here touches matplotlib's backend or its global settings, so a user's notebook
keeps its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from bsnn.files import write_atomically

PAGE_WIDTH = 7.0  # inches, the text width of a two-column page
DPI = 300
NOTE_HEIGHT = 0.22  # inches under the figure, for `budget_note`
GREY = "#666666"

STYLE: Any = {  # matplotlib's rcParams; newer versions type each key, older ones don't
    "figure.dpi": 100,
    "savefig.dpi": DPI,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "lines.markeredgewidth": 0.8,
    "pdf.fonttype": 42,  # outlines that journals accept
}


@dataclass(frozen=True)
class Look:
    """The look of one function in every figure. Colour, marker and dashes each tell it apart on their own."""

    color: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]  # matplotlib's linestyle

    def line(self, markers: int | None = None, **overrides: Any) -> dict[str, Any]:
        """Return arguments for Axes.plot. markers: set a marker at every so many points; None: no markers."""
        look: dict[str, Any] = {"color": self.color, "linestyle": self.dashes, "markerfacecolor": "white"}
        if markers is not None:
            look |= {"marker": self.marker, "markevery": markers}
        return look | overrides


# Okabe and Ito's colour-blind-safe palette (2008), the light ones left for the fallbacks.
LOOKS = {
    "tanh": Look("#0072B2", "o", "-"),
    "relu": Look("#D55E00", "s", (0, (5, 1.5))),
    "leaky_relu": Look("#E69F00", "^", (0, (1.2, 1.2))),
    "elu": Look("#009E73", "D", (0, (6, 1.5, 1.2, 1.5))),
    "selu": Look("#CC79A7", "v", (0, (9, 2))),
    "gelu": Look("#000000", "X", (0, (3, 1.2, 1, 1.2, 1, 1.2))),
}
FALLBACKS = (
    Look("#56B4E9", "P", "-"),
    Look("#8C6D00", "<", "--"),
    Look("#5B3A8E", ">", "-."),
    Look("#7F7F7F", "h", ":"),
)


def looks(keys: Iterable[str]) -> dict[str, Look]:
    """Choose the look of each function: fixed for the paper's six; others take the fallbacks in order of appearance."""
    chosen: dict[str, Look] = {}
    others = 0
    for key in keys:
        if key in chosen:
            continue
        if key in LOOKS:
            chosen[key] = LOOKS[key]
        else:
            chosen[key] = FALLBACKS[others % len(FALLBACKS)]
            others += 1
    return chosen


def style() -> AbstractContextManager[None]:
    """Apply matplotlib's defaults and the house style within a block, whatever the user's matplotlibrc says.

    `figure` and `save` enter it by themselves as well.
    """
    return mpl.style.context(["default", STYLE])


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (PAGE_WIDTH, 4.5), **subplots: Any
) -> tuple[Figure, Any]:
    """Make a figure of `size` inches and its axes, an array (rows, columns); `subplots` goes to Figure.subplots."""
    with style():
        made = Figure(figsize=size, layout="constrained")
        axes = made.subplots(rows, columns, squeeze=False, **subplots)
    return made, axes


def budget_note(made: Figure, text: str) -> None:
    """Write one small line under the figure that names its budget. Call it once, before `save`."""
    height = made.get_figheight()
    engine: Any = made.get_layout_engine()
    assert engine is not None, "expected a figure from plotting.figure"
    share = NOTE_HEIGHT / height
    engine.set(rect=(0, share, 1, 1 - share))
    made.text(0.5, 0.25 * share, text, ha="center", va="bottom", fontsize=6.5, color=GREY, style="italic")


def save(made: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path`.png and `path`.pdf (`path` has no suffix), each whole or not at all.

    The bytes depend on the figure and matplotlib's version alone: no date, no program name.
    """
    png, pdf = path.with_name(path.name + ".png"), path.with_name(path.name + ".pdf")
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the age of matplotlib's own fonts
    with style():
        write_atomically(png, lambda stream: made.savefig(stream, format="png", metadata={"Software": None}))
        undated = {"Creator": None, "Producer": None, "CreationDate": None}
        write_atomically(pdf, lambda stream: made.savefig(stream, format="pdf", metadata=undated))
    return png, pdf


@dataclass(frozen=True)
class LogRange:
    """A log axis on which 0 and inf have a place: a dotted floor line labelled 0, a ceiling line labelled inf.

    floor and ceiling are None where nothing needs them.
    """

    low: float
    high: float
    floor: float | None
    ceiling: float | None

    @classmethod
    def of(cls, series: Iterable[Sequence[float] | NDArray[np.float64]]) -> LogRange:
        """Compute the range of all values >= 0 of all series; nan is nowhere on the axis."""
        values = np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in series])
        proper = values[np.isfinite(values) & (values > 0)]
        low, high = (float(proper.min()), float(proper.max())) if proper.size else (0.1, 10.0)
        if high / low < 1.01:
            low, high = low / 1.5, high * 1.5
        gap = 0.08 * math.log10(high / low)
        floor = 10 ** (math.log10(low) - gap) if (values == 0).any() else None
        ceiling = 10 ** (math.log10(high) + gap) if np.isposinf(values).any() else None
        return cls(low, high, floor, ceiling)

    def place(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the heights at which to draw `values`: 0 on the floor, inf on the ceiling, the rest as they are."""
        placed = np.array(values, dtype=np.float64)
        if self.floor is not None:
            placed[placed == 0] = self.floor
        if self.ceiling is not None:
            placed[np.isposinf(placed)] = self.ceiling
        return placed

    def mark(self, axes: Axes) -> None:
        """Make the y axis logarithmic over this range, with the lines for 0 and inf where there are such values."""
        axes.set_yscale("log")
        margin = 10 ** (0.04 * math.log10(self.high / self.low))
        axes.set_ylim((self.floor or self.low) / margin, (self.ceiling or self.high) * margin)
        decades = math.log10(self.high / self.low)
        if decades < 2:  # powers of ten would be too few: 1, 2, 5 or finer, written out
            subs = (
                (1, 2, 5) if decades > 0.8 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8) if decades > 0.2 else range(10, 100, 5)
            )
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        for height, name in ((self.floor, "0"), (self.ceiling, "inf")):
            if height is not None:
                axes.axhline(height, color=GREY, linewidth=0.8, linestyle=":")
                place = axes.get_yaxis_transform()
                axes.text(1.01, height, name, transform=place, va="center", color=GREY, fontsize=7)
