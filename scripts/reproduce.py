"""Reproduces a budget: trains the networks of Table 2 breadth first, computes Figures 1-3, publishes after every round.

    python -m scripts.reproduce paper --results results seed=0,1 time_limit=3600

A budget with rounds (conf/budget/paper.yaml: epochs 1, 2, 4, 8, ...) trains all networks to the first, then all to the
next. The paper has no schedule, so that the first epochs of an unfinished training are those of the finished one: what
results/<budget>/ shows after any round compares all networks alike. Stop it whenever (Ctrl-C, SIGTERM, time_limit): the
networks keep what they have learnt, the published files are renewed, and the same command goes on.

Cost: printed before anything is trained. Arguments NAME=VALUE are settings of experiments.train; time_limit counts for
the whole command, and until=N ends it after epoch N. Exit code: that of experiments.train.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bsnn import costs, paper
from bsnn.budgets import load_budget, table_configs
from bsnn.cell import Cell
from bsnn.cellrun import CHECKPOINT, answer, goal
from bsnn.checkpoints import checkpoint_step
from bsnn.config import TrainConfig
from bsnn.errors import UserError
from bsnn.provenance import choose_device
from bsnn.records import run_dir
from scripts import cli

STARTED = time.time()
TABLE = ("dataset", "activation", "gpn", "batch_norm", "seed")
MORE_TO_DO, INTERRUPTED, TERMINATED = 75, 130, 143
STOPPED = (MORE_TO_DO, INTERRUPTED, TERMINATED)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("budget")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default results")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="of experiments.train")
    arguments = parser.parse_intermixed_args(argv)
    sys.exit(reproduce(arguments.budget, arguments.results, arguments.settings))


def reproduce(budget: str, results: Path, settings: Sequence[str]) -> int:
    """Run everything that is not there yet; returns the exit code."""
    asked = dict(_split(setting) for setting in settings)
    limit, last = _number(asked.pop("time_limit", None)), _number(asked.pop("until", None))
    configs = [replace(config, results_dir=str(results)) for config in table(budget, asked)]
    rounds = rounds_of(budget, configs, None if last is None else int(last))
    where = [f"budget={budget}", f"results_dir={results}"]
    commands = Commands()

    def figures(*names: str) -> int:
        return commands.run("experiments.synthetic", "-m", f"+experiment={','.join(names)}", *where)

    def train(until: int | None) -> int:
        options = [f"{name}={value}" for name, value in asked.items()]
        if until is not None:
            options.append(f"until={until}")
        if limit is not None:
            options.append(f"time_limit={max(1.0, limit - (time.time() - STARTED)):.0f}")
        return commands.run("experiments.train", "+experiment=table2", *where, *options)

    early, late = (("fig1", "fig2"), ("fig3",)) if len(rounds) > 1 else ((), ("fig1", "fig2", "fig3"))
    if early and (code := figures(*early)):  # seconds: so the first round's report has them
        return code
    for number, until in enumerate(rounds):
        _say_cost(configs, until, results / budget)
        code = train(until)
        if number == 0 and code not in STOPPED:
            code = figures(*late) or code
        published = commands.run("scripts.publish", str(results / budget))
        if code or published:
            return code or published
    print(f"Read {results / budget}/report.md")
    return 0


def table(budget: str, asked: dict[str, str]) -> list[TrainConfig]:
    """The configs of Table 2's cells as far as `asked` chooses among them; other settings leave them as they are."""
    chosen = {name: asked[name].split(",") for name in TABLE if name in asked}
    seeds = [int(seed) for seed in chosen.pop("seed", ["0"]) if seed.isdecimal()] or [0]
    functions = chosen.get("activation", list(paper.ACTIVATIONS))
    return [
        replace(config, seed=seed)
        for key, config in table_configs(budget).items()
        for seed in seeds
        if key.activation in functions
        and all(str(getattr(key, name)).lower() in map(str.lower, values) for name, values in chosen.items())
    ]


def rounds_of(budget: str, configs: Sequence[TrainConfig], last: int | None) -> list[int | None]:
    """The epochs to which all networks are trained in turn; None: to their ends. Rounds that all have reached are left
    out, but the last."""
    longest = max((Cell.from_config(config).epochs for config in configs), default=0)
    end = None if last is None or last >= longest else last
    before = [epoch for epoch in load_budget(budget).training.rounds or [] if epoch < (end or longest)]
    left = itertools.dropwhile(lambda epoch: all(_standing(replace(c, until=epoch)) is None for c in configs), before)
    return [*left, end]


def _standing(config: TrainConfig) -> tuple[Cell, int] | None:
    """A cell that is not as far as its config asks, with the step that it goes on from."""
    cell = Cell.from_config(config)
    folder = run_dir(config.results_dir, config.budget.name, cell.id)
    if answer(folder, goal(config)) is not None:
        return None
    return cell, checkpoint_step(folder / CHECKPOINT, cell)


def _say_cost(configs: Sequence[TrainConfig], until: int | None, folder: Path) -> None:
    """Print what a round and the whole will cost. Raises UserError if the disk lacks room for the checkpoints."""
    left = [standing for config in configs if (standing := _standing(config)) is not None]
    if not left:
        return
    device = choose_device("auto")
    cost = costs.estimate(left, until, device, folder)
    print(cost.sentence(), flush=True)
    shortage = cost.shortage()
    if shortage is not None:
        raise UserError(shortage)


class Commands:
    """Runs commands one after the other; Ctrl-C and SIGTERM are for the one that runs."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._pass_on)

    def run(self, module: str, *arguments: str) -> int:
        """Run `python -m module arguments`; returns its exit code."""
        self._child = subprocess.Popen([sys.executable, "-m", module, *arguments])
        while True:
            try:
                return self._child.wait()
            except KeyboardInterrupt:  # the terminal has sent it to the child, too, which saves where it is
                continue

    def _pass_on(self, number: int, _: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _split(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UserError(f"{setting}: expected NAME=VALUE, a setting of experiments.train.")
    return name, value


def _number(text: str | None) -> float | None:
    return None if text in (None, "null") else float(text)


if __name__ == "__main__":
    cli.run(main)
