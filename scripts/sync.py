"""Bring records to Weights & Biases: a run for each finished one, then tables, figures and report as one artifact.

    python -m scripts.sync results/quick
    python -m scripts.sync results/quick --entity=my-team --project=bsnn

Needs a login (`wandb login`, or WANDB_API_KEY). Uploads what W&B's server lacks and nothing else: repeat the command
after a kill, a lost connection or further training; a second one uploads nothing. A run that was live, or is kept
offline under outputs/wandb, is the same run as its record's, not another. The artifact gets a new version when one of
its files has changed.

Cost: 161 runs in 27 seconds on two cores, against a server on the same machine; a distant one takes longer.
Output: on W&B. Exit code 1 if anything is still missing there.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from bsnn import budgets, results, wandb_results, wandb_upload
from bsnn.records import FINISHED, Record
from bsnn.wandb_login import connect, server
from scripts import cli
from scripts.dashboard_options import parse

SCRATCH = Path("outputs/sync")


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, argv)
    folder = options.folder
    loaded = results.load(folder)
    headline = budgets.headline(folder.name)
    api, entity = connect(options.config)
    config = replace(options.config, entity=entity)
    print(f"{headline}; to {entity}/{config.project} at {server()}")
    records = [*loaded.records, *loaded.others]
    finished = [record for record in records if record["status"] in FINISHED]
    uploaded = wandb_upload.upload(api, config, folder.name, finished, SCRATCH / folder.name)
    print(f"runs: {uploaded} uploaded, {len(finished) - uploaded} were there already" + _crashed(records, finished))
    if not (folder / "provenance.json").exists():
        print(f"no report yet, so no tables and figures: python -m scripts.publish {options.given}, then this again")
        return
    new = wandb_results.publish(api, config, folder, headline)
    name = wandb_results.run_name(folder.name)
    print(f"artifact {name}: " + ("a new version" if new else "unchanged, nothing uploaded"))


def _crashed(records: list[Record], finished: list[Record]) -> str:
    crashed = len(records) - len(finished)
    return f"; {crashed} crashed, not uploaded: train again to retry" if crashed else ""


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    cli.run(main)
