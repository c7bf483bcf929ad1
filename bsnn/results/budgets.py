"""Budgets: the cells of a budget's Table 2, composed from conf/ as in training, and differences from the paper."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir

from bsnn import paper
from bsnn.config import CONF, BudgetConfig, TrainConfig, checked, register
from bsnn.data import DATASETS
from bsnn.errors import UserError

PAPER = "paper"
"""The budget with the paper's own sizes."""


class Key(NamedTuple):
    """One entry of Table 2."""

    dataset: str
    activation: str
    gpn: bool
    batch_norm: bool


@lru_cache
def table_configs(budget: str) -> dict[Key, TrainConfig]:
    """Compose the config of every possible cell of Table 2: the paper's datasets x conf/activation/*.yaml, seed 0."""
    if not (CONF / "budget" / f"{budget}.yaml").exists():
        known = ", ".join(f"results/{path.stem}" for path in sorted((CONF / "budget").glob("*.yaml")))
        raise UserError(
            f"{budget}: expected a folder named after a budget ({known}), found no conf/budget/{budget}.yaml."
        )
    register()
    configs = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for dataset in paper.DATASETS:
            for path in sorted((CONF / "activation").glob("*.yaml")):
                overrides = [f"budget={budget}", f"dataset={dataset}", f"activation={path.stem}"]
                config = checked(compose("train", overrides), TrainConfig)
                for gpn in (False, True):
                    for batch_norm in (False, True):
                        key = Key(dataset, path.stem, gpn, batch_norm)
                        configs[key] = replace(config, gpn=gpn, batch_norm=batch_norm)
    return configs


def load_budget(budget: str) -> BudgetConfig:
    return next(iter(table_configs(budget).values())).budget


def differences(budget: str) -> list[tuple[str, str, str]]:
    """List (setting, this budget's value, the paper's) wherever the two differ.

    Training comes first, then the synthetic figures.
    """
    found = []
    for setting in ("depth", "width", "epochs", "max_steps"):
        ours, theirs = _setting(budget, setting), _setting(PAPER, setting)
        if ours != theirs:
            found.append((_NAMES.get(setting, setting), ours, theirs))
    mine, papers = (asdict(load_budget(name).synthetic) for name in (budget, PAPER))
    found += [
        (f"synthetic {setting}", _value(mine[setting]), _value(papers[setting]))
        for setting in mine
        if mine[setting] != papers[setting]
    ]
    return found


def headline(budget: str, prefix: str = "") -> str:
    """Say in one line whether a budget is the paper's and, if not, what differs in training; it heads every output.

    prefix="synthetic " says the same of Figs 1-3.
    """
    synthetic = [difference for difference in differences(budget) if difference[0].startswith("synthetic ")]
    relevant = synthetic if prefix else [d for d in differences(budget) if d not in synthetic]
    if not relevant:
        return f"{budget} budget: the paper's own sizes"
    listed = ", ".join(f"{name.removeprefix(prefix)} {ours} instead of {theirs}" for name, ours, theirs in relevant)
    return f"{budget} budget, NOT the paper's: {listed}"


def is_papers(budget: str) -> bool:
    """True if its trained networks are the paper's own: same depth and width, trained as long."""
    return all(name.startswith("synthetic ") for name, _, _ in differences(budget))


def in_short(budget: str) -> str:
    """Describe its networks and their training in a few words: 200 layers x 100 units, trained for 1 epoch."""
    depth, width, epochs, steps = (_setting(budget, name) for name in ("depth", "width", "epochs", "max_steps"))
    training = f"{epochs} epoch{'s' * (epochs != '1')}" if steps == NO_LIMIT else f"{steps} updates"
    return f"{depth} layers x {width} units, trained for {training}"


NO_LIMIT = "no limit"
_NAMES = {"max_steps": "steps"}


def _setting(budget: str, setting: str) -> str:
    """Return a setting's value in the table's cells, for each dataset if they differ: "50 (MNIST), 100 (CIFAR-10)"."""
    values: dict[str, str] = {}
    for key, config in table_configs(budget).items():
        value = getattr(config, setting)
        if setting == "epochs" and value is None:
            value = config.dataset.epochs
        values[DATASETS[key.dataset].label] = _value(value)
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return " / ".join(f"{value} ({dataset})" for dataset, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return NO_LIMIT if value is None else str(value)
