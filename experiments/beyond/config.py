"""The sizes of each part of experiments.beyond: conf/beyond/<budget>.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import MISSING

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.cell import Cell
from bsnn.config import ActivationConfig, DatasetConfig, StudyConfig, TrainConfig
from bsnn.gpn import GPN
from bsnn.randomness import Purpose, generator

STREAMS = {"law": 0, "walk": 1, "jacobian": 2}
"""The streams of these parts, an index of Purpose.BEYOND. They are part of the tables' identity: another part has its
number in its own file (experiments.beyond.convolution.STREAM)."""


@dataclass
class LawSizes:
    depths: list[int] = MISSING
    widths: list[int] = MISSING
    samples: int = MISSING
    draws: int = MISSING


@dataclass
class WalkSizes:
    depths: list[int] = MISSING
    widths: list[int] = MISSING
    samples: int = MISSING
    draws: int = MISSING


@dataclass
class JacobianSizes:
    depths: list[int] = MISSING
    widths: list[int] = MISSING
    draws: int = MISSING


@dataclass
class DeeperSizes:
    depths: list[int] = MISSING  # each with the width at its place
    widths: list[int] = MISSING
    functions: list[str] = MISSING
    updates: int | None = MISSING  # None: the whole epoch


@dataclass
class DuringSizes:
    depth: int = MISSING
    width: int = MISSING
    functions: list[str] = MISSING
    updates: list[int] = MISSING  # after which the networks are looked at
    images: int = MISSING


@dataclass
class ConvolutionSizes:
    depth: int = MISSING
    channels: int = MISSING
    functions: list[str] = MISSING
    rates: list[float] = MISSING
    updates: int = MISSING
    images: int = MISSING


@dataclass
class OrthogonalSizes:
    depth: int = MISSING
    width: int = MISSING
    functions: list[str] = MISSING
    rates: list[float] = MISSING
    seeds: int = MISSING
    updates: int = MISSING


@dataclass
class OrthogonalCostSizes:
    depth: int = MISSING
    widths: list[int] = MISSING
    updates: int = MISSING


@dataclass
class RivalsSizes:
    depth: int = MISSING
    width: int = MISSING
    rates: dict[str, list[float]] = MISSING  # by optimiser
    seeds: int = MISSING
    updates: int = MISSING
    images: int = MISSING


@dataclass
class Sizes:
    """conf/beyond/<budget>.yaml."""

    law: LawSizes = field(default_factory=LawSizes)
    walk: WalkSizes = field(default_factory=WalkSizes)
    jacobian: JacobianSizes = field(default_factory=JacobianSizes)
    deeper: DeeperSizes = field(default_factory=DeeperSizes)
    during: DuringSizes = field(default_factory=DuringSizes)
    convolution: ConvolutionSizes = field(default_factory=ConvolutionSizes)
    orthogonal: OrthogonalSizes = field(default_factory=OrthogonalSizes)
    orthogonal_cost: OrthogonalCostSizes = field(default_factory=OrthogonalCostSizes)
    rivals: RivalsSizes = field(default_factory=RivalsSizes)


@dataclass
class BeyondConfig(StudyConfig):
    activations: dict[str, ActivationConfig] = field(default_factory=dict)  # of parts that train
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)


def cell_of(config: BeyondConfig, dataset: str, function: str, seed: int, **settings: Any) -> Cell:
    """Make the cell of a part that trains; settings: of bsnn.config.TrainConfig, where they aren't Table 2's."""
    activation, data = config.activations[function], config.datasets[dataset]
    return Cell.from_config(TrainConfig(activation=activation, dataset=data, epochs=1, **settings)).with_seed(seed)


def stream(config: BeyondConfig, part: str, *index: int) -> torch.Generator:
    """Make the stream of a part's unit."""
    return generator(config.seed, Purpose.BEYOND, STREAMS[part], *index)


def gpn_functions() -> dict[str, GPN]:
    """Make the GPN versions of the paper's six functions."""
    return {name: GPN(make()) for name, make in PAPER_ACTIVATIONS.items()}
