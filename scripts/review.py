"""Review a budget's runs without an account: in W&B's terminal dashboard, and in the browser.

    python -m scripts.review results/quick
    make review BUDGET=quick

Makes an offline W&B run of every record that has none yet, in outputs/review/<budget>/wandb, whether it was tracked in
training or not. Then it opens `wandb leet` there: runs by cell on the left (drag the border to widen the list), every
metric by epoch, config and summary on the right. f filters runs, space selects more of them to compare, y switches to a
log scale, h lists the other keys, q leaves. An unfinished network's run ends where its record does, and its summary
says so (`status`). Without a terminal it prints the command. results/<budget>/index.html shows the same in a browser,
if scripts.page has made it.

Cost: 161 runs in 11 seconds on two cores; those that are there already are kept.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from bsnn.results import budgets, cli, grid
from bsnn.results.records import RESULTS, UNFINISHED
from bsnn.tracking.review import make_runs
from scripts.dashboard.options import parse

REVIEW = Path("outputs/review")


def main(argv: list[str] | None = None) -> None:
    options = parse(__doc__, argv)
    loaded = grid.load(options.folder)
    budget = loaded.budget.name
    records = [*loaded.records, *loaded.others]
    folder = REVIEW / budget
    made = make_runs(options.config, records, folder)
    statuses = [record["status"] for record in records]
    unfinished = statuses.count(UNFINISHED)
    print(budgets.headline(budget))
    there = sum(status in RESULTS for status in statuses)
    print(f"{folder / 'wandb'}: {there} runs, {made} made now" + (f"; {unfinished} unfinished" if unfinished else ""))
    page = options.given / "index.html"
    print(
        f"{page}: open it in a browser" if page.exists() else f"no {page} yet: python -m scripts.page {options.given}"
    )
    leet = [sys.executable, "-m", "wandb", "leet", str(folder / "wandb")]
    if sys.stdin.isatty() and sys.stdout.isatty():
        subprocess.run(leet, check=False)
    else:
        print(f"in a terminal: {shlex.join(['wandb', *leet[3:]])}")


if __name__ == "__main__":
    cli.run(main)
