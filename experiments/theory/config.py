"""The sizes of the theory study's parts, conf/theory/<budget>.yaml, and its random streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import torch
from omegaconf import MISSING

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.config import StudyConfig
from bsnn.gpn import GPN
from bsnn.quadrature import Phi
from bsnn.randomness import Purpose, generator


class Stream(IntEnum):
    """The first index of a part's random streams. It is part of every result: never renumber."""

    TALK = 0
    GRADIENT = 1
    CONSTANTS = 2
    SHELL = 3
    DEPTH = 4
    LEMMA4 = 5
    LEMMA5 = 6
    LEMMA6 = 7
    HISTOGRAM = 8
    SPECTRA = 9


@dataclass
class GradientSizes:
    width: int = MISSING
    depth: int = MISSING
    draws: int = MISSING


@dataclass
class HermiteSizes:
    degree: int = MISSING


@dataclass
class ConstantsSizes:
    functions: int = MISSING  # random ones of each family


@dataclass
class ShellSizes:
    widths: list[int] = MISSING
    draws: int = MISSING
    haar_widths: list[int] = MISSING  # widths at which W x is also computed with W
    haar_draws: int = MISSING
    eps: list[float] = MISSING


@dataclass
class DepthSizes:
    widths: list[int] = MISSING
    layers: list[int] = MISSING  # layers that are written down
    draws: int = MISSING
    eps: list[float] = MISSING


@dataclass
class Lemma1Sizes:
    rates: list[float] = MISSING


@dataclass
class Lemma3Sizes:
    widths: list[int] = MISSING
    deltas: list[float] = MISSING


@dataclass
class Lemma4Sizes:
    dimensions: list[int] = MISSING
    samples: int = MISSING


@dataclass
class Lemma5Sizes:
    widths: list[int] = MISSING
    draws: int = MISSING
    eps: float = MISSING


@dataclass
class Lemma6Sizes:
    haar_widths: list[int] = MISSING
    haar_draws: int = MISSING
    widths: list[int] = MISSING  # for the exact distance and the radius


@dataclass
class TalkSizes:
    width: int = MISSING
    draws: int = MISSING
    blocks: int = MISSING


@dataclass
class HistogramSizes:
    width: int = MISSING


@dataclass
class SpectraSizes:
    widths: list[int] = MISSING
    draws: int = MISSING


@dataclass
class PeaksSizes:
    widths: list[int] = MISSING
    depth: int = MISSING
    samples: int = MISSING


@dataclass
class Sizes:
    gradient: GradientSizes = field(default_factory=GradientSizes)
    hermite: HermiteSizes = field(default_factory=HermiteSizes)
    constants: ConstantsSizes = field(default_factory=ConstantsSizes)
    lemma1: Lemma1Sizes = field(default_factory=Lemma1Sizes)
    lemma3: Lemma3Sizes = field(default_factory=Lemma3Sizes)
    lemma4: Lemma4Sizes = field(default_factory=Lemma4Sizes)
    lemma5: Lemma5Sizes = field(default_factory=Lemma5Sizes)
    lemma6: Lemma6Sizes = field(default_factory=Lemma6Sizes)
    shell: ShellSizes = field(default_factory=ShellSizes)
    depth: DepthSizes = field(default_factory=DepthSizes)
    talk: TalkSizes = field(default_factory=TalkSizes)
    histogram: HistogramSizes = field(default_factory=HistogramSizes)
    spectra: SpectraSizes = field(default_factory=SpectraSizes)
    peaks: PeaksSizes = field(default_factory=PeaksSizes)


@dataclass
class TheoryConfig(StudyConfig):
    sizes: Sizes = field(default_factory=Sizes)


def stream(config: TheoryConfig, part: Stream, *index: int) -> torch.Generator:
    return generator(config.seed, Purpose.THEORY, part, *index)


def functions() -> dict[tuple[str, bool], Phi]:
    """Return the paper's six functions by (name, GPN or not): plain ones first."""
    plain: dict[tuple[str, bool], Phi] = {(name, False): make() for name, make in PAPER_ACTIVATIONS.items()}
    return plain | {(name, True): GPN(make()) for name, make in PAPER_ACTIVATIONS.items()}
