"""The sizes of the shrinkage study's parts, conf/shrinkage/<budget>.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from bsnn.config import StudyConfig


@dataclass
class MapsSizes:
    depth: int = MISSING
    numerical_depth: int = MISSING  # for functions without a closed form


@dataclass
class BoundsSizes:
    functions: list[str] = MISSING  # GPN versions of the paper's, and erf
    depths: list[int] = MISSING
    sigmas: list[float] = MISSING


@dataclass
class Fig1Sizes:
    width: int = MISSING
    depths: list[int] = MISSING
    points: int = MISSING
    draws: int = MISSING


@dataclass
class DepthSizes:
    width: int = MISSING
    depths: list[int] = MISSING
    draws: int = MISSING
    search_width: int = MISSING
    search_steps: int = MISSING


@dataclass
class SlopeSizes:
    width: int = MISSING
    depth: int = MISSING
    slopes: list[float] = MISSING
    draws: int = MISSING
    search_width: int = MISSING
    search_steps: int = MISSING


@dataclass
class Fig3Sizes:
    width: int = MISSING
    jacobian_width: int = MISSING
    depth: int = MISSING
    draws: int = MISSING


@dataclass
class ResidualSizes:
    width: int = MISSING
    depth: int = MISSING
    sigmas: list[float] = MISSING
    draws: int = MISSING


@dataclass
class Fig4Sizes:
    width: int = MISSING
    depth: int = MISSING
    block_start: int = MISSING  # number of layers before the block
    block_length: int = MISSING
    steps: int = MISSING
    evaluations: int = MISSING
    test_images: int = MISSING
    pair_images: int = MISSING
    search_steps: int = MISSING
    draws: int = MISSING


@dataclass
class BatchNormSizes:
    width: int = MISSING
    depth: int = MISSING
    skipped: int = MISSING  # layers at either end that don't count
    batches: list[int] = MISSING
    draws: int = MISSING


@dataclass
class BlockSizes:
    sizes: list[int] = MISSING  # depth and width
    draws: int = MISSING


@dataclass
class PrecisionSizes:
    width: int = MISSING
    depth: int = MISSING
    every: int = MISSING  # layers between those shown
    draws: int = MISSING


@dataclass
class StepsSizes:
    width: int = MISSING
    depths: list[int] = MISSING
    rates: list[float] = MISSING  # each network and depth has its best one
    max_steps: int = MISSING
    every: int = MISSING  # steps between looks at the layers' distances
    pair_images: int = MISSING
    draws: int = MISSING  # the one that chooses the rate apart


@dataclass
class Sizes:
    """conf/shrinkage/<budget>.yaml."""

    maps: MapsSizes = field(default_factory=MapsSizes)
    bounds: BoundsSizes = field(default_factory=BoundsSizes)
    fig1: Fig1Sizes = field(default_factory=Fig1Sizes)
    depth: DepthSizes = field(default_factory=DepthSizes)
    slope: SlopeSizes = field(default_factory=SlopeSizes)
    fig3: Fig3Sizes = field(default_factory=Fig3Sizes)
    residual: ResidualSizes = field(default_factory=ResidualSizes)
    fig4: Fig4Sizes = field(default_factory=Fig4Sizes)
    batch_norm: BatchNormSizes = field(default_factory=BatchNormSizes)
    block: BlockSizes = field(default_factory=BlockSizes)
    precision: PrecisionSizes = field(default_factory=PrecisionSizes)
    steps: StepsSizes = field(default_factory=StepsSizes)


@dataclass
class ShrinkageConfig(StudyConfig):
    sizes: Sizes = field(default_factory=Sizes)
