"""The sweeps' section of the report: their figures, their numbers, and the functions that train at each value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn.results.budgets import Key
from bsnn.results.claims import trains
from bsnn.results.grid import KEY, Results, runs_of
from bsnn.results.markdown import table
from bsnn.results.sweeps import Sweep, expected, papers, runs, so_far, summary, sweeps, varied
from scripts.sweeps import name_of_value

TITLES = {
    "batch_size": "Batch size",
    "depth": "Depth",
    "initialisation": "Orthogonal against Gaussian weights",
    "learning_rate": "Learning rate",
    "width": "Width",
}


def section(folder: Path, loaded: Results) -> list[str]:
    """Write the section; nothing if no sweep was trained."""
    texts = [text for sweep in sweeps() for text in one(sweep, folder, loaded)]
    if not texts:
        return []
    return [
        "## Sweeps",
        "Table 2's networks without batch norm with other settings, everything else as in this budget. The paper has "
        "no such table; its own value is marked with a °. Entries are the test accuracy in %, mean ± sd where there "
        "are several seeds, and in brackets max_l / min_l of the layers' gradient norms in the first update (0/0: all "
        "are 0). Only seeds that were trained at every value count. Bold: trains, by the rule of claim 1.",
        *texts,
    ]


def one(sweep: Sweep, folder: Path, loaded: Results) -> list[str]:
    found = runs(sweep, loaded)
    if not varied(sweep, found):
        return []
    stem, budget = sweep.stem, loaded.budget.name
    title = TITLES.get(sweep.name, sweep.name)
    image = f"![{title}]({stem}.png)" if (folder / f"{stem}.png").exists() else "Not drawn yet."
    missing = len(expected(sweep, budget)) - len(summary(sweep, found))
    command = f"make {stem} BUDGET={budget}"
    if missing:
        cells = len(expected(sweep, budget))
        left = f"{missing} of its {cells} cells are not trained; `{command}` trains what is missing."
    else:
        left = f"All of its cells are trained; `{command} SET=seed=0,1,2` trains more seeds."
    unfinished = []
    if told := so_far(found):
        unfinished = [
            f"Not finished: all of its cells are compared after {told}, the largest epoch that all have reached."
        ]
        left = f"`{command}` goes on with the unfinished cells. {left}"
    return [f"### {title}", image, *unfinished, numbers(sweep, found, loaded), left]


def numbers(sweep: Sweep, found: pd.DataFrame, loaded: Results) -> str:
    """Make a row for each function and a column for each value, and count the functions that train."""
    values = [value for value in sweep.axes[sweep.x] if (found[sweep.x] == value).any()]
    words: list[Any] = [None] if sweep.across is None else list(sweep.axes[sweep.across])
    means = summary(sweep, found)
    rows, counts = [], []
    for gpn in sweep.cells["gpn"]:
        for word in words:
            which = ("GPN" if gpn else "plain") + ("" if word is None else f", {name_of_value(word)}")
            trained: dict[Any, list[bool]] = {value: [] for value in values}
            for name in sweep.cells["activation"]:
                told = "" if word is None else f", {name_of_value(word)}"
                row = [loaded.activations[name].label + "-GPN" * gpn + told]
                for value in values:
                    key = Key(sweep.cells["dataset"][0], name, gpn, False)
                    here = runs_of(at(found, sweep, value, word), *key)
                    does, _ = trains(here[here["status"] != "crashed"], key.dataset)
                    trained[value] += [] if does is None else [does]
                    row.append(entry(pick(means, sweep, key, value, word), bool(does)))
                rows.append(row)
            shares = [f"{sum(does)} of {len(does)}" if does else "–" for does in trained.values()]
            counts.append([f"{which}: how many train", *shares])
    head = ["", *(f"{value:g}" + "°" * (value == papers(sweep.x)) for value in values)]
    details = f"<details><summary>each function</summary>\n\n{table(head, rows)}\n\n</details>"
    return f"{table(head, counts)}\n\n{details}"


def at(frame: pd.DataFrame, sweep: Sweep, value: Any, word: Any) -> pd.DataFrame:
    here = frame[sweep.x] == value
    if sweep.across is not None:
        here &= frame[sweep.across] == word
    chosen: pd.DataFrame = frame[here]
    return chosen


def pick(means: pd.DataFrame, sweep: Sweep, key: Key, value: Any, word: Any) -> dict[str, Any] | None:
    chosen = at(means, sweep, value, word)
    for name in KEY:
        chosen = chosen[chosen[name] == getattr(key, name)]
    return {str(name): entry for name, entry in chosen.iloc[0].items()} if len(chosen) else None


def entry(cell: dict[str, Any] | None, does: bool) -> str:
    """Format "**54.2 ± 3.6** (1.06)", or the cell's status."""
    if cell is None:
        return "–"
    ratio = "0/0" if math.isnan(cell["initial_ratio"]) else f"{cell['initial_ratio']:.3g}"
    if not cell["n"]:
        return f"{cell['status']} ({ratio})"
    spread = "" if math.isnan(cell["test_sd"]) else f" ± {cell['test_sd']:.1f}"
    text = f"{cell['test_mean']:.1f}{spread}" + ", partly diverged" * (cell["status"] != "ok")
    return f"**{text}** ({ratio})" if does else f"{text} ({ratio})"
