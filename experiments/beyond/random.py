"""Parts of the study about random networks: the walk of gradient norms, its law, and Jacobians."""

from __future__ import annotations

from functools import cache

import torch

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.beyond.jacobian import jacobian as jacobian_of
from bsnn.beyond.jacobian import participation, predicted_participation
from bsnn.beyond.walk import LayerLaw, gradient_norms, predicted, ranges, simple_range
from bsnn.propagation import Draw, draw
from experiments.beyond.config import BeyondConfig, gpn_functions, stream
from experiments.units import Row, Unit, Work

ALIKE = 1 / 3
"""Share of the noise of an error's norm that alike samples with independent errors have in common."""


@cache
def laws() -> dict[str, LayerLaw]:
    return {name: LayerLaw.of(phi) for name, phi in gpn_functions().items()}


def law(config: BeyondConfig) -> Work:
    """Predict the ranges of gradient norms from phi alone."""
    sizes = config.sizes.law
    units = [(name, depth, width) for name in PAPER_ACTIVATIONS for depth in sizes.depths for width in sizes.widths]

    def rows(unit: Unit) -> list[Row]:
        name, depth, width = str(unit[0]), int(str(unit[1])), int(str(unit[2]))
        one = laws()[name]
        random = stream(config, "law", list(PAPER_ACTIVATIONS).index(name), depth, width)
        found = predicted(one, depth, width, sizes.samples, sizes.draws, random)
        return [
            [
                float(found.single.mean()), float(found.mean.mean()), float(found.mean.std()),
                simple_range(one, depth, width), simple_range(one, depth, width, ALIKE),
                one.gain, one.slope_gain, one.fourth,
            ]
        ]  # fmt: skip

    columns = ("single", "mean", "mean_std", "simple_single", "simple_mean", "gain", "slope_gain", "fourth")
    return Work(("function", "depth", "width"), columns, units, rows, {"version": 1})


def walk(config: BeyondConfig) -> Work:
    """Measure the ranges of gradient norms in random GPN networks, float32, Haar-uniform weights."""
    sizes = config.sizes.walk
    deepest = max(sizes.depths)
    units = [(index, width) for index in range(sizes.draws) for width in sizes.widths]

    def rows(unit: Unit) -> list[Row]:
        index, width = int(str(unit[0])), int(str(unit[1]))
        drawn = draw(deepest, width, sizes.samples, config.seed, index, torch.float32)
        found: list[Row] = []
        for depth in sizes.depths:  # a shallower network is the first layers of the deepest
            part = Draw(drawn.input, drawn.error, drawn.weights[:depth])
            for name, phi in gpn_functions().items():
                measured = ranges(gradient_norms(phi, part).unsqueeze(1))
                found.append([name, depth, float(measured.single.mean()), float(measured.mean)])
        return found

    return Work(("draw", "width"), ("function", "depth", "single", "mean"), units, rows, {"version": 1})


def jacobian(config: BeyondConfig) -> Work:
    """Compute the singular values of the input-output Jacobian at a Gaussian input, plain and GPN, float64."""
    sizes = config.sizes.jacobian
    deepest = max(sizes.depths)
    units = [(index, width) for index in range(sizes.draws) for width in sizes.widths]

    def rows(unit: Unit) -> list[Row]:
        index, width = int(str(unit[0])), int(str(unit[1]))
        drawn = draw(deepest, width, 1, config.seed, index)
        found: list[Row] = []
        for name, normalised in gpn_functions().items():
            for gpn, phi in ((False, normalised.phi), (True, normalised)):
                for depth in sizes.depths:
                    values = torch.linalg.svdvals(jacobian_of(phi, drawn.weights[:depth], drawn.input[0]))
                    scale = float(values.square().mean().sqrt())
                    near = float(((values / scale - 1).abs() < 0.5).double().mean()) if scale else 0.0
                    law = predicted_participation(laws()[name].fourth, 1.0, depth) if gpn else None
                    found.append([name, gpn, depth, scale, float(values[0]), participation(values), near, law])
        return found

    columns = ("function", "gpn", "depth", "rms", "largest", "participation", "near", "law")
    return Work(("draw", "width"), columns, units, rows, {"version": 1})
