"""The typed schema of every command: what may be set, of which type, in which range.

Hydra composes the YAML under conf/ into these dataclasses; a key or a type that they don't know stops the command. What
OmegaConf lets through (keys appended with `+`, numbers out of range) is caught by `checked`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from bsnn.data.specs import DATASETS
from bsnn.errors import UserError
from bsnn.files import user_path

_INSTALLED = Path(__file__).resolve().parent / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parent.parent / "conf"
"""Hydra's files: in the installed package a part of it, in a checkout beside it."""

TRAIN_COMMAND = ("bsnn-train",) if CONF == _INSTALLED else ("python", "-m", "experiments.train")
"""The command that trains networks here, as records name it."""
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "float64", "tf32")
INITIALISATIONS = ("orthogonal", "gaussian")
CONSTRAINTS = ("row", "weight_norm", "free", "orthogonal", "orthogonal_qr", "orthogonal_cayley", "landing")
ROOTS = ("paper", "+", "-")
TRACKING_MODES = ("auto", "online", "offline", "none")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""Pattern of what may become part of a path: names of activations and budgets, and with them of cells."""


@dataclass
class ActivationConfig:
    """conf/activation/*.yaml: one activation function, the plain phi; GPN is the switch `gpn`, not a file."""

    name: str = MISSING
    label: str = MISSING
    module: dict[str, Any] = MISSING  # `_target_` of an nn.Module class and its arguments
    gpn_root: str = "paper"  # which root of b, see bsnn.gpn


@dataclass
class DatasetConfig:
    """conf/dataset/*.yaml."""

    name: str = MISSING
    label: str = MISSING
    epochs: int = MISSING  # how long the paper trained on it


@dataclass
class TrainingBudget:
    depth: int = MISSING
    width: int = MISSING
    epochs: int | None = None  # None: the dataset's, as in the paper
    max_steps: int | None = None  # stop earlier, after this many updates
    evaluations_per_epoch: int = 1
    rounds: list[int] | None = None  # `make reproduce` trains all cells to these epochs in turn; None: at once


@dataclass
class SyntheticBudget:
    depth: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    widths: list[int] = MISSING  # Fig. 3
    draws: int = MISSING  # Figs 1 and 3


@dataclass
class BudgetConfig:
    """conf/budget/*.yaml: how much of the paper's computation is spent; its name is the folder under results/."""

    name: str = MISSING
    description: str = MISSING
    training: TrainingBudget = field(default_factory=TrainingBudget)
    synthetic: SyntheticBudget = field(default_factory=SyntheticBudget)


@dataclass
class TrackingConfig:
    """conf/tracking/*.yaml: W&B, a copy of the records."""

    mode: str = "auto"  # auto: online when logged in, else offline
    project: str = "bsnn"
    entity: str | None = None
    dir: str = "outputs"


@dataclass
class TrainConfig:
    """experiments.train: one cell of Table 2, and how it is trained with others (explained in conf/train.yaml)."""

    activation: ActivationConfig = field(default_factory=ActivationConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    gpn: bool = False
    batch_norm: bool = False
    seed: int = 0
    depth: int = MISSING
    width: int = MISSING
    initialisation: str = "orthogonal"
    constraint: str = "row"
    epochs: int | None = None
    max_steps: int | None = None
    evaluations_per_epoch: int = 1
    batch_size: int = 64
    learning_rate: float = 1e-4
    momentum: float = 0.5
    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    max_stack: int | None = None
    checkpoint_seconds: float = 60.0
    keep_checkpoint: bool = False
    time_limit: float | None = None
    until: int | None = None
    results_dir: str = "results"

    def __post_init__(self) -> None:
        for name in ("depth", "width", "batch_size", "evaluations_per_epoch"):
            _at_least(name, getattr(self, name), 1)
        for name in ("epochs", "max_steps", "threads", "max_stack", "until"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate: expected a number > 0, found {self.learning_rate}.")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum: expected a number in [0, 1), found {self.momentum}.")
        if not self.checkpoint_seconds >= 0:
            raise UserError(f"checkpoint_seconds: expected a number >= 0, found {self.checkpoint_seconds}.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise UserError(f"time_limit: expected a number of seconds > 0, or null for none, found {self.time_limit}.")
        _one_of("device", self.device, DEVICES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("initialisation", self.initialisation, INITIALISATIONS)
        _one_of("constraint", self.constraint, CONSTRAINTS)
        if self.constraint not in ("row", "weight_norm", "free") and self.initialisation != "orthogonal":
            raise UserError(
                f"initialisation: expected orthogonal with constraint={self.constraint}, found {self.initialisation!r}."
            )
        _one_of("activation.gpn_root", self.activation.gpn_root, ROOTS)
        _one_of("tracking.mode", self.tracking.mode, TRACKING_MODES)
        _one_of("dataset.name", self.dataset.name, tuple(DATASETS))
        _name("activation.name", self.activation.name)
        _name("budget.name", self.budget.name)
        self.results_dir = str(user_path(self.results_dir))
        self.tracking.dir = str(user_path(self.tracking.dir))


@dataclass
class SyntheticConfig:
    """experiments.synthetic: Figs 1-3, no training."""

    figure: str = MISSING
    activations: dict[str, ActivationConfig] = field(default_factory=dict)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    depth: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    widths: list[int] = MISSING
    draws: int = MISSING
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    results_dir: str = "results"

    def __post_init__(self) -> None:
        _one_of("figure", self.figure, ("fig1", "fig2", "fig3"))
        for name in ("depth", "width", "samples", "draws"):
            _at_least(name, getattr(self, name), 1)
        for width in self.widths:
            _at_least("widths", width, 1)
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        _at_least("seed", self.seed, 0)
        _one_of("device", self.device, DEVICES)
        if not self.activations:
            raise UserError("activations: expected at least one activation, found none.")
        _name("budget.name", self.budget.name)
        self.results_dir = str(user_path(self.results_dir))


@dataclass
class StudyConfig:
    """Settings that all studies share (experiments/study.py); each study adds its `sizes`."""

    part: str = "all"  # which of the study's tables
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    results_dir: str = "results"

    def __post_init__(self) -> None:
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        _at_least("seed", self.seed, 0)
        _one_of("device", self.device, DEVICES)
        _name("budget.name", self.budget.name)
        self.results_dir = str(user_path(self.results_dir))


def register() -> None:
    """Make the schemas known to Hydra; call it before hydra.main or hydra.compose."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="synthetic_schema", node=SyntheticConfig)


Schema = TypeVar("Schema")


def checked(config: DictConfig, schema: type[Schema]) -> Schema:
    """Return `config` as an object of `schema`. Raises UserError: the key, what was expected and what was found."""
    _refuse_unknown_keys(config, schema)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]}: expected a value, found none; set it as {missing[0]}=VALUE.")
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, schema)
    return typed


def _refuse_unknown_keys(config: DictConfig, schema: Any, prefix: str = "") -> None:
    known = {f.name for f in dataclasses.fields(schema)}
    for key in map(str, config):
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(sorted(known))}."
            raise UserError(f"{prefix}{key}: no such setting; {hint}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and dataclasses.is_dataclass(node._metadata.object_type):
            _refuse_unknown_keys(node, cast(Any, node._metadata.object_type), f"{prefix}{key}.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name}: expected a whole number >= {least}, found {value}.")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}: expected one of {', '.join(choices)}, found {value!r}.")


def _name(setting: str, value: str) -> None:
    if value != MISSING and NAME.fullmatch(value) is None:  # `checked` has already reported a missing one
        raise UserError(
            f"{setting}: expected at most 64 letters (a-z), digits, '_', '-' and '.', of which the last two don't come "
            f"first, since it becomes part of a path, found {value!r}."
        )
