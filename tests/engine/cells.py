"""Cells for the engine's tests."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir

from bsnn import config
from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.cell import Cell

config.register()
with initialize_config_dir(str(config.CONF), version_base="1.3"):
    MODULES = {name: dict(compose("train", [f"activation={name}"]).activation.module) for name in PAPER_ACTIVATIONS}


def make_cell(name: str, seed: int = 0, **changes: Any) -> Cell:
    """A small float64 cell by its name: tanh, relu-gpn, selu-gpn-bn, ..."""
    activation, *flags = name.split("-")
    values: dict[str, Any] = {
        "dataset": "mnist",
        "activation": activation,
        "activation_module": MODULES.get(activation, {"_target_": f"torch.nn.{activation}"}),
        "gpn": "gpn" in flags,
        "gpn_root": "paper",
        "batch_norm": "bn" in flags,
        "seed": seed,
        "depth": 4,
        "width": 24,
        "epochs": 1,
        "max_steps": None,
        "evaluations_per_epoch": 1,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "momentum": 0.5,
        "dtype": "float64",
    }
    return Cell(**(values | changes))
