"""The W&B report of a budget: verdicts, Table 2, Figures 1-4, and the runs themselves behind live panels.

The text is that of results/<budget>/report.md, from the same functions. Figures are the images that scripts.sync has
logged in the run results-<budget>. So they need no public address, and everyone who may see the project sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
from wandb_workspaces import expr

from bsnn.config import TrackingConfig
from bsnn.results import budgets
from bsnn.results.grid import Results
from bsnn.results.verdicts import Verdict
from bsnn.tracking.artifact import FIGURES, run_name
from scripts import table2
from scripts.dashboard.workspace import (
    COLUMNS,
    NON_FINITE,
    conditions,
    curve,
    final_panels,
    gradient_panels,
    number,
    stable_id,
)
from scripts.report import __main__ as report
from scripts.report import account
from scripts.report.account import Synthetic

FULL = 24  # the columns of a panel grid


def build(loaded: Results, synthetic: Synthetic, verdicts: Sequence[Verdict], config: TrackingConfig) -> wr.Report:
    """Build the report; without an entity it can be viewed, but not saved."""
    budget = loaded.budget.name
    blocks = [
        wr.MarkdownBlock(text=f"**{budgets.headline(budget)}.**"),
        wr.TableOfContents(),
        wr.H1(text="The paper's claims"),
        *(wr.MarkdownBlock(text=text) for text in report.summary(verdicts, budget)),
        wr.H1(text="Table 2"),
        wr.MarkdownBlock(text=table2.markdown(loaded).strip()),
        wr.H1(text="Figures"),
        *figures(budget, config),
        *(block for dataset in loaded.datasets for block in runs(loaded, dataset, config)),
        wr.H1(text="What ran, and where"),
        *(wr.MarkdownBlock(text=text) for text in account.what_ran(loaded, synthetic)),
        *(wr.MarkdownBlock(text=text) for text in account.where(loaded, synthetic)),
        wr.H1(text="Differences from the paper"),
        *(wr.MarkdownBlock(text=text) for text in report.different(budget)),
    ]
    return wr.Report(
        project=config.project,
        entity=config.entity or "",
        title=title(budget),
        description=f"Lu, Gould, Ajanthan (2023), reproduced. {budgets.headline(budget)}.",
        blocks=blocks,
        width="fluid",
    )


def title(budget: str) -> str:
    return f"Bidirectionally self-normalizing neural networks, {budget} budget"


def figures(budget: str, config: TrackingConfig) -> list[Any]:
    """Build one grid with an image in each row."""
    panels = [
        wr.MediaBrowser(
            title=f"Figure {stem.removeprefix('fig').replace('_mnist', ', MNIST')}: {report.FIGURES[stem]}",
            media_keys=[stem],
            num_columns=1,
            layout=wr.Layout(x=0, y=14 * place, w=FULL, h=14),
        )
        for place, stem in enumerate(FIGURES)
    ]
    runset = runs_where(expr.And(expr.Config("results_of") == budget), run_name(budget), config, budget, "figures")
    return [grid(panels, runset, budget, "figures")]


def runs(loaded: Results, dataset: str, config: TrackingConfig) -> list[Any]:
    """Show all runs of a dataset, and those of each function: Figure 4 with the runs behind it."""
    budget, label = loaded.budget.name, loaded.datasets[dataset].label
    everything = runs_where(conditions(loaded, dataset), f"{label}, all cells", config, budget, dataset)
    overview = [accuracy(), *gradient_panels()[:1], *final_panels()]
    blocks = [
        wr.H1(text=f"{label}: the runs"),
        wr.MarkdownBlock(text=NON_FINITE),
        grid(spread_out(overview), everything, budget, dataset),
    ]
    for activation, function in loaded.activations.items():
        chosen = conditions(loaded, dataset, activation=activation)
        runset = runs_where(chosen, f"{label}, {function.label}", config, budget, dataset, activation)
        by_variant = wr.Config("variant")
        panels = [
            curve("test_accuracy", "Test accuracy: mean ± sd over the seeds", "%", "stddev", groupby=by_variant),
            curve("gradient_ratio", "Gradient ratio: mean and range over the seeds", "max / min", "minmax",
                  log_y=True, groupby=by_variant),
        ]  # fmt: skip
        blocks += [
            wr.H2(text=f"{label}, {function.label}"),
            grid(spread_out(panels, columns=2), runset, budget, dataset, activation),
        ]
    return blocks


def accuracy() -> Any:
    return curve("test_accuracy", "Test accuracy: mean ± sd over the seeds", "%", "stddev")


def runs_where(filters: expr.And, name: str, config: TrackingConfig, budget: str, *place: str) -> wr.Runset:
    runset = wr.Runset(
        entity=config.entity or "",
        project=config.project if config.entity else "",  # without an entity: the report's own project
        name=name,
        filters=filters,
        order=[wr.OrderBy(wr.Config(column), ascending=True) for column in ("activation", "variant", "seed")],
        visible_columns=list(COLUMNS),
        lock_columns=True,
    )
    runset._id = stable_id("report", budget, *place, "runs")
    return runset


def grid(panels: Sequence[Any], runset: wr.Runset, *place: str) -> wr.PanelGrid:
    number(panels, "report", *place)
    return wr.PanelGrid(runsets=[runset], panels=list(panels))


def spread_out(panels: Sequence[Any], columns: int = 3, height: int = 9) -> list[Any]:
    """Place panels side by side, row by row."""
    width = FULL // columns
    for place, panel in enumerate(panels):
        panel.layout = wr.Layout(x=place % columns * width, y=place // columns * height, w=width, h=height)
    return list(panels)
