"""W&B workspaces of a budget: one for each dataset, and one of all settings.

Each dataset has its own because a workspace's filter applies to all of its panels.

Sections: accuracy, gradients, the end of training. Lines and bars are grouped over seeds by the run's group (a cell
without its seed), with mean and spread; points and parallel coordinates are single runs, coloured as in Figure 4. The
filter admits exactly the cells of the budget's Table 2, so that sweeps and other settings stay out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces.interface as ws
from wandb_workspaces import expr

from bsnn.cell import PROTOCOL_VERSION
from bsnn.config import TrackingConfig
from bsnn.results import budgets
from bsnn.results.grid import Results
from bsnn.results.records import Record
from bsnn.tracking.runs import of_record
from scripts.fig4 import VARIANTS

GROUP = "Group"  # W&B's run attribute
COLORS = {variant.label: variant.color for variant in VARIANTS}
COLUMNS = (
    "run:displayName",
    *(f"config:{name}.value" for name in ("activation", "variant", "seed")),
    *(
        f"summary:{name}"
        for name in ("status", "test_accuracy", "train_accuracy", "gradient_ratio", "epoch", "seconds")
    ),
    *(f"config:{name}.value" for name in ("epochs", "depth", "width", "budget", "hash")),
)
ORDER = ("activation", "variant", "seed")
AXES = ("dataset", "activation", "gpn", "batch_norm", "initialisation", "depth", "width", "learning_rate", "seed")
SWEPT = ("depth", "width", "learning_rate", "batch_size")
NOT_ASKED = ("seed", "activation_module")
ALL = "all settings"
MANY = 1000  # more runs than a panel has, so that a mean includes all

NON_FINITE = (
    "**Not every network has a point here.** The gradient ratio is max / min over the layers of ||dE/dV_l||_F. "
    "Where a layer's gradient is exactly 0 it is `inf`, where all are 0 it is `nan`: dead networks, mostly plain ReLU, "
    "LeakyReLU and GELU. A logarithmic axis has no place for either; the column `gradient_ratio` of the run table "
    "shows them as Infinity and NaN. A diverged network (column `status`) ends where its loss was lost. An "
    "unfinished one (there, too) ends where its training stands: what is shown of it is not its final accuracy."
)


def build(loaded: Results, dataset: str | None, config: TrackingConfig) -> ws.Workspace:
    """Build the workspace of one dataset, or that of all settings; without an entity it can be viewed, not saved."""
    budget = loaded.budget.name
    records = loaded.records if dataset else [*loaded.records, *loaded.others]
    workspace = ws.Workspace(
        entity=config.entity or "",
        project=config.project,
        name=title(loaded, dataset),
        sections=sections(budget) if dataset else grid_sections(budget),
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MANY, tooltip_number_of_runs="all_runs"),
        runset_settings=ws.RunsetSettings(
            filters=conditions(loaded, dataset),
            order=[expr.Ordering(expr.Config(name), ascending=True) for name in ORDER],
            pinned_columns=list(COLUMNS),
            run_settings={run: ws.RunSettings(color=color) for run, color in colors(records, dataset).items()},
        ),
    )
    workspace._internal_name = f"nw-{stable_id(budget, dataset or ALL, 'view')[:11]}-v"
    workspace._internal_runset_id = stable_id(budget, dataset or ALL, "runs")
    for section in workspace.sections:
        number(section.panels, budget, dataset or ALL, section.name)
    return workspace


def title(loaded: Results, dataset: str | None) -> str:
    return f"bsnn {loaded.budget.name}: {loaded.datasets[dataset].label if dataset else ALL}"


def sections(budget: str) -> list[ws.Section]:
    headline = budgets.headline(budget)
    return [
        ws.Section("Accuracy", is_open=True, panels=[wr.MarkdownPanel(markdown=f"**{headline}**"), *accuracy_panels()]),
        ws.Section("Gradients", is_open=True, panels=gradient_panels()),
        ws.Section("End of training", is_open=True, panels=final_panels()),
    ]


def accuracy_panels() -> list[Any]:
    return [
        curve("test_accuracy", "Test accuracy: mean ± sd over the seeds", "%", "stddev"),
        curve("train_accuracy", "Training accuracy, running: mean ± sd over the seeds", "%", "stddev"),
        curve("test_accuracy", "Test accuracy by variant: mean and range over functions and seeds", "%", "minmax",
              groupby=wr.Config("variant")),
        curve("test_loss", "Test loss: mean ± sd over the seeds", "nats", "stddev", log_y=True),
    ]  # fmt: skip


def gradient_panels() -> list[Any]:
    return [
        curve("gradient_ratio", "Gradient ratio: mean and range over the seeds", "max / min", "minmax", log_y=True),
        curve("gradient_ratio", "Gradient ratio by variant: mean and range", "max / min", "minmax", log_y=True,
              groupby=wr.Config("variant")),
        curve("gradient_norm_max", "Largest gradient norm of a layer", "norm", "minmax", log_y=True),
        curve("gradient_norm_min", "Smallest gradient norm of a layer", "norm", "minmax", log_y=True),
        wr.MarkdownPanel(markdown=NON_FINITE),
    ]  # fmt: skip


def grid_sections(budget: str) -> list[ws.Section]:
    """Build panels of the end of training against each setting, for every run of the budget, sweeps included."""
    scatters: list[Any] = [
        wr.ScatterPlot(
            title=f"{label} against {setting}, a point a run",
            x=wr.Config(setting),
            y=wr.SummaryMetric(metric),
            log_x=True,
            log_y=log_y,
            legend_template="${run:displayName}",
        )
        for metric, label, log_y in (
            ("test_accuracy", "Test accuracy", None),
            ("gradient_ratio", "Gradient ratio (finite ones)", True),
        )
        for setting in SWEPT
    ]
    note = wr.MarkdownPanel(markdown=f"**{budgets.headline(budget)}**, and networks with other settings.")
    return [
        ws.Section("The grid", is_open=True, panels=[note, grid()]),
        ws.Section("The end of training, by setting", is_open=True, panels=scatters),
    ]


def grid() -> Any:
    return wr.ParallelCoordinatesPlot(
        title="The grid",
        columns=[
            *(wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in AXES),
            wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("gradient_ratio"), log=True),
            wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("test_accuracy")),
        ],
    )


def final_panels() -> list[Any]:
    return [
        wr.BarPlot(
            title="Test accuracy in the end, or so far (column status): mean ± sd over the seeds",
            metrics=["test_accuracy"],
            groupby=GROUP,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            title_x="%",
            max_runs_to_show=MANY,
            max_bars_to_show=100,
        ),
        wr.ScatterPlot(
            title="Test accuracy against gradient ratio, in the end or so far (finite ratios)",
            x=wr.SummaryMetric("gradient_ratio"),
            y=wr.SummaryMetric("test_accuracy"),
            log_x=True,
            legend_template="${run:displayName}",
        ),
        grid(),
    ]


def curve(metric: str, title: str, unit: str, spread: Any, log_y: bool | None = None, groupby: Any = GROUP) -> Any:
    """Build a panel of a metric by epoch, a line for each group."""
    return wr.LinePlot(
        title=title,
        x="epoch",
        y=[metric],
        title_x="epoch",
        title_y=unit,
        log_y=log_y,
        groupby=groupby,
        groupby_aggfunc="mean",
        groupby_rangefunc=spread,
        max_runs_to_show=MANY,
        smoothing_type="none",
    )


def conditions(loaded: Results, dataset: str | None, **more: Any) -> expr.And:
    """Build the filter of a dataset's part of Table 2: all that its cells have in common, except None.

    W&B can't filter for None. Without a dataset it is the budget alone.
    """
    asked: dict[str, Any] = {"budget": loaded.budget.name}
    if dataset:
        cells = [cell.as_dict() for key, cell in loaded.expected.items() if key.dataset == dataset]
        common = {name: value for name, value in cells[0].items() if all(cell[name] == value for cell in cells)}
        asked |= {name: value for name, value in common.items() if value is not None and name not in NOT_ASKED}
        asked["protocol"] = PROTOCOL_VERSION
    return expr.And(*(expr.Config(name) == value for name, value in (asked | more).items()))


def colors(records: Iterable[Record], dataset: str | None) -> dict[str, str]:
    """Choose the colours of runs, by run id."""
    chosen = [record for record in records if dataset in (None, record["cell"]["dataset"])]
    return {told.id: COLORS[told.config["variant"]] for told in map(of_record, chosen)}


def number(panels: Sequence[Any], *names: str) -> None:
    """Give panels ids that depend on their place alone instead of random ones: the same input gives the same file."""
    for place, panel in enumerate(panels):
        panel._id = stable_id(*names, str(place))


def stable_id(*names: str) -> str:
    """Make an id of 12 digits and small letters, like W&B's own."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    value = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest(), "big")
    text = ""
    while len(text) < 12:
        value, rest = divmod(value, len(digits))
        text += digits[rest]
    return text
