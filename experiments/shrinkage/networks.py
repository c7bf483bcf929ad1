"""The parts of experiments.shrinkage that measure finite random networks: Figures 1-3 and residual networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bsnn.quadrature import Phi
from bsnn.randomness import Purpose, generator
from bsnn.results import provenance
from bsnn.shrinkage.bounds import (
    ResidualMap,
    excess_bound,
    jacobian_bound,
    nonlinearity,
    residual_nonlinearity,
    shrinkage_bound,
    upper_bound,
)
from bsnn.shrinkage.correlation import CorrelationMap, critical
from bsnn.shrinkage.networks import (
    NormalisedLayer,
    NormalisedResidualBlock,
    distance,
    farthest_pair,
    jacobians,
    pairs,
    states,
)
from experiments.shrinkage.theory import FUNCTIONS, initialisation, shown_layers
from experiments.units import Row, Unit, Work

PAIRS = (0.9, 0.5, 0.0, -1.0)
"""Input correlations of the sample pairs."""
STARTS = (0.0, 0.0, -1.0, -1.0)
"""Starts of the search for the farthest pair: random and opposite inputs."""
SLOPE_STARTS = (0.0, -1.0)
"""Starts of the search for all slopes at once."""
SEARCH_RATE = 0.05
NEARBY = 1e-6
"""1 - rho of two near inputs; the growth of their distance is the measured gain."""
RESOLUTION = 1e-13
"""Singular values below this share of the largest are only rounding."""
FIG1, DEPTH, SLOPE, FIG3, RESIDUAL = range(5)  # of the streams


def network(
    phi: Phi, sigmas: tuple[float, float], width: int, seed: int, index: tuple[int, ...], dtype: torch.dtype
) -> Iterator[NormalisedLayer]:
    """Make layer after layer without end, each with a stream of its own."""
    number = 0
    while True:
        stream = generator(seed, Purpose.SHRINKAGE, *index, number)
        yield NormalisedLayer(width, width, phi, *sigmas, stream, dtype).requires_grad_(False)
        number += 1


def fig1(sizes: Any, seed: int, device: str) -> Work:
    phi = torch.erf
    phases = ("critical", "chaotic")
    rho_0 = torch.linspace(-1, 1, sizes.points, dtype=torch.float64)

    def rows(unit: Unit) -> list[Row]:
        phase, draw = str(unit[0]), int(str(unit[1]))
        sigmas = initialisation(phi, phase)
        assert sigmas is not None
        infinite = 1 - CorrelationMap(phi, *sigmas).iterate_distance(1 - rho_0, max(sizes.depths))
        floors = 1 - CorrelationMap(phi, *sigmas).iterate_distance(1.0, max(sizes.depths))
        index = (FIG1, phases.index(phase), draw, sizes.width)
        x_BN, y_BN = inputs(rho_0.tolist(), sizes.width, seed, index, torch.float32)
        layers = islice(network(phi, sigmas, sizes.width, seed, index, torch.float32), max(sizes.depths))
        found: list[Row] = []
        for depth, z_BN in enumerate(states(layers, torch.cat([x_BN, y_BN]))):
            if depth in sizes.depths:
                measured = 1 - distance(*z_BN.chunk(2))
                floor = float(floors[depth])
                bound = upper_bound(rho_0, floor, excess_bound(depth * nonlinearity(phi), floor))
                columns = (rho_0, measured, infinite[depth], bound)
                found += [[depth, *values] for values in zip(*(one.tolist() for one in columns), strict=True)]
        return found

    units = [(phase, draw) for phase in phases for draw in range(sizes.draws)]
    return Work(("phase", "draw"), ("depth", "rho_0", "rho", "infinite", "bound"), units, rows, {"version": 2})


def inputs(
    rho: Sequence[float], width: int, seed: int, index: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return pairs(rho, width, generator(seed, Purpose.SHRINKAGE, *index), dtype)


def depth(sizes: Any, seed: int, device: str) -> Work:
    names = ("relu", "erf")
    where = provenance.choose_device(device)

    def rows(unit: Unit) -> list[Row]:
        name, kind, number = str(unit[0]), str(unit[1]), int(str(unit[2]))
        phi, sigmas = FUNCTIONS[name], critical(FUNCTIONS[name])
        infinite = CorrelationMap(phi, *sigmas)

        def bound(layers: int) -> float:
            return shrinkage_bound(layers * nonlinearity(phi))

        if kind == "farthest":
            index = (DEPTH, names.index(name), 0, sizes.search_width)
            layers = network(phi, sigmas, sizes.search_width, seed, index, torch.float32)
            stack = nn.Sequential(*islice(layers, number)).to(where)
            x_BN, y_BN = inputs(STARTS, sizes.search_width, seed, index, torch.float32)
            best = farthest_pair(stack, x_BN.to(where), y_BN.to(where), sizes.search_steps, SEARCH_RATE)
            most = float(infinite.iterate_distance(torch.tensor([1.0, 2.0]), number)[-1].max())
            return [[number, None, float(best.max()), most, bound(number)]]
        index = (DEPTH, names.index(name), 1 + number, sizes.width)
        x_BN, y_BN = inputs(PAIRS, sizes.width, seed, index, torch.float32)
        layers = islice(network(phi, sigmas, sizes.width, seed, index, torch.float32), max(sizes.depths))
        expected = infinite.iterate_distance(1 - torch.tensor(PAIRS, dtype=torch.float64), max(sizes.depths))
        shown = {*shown_layers(max(sizes.depths)), *sizes.depths} - {0}
        return [
            [layer, rho, measured, wanted, bound(layer)]
            for layer, z_BN in enumerate(states(layers, torch.cat([x_BN, y_BN])))
            if layer in shown
            for rho, measured, wanted in zip(
                PAIRS, distance(*z_BN.chunk(2)).tolist(), expected[layer].tolist(), strict=True
            )
        ]

    units: list[Unit] = [(name, "pairs", draw) for name in names for draw in range(sizes.draws)]
    units += [(name, "farthest", number) for name in names for number in sizes.depths]
    columns = ("depth", "rho_0", "distance", "infinite", "bound")
    return Work(("function", "kind", "index"), columns, units, rows, {"version": 1})


def slope(sizes: Any, seed: int, device: str) -> Work:
    slopes = torch.tensor(list(sizes.slopes), dtype=torch.float64)
    where = provenance.choose_device(device)
    layer_maps = [CorrelationMap(nn.LeakyReLU(value)) for value in sizes.slopes]
    bounds = [shrinkage_bound(sizes.depth * nonlinearity(nn.LeakyReLU(value))) for value in sizes.slopes]

    def leaky(z_BN: Tensor) -> Tensor:
        """Apply leaky ReLU. Rows come in groups of equal size, one for each slope: all slopes use the same weights."""
        slope_B1 = slopes.to(z_BN).repeat_interleave(len(z_BN) // len(slopes))[:, None]
        return torch.where(z_BN > 0, z_BN, slope_B1 * z_BN)

    def rows(unit: Unit) -> list[Row]:
        kind, draw = str(unit[0]), int(str(unit[1]))
        starts, width = (SLOPE_STARTS, sizes.search_width) if kind == "farthest" else (PAIRS, sizes.width)
        dtype = torch.float32
        index = (SLOPE, kind == "farthest", draw, width)
        x_BN, y_BN = (one.repeat(len(slopes), 1).to(where) for one in inputs(starts, width, seed, index, dtype))
        layers = islice(network(leaky, (1.0, 0.0), width, seed, index, dtype), sizes.depth)
        if kind == "farthest":
            # x and y alternate, so that the rows of one slope stay together
            stack = nn.Sequential(*layers).to(where)
            best = farthest_pair(Interleaved(stack), x_BN, y_BN, sizes.search_steps, SEARCH_RATE)
            most = [float(one.iterate_distance(torch.tensor([1.0, 2.0]), sizes.depth)[-1].max()) for one in layer_maps]
            found = best.view(len(slopes), -1).amax(dim=1).tolist()
            return [[a, None, *rest] for a, *rest in zip(sizes.slopes, found, most, bounds, strict=True)]
        *_, z_BN = states((layer.to(where) for layer in layers), interleave(torch.stack([x_BN, y_BN])))
        measured = distance(z_BN[0::2], z_BN[1::2]).view(len(slopes), -1).tolist()
        start = 1 - torch.tensor(PAIRS, dtype=torch.float64)
        return [
            [a, rho, value, wanted, bound]
            for a, values, one, bound in zip(sizes.slopes, measured, layer_maps, bounds, strict=True)
            for rho, value, wanted in zip(
                PAIRS, values, one.iterate_distance(start, sizes.depth)[-1].tolist(), strict=True
            )
        ]

    units: list[Unit] = [*(("pairs", draw) for draw in range(sizes.draws)), ("farthest", 0)]
    columns = ("slope", "rho_0", "distance", "infinite", "bound")
    return Work(("kind", "draw"), columns, units, rows, {"version": 1})


def interleave(xy_2BN: Tensor) -> Tensor:
    """Interleave x and y: x_0, y_0, x_1, y_1, ...: (2 B, N)."""
    return xy_2BN.transpose(0, 1).flatten(0, 1)


class Interleaved(nn.Module):
    """A network that gets all x, then all y, as from `farthest_pair`, but processes them interleaved."""

    def __init__(self, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z_BN: Tensor) -> Tensor:
        mixed = self.inner(interleave(torch.stack(z_BN.chunk(2))))
        return torch.cat([mixed[0::2], mixed[1::2]])


def fig3(sizes: Any, seed: int, device: str) -> Work:
    phi = torch.erf
    term = nonlinearity(phi)
    where = provenance.choose_device(device)
    phases = ("critical", "chaotic")
    measures = {"correlation": correlation_rows, "jacobian": jacobian_rows, "gradient": gradient_rows}

    def rows(unit: Unit) -> list[Row]:
        phase, quantity, draw = str(unit[0]), str(unit[1]), int(str(unit[2]))
        sigmas = initialisation(phi, phase)
        assert sigmas is not None
        infinite = CorrelationMap(phi, *sigmas)
        fixed = 1 - infinite.fixed_point()
        width = sizes.width if quantity == "correlation" else sizes.jacobian_width
        index = (FIG3, phases.index(phase), draw, width)
        dtype = torch.float32 if quantity == "correlation" else torch.float64
        layers = (layer.to(where) for layer in network(phi, sigmas, width, seed, index, dtype))
        x_BN, y_BN = (one.to(where) for one in inputs(PAIRS, width, seed, index, dtype))

        def gain_bound(number: int) -> float | None:
            """Compute inequality 4.3 for `number` layers, rho_max being the fixed point; None at criticality."""
            return math.sqrt(jacobian_bound(number * term, fixed)) if fixed > 0 else None

        return list(measures[quantity](islice(layers, sizes.depth), x_BN, y_BN, infinite, gain_bound, term))

    units: list[Unit] = [
        (phase, quantity, draw) for phase in phases for quantity in measures for draw in range(sizes.draws)
    ]
    columns = ("layer", "series", "value", "infinite", "bound")
    return Work(("phase", "quantity", "draw"), columns, units, rows, {"version": 1})


GainBound = Callable[[int], float | None]


def correlation_rows(
    layers: Iterator[NormalisedLayer],
    x_BN: Tensor,
    y_BN: Tensor,
    infinite: CorrelationMap,
    gain_bound: GainBound,
    term: float,
) -> Iterator[Row]:
    found = [distance(*z_BN.chunk(2)).tolist() for z_BN in states(layers, torch.cat([x_BN, y_BN]))]
    expected = infinite.iterate_distance(1 - torch.tensor(PAIRS, dtype=torch.float64), len(found) - 1).tolist()
    for layer, (values, wanted) in enumerate(zip(found, expected, strict=True)):
        bound = shrinkage_bound(layer * term, infinite.slope**layer) if infinite.phase == "critical" else None
        for rho, value, want in zip(PAIRS, values, wanted, strict=True):
            yield [layer, str(rho), value, want, bound]


def jacobian_rows(
    layers: Iterator[NormalisedLayer],
    x_BN: Tensor,
    y_BN: Tensor,
    infinite: CorrelationMap,
    gain_bound: GainBound,
    term: float,
) -> Iterator[Row]:
    shown = {2**power for power in range(12)} | {3 * 2**power for power in range(11)}
    for layer, jacobian in enumerate(jacobians(layers, x_BN[0]), start=1):
        if layer not in shown:
            continue
        values = torch.linalg.svdvals(jacobian)
        rms = float(values.square().mean().sqrt())
        # Normalisation makes one direction 0, which the order leaves out.
        series = {"largest": values[0], "median": values[len(values) // 2], "smallest": values[-2]}
        for name, value in series.items():
            resolved = float(value) if value > RESOLUTION * values[0] else None
            yield [layer, name, resolved, None, gain_bound(layer) if name == "largest" else None]
        yield [layer, "root mean square", rms, math.sqrt(infinite.slope**layer), None]


def gradient_rows(
    layers: Iterator[NormalisedLayer],
    x_BN: Tensor,
    y_BN: Tensor,
    infinite: CorrelationMap,
    gain_bound: GainBound,
    term: float,
) -> Iterator[Row]:
    stack = nn.Sequential(*layers).requires_grad_(True)
    output = stack(x_BN)[0]
    # E is a fixed linear function of the output. Its coefficients are the second input, which is random like any other.
    (output @ y_BN[0]).backward()
    norms = [float(torch.linalg.vector_norm(layer.weight.grad)) for layer in stack]
    for layer, norm in enumerate(norms, start=1):
        above = len(norms) - layer
        least = gain_bound(above)
        growth = infinite.slope ** (above / 2)
        yield [layer, "norm", norm, norms[-1] * growth, None if least is None else norms[-1] * least]


def residual(sizes: Any, seed: int, device: str) -> Work:
    names = ("relu", "erf")
    starts = (1 - NEARBY, *PAIRS)

    def blocks(name: str, sigma: float, index: tuple[int, ...]) -> Iterator[NormalisedResidualBlock]:
        for number in range(sizes.depth):
            stream = generator(seed, Purpose.SHRINKAGE, *index, number)
            block = NormalisedResidualBlock(sizes.width, sizes.width, FUNCTIONS[name], sigma, stream, torch.float64)
            yield block.requires_grad_(False)

    def rows(unit: Unit) -> list[Row]:
        name, sigma, draw = str(unit[0]), float(str(unit[1])), int(str(unit[2]))
        index = (RESIDUAL, names.index(name), list(sizes.sigmas).index(sigma), draw, sizes.width)
        infinite = ResidualMap(FUNCTIONS[name], sigma)
        term = residual_nonlinearity(FUNCTIONS[name], sigma)
        x_BN, y_BN = inputs(starts, sizes.width, seed, index, torch.float64)
        expected = infinite.iterate_distance(1 - torch.tensor(starts, dtype=torch.float64), sizes.depth)
        found: list[Row] = []
        for layer, z_BN in enumerate(states(blocks(name, sigma, index), torch.cat([x_BN, y_BN]))):
            nearby, *apart = distance(*z_BN.chunk(2)).tolist()
            farthest = float(expected[: layer + 1].amax(dim=1).min())
            gains = (nearby / NEARBY, infinite.slope**layer, jacobian_bound(layer * term, farthest))
            found += [
                [layer, rho, value, wanted, *gains]
                for rho, value, wanted in zip(PAIRS, apart, expected[layer, 1:].tolist(), strict=True)
            ]
        return found

    units: list[Unit] = [(name, sigma, draw) for name in names for sigma in sizes.sigmas for draw in range(sizes.draws)]
    columns = ("layer", "rho_0", "distance", "infinite", "measured_gain", "gain", "bound")
    return Work(("function", "sigma", "draw"), columns, units, rows, {"version": 1})
