"""The sizes of each part of experiments.vanishing: conf/vanishing/<budget>.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from bsnn.config import ActivationConfig, StudyConfig
from bsnn.results import provenance
from experiments.units import threads_for


@dataclass
class TalkSizes:
    depth: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    stds: list[float] = MISSING  # of the weights' entries
    draws: int = MISSING


@dataclass
class SeluSizes:
    depth: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    draws: int = MISSING


@dataclass
class ChainSizes:
    depth: int = MISSING
    chains: int = MISSING
    fixed: list[float] = MISSING  # every weight
    random: list[float] = MISSING  # standard deviation of the weights


@dataclass
class QuadraticSizes:
    conditions: list[float] = MISSING  # the talk's is 100
    points: int = MISSING  # step sizes
    tolerance: float = MISSING
    most: int = MISSING  # steps


@dataclass
class PathsSizes:
    gradient: list[float] = MISSING  # eta / its threshold
    normalised: list[float] = MISSING  # eta
    decades: list[float] = MISSING  # of decay
    steps: int = MISSING


@dataclass
class DeepSizes:
    depth: int = MISSING
    width: int = MISSING
    images: int = MISSING
    steps: int = MISSING
    every: int = MISSING  # steps between rows
    etas: list[float] = MISSING
    decades: list[float] = MISSING
    rates: list[float] = MISSING  # of plain gradient descent


@dataclass
class TricksSizes:
    depth: int = MISSING
    width: int = MISSING
    steps: int = MISSING
    every: int = MISSING
    evaluated: int = MISSING  # images of each split
    seeds: int = MISSING  # beside the one on which the rates are chosen
    rates: dict[str, list[float]] = MISSING  # by method


@dataclass
class EpsilonSizes:
    depth: int = MISSING
    width: int = MISSING
    steps: int = MISSING
    every: int = MISSING
    evaluated: int = MISSING
    epsilons: list[float] = MISSING  # of Adam
    rates: list[float] = MISSING


@dataclass
class ApproximationSizes:
    terms: list[int] = MISSING


@dataclass
class IsometrySizes:
    points: int = MISSING


@dataclass
class Sizes:
    talk: TalkSizes = field(default_factory=TalkSizes)
    selu: SeluSizes = field(default_factory=SeluSizes)
    chain: ChainSizes = field(default_factory=ChainSizes)
    factors: ChainSizes = field(default_factory=ChainSizes)
    quadratic: QuadraticSizes = field(default_factory=QuadraticSizes)
    paths: PathsSizes = field(default_factory=PathsSizes)
    deep: DeepSizes = field(default_factory=DeepSizes)
    tricks: TricksSizes = field(default_factory=TricksSizes)
    epsilon: EpsilonSizes = field(default_factory=EpsilonSizes)
    approximation: ApproximationSizes = field(default_factory=ApproximationSizes)
    isometry: IsometrySizes = field(default_factory=IsometrySizes)


@dataclass
class VanishingConfig(StudyConfig):
    activations: dict[str, ActivationConfig] = field(default_factory=dict)  # of the part tricks
    sizes: Sizes = field(default_factory=Sizes)


def workers(config: VanishingConfig) -> int:
    """Return the number of networks that are computed side by side."""
    return threads_for(provenance.choose_device(config.device), config.threads)
