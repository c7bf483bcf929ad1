"""The place of a table: with the budget's own settings <folder>/<name>, else in <folder>/other_settings/.

    results/quick/fig2.csv
    results/quick/other_settings/fig2-seed=1-5d8a2c01.csv

The results of a sweep lie side by side, and none replaces another. Reports show those with the budget's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.errors import UserError
from bsnn.results.tables import OTHER_SETTINGS
from experiments.units import identity_hash

MACHINE = ("device", "threads", "results_dir")
"""Settings of how and where something is computed, which don't change the numbers."""
NAME_LENGTH = 80


@lru_cache
def _composed(command: str, choice: str, budget: str) -> DictConfig:
    started = GlobalHydra.instance().is_initialized()  # so it is in a command, with its --config-dir
    try:
        with nullcontext() if started else initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return compose(command, [choice, f"budget={budget}"])
    except MissingConfigException as error:
        known = ", ".join(sorted(path.stem for path in (CONF / "budget").glob("*.yaml")))
        raise UserError(
            f"budget.name: expected the name of a file in conf/budget/ ({known}), found {budget!r}; "
            "choose another folder for the results with results_dir=FOLDER."
        ) from error


def own_settings(command: str, choice: str, config: DictConfig) -> DictConfig:
    """Compose the settings of `python -m experiments.<command> <choice> budget=...` alone, on this machine."""
    own = _composed(command, choice, config.budget.name).copy()
    for key in MACHINE:
        own[key] = config[key]
    return own


def place(folder: Path, name: str, identity: Mapping[str, Any], own: Mapping[str, Any]) -> Path:
    """Return the table's path, without suffix; own: the identity with the budget's own settings."""
    if identity_hash(identity) == identity_hash(own):
        return folder / name
    ours, theirs = dict(_flat(own)), dict(_flat(identity))
    told = [f"{key.split('.')[-1]}={value}" for key, value in theirs.items() if ours.get(key) != value]
    text = re.sub(r"[^\w=.,+-]", "", "-".join(told))[:NAME_LENGTH]
    return folder / OTHER_SETTINGS / "-".join(part for part in (name, text, identity_hash(identity)[:8]) if part)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value as a text for a file name)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            told = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield f"{prefix}{key}", told
