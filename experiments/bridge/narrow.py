"""Parts of the bridge study on narrow networks: survival of the input at random weights, and outcomes of training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.bridge.survival import LAWS, random_weights, variation
from bsnn.collapse.fate import OPTIMISERS, TARGETS, fates
from bsnn.collapse.networks import NarrowStack, fit
from bsnn.propagation import each
from bsnn.randomness import Purpose, generator
from experiments.bridge.config import BridgeConfig, Stream, both, function, shown
from experiments.collapse.training import BATCH, POINTS
from experiments.units import Row, Work, threads_for

FLAT, FLATTER = 1e-2, 1e-4
HALF_WIDTH, INPUTS = math.sqrt(3), 32  # E x^2 = 1 on [-sqrt 3, sqrt 3]; 0 isn't among the inputs
VARIANTS = ("plain", "gpn", "rows")


def narrow(config: BridgeConfig) -> Work:
    """Pass one input through first weights N(0, 1), for h^(1) of the mean square of x, then square W of the law."""
    sizes, workers = config.sizes.narrow, threads_for(torch.device("cpu"), config.threads)
    layers = shown(sizes.depth)

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        law, width = unit
        code = Stream.NARROW, LAWS.index(law), width
        first = torch.randn(
            sizes.networks, 1, width, generator=generator(config.seed, Purpose.BRIDGE, *code, 0), dtype=torch.float64
        )
        shape = (sizes.networks, width, width)
        weights = [
            random_weights(law, *shape, generator=generator(config.seed, Purpose.BRIDGE, *code, layer))
            for layer in range(1, sizes.depth + 1)
        ]
        x_B1 = torch.linspace(-HALF_WIDTH, HALF_WIDTH, INPUTS, dtype=torch.float64).unsqueeze(1)

        def measure(key: tuple[str, bool]) -> list[Row]:
            phi = function(*key)
            found: list[Row] = []
            with torch.no_grad():
                h_KBN = x_B1 * first
                for layer in range(sizes.depth + 1):
                    if layer in layers:
                        varied, dead = variation(h_KBN), (h_KBN == 0).all(-1).all(-1)
                        shares = [float(part.double().mean()) for part in (dead, varied < FLAT, varied < FLATTER)]
                        quartiles = varied.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
                        found.append([*key, layer, *shares, *quartiles])
                    if layer < sizes.depth:
                        h_KBN = phi(h_KBN) @ weights[layer].mT
            return found

        return [row for found in each(measure, both(), workers) for row in found]

    columns = ("function", "gpn", "layer", "dead", "flat", "flatter", "low", "median", "high")
    units = [(law, width) for law in LAWS for width in sizes.widths]
    return Work(("law", "width"), columns, units, rows, {"version": 1})


def fitted(config: BridgeConfig) -> Work:
    """Train as in the collapse paper's Figure 1, with other functions: |x|, mini-batches, Adam.

    Variants and functions of one width start from the same directions of the weights and see the same data.
    """
    sizes, workers = config.sizes.fitted, threads_for(torch.device("cpu"), config.threads)
    target = TARGETS["abs"]

    def train(width: int, name: str, variant: str) -> list[Row]:
        start, data = (generator(config.seed, Purpose.BRIDGE, Stream.FITTED, width, use) for use in (0, 1))
        stack = narrow_stack(width, sizes.depth, sizes.networks, name, variant, start)
        grid_BD = target.grid(POINTS[1])
        before = last_variation(stack, grid_BD)
        parameters = [parameter for parameter in stack.parameters() if parameter.requires_grad]
        optimiser = OPTIMISERS["adam"](parameters)
        half = sizes.steps // 2
        fit(stack, optimiser, target.batches(half, sizes.networks, BATCH, data))
        halfway = [fate.outcome for fate in fates(stack, target, POINTS[1])]
        fit(stack, optimiser, target.batches(sizes.steps - half, sizes.networks, BATCH, data))
        after = last_variation(stack, grid_BD)
        return [
            [member, half_outcome, fate.outcome, fate.at_mean, float(f"{fate.error:.6g}"), b, a]
            for member, (half_outcome, fate, b, a) in enumerate(
                zip(halfway, fates(stack, target, POINTS[1]), before, after, strict=True)
            )
        ]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        width, name = unit
        trained = each(lambda variant: train(width, name, variant), VARIANTS, workers)
        return [[variant, *row] for variant, found in zip(VARIANTS, trained, strict=True) for row in found]

    units = [(width, name) for width in sizes.widths for name in PAPER_ACTIVATIONS]
    columns = ("variant", "member", "halfway", "outcome", "at_mean", "error", "variation_before", "variation_after")
    return Work(("width", "function"), columns, units, rows, {"version": 1})


def narrow_stack(
    width: int, depth: int, networks: int, name: str, variant: str, random: torch.Generator
) -> NarrowStack:
    """Make networks R -> R.

    Variant "rows": the rows of the square W are v_i / |v_i|, also in training, as in the BSNN paper's section 3.2. The
    first and the last layer are free, as there.
    """
    stack = NarrowStack(
        (1, *[width] * (depth - 1), 1),
        networks,
        function(name, variant != "plain"),
        "lecun",
        normalisation="weight" if variant == "rows" else None,
        generator=random,
        dtype=torch.float32,
    )
    if variant == "rows":
        for scale in list(stack.scales)[1:-1]:
            scale.requires_grad_(False).fill_(1)
    return stack


def last_variation(stack: NarrowStack, grid_BD: Tensor) -> list[float]:
    """Compute the variation of the last hidden layer's output, with six digits."""
    return [float(f"{value:.6g}") for value in variation(stack.signals(grid_BD)[-2].double()).tolist()]
