"""The review page's panels for a dataset, as plotly figures: every curve is a trace whose `meta` names its cell.

The browser decides by that `meta` alone which of them are drawn (scripts/page/assets/panels.js). Colour is the
activation, as in all our figures. A solid line or full colour is GPN, a dashed or faint one plain. Circles on a line
are batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from bsnn import plotting
from bsnn.results.budgets import PAPER, Key
from bsnn.results.claims import CHANCE
from bsnn.results.grid import Results, runs_of
from bsnn.results.records import UNFINISHED, Record, how_far
from scripts.page import data
from scripts.page.data import Curve
from scripts.page.style import (
    GRID,
    INK,
    Floats,
    PinnedAxis,
    color,
    faint,
    figure,
    meta,
    plain,
    variant,
)  # fmt: skip

SPLITS = ("test", "train")
UPDATES = {"first": "first update", "last": "last update"}
STATUS_MARKS = {
    "diverged": "x-thin", "partly diverged": "x-thin", "missing": "circle-open", "crashed": "asterisk",
}  # fmt: skip
UNEQUAL = "#a85a00"
"""Colour of numbers that can't be compared: an unfinished network's accuracy so far, the paper's after all epochs."""


@dataclass(frozen=True)
class Panel:
    """One figure of a dataset's section.

    A `grouped` one is split up by variant, or by the page's switch. A `broad` and a `narrow` one share a line.
    """

    name: str
    title: str
    note: str
    figure: go.Figure
    layout: str


def panels(loaded: Results, dataset: str) -> list[Panel]:
    """Make the panels, in the page's order."""
    return [make(loaded, dataset) for make in (accuracy, ratio, final, against, norms)]


def accuracy(loaded: Results, dataset: str) -> Panel:
    both = {split: list(data.accuracy_curves(loaded, dataset, split)) for split in SPLITS}
    reached = [curve.high for curves in both.values() for curve in curves]
    drawn = figure("epoch", "accuracy (%)", _span(both["test"]), _percent(reached))
    for split, curves in both.items():
        if (dataset, split) in CHANCE and curves:
            _chance(drawn, CHANCE[dataset, split], max(curve.x.max(initial=0) for curve in curves), split)
        for curve in curves:
            spread = [""] * len(curve.x) if curve.sd is None else [f" ± {sd:.2f}" for sd in curve.sd]
            hover = f"epoch %{{x:.4~g}}<br>{split} %{{y:.2f}}%{{customdata}} %"
            _add(drawn, loaded, curve, (curve.middle, curve.low, curve.high), hover, spread, split=split)
    note = (
        "Mean over the seeds that ended ok, band ± their standard deviation. A seed that diverged is a line of its own "
        "that ends in a cross. Dotted: the best constant answer." + _going_on(both["test"])
    )
    return Panel("accuracy", "Accuracy during training", note, drawn, "grouped")


def ratio(loaded: Results, dataset: str) -> Panel:
    curves = list(data.ratio_curves(loaded, dataset))
    axis = _axis(curves)
    drawn = figure("epoch", "gradient ratio", _span(curves), axis.layout())
    axis.mark(drawn, along_y=True)
    for curve in curves:
        _add_pinned(drawn, loaded, curve, axis, "epoch %{x:.4~g}<br>gradient ratio %{customdata}")
    note = (
        "Largest over smallest norm ‖∂E/∂V‖ among the layers, the median of the updates since the last evaluation. "
        "Line: median over the seeds, band: smallest to largest. inf: a layer's gradient is exactly 0; 0/0: all are."
        + _going_on(curves)
    )
    return Panel("ratio", "Gradient ratio during training", note, drawn, "grouped")


