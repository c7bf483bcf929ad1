"""The review page's style: the house style for plotly, and log axes on which 0, inf and 0/0 have a place."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from bsnn import plotting
from bsnn.plotting import LogRange
from bsnn.results.budgets import Key
from bsnn.results.grid import Results

Floats = NDArray[np.float64]
INK, GRID, FRAME = "#222222", "#e4e4e4", "#999999"
AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": FRAME,
    "showline": True,
    "ticks": "outside",
    "ticklen": 3,
    "tickcolor": FRAME,
    "automargin": True,
}
FONT = {"family": "system-ui, sans-serif", "size": 12, "color": INK}


def figure(x: str, y: str, xaxis: dict[str, Any], yaxis: dict[str, Any]) -> go.Figure:
    """Make an empty figure with titles for its axes. It has no legend, since the page's switches serve all figures."""
    layout = {
        "template": go.layout.Template(),
        "font": FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 52, "r": 30, "t": 28, "b": 40},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "bordercolor": FRAME, "font": {"color": INK}, "align": "left"},
        "xaxis": AXIS | {"title": {"text": x, "standoff": 6}} | xaxis,
        "yaxis": AXIS | {"title": {"text": y, "standoff": 6}} | yaxis,
    }
    return go.Figure(layout=layout)


def color(loaded: Results, key: Key) -> str:
    return plotting.looks(loaded.activations)[key.activation].color


def faint(color: str, opacity: float = 0.16) -> str:
    """Make a colour #rrggbb see-through."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def variant(key: Key) -> str:
    """Return plain, plain-BN, GPN or GPN-BN."""
    return ("GPN" if key.gpn else "plain") + "-BN" * key.batch_norm


def yes(value: bool) -> str:
    return "yes" if value else "no"


def meta(key: Key, **switches: str) -> dict[str, str]:
    """Return a trace's values for the page's switches: those of its cell, and its split or update if it has one."""
    values = {"gpn": yes(key.gpn), "batch_norm": yes(key.batch_norm), "variant": variant(key)}
    return {"dataset": key.dataset, "activation": key.activation, **values, **switches}


def plain(text: str) -> str:
    """Escape text, so that plotly finds neither tags nor %{...} in it; it would read both."""
    return html.escape(text, quote=False).replace("%", "&#37;")


def shown(value: float) -> str:
    """Format a ratio or norm as in the report: 0/0 for nan."""
    return "0/0" if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True)
class PinnedAxis:
    """A log axis with dotted lines beyond its values: 0 below, inf above, nan above that."""

    values: LogRange
    gap: float
    """Decades from the values to the first such line, and from that line to the next."""
    has_nan: bool
    nan: str = "0/0"
    """Name of nan: for a ratio it is a quotient of two zeros."""

    @classmethod
    def over(cls, values: Sequence[Floats]) -> PinnedAxis:
        """Make the axis for all values of all arrays; there may be none."""
        found = LogRange.of([*values, np.empty(0)])
        gap = 0.08 * math.log10(found.high / found.low)  # as in LogRange
        return cls(found, gap, any(bool(np.isnan(one).any()) for one in values))

    @property
    def undefined(self) -> float:
        """The height at which nan is drawn."""
        return (self.values.ceiling or self.values.high) * 10**self.gap

    @property
    def lines(self) -> dict[str, float]:
        undefined = self.undefined if self.has_nan else None
        places = {"0": self.values.floor, "inf": self.values.ceiling, self.nan: undefined}
        return {name: place for name, place in places.items() if place is not None}

    def shown(self, value: float) -> str:
        return self.nan if math.isnan(value) else shown(value)

    def place(self, values: Floats) -> Floats:
        """Return the heights at which values are drawn."""
        placed: Floats = self.values.place(values)
        placed[np.isnan(placed)] = self.undefined
        return placed

    def layout(self) -> dict[str, Any]:
        """Return the axis for plotly: its range in decades, ticks at powers of ten; in a narrow range at 1, 2, 5."""
        low = math.log10(min(self.values.low, *self.lines.values(), self.values.high)) - self.gap / 2
        high = math.log10(max(self.values.low, *self.lines.values(), self.values.high)) + self.gap / 2
        decades = high - low
        values = math.log10(self.values.low), math.log10(self.values.high)
        if decades > 2:
            step = math.ceil((values[1] - values[0]) / 6) or 1
            exponents = range(math.ceil(values[0]), math.floor(values[1]) + 1)
            ticks = [exponent for exponent in exponents if exponent % step == 0]
            places, texts = (
                [10.0**n for n in ticks],
                [f"10<sup>{n}</sup>" if abs(n) > 2 else f"{10.0**n:g}" for n in ticks],
            )
            return {"type": "log", "range": [low, high], "tickvals": places, "ticktext": texts}
        return {"type": "log", "range": [low, high], "dtick": "D2"}

    def mark(self, figure: go.Figure, along_y: bool) -> None:
        """Draw the dotted lines, with their names at the end."""
        dotted = {"color": plotting.GREY, "width": 1, "dash": "dot"}
        for name, place in self.lines.items():
            text = {"text": name, "showarrow": False, "font": {"size": 11, "color": INK}}
            if along_y:
                figure.add_hline(y=place, line=dotted, layer="below")
                end = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 2, "y": math.log10(place)}
            else:
                figure.add_vline(x=place, line=dotted, layer="below")
                end = {"y": 0, "yref": "paper", "yanchor": "top", "yshift": -4, "x": math.log10(place)}
            figure.add_annotation(**end, **text)
