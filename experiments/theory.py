"""The mathematics of the BSNN paper, checked by numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hydra
import torch
from omegaconf import MISSING, DictConfig

from bsnn.config import CONF, StudyConfig
from bsnn.gpn import GPN
from bsnn.randomness import Purpose, generator
from experiments import entry, study
from experiments.units import Row, Work


@dataclass
class TalkSizes:
    norm_width: int = MISSING
    norm_draws: int = MISSING
    histogram_width: int = MISSING


@dataclass
class Sizes:
    """conf/theory/<budget>.yaml."""

    talk: TalkSizes = field(default_factory=TalkSizes)


@dataclass
class TheoryConfig(StudyConfig):
    sizes: Sizes = field(default_factory=Sizes)


def talk(config: TheoryConfig) -> Work:
    sizes = config.sizes.talk

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        (draw,) = unit
        stream = generator(config.seed, Purpose.THEORY, 0, draw)
        z = torch.randn(sizes.norm_width, generator=stream, dtype=torch.float64)
        return [[float(z.norm()), float(GPN(torch.tanh)(z).norm())]]

    units = [(draw,) for draw in range(sizes.norm_draws)]
    return Work(("draw",), ("z_norm", "f_norm"), units, rows, {"version": 1})


PARTS = {"talk": talk}
study.register("theory", TheoryConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="theory")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("theory", config, TheoryConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
