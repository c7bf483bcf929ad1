"""The command line of commands that publish to W&B: a budget's folder, and the project and its owner."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from bsnn.config import TrackingConfig
from bsnn.files import user_path
from bsnn.tracking.login import configured


class Options(NamedTuple):
    given: Path
    folder: Path  # absolute
    config: TrackingConfig
    offline: bool


def parse(description: str | None, argv: list[str] | None, may_stay_offline: bool = False) -> Options:
    """Parse `results/BUDGET --project=NAME --entity=NAME`, defaults in conf/tracking/wandb.yaml; maybe --offline."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "budget_dir", type=user_path, metavar="results/BUDGET", help="paper, quick or smoke: where records lie"
    )
    parser.add_argument("--project", help="default: project in conf/tracking/wandb.yaml")
    parser.add_argument("--entity", help="a user or team; default: entity in conf/tracking/wandb.yaml, else your own")
    if may_stay_offline:
        parser.add_argument("--offline", action="store_true", help="write the files, publish nothing")
    asked = parser.parse_args(argv)
    os.environ.setdefault("WANDB_SILENT", "true")  # these commands print their own messages
    return Options(
        given=asked.budget_dir,
        folder=asked.budget_dir.absolute(),
        config=configured(asked.project, asked.entity),
        offline=bool(getattr(asked, "offline", False)),
    )
