"""What the drawings of Figs 1-3 share: reading what experiments.synthetic wrote, and the command line.

    python -m scripts.fig1 results/quick      # likewise fig2, fig3

They read results/<budget>/fig<k>.csv and .json alone, and write fig<k>.png and .pdf beside them, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bsnn import budgets, plotting
from bsnn.errors import UserError
from bsnn.files import read_json
from scripts.cli import budget_dir


@dataclass(frozen=True)
class Results:
    """A figure's table and the resolved config that it was computed with."""

    table: pd.DataFrame
    config: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """The functions' printed names by key, in the config's order."""
        return {key: activation["label"] for key, activation in self.config["activations"].items()}


def load(folder: Path, figure: str) -> Results:
    """Raises UserError, with the command to run, if the results are missing, unfinished or damaged."""
    table, record = folder / f"{figure}.csv", folder / f"{figure}.json"
    command = f"python -m experiments.synthetic +experiment={figure} budget={folder.name}"
    if folder.parent.name != "results":
        command += f" results_dir={folder.parent}"
    for path in (table, record):
        if not path.exists():
            raise UserError(f"{path}: no such file; make it with: {command}")
    facts = read_json(record)
    if not facts["complete"]:
        raise UserError(f"{table}: not finished yet; continue with: {command}")
    frame = pd.read_csv(table)
    expected, found = facts["rows"], len(frame)
    if found != expected:
        raise UserError(f"{table}: expected {expected} rows, found {found}; delete it and run: {command}")
    return Results(frame, facts["config"])


def note(config: dict[str, Any]) -> str:
    """The line under a figure: with which budget, sizes and seed."""
    swept = config["figure"] == "fig3"
    papers = asdict(budgets.load_budget(budgets.PAPER).synthetic)
    sizes = {key: config[key] for key in ("depth", "width", "samples") if not (swept and key == "width")}
    draws = f"{config['draws']} draws" if swept else "one draw"
    verdict = "the paper's sizes" if all(sizes[key] == papers[key] for key in sizes) else "NOT the paper's sizes"
    listed = ", ".join(f"{key} {value}" for key, value in sizes.items())
    return f"{config['budget']['name']} budget: {listed} ({verdict}), {draws}, seed {config['seed']}"


def draw_and_save(
    figure: str, draw: Callable[[Results], Figure], description: str | None, argv: list[str] | None = None
) -> None:
    """The command `python -m scripts.<figure> results/<budget>`."""
    folder = budget_dir(description, argv)
    results = load(folder, figure)
    with plotting.style():
        drawing = draw(results)
        plotting.budget_note(drawing, note(results.config))
        png, pdf = plotting.save(drawing, folder / figure)
    print(f"{png}, {pdf.name}")
