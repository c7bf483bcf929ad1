"""The parts of experiments.shrinkage on the paper's remarks beyond its theorems, measured in random networks.

Section 5.2: batch norm explodes gradients, slowest with linear functions. Section 5.1: the first log L layers of a
network that is as wide as it is deep. Section 3, item 2: angles as small as the machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.quadrature import Phi
from bsnn.randomness import Purpose, generator
from bsnn.shrinkage.correlation import CorrelationMap, critical
from bsnn.shrinkage.networks import NormalisedLayer, distance, states
from experiments.shrinkage.networks import inputs, network
from experiments.shrinkage.theory import FUNCTIONS, initialisation
from experiments.units import Row, Unit, Work

BATCH_NORM, BLOCK, PRECISION = range(20, 23)  # of the streams
NORMALISED: dict[str, Phi] = {
    "linear": nn.Identity(),
    **{name: make() for name, make in PAPER_ACTIVATIONS.items()},
    "erf": torch.erf,
}
FORMATS = ("float64", "float32", "bfloat16")
CASES = (("relu", "ordered"), ("erf", "ordered"), ("relu", "critical"), ("erf", "critical"))
RIGHT_ANGLE = 0.0
"""The input correlation of pairs."""


def batch_norm(sizes: Any, seed: int, device: str) -> Work:
    """Measure by how much squared gradients grow from layer to layer, downwards, in batch-normalised networks."""

    def rows(unit: Unit) -> list[Row]:
        name, batch, draw = str(unit[0]), int(str(unit[1])), int(str(unit[2]))
        stream = generator(seed, Purpose.SHRINKAGE, BATCH_NORM, batch, draw)  # the same weights for every function
        x_BN = torch.randn(batch, sizes.width, generator=stream, dtype=torch.float64)
        norms = batch_norm_gradients(NORMALISED[name], x_BN, sizes.depth, stream)
        logs = norms.square().log()[sizes.skipped : -sizes.skipped]
        return [[float((logs[0] - logs[-1]) / (len(logs) - 1))]]

    units = [(name, batch, draw) for name in NORMALISED for batch in sizes.batches for draw in range(sizes.draws)]
    return Work(("function", "batch", "draw"), ("log_growth",), units, rows, {"version": 1})


def batch_norm_gradients(phi: Phi, x_BN: Tensor, depth: int, stream: torch.Generator) -> Tensor:
    """Compute ||dE/dh_l||_F, l = 1, ..., L, of h = W x, x = phi(h normalised over the batch), for a random linear E."""
    width = x_BN.shape[-1]
    hidden = []
    for _ in range(depth):
        weight = torch.randn(width, width, generator=stream, dtype=x_BN.dtype) / math.sqrt(width)
        h_BN = (x_BN @ weight.T).requires_grad_()
        hidden.append(h_BN)
        centred = h_BN - h_BN.mean(dim=0)
        x_BN = phi(centred / centred.square().mean(dim=0).sqrt())
    error = (x_BN * torch.randn(x_BN.shape, generator=stream, dtype=x_BN.dtype)).sum()
    return torch.stack([torch.linalg.vector_norm(one) for one in torch.autograd.grad(error, hidden)])


def block(sizes: Any, seed: int, device: str) -> Work:
    """Follow a pair of inputs through critical networks as wide as deep, to layer ceil(ln L) and to layer L."""
    names = ("relu", "erf")

    def rows(unit: Unit) -> list[Row]:
        name, size, draw = str(unit[0]), int(str(unit[1])), int(str(unit[2]))
        phi, sigmas = FUNCTIONS[name], critical(FUNCTIONS[name])
        index = (BLOCK, names.index(name), size, draw)
        x_BN, y_BN = inputs([RIGHT_ANGLE], size, seed, index, torch.float64)
        layers = islice(network(phi, sigmas, size, seed, (*index, 0), torch.float64), size)
        expected = CorrelationMap(phi, *sigmas).iterate_distance(1 - RIGHT_ANGLE, size)
        first = math.ceil(math.log(size))
        return [
            [layer, float(distance(*z_BN)), float(expected[layer])]
            for layer, z_BN in enumerate(states(layers, torch.cat([x_BN, y_BN])))
            if layer in (first, size)
        ]

    units = [(name, size, draw) for name in names for size in sizes.sizes for draw in range(sizes.draws)]
    return Work(("function", "size", "draw"), ("layer", "distance", "infinite"), units, rows, {"version": 1})


def precision(sizes: Any, seed: int, device: str) -> Work:
    """Follow a pair of inputs through the same network in several floating-point formats."""

    def rows(unit: Unit) -> list[Row]:
        name, phase, draw = str(unit[0]), str(unit[1]), int(str(unit[2]))
        phi, sigmas = FUNCTIONS[name], initialisation(FUNCTIONS[name], phase)
        assert sigmas is not None
        index = (PRECISION, CASES.index((name, phase)), draw)
        x_BN, y_BN = inputs([RIGHT_ANGLE], sizes.width, seed, index, torch.float64)
        layers = list(islice(network(phi, sigmas, sizes.width, seed, (*index, 0), torch.float64), sizes.depth))
        for one in (x_BN, y_BN, *(parameter.data for layer in layers for parameter in layer.parameters())):
            one.copy_(one.bfloat16())  # all formats hold the same numbers
        target_N = inputs([RIGHT_ANGLE], sizes.width, seed, (*index, 1), torch.float64)[0][0]
        shown = [layer for layer in range(1, sizes.depth + 1) if layer % sizes.every == 0]
        found = {
            label: dict(in_format(layers, x_BN, y_BN, target_N, getattr(torch, label), shown)) for label in FORMATS
        }
        exact = found["float64"]
        return [
            [label, layer, moved, exact[layer][0], error_of(gradient, exact[layer][1])]
            for label, of in found.items()
            for layer, (moved, gradient) in of.items()
        ]

    units = [(*case, draw) for case in CASES for draw in range(sizes.draws)]
    columns = ("dtype", "layer", "distance", "exact", "gradient_error")
    return Work(("function", "phase", "draw"), columns, units, rows, {"version": 1})


def in_format(
    layers: list[NormalisedLayer], x_BN: Tensor, y_BN: Tensor, target_N: Tensor, dtype: torch.dtype, shown: list[int]
) -> Iterator[tuple[int, tuple[float, Tensor]]]:
    """Yield (layer, (1 - rho, gradient)) at the layers `shown`, everything computed in `dtype`.

    The gradient is that of target . (z(x) - z(y)) with respect to the first layer's weights, in float64.
    """
    stack = nn.Sequential(*layers).to(dtype)
    weight = layers[0].weight
    weight.requires_grad_(True)
    z_BN = torch.cat([x_BN, y_BN]).to(dtype)
    for layer, module in enumerate(stack, start=1):
        z_BN = module(z_BN)
        if layer in shown:
            x_N, y_N = z_BN
            separated = (x_N - y_N) @ target_N.to(dtype)
            (gradient,) = torch.autograd.grad(separated, weight, retain_graph=True)
            yield layer, (float(distance(x_N.detach().double(), y_N.detach().double())), gradient.double())
    weight.requires_grad_(False)


def error_of(found: Tensor, exact: Tensor) -> float:
    """Compute ||found - exact|| / ||exact||."""
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
