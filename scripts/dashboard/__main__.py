"""Weights & Biases dashboards as code: a workspace for each dataset, one of all settings, and a report.

    python -m scripts.dashboard results/quick
    python -m scripts.dashboard results/quick --entity=my-team --project=bsnn
    python -m scripts.dashboard results/quick --offline

Reads the records and figures in results/<budget>/, in seconds, and writes results/<budget>/dashboard/*.json: all that
is published, to read and to compare. The same records give the same bytes. With a login it then saves workspaces and
report on W&B and prints their addresses; it renews what it saved before. Its panels show the project's runs and
images: upload them with `python -m scripts.sync results/quick`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import wandb
import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces.interface as ws
from wandb_workspaces.workspaces import internal

from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.files import write_text
from bsnn.results import budgets, cli, grid
from bsnn.results.grid import Results
from bsnn.tracking.login import connect, server, why_offline
from bsnn.tracking.runs import failure
from scripts.dashboard import report as dashboard_report
from scripts.dashboard import workspace
from scripts.dashboard.options import Options, parse
from scripts.report import __main__ as report
from scripts.report import account


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, argv, may_stay_offline=True)
    loaded = grid.load(options.folder)
    print(budgets.headline(loaded.budget.name))
    nowhere = replace(options.config, entity=None)  # the files don't depend on who is logged in
    for name, view in views(loaded, options, nowhere).items():
        path = options.folder / "dashboard" / f"{name}.json"
        write_text(path, described(view))
        print(f"{path}")
    reason = "asked to stay offline" if options.offline else why_offline()
    if reason is None:
        publish(loaded, options)
    else:
        print(f"not published: {reason}\nto publish: python -m scripts.dashboard {options.given}, with a login")


def views(loaded: Results, options: Options, config: TrackingConfig) -> dict[str, ws.Workspace | wr.Report]:
    """Build all views, by file name."""
    synthetic = account.load_synthetic(options.folder)
    verdicts = report.judge(loaded, synthetic)
    built: dict[str, ws.Workspace | wr.Report] = {
        f"workspace_{dataset}": workspace.build(loaded, dataset, config) for dataset in loaded.datasets
    }
    built["workspace_all"] = workspace.build(loaded, None, config)
    built["report"] = dashboard_report.build(loaded, synthetic, verdicts, config)
    return built


def described(view: ws.Workspace | wr.Report) -> str:
    """Return a view in JSON, as W&B's server gets it."""
    model: Any = view._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    text = json.dumps({"name": model.display_name, "spec": spec}, indent=1, ensure_ascii=False)
    return text + "\n"


def publish(loaded: Results, options: Options) -> None:
    """Save all views on W&B, and print their addresses. Raises UserError if that fails."""
    api, entity = connect(options.config)
    config = replace(options.config, entity=entity)
    try:
        if config.project not in {project.name for project in api.projects(entity)}:
            api.create_project(config.project, entity)
        there = saved_reports(api, config)
        for view in views(loaded, options, config).values():
            if isinstance(view, wr.Report):
                view.id = there.get(view.title, "")
            else:
                view._internal_id = saved_workspace(view)
            save: Any = view.save
            print(save().url)
    except Exception as error:  # of wandb, of wandb-workspaces, of the network: they have no class in common
        raise UserError(
            f"W&B: expected {server()} to take the dashboards of {entity}/{config.project}, found: {failure(error)}; "
            "repeat the command, it renews what is there."
        ) from error


def saved_reports(api: wandb.Api, config: TrackingConfig) -> Mapping[str, str]:
    """Return the ids of the project's reports, by title."""
    return {str(found.display_name): str(found.id) for found in api.reports(f"{config.entity}/{config.project}")}


def saved_workspace(view: ws.Workspace) -> str:
    """Return the view's id on the server; empty if it isn't there yet."""
    name = internal._internal_name_to_url_query_str(view._internal_name)
    try:
        return str(internal.get_view_dict(view.entity, view.project, name)["id"])
    except ValueError:
        return ""


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    cli.run(main)
