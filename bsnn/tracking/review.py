"""Records as offline W&B runs in one folder, for W&B's terminal dashboard.

Each record with results becomes <folder>/wandb/run-00000000_000000-<cell id>/run-<cell id>.wandb. It is made by
bsnn.tracking.runs.replay and moved there when it is whole. W&B's own names begin with `offline-run-<time>`; its
dashboard lists folders by name, cut off after some 35 letters, and opens only those with a time of this form in their
name. So the names have the shorter `run-`, and zeros for a time, and the list is in the order of the cells. If the
record has changed since its run was made (a training went on, say), the run is made again. Live runs, under
outputs/wandb, play no role: the record is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bsnn.config import TrackingConfig
from bsnn.files import write_text
from bsnn.results.records import RESULTS, Record
from bsnn.tracking.runs import replay

PREFIX = "run-00000000_000000-"
ORIGIN = "record.sha256"
"""File in a run's folder that identifies the record it was made from."""


def make_runs(config: TrackingConfig, records: Sequence[Record], folder: Path) -> int:
    """Bring <folder>/wandb in line with the records. Returns how many runs were made."""
    runs, new = folder / "wandb", folder / ".new"
    shutil.rmtree(new, ignore_errors=True)  # of a killed call
    wanted = {PREFIX + record["id"]: record for record in records if record["status"] in RESULTS}
    runs.mkdir(parents=True, exist_ok=True)
    for there in runs.glob("run-*"):
        if there.name not in wanted or _origin(there) != fingerprint(wanted[there.name]):
            shutil.rmtree(there)
    missing = {name: record for name, record in wanted.items() if not (runs / name).exists()}
    for name, record in tqdm(missing.items(), unit="run", desc="W&B runs", disable=None if missing else True):
        replay(config, record, "offline", new)
        [made] = (new / "wandb").glob(f"offline-run-*-{record['budget']}-{record['id']}")
        [file] = made.glob("*.wandb")
        file.rename(made / f"run-{record['id']}.wandb")
        write_text(made / ORIGIN, fingerprint(record) + "\n")
        made.rename(runs / name)
    shutil.rmtree(new, ignore_errors=True)
    return len(missing)


def fingerprint(record: Record) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _origin(run: Path) -> str | None:
    path = run / ORIGIN
    return path.read_text().strip() if path.exists() else None