def norms(loaded: Results, dataset: str) -> Panel:
    both = {update: list(data.norm_curves(loaded, dataset, update)) for update in UPDATES}
    every = [curve for curves in both.values() for curve in curves]
    axis = replace(_axis(every), nan="nan")
    drawn = figure("layer, counted from the input", "‖∂E/∂V‖", _span(every), axis.layout())
    axis.mark(drawn, along_y=True)
    for update, curves in both.items():
        for curve in curves:
            hover = f"layer %{{x}}, {UPDATES[update]}<br>norm %{{customdata}}"
            _add_pinned(drawn, loaded, curve, axis, hover, update=update)
    note = (
        "Frobenius norm of each constrained layer's gradient in one update: the first or the last, as chosen above. "
        "Line: median over the seeds, band: from smallest to largest; those that diverged have no last update here."
        + (" An unfinished network's last update is the last one so far." if any(c.unfinished for c in every) else "")
    )
    return Panel("norms", "Gradient norm by layer", note, drawn, "grouped")


def final(loaded: Results, dataset: str) -> Panel:
    xaxis = {"type": "multicategory", "tickangle": -90, "dividercolor": GRID, "showgrid": False}
    drawn = figure("", "accuracy (%)", xaxis, {"range": [0, 103]})
    drawn.update_layout(barmode="overlay", bargap=0.25)
    going_on = False
    for split in SPLITS:
        curves: dict[Key, list[Curve]] = {}
        for curve in data.accuracy_curves(loaded, dataset, split):
            curves.setdefault(curve.key, []).append(curve)
        for entry in loaded.table[loaded.table["dataset"] == dataset].to_dict("records"):
            key = Key(*(entry[name] for name in Key._fields))
            place = [[plain(loaded.activations[key.activation].label)], [variant(key)]]
            common = {"x": place, "meta": meta(key, split=split)}
            reached = data.furthest(curves.get(key, []))
            so_far = reached.unfinished if reached else ""
            if reached:
                drawn.add_trace(_bar(loaded, reached, split, common))
            if reached and so_far:
                going_on = True
                _label(drawn, 102, f"@{reached.x[-1]:.4g}", f"{_bold(loaded, key)}unfinished: {so_far}", common)
            name, theirs = _bold(loaded, key), entry[f"paper_{split}"]
            if not math.isnan(theirs):
                told = f"{name}the paper: {split} {theirs:.2f} %"
                if so_far:
                    told += f" at the end of training<br>ours is unfinished: {so_far}"
                _mark(drawn, theirs, "line-ew", told, 14, common, UNEQUAL if so_far else INK)
            statuses = runs_of(loaded.runs, *key)["status"]
            status = data.standing(set(statuses))
            if status in STATUS_MARKS:
                counts = statuses.value_counts()
                counted = ", ".join(f"{counts[status]} {status}" for status in sorted(counts.index))
                told = f"{name}{status}" + (f": {counted}" if counted else "")
                _mark(drawn, 4.0, STATUS_MARKS[status], told, 9, common)
    budget = "" if loaded.budget.name == PAPER else ", whose budget is not this page's"
    note = (
        f"Mean over the seeds that ended ok, whisker ± their standard deviation. Black line: the paper{budget}. "
        "Cross: one or all seeds diverged; ring: missing; star: crashed."
    )
    if not going_on:
        return Panel("final", "Final accuracy", note, drawn, "broad")
    drawn.update_yaxes(range=[0, 111], tickvals=[*range(0, 101, 20)])
    note += (
        " Hatched, with @8: unfinished, the accuracy after 8 epochs so far. The paper's number, orange there, is that "
        "of a whole training: the two are not to be compared yet."
    )
    return Panel("final", "Final accuracy, and that of unfinished networks so far", note, drawn, "broad")


