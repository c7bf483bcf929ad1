"""The files made from the records, as one artifact of Weights & Biases: tables, figures, report, provenance.

The run results-<budget> holds the figures as images, which a report of W&B can show, and logs the artifact of the same
name. It carries no budget in its config, so that no chart takes it for a training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import CommError, UsageError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.files import read_json
from bsnn.tracking.runs import Described, failure, open_run
from bsnn.tracking.watch import AGAIN, watched

FIGURES = ("fig1", "fig2", "fig3", "fig4", "fig4_mnist")
SUFFIXES = (".csv", ".json", ".md", ".pdf", ".png", ".tex")
JOB = "publish"


def run_name(budget: str) -> str:
    return f"results-{budget}"


def files(folder: Path) -> list[Path]:
    """List tables, figures, report and provenance of a budget, and of each study beside it; not the records."""
    found = [*folder.glob("*"), *folder.glob("*/report.md"), *folder.glob("*/statements.csv")]
    return sorted(path for path in found if path.suffix in SUFFIXES and path.is_file())


def metadata(folder: Path, headline: str) -> dict[str, Any]:
    """Describe the origin of the files: the commits, devices and versions that the records name."""
    told: dict[str, Any] = read_json(folder / "provenance.json")
    training: Mapping[str, list[dict[str, Any]]] = told["training"]
    values = {name: [entry["value"] for entry in entries] for name, entries in training.items()}
    versions = {name.removeprefix("version of "): found for name, found in values.items() if name.startswith("version")}
    return {
        "budget": folder.name,
        "headline": headline,
        "runs": told["runs"],
        "cells": told["cells"],
        "cells_missing": told["cells_missing"],
        "commits": values.get("commit", []),
        "dirty": values.get("dirty", []),
        "devices": values.get("device", []),
        "versions": versions,
    }


def publish(api: wandb.Api, config: TrackingConfig, folder: Path, headline: str) -> bool:
    """Upload the artifact; returns False if W&B's latest version has the same contents already.

    Raises UserError if it hasn't arrived at the end.
    """
    name = run_name(folder.name)
    artifact = wandb.Artifact(name, type="results", description=headline, metadata=metadata(folder, headline))
    for path in files(folder):
        artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
    full = f"{config.entity}/{config.project}/{name}:latest"
    if _latest(api, full) == artifact.digest:
        return False
    told = Described(name, name, None, ["results"], {"results_of": folder.name, "headline": headline})
    try:
        with watched(), tempfile.TemporaryDirectory(prefix="bsnn-sync-") as scratch:
            run = open_run(config, told, "online", folder=Path(scratch), job_type=JOB, patient=True)
            drawn = {figure: folder / f"{figure}.png" for figure in FIGURES}
            run.log({figure: wandb.Image(str(path)) for figure, path in drawn.items() if path.exists()})
            run.log_artifact(artifact)
            run.finish()  # returns when all is uploaded
    except (CommError, UsageError) as error:
        raise UserError(f"W&B: expected the artifact {full} to arrive, found: {failure(error)}; {AGAIN}.") from error
    arrived = _latest(api, full)
    if arrived != artifact.digest:
        raise UserError(f"W&B: expected the artifact {full} with digest {artifact.digest}, found {arrived}; {AGAIN}.")
    return True


def _latest(api: wandb.Api, full: str) -> str | None:
    """Return the digest of W&B's latest version; None if it holds nothing."""
    try:
        return str(api.artifact(full).digest) if api.artifact_exists(full) else None
    except (CommError, WandbApiFailedError) as error:
        raise UserError(f"W&B: expected to hear of {full}, found: {failure(error)}; {AGAIN}.") from error
