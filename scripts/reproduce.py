"""Reproduces a budget: trains the networks of Table 2 breadth first, computes Figures 1-3, publishes after every round.

    python -m scripts.reproduce paper --results results seed=0,1 time_limit=3600

A budget with rounds (conf/budget/paper.yaml: epochs 1, 2, 4, 8, ...) trains all networks to the first, then all to the
next. The paper has no schedule, so the first epochs of an unfinished training are those of the finished one. After any
round, results/<budget>/ therefore compares all networks alike. Stop it at any time (Ctrl-C, SIGTERM, time_limit): the
networks keep what they have learnt, the published files are renewed, and the same command goes on.

Cost: printed before anything is trained. Arguments NAME=VALUE are settings of experiments.train. until=N ends the
command after epoch N. time_limit counts from the command's start and bounds the training; figures and report come on
top. Cells that fail don't keep the others from further rounds. Exit code: 0, done; 1, something failed; 75, the time
limit has stopped it and the same command goes on; 130, Ctrl-C; 143, SIGTERM.
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from bsnn import paper
from bsnn.cell import Cell
from bsnn.config import CONF, TrainConfig, checked, register
from bsnn.errors import UserError
from bsnn.launch import on_gpus
from bsnn.launch.entry import MORE_TO_DO
from bsnn.results import cli
from bsnn.results.budgets import load_budget, table_configs
from bsnn.results.provenance import choose_device
from bsnn.results.records import run_dir
from bsnn.training import costs
from bsnn.training.cellrun import goal, stored

STARTED = time.time()
CHOICES = ("dataset", "activation", "gpn", "batch_norm")
INTERRUPTED, TERMINATED = 130, 143
STOPPED = (MORE_TO_DO, INTERRUPTED, TERMINATED)
LEAST_SECONDS = 60.0  # of a time limit: less is not worth the start of another round


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
    configs = [replace(config, results_dir=str(results)) for config in table(budget, asked)]
    limit, last = configs[0].time_limit, configs[0].until
    for setting in ("time_limit", "until"):  # for the whole command: each round gets its own
        asked.pop(setting, None)
    rounds = rounds_of(budget, configs, last)
    where = [f"budget={budget}", f"results_dir={results}"]
    commands = Commands()

    def figures(*names: str) -> int:
        return commands.run("experiments.synthetic", "-m", f"+experiment={','.join(names)}", *where)

    def left() -> float:
        return math.inf if limit is None else limit - (time.time() - STARTED)

    def train(until: int | None) -> int:
        options = [f"{name}={value}" for name, value in asked.items()]
        if until is not None:
            options.append(f"until={until}")
        if limit is not None:
            options.append(f"time_limit={max(1.0, left()):.0f}")
        return commands.run("experiments.train", "+experiment=table2", *where, *options)

    early, late = (("fig1", "fig2"), ("fig3",)) if len(rounds) > 1 else ((), ("fig1", "fig2", "fig3"))
    if early and (code := figures(*early)):  # takes seconds: the first round's report then has them
        return code
    failed = 0
    for number, until in enumerate(rounds):
        if number and left() < LEAST_SECONDS:
            return MORE_TO_DO
        _say_cost(configs, until, results / budget)
        code = train(until)
        if number == 0 and code not in STOPPED:
            code = figures(*late) or code
        published = commands.run("scripts.publish", str(results / budget))
        if code in STOPPED or published:
            return code or published
        failed = failed or code
        if code and all(_standing(replace(config, until=until)) is not None for config in configs):
            return code  # none of the cells can be trained
    print(f"Read {results / budget}/report.md")
    return failed


def table(budget: str, asked: Mapping[str, str]) -> list[TrainConfig]:
    """Compose the configs of Table 2's cells that `asked` chooses, with its other settings.

    Raises UserError for settings that experiments.train would refuse, before anything is trained.
    """
    values = {name: text.split(",") for name, text in asked.items() if not name.startswith("hydra")}
    chosen = {name: values.pop(name) for name in CHOICES if name in values}
    functions = chosen.get("activation", list(paper.ACTIVATIONS))
    keys = [
        key
        for key in table_configs(budget)
        if key.activation in functions
        and all(str(getattr(key, name)).lower() in map(str.lower, texts) for name, texts in chosen.items())
    ]
    if not keys:
        raise UserError(f"{' '.join(f'{n}={asked[n]}' for n in chosen)}: expected cells of Table 2, found none.")
    register()
    configs = []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for combination in itertools.product(*values.values()):
            own = [f"{name}={value}" for name, value in zip(values, combination, strict=True)]
            try:
                base = {
                    name: checked(compose("train", [f"budget={budget}", f"dataset={name}", *own]), TrainConfig)
                    for name in {key.dataset for key in keys}
                }
            except HydraException as error:
                raise UserError(" ".join(str(error).split())) from error
            for key in keys:
                activation = table_configs(budget)[key].activation
                config = base[key.dataset]
                configs.append(replace(config, activation=activation, gpn=key.gpn, batch_norm=key.batch_norm))
    return configs


def rounds_of(budget: str, configs: Sequence[TrainConfig], last: int | None) -> list[int | None]:
    """List the epochs to which all networks are trained in turn; None: to their ends.

    Rounds that all networks have reached are left out, except the last one.
    """
    longest = max((Cell.from_config(config).epochs for config in configs), default=0)
    end = None if last is None or last >= longest else last
    before = [epoch for epoch in load_budget(budget).training.rounds or [] if epoch < (end or longest)]
    left = itertools.dropwhile(lambda epoch: all(_standing(replace(c, until=epoch)) is None for c in configs), before)
    return [*left, end]


def _standing(config: TrainConfig) -> tuple[Cell, int] | None:
    """Return a cell that is not as far as its config asks, and the step from which it goes on; None if it is."""
    cell, asked = Cell.from_config(config), goal(config)
    done = stored(run_dir(config.results_dir, config.budget.name, cell.id), cell, asked)
    return None if done == asked else (cell, done)


def _say_cost(configs: Sequence[TrainConfig], until: int | None, folder: Path) -> None:
    """Print what a round and the whole will cost. Raises UserError if the disk lacks room for the checkpoints."""
    left = [standing for config in configs if (standing := _standing(config)) is not None]
    if not left:
        return
    one = configs[0]
    device = choose_device(one.device)
    gpus = len(on_gpus.in_use()) if device.type == "cuda" else 1
    reached = [Cell.from_config(config) for config in configs if _standing(replace(config, until=until)) is None]
    cost = costs.estimate(left, until, device, folder, one.threads, one.max_stack, gpus, reached)
    print(cost.sentence(), flush=True)
    shortage = cost.shortage()
    if shortage is not None:
        raise UserError(shortage)


class Commands:
    """A runner of commands one after the other; Ctrl-C and SIGTERM go to the one that runs."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._pass_on)

    def run(self, module: str, *arguments: str) -> int:
        """Run `python -m module arguments`; returns its exit code."""
        self._child = subprocess.Popen([sys.executable, "-m", module, *arguments])
        while True:
            try:
                code = self._child.wait()
                return code if code >= 0 else 128 - code  # by the shell's convention: ended by a signal
            except KeyboardInterrupt:  # the terminal has sent it to the child, too, which saves its state
                continue

    def _pass_on(self, number: int, _: object) -> None:
        if self._child is None or self._child.poll() is not None:
            sys.exit(TERMINATED)
        self._child.send_signal(number)


def _split(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UserError(f"{setting}: expected NAME=VALUE, a setting of experiments.train.")
    return name, value


if __name__ == "__main__":
    cli.run(main)
