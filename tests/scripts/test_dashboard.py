"""The dashboards ask for what the runs have: every panel, filter and column, checked against the runs themselves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsnn.results import grid as results
from bsnn.results.budgets import headline
from bsnn.results.grid import Results
from bsnn.results.metrics import METRICS
from bsnn.tracking.artifact import FIGURES
from bsnn.tracking.runs import expected_summary, of_record
from scripts import table2
from scripts.report import __main__ as report
from scripts.report import account
from tests.factories import write_smoke_grid

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # wandb-workspaces defines its models as pydantic 1 did
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.workspaces.internal import View, WorkspaceViewspec

    from scripts.dashboard import __main__ as dashboard

LINES, BARS, POINTS, PARALLEL, MARKDOWN = (
    "Run History Line Plot", "Bar Chart", "Scatter Plot", "Parallel Coordinates Plot", "Markdown Panel",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smoke_grid(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Results:
    return results.load(folder)


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Any]:
    """What the command writes, by file name; twice the same."""
    written = []
    for _ in range(2):
        dashboard.main([str(folder), "--offline"])
        written.append({path.stem: path.read_bytes() for path in (folder / "dashboard").glob("*.json")})
    assert written[0] == written[1]
    return {name: json.loads(content) for name, content in written[0].items()}


def sections(file: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    config = file["spec"]["section"]["panelBankConfig"]
    return {section["name"]: section["panels"] for section in config["sections"]}


def accepted(filters: dict[str, Any], loaded: Results) -> set[str]:
    """The ids of the runs that a filter lets through."""

    def conditions(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for one in tree["filters"]:
            if "filters" in one:
                yield from conditions(one)
            else:
                yield one

    asked = list(conditions(filters))
    assert asked
    assert all(one["op"] == "=" and one["key"]["section"] == "config" for one in asked)
    runs = [of_record(record) for record in [*loaded.records, *loaded.others]]
    return {told.id for told in runs if all(told.config.get(one["key"]["name"]) == one["value"] for one in asked)}


def ids(loaded: Results, dataset: str, activation: str | None = None) -> set[str]:
    cells = ((record, record["cell"]) for record in loaded.records)
    return {
        of_record(record).id
        for record, cell in cells
        if cell["dataset"] == dataset and activation in (None, cell["activation"])
    }


def assert_known(name: str, loaded: Results) -> None:
    """`config:depth.value` or `summary:status`, of some run."""
    section, _, key = name.partition(":")
    records = loaded.records
    if section == "config":
        assert key.endswith(".value")
        assert all(key.removesuffix(".value") in of_record(record).config for record in records), name
    elif section == "summary":
        assert any(key in expected_summary(record) for record in records), name
    else:
        assert name == "run:displayName"


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_a_workspace_shows_the_cells_of_table_2(files: dict[str, Any], loaded: Results, dataset: str) -> None:
    section = files[f"workspace_{dataset}"]["spec"]["section"]
    [runs] = section["runSets"]
    assert accepted(runs["filters"], loaded) == ids(loaded, dataset)
    assert set(section["customRunColors"]) == ids(loaded, dataset)
    columns = runs["runFeed"]["columnOrder"]
    assert {"run:displayName", "summary:status", "summary:test_accuracy", "config:budget.value"} <= set(columns)
    for column in columns:
        assert_known(column, loaded)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_every_panel_of_a_workspace(files: dict[str, Any], loaded: Results, dataset: str) -> None:
    found = sections(files[f"workspace_{dataset}"])
    assert list(found) == ["Accuracy", "Gradients", "End of training"]
    for panel in (panel for panels in found.values() for panel in panels):
        config = panel["config"]
        match panel["viewType"]:
            case "Run History Line Plot":
                assert config["xAxis"] == "epoch"
                assert set(config["metrics"]) <= set(METRICS)
                assert config["groupBy"] in ("group", "variant.value")
                assert (config["groupAgg"], config["aggregate"], config["smoothingType"]) == ("mean", True, "none")
                assert config["limit"] >= len(loaded.records)
                accuracies = "accuracy" in config["metrics"][0]
                assert config.get("yLogScale", False) is not accuracies
                assert config["groupArea"] == ("minmax" if "range" in config["chartTitle"] or "norm" in
                                               config["chartTitle"] else "stddev")  # fmt: skip
            case "Bar Chart":
                assert (config["metrics"], config["groupBy"], config["groupAgg"]) == (
                    ["test_accuracy"],
                    "group",
                    "mean",
                )
            case "Scatter Plot":
                assert (config["xAxis"], config["yAxis"]) == ("summary:gradient_ratio", "summary:test_accuracy")
                assert config["xAxisLogScale"]
            case "Parallel Coordinates Plot":
                for column in config["columns"]:
                    assert_known(column["accessor"], loaded)
            case other:
                assert other == MARKDOWN
    kinds = {name: [panel["viewType"] for panel in panels] for name, panels in found.items()}
    assert kinds["Accuracy"] == [MARKDOWN, *[LINES] * 4]
    assert kinds["Gradients"] == [*[LINES] * 4, MARKDOWN]
    assert kinds["End of training"] == [BARS, POINTS, PARALLEL]
    assert headline("smoke") in found["Accuracy"][0]["config"]["value"]
    assert "Infinity and NaN" in found["Gradients"][-1]["config"]["value"]


def test_the_workspace_of_all_settings_has_every_run(files: dict[str, Any], loaded: Results) -> None:
    section = files["workspace_all"]["spec"]["section"]
    everything = {of_record(record).id for record in [*loaded.records, *loaded.others]}
    assert accepted(section["runSets"][0]["filters"], loaded) == everything == set(section["customRunColors"])
    panels = [panel for panels in sections(files["workspace_all"]).values() for panel in panels]
    scatters = [panel["config"] for panel in panels if panel["viewType"] == POINTS]
    assert {config["yAxis"] for config in scatters} == {"summary:test_accuracy", "summary:gradient_ratio"}
    assert {config["xAxis"].removeprefix("config:").removesuffix(".value") for config in scatters} == {
        "depth", "width", "learning_rate", "batch_size",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["workspace_mnist", "workspace_cifar10", "workspace_all"])
def test_w_and_b_reads_a_workspace_as_it_was_written(files: dict[str, Any], name: str) -> None:
    spec = WorkspaceViewspec.model_validate_json(json.dumps(files[name]["spec"]))
    view = View(entity="me", project="bsnn", display_name=files[name]["name"], name="nw-x-v", id="1", spec=spec)
    again = ws.Workspace._from_model(view)._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    assert json.loads(again) == files[name]["spec"]


def test_the_report(files: dict[str, Any], loaded: Results, folder: Path) -> None:
    blocks = files["report"]["spec"]["blocks"]
    text = "\n".join(block["content"] for block in blocks if block["type"] == "markdown-block")
    assert f"**{headline('smoke')}.**" in text
    assert table2.markdown(loaded).strip() in text
    for verdict in report.judge(loaded, account.load_synthetic(folder)):
        assert f"{verdict.claim} | **{verdict.outcome}**" in text
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    images, *trained = grids
    shown = [panel["config"]["mediaKeys"] for panel in images["panelBankSectionConfig"]["panels"]]
    assert shown == [[figure] for figure in FIGURES]
    asked = json.dumps(images["runSets"][0]["filters"])
    assert '"results_of"' in asked
    assert '"smoke"' in asked
    filtered = [accepted(grid["runSets"][0]["filters"], loaded) for grid in trained]
    expected = []
    for dataset in loaded.datasets:
        expected += [ids(loaded, dataset), *(ids(loaded, dataset, activation) for activation in loaded.activations)]
    assert filtered == expected
    for grid in trained:
        kinds = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
        assert kinds in ([LINES, LINES, BARS, POINTS, PARALLEL], [LINES, LINES])
        boxes = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes)
        assert all(box["x"] + box["w"] <= 24 for box in boxes)
