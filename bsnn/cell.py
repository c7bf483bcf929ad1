"""A cell: one network to train, and its identity.

The identity is a hash of exactly what changes the numbers: data, function, sizes, optimiser, seed. Device, threads and
folders are not in it; they stand in the record's provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bsnn.config import TrainConfig
from bsnn.errors import UserError
from bsnn.gpn import GPN
from bsnn.modules import build
from bsnn.quadrature import float64_phi

# Raise it when a change of the code changes what a cell computes: older records then belong to other cells.
PROTOCOL_VERSION = 2


@dataclass(frozen=True)
class Cell:
    """Everything that decides a training run (Table 2: dataset x activation x GPN x batch norm, here x seed)."""

    dataset: str
    activation: str
    activation_module: Mapping[str, Any]  # `_target_` and arguments
    gpn: bool
    gpn_root: str
    batch_norm: bool
    seed: int
    depth: int
    width: int
    epochs: int
    max_steps: int | None
    evaluations_per_epoch: int
    batch_size: int
    learning_rate: float
    momentum: float
    dtype: str
    initialisation: str = "orthogonal"
    constraint: str = "row"
    trusted: bool = field(default=True, compare=False, repr=False)
    """True if `activation_module` may name anything, as a user's own config may. No part of the identity."""

    @classmethod
    def from_config(cls, config: TrainConfig) -> Cell:
        return cls(
            dataset=config.dataset.name,
            activation=config.activation.name,
            activation_module=dict(config.activation.module),
            gpn=config.gpn,
            gpn_root=config.activation.gpn_root,
            batch_norm=config.batch_norm,
            seed=config.seed,
            depth=config.depth,
            width=config.width,
            epochs=config.dataset.epochs if config.epochs is None else config.epochs,
            max_steps=config.max_steps,
            evaluations_per_epoch=config.evaluations_per_epoch,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            dtype=config.dtype,
            initialisation=config.initialisation,
            constraint=config.constraint,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], trusted: bool = False) -> Cell:
        """Make the cell that `as_dict` described. It isn't trusted by default: a record may come from somebody else."""
        return cls(**values, trusted=trusted)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["trusted"]
        return values

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: SHA-256 of the canonical JSON of all fields."""
        content = {"protocol": PROTOCOL_VERSION, **self.as_dict()}
        if not self.gpn:
            del content["gpn_root"]  # without GPN there is no b whose root could matter
        for name, first in (("initialisation", "orthogonal"), ("constraint", "row")):
            if content[name] == first:
                del content[name]  # records from before there was a choice keep their identity
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The name for a reader: mnist-tanh-gpn-bn-s0."""
        initialisation = "" if self.initialisation == "orthogonal" else self.initialisation
        constraint = "" if self.constraint == "row" else self.constraint
        variant = ["gpn" * self.gpn, "bn" * self.batch_norm, initialisation, constraint]
        parts = [self.dataset, self.activation, *variant, f"s{self.seed}"]
        return "-".join(part for part in parts if part)

    @property
    def id(self) -> str:
        """The name and the first 8 digits of the hash: the cell's folder under results/<budget>/runs/."""
        return f"{self.name}-{self.hash[:8]}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of weights and signals. A tf32 cell differs from a float32 one in its products only."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def with_seed(self, seed: int) -> Cell:
        return replace(self, seed=seed)

    def make_activation(self) -> nn.Module:
        """Return phi, or a phi + b for a GPN cell.

        Raises UserError for what isn't one elementwise function, can't be normalised, or isn't trusted (bsnn.modules).
        """
        phi = build(self.activation_module, self.trusted)
        try:
            if self.gpn:
                return GPN(phi, root=self.gpn_root)
            float64_phi(phi)
            return phi
        except ValueError as error:
            raise UserError(f"activation={self.activation} gpn={str(self.gpn).lower()}: {error}") from error
