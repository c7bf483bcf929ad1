"""The common part of the drawings of Figs 1-3: reading the tables of experiments.synthetic, and the command line.

    python -m scripts.fig1 results/quick      # likewise fig2, fig3

They read only results/<budget>/fig<k>.csv and .json, and write fig<k>.png and .pdf beside them, in seconds. They do the
same for the tables with other settings in results/<budget>/other_settings/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.results import budgets, tables
from bsnn.results.cli import budget_dir
from bsnn.results.tables import Table, others


@dataclass(frozen=True)
class Results(Table):
    """A figure's table."""

    @property
    def labels(self) -> dict[str, str]:
        """The functions' printed names by key, in the config's order."""
        return {key: activation["label"] for key, activation in self.config["activations"].items()}


def load(path: Path, command: str) -> Results:
    """Load a figure's table. Raises UserError, with the command to run, if it is missing, unfinished or damaged."""
    found = tables.load(path, command)
    return Results(found.frame, found.config, found.provenance, found.seconds)


def note(config: dict[str, Any]) -> str:
    """Write the line under a figure: its budget, sizes and seed."""
    swept = config["figure"] == "fig3"
    papers = asdict(budgets.load_budget(budgets.PAPER).synthetic)
    sizes = {key: config[key] for key in ("depth", "width", "samples") if not (swept and key == "width")}
    draws = "one draw" if config["figure"] == "fig2" or config["draws"] == 1 else f"{config['draws']} draws"
    verdict = "the paper's sizes" if all(sizes[key] == papers[key] for key in sizes) else "NOT the paper's sizes"
    listed = ", ".join(f"{key} {value}" for key, value in sizes.items())
    return f"{config['budget']['name']} budget: {listed} ({verdict}), {draws}, seed {config['seed']}"


def spread(fig1: pd.DataFrame) -> str:
    """Say how much the norms of Fig. 1 differ between samples, and their growth between draws.

    The paper says of its Fig. 1 that the standard deviation over the samples is not large.
    """
    gpn = fig1[fig1.gpn]
    over_samples = [float((gpn[f"{norm}_std"] / gpn[f"{norm}_mean"]).max()) for norm in ("signal", "gradient")]
    ends = {
        norm: gpn.groupby(["function", "draw"])[norm].agg(lambda values: values.max() / values.min())
        for norm in ("gradient_mean", "batch_gradient")
    }
    told = " and ".join(
        f"{100 * share:.0f} % (the {norm})" for norm, share in zip(("signal", "gradient"), over_samples, strict=True)
    )
    ratios = "; ".join(
        f"{norm} {values.min():.3g} to {values.max():.3g}"
        for norm, values in zip(("of a sample", "of the batch"), ends.values(), strict=True)
    )
    draws = fig1.draw.nunique()
    return (
        f"GPN functions: over the samples the standard deviation is at most {told} of the mean, in any layer. max / "
        f"min of the gradient over the layers: {ratios} (six functions, n = {draws} draw{'s' * (draws > 1)} of the "
        "weights). One draw is one random walk; what the draws' curves do alike is the law."
    )


def draw_and_save(
    figure: str, draw: Callable[[Results], Figure], description: str | None, argv: list[str] | None = None
) -> None:
    """Run the command `python -m scripts.<figure> results/<budget>`: the figure, and those with other settings."""
    folder = budget_dir(description, argv)
    command = tables.command("synthetic", f"+experiment={figure}", folder)
    for path in (*others(folder / figure), folder / figure):
        results = load(path, command)
        with plotting.style():
            drawing = draw(results)
            plotting.budget_note(drawing, note(results.config))
            png, pdf = plotting.save(drawing, path)
        print(f"{png}, {pdf.name}")
