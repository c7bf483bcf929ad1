"""The sizes of the collapse study's parts, conf/collapse/<budget>.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from bsnn.config import StudyConfig
from experiments.collapse.training import OptimiserSizes, TrainSizes


@dataclass
class ChainSizes:
    draws: int = MISSING
    members: int = MISSING
    layers: list[int] = MISSING


@dataclass
class SweepSizes:
    members: int = MISSING
    depth: int = MISSING
    widths: list[int] = MISSING


@dataclass
class SafeSizes:
    members: int = MISSING
    widths: list[int] = MISSING


@dataclass
class BiasSizes:
    members: int = MISSING
    depths: list[int] = MISSING


@dataclass
class TheoremSizes:
    members: int = MISSING
    depth: int = MISSING
    points: int = MISSING  # inputs on the domain


@dataclass
class WidthSizes:
    members: int = MISSING
    steps: int = MISSING
    widths: dict[str, list[int]] = MISSING  # by target


@dataclass
class Sizes:
    """conf/collapse/<budget>.yaml."""

    targets: TrainSizes = field(default_factory=TrainSizes)
    optimisers: OptimiserSizes = field(default_factory=OptimiserSizes)
    losses: TrainSizes = field(default_factory=TrainSizes)
    length: SweepSizes = field(default_factory=SweepSizes)
    biases: BiasSizes = field(default_factory=BiasSizes)
    chain: ChainSizes = field(default_factory=ChainSizes)
    probability: SweepSizes = field(default_factory=SweepSizes)
    safe: SafeSizes = field(default_factory=SafeSizes)
    orthogonal: SweepSizes = field(default_factory=SweepSizes)
    remedies: TrainSizes = field(default_factory=TrainSizes)
    theorems: TheoremSizes = field(default_factory=TheoremSizes)
    widths: WidthSizes = field(default_factory=WidthSizes)


@dataclass
class CollapseConfig(StudyConfig):
    sizes: Sizes = field(default_factory=Sizes)