def against(loaded: Results, dataset: str) -> Panel:
    runs = loaded.runs[(loaded.runs["dataset"] == dataset) & (loaded.runs["status"] != "crashed")]
    columns = {"first": "initial_ratio", "last": "ratio_last"}
    known = {update: runs[runs["ratio_rows"] > 0] if update == "last" else runs for update in columns}
    axis = PinnedAxis.over([known[update][column].to_numpy(np.float64) for update, column in columns.items()])
    reached = [runs[f"{split}_accuracy"].to_numpy(np.float64) for split in SPLITS]
    drawn = figure("gradient ratio", "accuracy (%)", axis.layout(), _percent(reached))
    axis.mark(drawn, along_y=False)
    for update, column in columns.items():
        for split in SPLITS:
            for key in loaded.expected:
                mine = runs_of(known[update], *key)
                mine = mine[mine[f"{split}_accuracy"].notna()]
                ratios = mine[column].to_numpy(np.float64)
                if not len(mine):
                    continue
                records = [loaded.records[place] for place in mine.index]
                told = [
                    f"{axis.shown(value)}<br>seed {record['cell']['seed']}" + _standing(record)
                    for value, record in zip(ratios, records, strict=True)
                ]
                shape, hue = "square" if key.batch_norm else "circle", color(loaded, key)
                dots = [record["status"] == UNFINISHED for record in records]
                drawn.add_scatter(
                    x=axis.place(ratios),
                    y=mine[f"{split}_accuracy"].to_numpy(np.float64),
                    mode="markers",
                    marker={
                        "symbol": [shape + "-dot" * dot for dot in dots],
                        "size": 9,
                        "color": hue if key.gpn else "white",
                        "line": {"width": 1.6, "color": ["white" if dot and key.gpn else hue for dot in dots]},
                    },
                    customdata=told,
                    hovertemplate=_bold(loaded, key) + f"{split} %{{y:.2f}} %<br>gradient ratio, "
                    f"{'first update' if update == 'first' else 'last interval'}: %{{customdata}}<extra></extra>",
                    meta=meta(key, split=split, update=update),
                )
    note = (
        "One mark for each run: circles without batch norm, squares with; filled GPN, hollow plain. The ratio is that "
        "of the first update or the median over the last interval between evaluations, as chosen above."
    )
    if not (runs["status"] == UNFINISHED).any():
        return Panel("against", "Gradient ratio and final accuracy", note, drawn, "narrow")
    note += " With a dot: unfinished, the last evaluation so far."
    return Panel("against", "Gradient ratio and accuracy, final or so far", note, drawn, "narrow")


def _axis(curves: Iterable[Curve]) -> PinnedAxis:
    return PinnedAxis.over([part for curve in curves for part in (curve.middle, curve.low, curve.high)])


def _percent(values: Iterable[Floats]) -> dict[str, Any]:
    """Compute a range from 0 to a little above all values, so that accuracies far from 100 % can be told apart."""
    top = max((float(np.nanmax(one)) for one in values if len(one) and not np.isnan(one).all()), default=100.0)
    return {"range": [0, min(103.0, 1.12 * top)]}


def _span(curves: Iterable[Curve]) -> dict[str, Any]:
    """Compute one range of x for all plots of a figure: plotly's own leaves room for marks only if there are some."""
    ends = [end for curve in curves if len(curve.x) for end in (float(curve.x[0]), float(curve.x[-1]))]
    if not ends:
        return {}
    margin = 0.02 * (max(ends) - min(ends)) or 0.5
    return {"range": [min(0.0, *ends) - margin, max(ends) + margin]}


def _add_pinned(drawn: go.Figure, loaded: Results, curve: Curve, axis: PinnedAxis, hover: str, **switches: str) -> None:
    values = curve.middle, curve.low, curve.high
    told = [
        axis.shown(middle) + ("" if curve.seeds == 1 else f" ({axis.shown(low)} to {axis.shown(high)})")
        for middle, low, high in zip(*values, strict=True)
    ]
    middle, low, high = map(axis.place, values)
    _add(drawn, loaded, curve, (middle, low, high), hover, told, **switches)


