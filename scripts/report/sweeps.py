"""The sweeps' section of the report: their figures, their numbers, and the functions that train at each value."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    """Make a row for each function and a column for each value, count the functions that train and say where."""
    values = [value for value in sweep.axes[sweep.x] if (found[sweep.x] == value).any()]
    words: list[Any] = [None] if sweep.across is None else list(sweep.axes[sweep.across])
    means = summary(sweep, found)
    rows, counts, said = [], [], []
    for gpn in sweep.cells["gpn"]:
        for word in words:
            which = ("GPN" if gpn else "plain") + ("" if word is None else f", {name_of_value(word)}")
            trained: dict[Any, dict[str, bool]] = {value: {} for value in values}
            for name in sweep.cells["activation"]:
                told = "" if word is None else f", {name_of_value(word)}"
                row = [loaded.activations[name].label + "-GPN" * gpn + told]
                for value in values:
                    key = Key(sweep.cells["dataset"][0], name, gpn, False)
                    here = runs_of(at(found, sweep, value, word), *key)
                    does, _ = trains(here[here["status"] != "crashed"], key.dataset)
                    if does is not None:
                        trained[value][loaded.activations[name].label] = does
                    row.append(entry(pick(means, sweep, key, value, word), bool(does)))
                rows.append(row)
            shares = [share(does) for does in trained.values()]
            counts.append([f"{which}: how many train", *shares])
            said.append(f"{which} {where(trained)}")
    head = ["", *(f"{value:g}" + "°" * (value == papers(sweep.x)) for value in values)]
    details = f"<details><summary>each function</summary>\n\n{table(head, rows)}\n\n</details>"
    axis = TITLES.get(sweep.name, sweep.name) if sweep.across is None else sweep.x.replace("_", " ")
    return f"{table(head, counts)}\n\n{axis[0].upper()}{axis[1:]}, in a sentence: {'; '.join(said)}.\n\n{details}"


FEW = 2
"""Functions up to whose number they are named."""


def share(does: Mapping[str, bool]) -> str:
    return f"{sum(does.values())} of {len(does)}" if does else "–"


def where(trained: Mapping[Any, Mapping[str, bool]]) -> str:
    """Say at which values most functions train and at which fewest, with their names if they are few.

    Values at which not all functions are trained yet are left out.
    """
    most = max(len(does) for does in trained.values())
    if not most:
        return "have no data"
    compared = {value: does for value, does in trained.items() if len(does) == most}
    counted = {value: sum(does.values()) for value, does in compared.items()}
    ends = []
    for end in dict.fromkeys((max(counted.values()), min(counted.values()))):
        values = [value for value, count in counted.items() if count == end]
        names = {tuple(name for name, trains in compared[value].items() if trains) for value in values}
        named = f": {', '.join(next(iter(names)))}" if len(names) == 1 and 0 < end <= FEW else ""
        ends.append(f"{', '.join(f'{value:g}' for value in values)} ({end} of {most}{named})")
    if len(ends) == 1:
        return f"train alike at {ends[0]}"
    return f"train most at {ends[0]}, fewest at {ends[1]}"


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
