"""The settings of the bridge study's parts, conf/bridge/<budget>.yaml, and what the parts share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

from omegaconf import MISSING
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.config import ActivationConfig, DatasetConfig, StudyConfig
from bsnn.gpn import GPN

KINKS = (0.0,)
"""The places where the paper's six functions may have a kink."""


class Stream(IntEnum):
    """The first index of a part's random streams. It is part of every result: never renumber."""

    CORRELATION = 0
    NARROW = 1
    FITTED = 2


@dataclass
class MeanFieldSizes:
    depth: int = MISSING
    rho: list[float] = MISSING


@dataclass
class DecaySizes:
    depth: int = MISSING


@dataclass
class CorrelationSizes:
    depth: int = MISSING
    width: int = MISSING
    draws: int = MISSING
    rho: list[float] = MISSING


@dataclass
class TrainedSizes:
    depth: int = MISSING
    width: int = MISSING
    epochs: int = MISSING
    max_steps: int | None = MISSING
    seeds: int = MISSING
    images: int = MISSING  # of each class


@dataclass
class NarrowSizes:
    widths: list[int] = MISSING
    depth: int = MISSING
    networks: int = MISSING


@dataclass
class FittedSizes:
    widths: list[int] = MISSING
    depth: int = MISSING
    networks: int = MISSING
    steps: int = MISSING


@dataclass
class Table2Sizes:
    depth: int = MISSING
    width: int = MISSING
    draws: int = MISSING
    samples: int = MISSING


@dataclass
class Sizes:
    """conf/bridge/<budget>.yaml."""

    meanfield: MeanFieldSizes = field(default_factory=MeanFieldSizes)
    decay: DecaySizes = field(default_factory=DecaySizes)
    correlation: CorrelationSizes = field(default_factory=CorrelationSizes)
    trained: TrainedSizes = field(default_factory=TrainedSizes)
    narrow: NarrowSizes = field(default_factory=NarrowSizes)
    fitted: FittedSizes = field(default_factory=FittedSizes)
    table2: Table2Sizes = field(default_factory=Table2Sizes)


@dataclass
class BridgeConfig(StudyConfig):
    activations: dict[str, ActivationConfig] = field(default_factory=dict)
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)


def function(name: str, gpn: bool) -> nn.Module:
    phi = PAPER_ACTIVATIONS[name]()
    return GPN(phi) if gpn else phi


def both() -> list[tuple[str, bool]]:
    return [(name, gpn) for name in PAPER_ACTIVATIONS for gpn in (False, True)]


def shown(depth: int) -> list[int]:
    """List 0, 1, 2, ... and `depth`, about 12 to a factor of 10: the layers that a curve on log axes needs."""
    steps = {round(10 ** (k / 12)) for k in range(int(12 * math.log10(depth)) + 1)} if depth else set()
    return sorted({0, depth, *steps})