def _add(
    drawn: go.Figure,
    loaded: Results,
    curve: Curve,
    heights: tuple[Floats, Floats, Floats],
    hover: str,
    told: list[str],
    **switches: str,
) -> None:
    """Add the band from low to high, if there is one, and the line over it."""
    if not len(curve.x):
        return
    hue, common = color(loaded, curve.key), {"meta": meta(curve.key, **switches)}
    middle, low, high = heights
    if not np.array_equal(low, high):
        around = {"x": np.concatenate([curve.x, curve.x[::-1]]), "y": np.concatenate([low, high[::-1]])}
        filled = {"fill": "toself", "fillcolor": faint(hue), "line": {"width": 0}}
        drawn.add_scatter(**around, **filled, mode="lines", hoverinfo="skip", **common)
    name = _bold(loaded, curve.key)
    drawn.add_scatter(
        x=curve.x,
        y=middle,
        mode="lines+markers" if curve.key.batch_norm or len(curve.x) == 1 else "lines",
        line={"color": hue, "width": 2, "dash": "solid" if curve.key.gpn else "6px,3px"},
        marker={"size": 6, "maxdisplayed": 12, "color": "white", "line": {"width": 1.4, "color": hue}},
        customdata=told,
        hovertemplate=f"{name}{hover}<br>{curve.told}<extra></extra>",
        **common,
    )
    if (curve.lost or curve.unfinished) and switches.get("update") is None:
        symbol = "x-thin" if curve.lost else "triangle-right-open"
        _mark(drawn, float(middle[-1]), symbol, name + curve.told, 10, common | {"x": curve.x[-1:]}, hue)


def _bar(loaded: Results, curve: Curve, split: str, common: dict[str, Any]) -> go.Bar:
    """Draw a bar up to the curve's end; hatched if the training goes on."""
    key, hue = curve.key, color(loaded, curve.key)
    sd = None if curve.sd is None else float(curve.sd[-1])
    fill = hue if key.gpn else faint(hue, 0.3)
    look: dict[str, Any] = {"color": fill, "line": {"color": hue, "width": 1.2}}
    if curve.unfinished:
        look |= {"color": "white", "pattern": {"shape": "/", "fgcolor": fill, "size": 5, "solidity": 0.4}}
    return go.Bar(
        y=[float(curve.middle[-1])],
        error_y=None if sd is None else {"array": [sd], "color": INK, "thickness": 1.2, "width": 3},
        marker=look,
        hovertemplate=f"{_bold(loaded, key)}{split} %{{y:.2f}}{'' if sd is None else f' ± {sd:.2f}'} %<br>"
        f"{curve.told}<extra></extra>",
        **common,
    )


def _label(drawn: go.Figure, y: float, text: str, told: str, common: dict[str, Any]) -> None:
    drawn.add_scatter(
        y=[y],
        mode="text",
        text=[text],
        textposition="top center",
        textfont={"size": 10, "color": UNEQUAL},
        hovertemplate=told + "<extra></extra>",
        **common,
    )


def _standing(record: Record) -> str:
    """Return the hover text's addition for a run that hasn't ended ok."""
    if record["status"] == UNFINISHED:
        return f", unfinished: {how_far(record)}"
    return "" if record["status"] == "ok" else f", {record['status']}"


def _going_on(curves: Iterable[Curve]) -> str:
    return " A line that ends in a triangle is unfinished." if any(curve.unfinished for curve in curves) else ""


def _mark(
    drawn: go.Figure, y: float, symbol: str, told: str, size: int, common: dict[str, Any], hue: str = INK
) -> None:
    marker = {"symbol": symbol, "size": size, "color": hue, "line": {"width": 2.2, "color": hue}}
    drawn.add_scatter(y=[y], mode="markers", marker=marker, hovertemplate=told + "<extra></extra>", **common)


def _chance(drawn: go.Figure, chance: float, end: float, split: str) -> None:
    line = {"color": plotting.GREY, "width": 1, "dash": "dot"}
    told = f"best constant answer: {chance:.2f} %<extra></extra>"
    drawn.add_scatter(
        x=[0, end], y=[chance, chance], mode="lines", line=line, hovertemplate=told, meta={"split": split}
    )


def _bold(loaded: Results, key: Key) -> str:
    return f"<b>{plain(loaded.name_of(key))}</b><br>"
