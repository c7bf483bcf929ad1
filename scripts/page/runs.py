"""The review page's run table and the parallel coordinates over it: one row for each record, whatever its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from bsnn.results.grid import KEY, Results, initial_gradients, worst
from bsnn.results.records import UNFINISHED, Record, cell_of, epochs_asked, epochs_reached, how_far
from scripts.page.style import FONT, INK, PinnedAxis, plain, yes

SIZES = ("depth", "width")
"""Settings that the table always has; others are shown if they vary."""

EPOCHS = {"epochs_reached": "epochs reached", "epochs_asked": "epochs asked"}

ENDS = ("first_ratio", "last_ratio", "train_accuracy", "test_accuracy")
"""The last axes of the parallel coordinates: a run that lacks one of them has no line."""

BLUES = [[0, "#ccd3da"], [0.3, "#7fb2d6"], [0.6, "#0072b2"], [1, "#082a4a"]]

Row = dict[str, Any]

GRID = {"dataset": "dataset", "activation": "activation", "gpn": "GPN", "batch_norm": "batch norm", "seed": "seed"}
MEASURED = {
    "train_accuracy": "train %",
    "test_accuracy": "test %",
    "first_ratio": "ratio, first update",
    "last_ratio": "ratio, last interval",
    "largest_ratio": "ratio, largest",
}
FACTS = {"in_table": "in Table 2", "steps": "steps", "seconds": "seconds", "device": "device", "commit": "commit"}


def columns(loaded: Results) -> dict[str, str]:
    """List name and heading of every column, in order."""
    settings = {name: name.replace("_", " ") for name in (*SIZES, *varied(loaded))}
    return {"run": "run", "status": "status", **GRID, **EPOCHS, **MEASURED, **settings, **FACTS, "note": "note"}


def rows(loaded: Results) -> list[Row]:
    """List every record, those of other settings last, then a row for each expected cell without one.

    in_table  yes if Table 2 counts the run, no for one of other settings
    epochs_reached, epochs_asked  at the last row, and of the whole training
    first_ratio, last_ratio, largest_ratio  in the first update; median over the last interval between evaluations; the
                                            largest of all updates
    """
    settings = [*SIZES, *varied(loaded)]
    made = [_run(record, "yes", settings) for record in loaded.records]
    made += [_run(record, "no", settings) for record in loaded.others]
    trained = set(loaded.runs[KEY].itertuples(index=False, name=None))
    for key, cell in loaded.expected.items():
        if tuple(key) not in trained:
            made.append({"status": "missing", "in_table": "yes", **_settings(cell.as_dict(), settings), "seed": None})
    return made


def varied(loaded: Results) -> list[str]:
    """List settings that differ between records, beside the table's own and the sizes."""
    cells = [record["cell"] for record in (*loaded.records, *loaded.others)]
    names = dict.fromkeys(
        name for cell in cells for name in cell if name not in (*KEY, *SIZES, "seed", "epochs", "max_steps")
    )
    # Each function has its own arguments: they are a setting only if one function occurs with several.
    functions = {(cell["activation"], _plain(cell.get("activation_module"))) for cell in cells}
    if len(functions) == len({cell["activation"] for cell in cells}):
        names.pop("activation_module", None)
    return [name for name in names if len({_plain(cell.get(name)) for cell in cells}) > 1]


def parallel(table: list[Row], headings: dict[str, str]) -> go.Figure:
    """Draw parallel coordinates of the rows with all of ENDS; `customdata` holds each line's place in the table."""
    lines = [
        (place, row) for place, row in enumerate(table) if all(isinstance(row.get(name), (int, float)) for name in ENDS)
    ]
    settings = [name for name in headings if name not in ("run", "status", *MEASURED, *FACTS, "note")]
    shown = [name for name in settings if name in GRID or len({row[name] for _, row in lines}) > 1]
    dimensions = [_dimension(headings[name], [row[name] for _, row in lines]) for name in shown]
    dimensions += [_ratios(f"ratio, {name[:-6]}", [row[name] for _, row in lines]) for name in ENDS[:2]]
    accuracies = {name: [row[name] for _, row in lines] for name in ENDS[2:]}
    dimensions += [
        {"label": headings[name], "values": values, "range": [0, 100], "tickvals": [*range(0, 101, 20)]}
        for name, values in accuracies.items()
    ]
    line = {"color": accuracies["test_accuracy"], "colorscale": BLUES, "cmin": 0, "cmax": 100}
    trace = go.Parcoords(
        dimensions=dimensions,
        line=line,
        customdata=[place for place, _ in lines],
        labelfont={"size": 12},
        tickfont={"size": 11, "color": INK},
        unselected={"line": {"color": "#bbbbbb", "opacity": 0.15}},
    )
    layout = {"template": go.layout.Template(), "font": FONT, "margin": {"l": 60, "r": 50, "t": 66, "b": 20}}
    return go.Figure(trace, layout={**layout, "paper_bgcolor": "white"})


