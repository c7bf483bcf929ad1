"""Bring records to Weights & Biases: a run for each, then tables, figures and report as one artifact.

    python -m scripts.sync results/quick
    python -m scripts.sync results/quick --entity=my-team --project=bsnn

Needs a login (`wandb login`, or WANDB_API_KEY). It uploads only what W&B's server lacks: repeat the command after a
kill, a lost connection or further training; a second one uploads nothing. An unfinished network's run ends where its
record does, and goes on with the network. A network that a process trains now is left alone. A run that was live, or is
kept offline under outputs/wandb, is the same run as its record's. The artifact gets a new version when one of its files
has changed.

Cost: 161 runs in 27 seconds on two cores, against a server on the same machine; a distant one takes longer.
Output: on W&B. Exit code 1 if anything is still missing there.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from bsnn.files import try_lock
from bsnn.results import budgets, cli, grid
from bsnn.results.records import RESULTS, UNFINISHED, Record, run_dir
from bsnn.tracking import artifact, upload
from bsnn.tracking.login import connect, server
from scripts.dashboard.options import parse

SCRATCH = Path("outputs/sync")


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, argv)
    folder = options.folder
    loaded = grid.load(folder)
    headline = budgets.headline(folder.name)
    api, entity = connect(options.config)
    config = replace(options.config, entity=entity)
    print(f"{headline}; to {entity}/{config.project} at {server()}")
    records = [*loaded.records, *loaded.others]
    shown = [record for record in records if record["status"] in RESULTS]
    resting = [record for record in shown if record["status"] != UNFINISHED or _rests(folder, record)]
    uploaded, superseded = upload.upload(api, config, folder.name, resting, SCRATCH / folder.name)
    told = [f"runs: {uploaded} uploaded, {len(resting) - uploaded} were there already"]
    if unfinished := sum(record["status"] == UNFINISHED for record in resting):
        told.append(f"{unfinished} of them unfinished")
    if superseded:
        told.append(f"{superseded} of other trainings superseded")
    if training := len(shown) - len(resting):
        told.append(f"{training} in training now, not uploaded: sync again later")
    if crashed := len(records) - len(shown):
        told.append(f"{crashed} crashed, not uploaded: train again to retry")
    print("; ".join(told))
    if not (folder / "provenance.json").exists():
        print(f"no report yet, so no tables and figures: python -m scripts.publish {options.given}, then this again")
        return
    new = artifact.publish(api, config, folder, headline)
    name = artifact.run_name(folder.name)
    print(f"artifact {name}: " + ("a new version" if new else "unchanged, nothing uploaded"))


def _rests(folder: Path, record: Record) -> bool:
    """True if no process trains the cell now: otherwise two would write its live run."""
    try:
        lock = try_lock(run_dir(folder.parent, folder.name, record["id"]))
    except OSError:  # nobody can train where nobody can write
        return True
    if lock is not None:
        lock.release()
    return lock is not None


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    cli.run(main)
