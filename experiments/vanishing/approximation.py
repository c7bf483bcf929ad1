"""Parts on what the talk and the lecture say about functions: approximation by sums and compositions; isometries."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.shrinkage.covariance import covariance_of
from bsnn.vanishing.approximation import SUMS, TARGETS, errors, square_by_composition
from experiments.units import Row, Unit, Work
from experiments.vanishing.config import VanishingConfig

COMPOSED = "composition"


def approximation(config: VanishingConfig) -> Work:
    """Approximate every target by every family with N terms: largest and root mean square error."""
    terms = config.sizes.approximation.terms

    def rows(unit: Unit) -> list[Row]:
        target, family = map(str, unit)
        F = TARGETS[target]
        if family == COMPOSED:  # its error is below float64's accuracy soon
            return [[N, *errors(square_by_composition(N), F)] for N in range(1, 1 + min(max(terms), 8))]
        return [[N, *errors(SUMS[family](F, N), F)] for N in terms]

    units = [("square", COMPOSED), *((target, family) for target in TARGETS for family in SUMS)]
    return Work(("target", "family"), ("terms", "largest", "rms"), units, rows, {"version": 1})


def isometry(config: VanishingConfig) -> Work:
    """Compute ||phi(h) - phi(h')||^2 / ||h - h'||^2 of infinitely wide GPN layers at correlations rho of h and h'."""

    def rows(unit: Unit) -> list[Row]:
        name = str(unit[0])
        phi = GPN(nn.Identity() if name == "identity" else PAPER_ACTIVATIONS[name]())
        distance = 1 - torch.tensor(rho, dtype=torch.float64)
        ratio = covariance_of(phi).gap(distance) / distance
        return [[at, value] for at, value in zip(rho, ratio.tolist(), strict=True)]

    rho = np.unique([*np.linspace(-1, 0.9, config.sizes.isometry.points), 0.0, 0.99, 0.999]).tolist()
    units = [(name,) for name in ("identity", *PAPER_ACTIVATIONS)]
    return Work(("function",), ("rho", "ratio"), units, rows, {"version": 1})
