"""Wide networks with random weights: the distance of two inputs, at infinite and at finite width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.bridge.meanfield import asymptote, passage
from bsnn.bridge.survival import LAWS, correlated_inputs, gap, pre_activations, random_weights
from bsnn.propagation import each
from bsnn.randomness import Purpose, generator
from bsnn.shrinkage.correlation import CorrelationMap
from experiments.bridge.config import KINKS, BridgeConfig, Stream, both, function, shown
from experiments.units import Row, Work, threads_for


def meanfield(config: BridgeConfig) -> Work:
    sizes = config.sizes.meanfield
    gaps = 1 - torch.tensor(sizes.rho, dtype=torch.float64)

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        found = passage(function(*unit), gaps, sizes.depth, kinks=KINKS)
        return [
            [layer, rho, *(float(one) for one in (found.gap[layer, r], *(values[layer] for values in columns)))]
            for columns in [(found.length, found.jacobian, found.total_error)]
            for layer in shown(sizes.depth)
            for r, rho in enumerate(sizes.rho)
        ]

    columns = ("layer", "rho_0", "gap", "length", "jacobian", "error")
    return Work(("function", "gpn"), columns, both(), rows, {"version": 1})


def decay(config: BridgeConfig) -> Work:
    depth = config.sizes.decay.depth

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        phi = function(unit[0], gpn=True)
        gaps = CorrelationMap(phi, kinks=KINKS).iterate_distance(1.0, depth).tolist()
        return [[layer, gaps[layer], *asymptote(phi)] for layer in shown(depth)]

    units = [(name,) for name in PAPER_ACTIVATIONS]
    return Work(("function",), ("layer", "gap", "constant", "power"), units, rows, {"version": 1})


def correlation(config: BridgeConfig) -> Work:
    """Compute the gaps of correlated inputs; all functions see the same inputs and weights."""
    sizes, workers = config.sizes.correlation, threads_for(torch.device("cpu"), config.threads)
    layers, rhos = shown(sizes.depth), list(sizes.rho)

    def one_draw(law: str, index: int) -> Tensor:
        """Compute gap, and the mean square entry of h: (functions, layers, pairs, 2)."""
        code = Stream.CORRELATION, LAWS.index(law), index
        inputs = correlated_inputs(sizes.width, rhos, generator(config.seed, Purpose.BRIDGE, *code, 0))
        shape = sizes.width, sizes.width
        weights = (
            random_weights(law, *shape, generator=generator(config.seed, Purpose.BRIDGE, *code, layer))
            for layer in range(1, sizes.depth + 2)
        )
        functions = [function(*key) for key in both()]

        def apply(h: Tensor) -> Tensor:
            return torch.stack([phi(part) for phi, part in zip(functions, h, strict=True)])

        found = []
        with torch.no_grad():
            signals = pre_activations(apply, inputs.expand(len(functions), -1, -1), weights)
            for layer, h_FBN in enumerate(signals):
                if layer in layers:
                    gaps = gap(h_FBN[:, :1], h_FBN[:, 1:])
                    found.append(torch.stack([gaps, h_FBN[:, 1:].square().mean(-1)], dim=-1))
        return torch.stack(found, dim=1)

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        drawn = torch.stack(each(lambda index: one_draw(unit[0], index), range(sizes.draws), workers))
        spread = drawn[..., 0].std(0) if sizes.draws > 1 else torch.zeros_like(drawn[0, ..., 0])
        columns = drawn[..., 0].mean(0), spread, drawn[..., 0].median(0).values, drawn[..., 1].mean(0)
        return [
            [*key, layer, rho, *(float(column[f, i, r]) for column in columns)]
            for f, key in enumerate(both())
            for i, layer in enumerate(layers)
            for r, rho in enumerate(rhos)
        ]

    columns = ("function", "gpn", "layer", "rho_0", "gap", "gap_std", "gap_median", "length")
    return Work(("law",), columns, [(law,) for law in LAWS], rows, {"version": 1})