def _dimension(label: str, values: list[Any]) -> Row:
    """Describe a setting's axis with equal steps between values: texts have no scale, sizes and rates span decades."""
    numbers = sorted({value for value in values if not isinstance(value, str)})
    distinct = [*numbers, *dict.fromkeys(value for value in values if isinstance(value, str))]
    places = [distinct.index(value) for value in values]
    texts = [plain(str(value)) for value in distinct]
    margin = 0.1 if len(distinct) > 1 else 1
    reach = [-margin, len(distinct) - 1 + margin]
    return {
        "label": plain(label),
        "values": places,
        "range": reach,
        "tickvals": list(range(len(texts))),
        "ticktext": texts,
    }


def _ratios(label: str, values: list[float]) -> Row:
    """Describe an axis of decades, with inf and 0/0 above them."""
    ratios = np.array(values, dtype=np.float64)
    axis = PinnedAxis.over([ratios])
    low, high = (math.log10(end) for end in (axis.values.low, axis.values.high))
    step = max(1, math.ceil((high - low) / 5))
    decades = [n for n in range(math.ceil(low), math.floor(high) + 1) if n % step == 0]
    ticks = {f"1e{n}" if n > 3 else f"{10.0**n:g}": float(n) for n in decades}
    if len(ticks) < 2:  # all within a decade or so: both ends are more useful
        ticks |= {f"{10.0**end:.3g}": end for end in (low, high)}
    ticks |= {name: math.log10(place) for name, place in axis.lines.items()}
    values_10 = np.log10(axis.place(ratios))
    reach = [min([low, *ticks.values()]), max([high, *ticks.values()])]
    return {
        "label": label,
        "values": values_10.tolist(),
        "range": reach,
        "tickvals": list(ticks.values()),
        "ticktext": list(ticks),
    }


def _run(record: Record, in_table: str, settings: Iterable[str]) -> Row:
    rows = record["rows"]
    last: dict[str, Any] = rows[-1] if rows else {}
    norms = record["gradient_norms"]["first"]
    peaks = [row["gradient_ratio_max"] for row in rows if row["gradient_ratio_max"] is not None]
    return {
        "run": record["id"],
        "status": record["status"],
        "in_table": in_table,
        **_settings(record["cell"], settings),
        "epochs_reached": _short(epochs_reached(record)),
        "epochs_asked": _short(epochs_asked(record)) if cell_of(record) else record["cell"].get("epochs"),
        "train_accuracy": last.get("train_accuracy"),
        "test_accuracy": last.get("test_accuracy"),
        "first_ratio": None if norms is None else initial_gradients(norms)[0],
        "last_ratio": last.get("gradient_ratio"),
        "largest_ratio": worst(peaks) if peaks else None,
        "steps": record["steps"],
        "seconds": record["seconds"],
        "device": ", then ".join(dict.fromkeys(facts["device"] for facts in sources(record))),
        "commit": ", then ".join(dict.fromkeys(map(commit, sources(record)))),
        "note": _note(record),
    }


def sources(record: Record) -> list[dict[str, Any]]:
    """List the provenance of the processes that trained a network, one after the other."""
    return [segment["provenance"] for segment in record["segments"]]


def commit(facts: dict[str, Any]) -> str:
    """Return a provenance's commit, shortened, and say if files differed from it."""
    return (facts["commit"] or "unknown")[:10] + (", files changed" if facts["dirty"] else "")


def _short(value: float) -> float:
    return int(value) if value == int(value) else float(f"{value:.6g}")


def _settings(cell: dict[str, Any], names: Iterable[str]) -> Row:
    switches = {name: yes(cell[name]) for name in ("gpn", "batch_norm")}
    usual = {"dataset": cell["dataset"], "activation": cell["activation"], **switches, "seed": cell["seed"]}
    return usual | {name: _plain(cell.get(name)) for name in names}


def _plain(value: Any) -> Any:
    """Return a number or text: a function's arguments as JSON, "none" for no limit."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return "none" if value is None else value


def _note(record: Record) -> str:
    if record["status"] == "diverged":
        return f"diverged at step {record['diverged_at_step']}"
    if record["status"] == "crashed":
        return str(record["error"])
    if not cell_of(record):
        return "made by another version of the protocol"
    if record["status"] == UNFINISHED:
        stopped = f"; crashed then: {record['error']}" if record["error"] else ""
        return f"unfinished: {how_far(record)}{stopped}"
    return ""
