"""The parts of experiments.shrinkage that need no network: correlation maps and bounds at infinite width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.quadrature import Phi, gaussian_moments
from bsnn.shrinkage.bounds import (
    ResidualMap,
    cropped,
    excess_bound,
    excess_convexity,
    jacobian_bound,
    nonlinearity,
    residual_nonlinearity,
)
from bsnn.shrinkage.correlation import CorrelationMap, critical, series_map
from bsnn.theory.hermite import hermite_coefficients
from experiments.units import Row, Unit, Work

FUNCTIONS: dict[str, Phi] = {
    "relu": torch.relu,
    "leaky_relu": nn.LeakyReLU(0.5),
    "erf": torch.erf,
    "tanh": torch.tanh,
}
CLOSED = ("relu", "leaky_relu", "erf")
SERIES_DEGREE = 200
SERIES_RHO = torch.linspace(-0.9, 0.9, 19, dtype=torch.float64)
"""Points at which the series to that degree is compared: its missing terms are below 0.9^201 = 6e-10 of E phi^2."""
PHASES = ("ordered", "critical", "chaotic")
RESIDUAL = ("relu", "tanh", "erf")
"""The functions of Theorem 2's networks."""
FARTHEST_STARTS = (2.0, 1.75, 1.5, 1.25, 1.0)
"""Input distances in the search for the one that stays farthest. On [0, 1] P is least at correlation 0."""


def initialisation(phi: Phi, phase: str) -> tuple[float, float] | None:
    """Return (sigma_w, sigma_b) of a phase, None if there is none.

    Ordered: sigma_b^2 such that P'(1) = 1 / 1.1. Chaotic: half of the critical sigma_b^2 / sigma_w^2, if that isn't 0.
    """
    sigma_w, sigma_b = critical(phi)
    if phase == "critical":
        return sigma_w, sigma_b
    if phase == "ordered":
        slope = gaussian_moments(phi).derivative_second
        return sigma_w, sigma_w * math.sqrt((sigma_b / sigma_w) ** 2 + 0.1 * slope)
    return (sigma_w, sigma_b / math.sqrt(2)) if sigma_b > 0 else None


def maps(sizes: Any, seed: int, device: str) -> Work:
    units = [(name, phase) for name in FUNCTIONS for phase in PHASES if initialisation(FUNCTIONS[name], phase)]

    def rows(unit: Unit) -> list[Row]:
        name, phase = str(unit[0]), str(unit[1])
        chosen = initialisation(FUNCTIONS[name], phase)
        assert chosen is not None
        layer = CorrelationMap(FUNCTIONS[name], *chosen)
        depth = sizes.depth if name in CLOSED and phase == "critical" else sizes.numerical_depth
        distances = layer.iterate_distance(1.0, depth).tolist()
        facts = [*chosen, layer.slope, layer.fixed_point(), *route_errors(layer)]
        return [[*facts, number, distances[number]] for number in shown_layers(depth)]

    columns = ("sigma_w", "sigma_b", "slope", "fixed_point", "series_error", "closed_error", "layer", "distance")
    return Work(("function", "phase"), columns, units, rows, {"version": 2})


def route_errors(layer: CorrelationMap) -> tuple[float, float | None]:
    """Compute the largest errors of P by Hermite series, and by closed form if there is one, against quadrature."""
    phi, sigmas = layer.phi, (layer.sigma_w, layer.sigma_b)
    by_quadrature = CorrelationMap(phi, *sigmas, closed_forms=False)(SERIES_RHO)
    coefficients = hermite_coefficients(phi, SERIES_DEGREE)
    # The series' denominator lacks the terms of higher degree. They are no error of the map at |rho| <= 0.9.
    kept = sigmas[1] ** 2 + sigmas[0] ** 2 * float(coefficients.square().sum())
    whole = sigmas[1] ** 2 + sigmas[0] ** 2 * layer.covariance.second
    series_error = float((series_map(coefficients, SERIES_RHO, *sigmas) * kept / whole - by_quadrature).abs().max())
    closed_error = float((layer(SERIES_RHO) - by_quadrature).abs().max())
    return series_error, closed_error if any(phi is FUNCTIONS[name] for name in CLOSED) else None


def shown_layers(depth: int) -> list[int]:
    """List 0 to 20, and from there 20 a decade, to `depth`."""
    spaced = {round(10 ** (step / 20)) for step in range(26, 20 * math.ceil(math.log10(max(depth, 2))) + 1)}
    return sorted({*range(min(depth, 20) + 1), *(number for number in spaced if number <= depth), depth})


def bounds(sizes: Any, seed: int, device: str) -> Work:
    known: dict[str, Phi] = {name: GPN(make()) for name, make in PAPER_ACTIVATIONS.items()} | {"erf": torch.erf}
    functions = {name: known[name] for name in sizes.functions}
    connected: list[Unit] = [
        ("1", name, phase) for name in functions for phase in PHASES if initialisation(functions[name], phase)
    ]
    residual: list[Unit] = [("2", name, sigma) for name in functions if name in RESIDUAL for sigma in sizes.sigmas]

    def rows(unit: Unit) -> list[Row]:
        theorem, name, setting = unit
        phi = functions[str(name)]
        layer: CorrelationMap | ResidualMap
        if theorem == "1":
            chosen = initialisation(phi, str(setting))
            assert chosen is not None
            layer, term = CorrelationMap(phi, *chosen), nonlinearity(phi)
        else:
            sigma = float(str(setting))
            layer, term = ResidualMap(phi, sigma), residual_nonlinearity(phi, sigma)
        return [[depth, *checked(layer, term, depth)] for depth in sizes.depths]

    columns = ("depth", "farthest", "floor", "gain", "bound", "excess", "excess_bound")
    return Work(("theorem", "function", "setting"), columns, connected + residual, rows, {"version": 2})


def checked(layer: CorrelationMap | ResidualMap, term: float, depth: int) -> Sequence[float]:
    """Compute 1 - rho_max, max_l P..P(0), gain, its bound, excess convexity, its bound, for `depth` equal layers."""
    distances = layer.iterate_distance(torch.tensor(FARTHEST_STARTS, dtype=torch.float64), depth)
    farthest = float(distances[1:].amax(dim=1).min())
    floor = 1 - float(distances[1:, -1].min())  # inputs of correlation 0
    excess = excess_convexity(cropped(composition(layer, depth)))
    total = depth * term
    gain = layer.slope**depth
    return farthest, floor, gain, jacobian_bound(total, farthest), excess, excess_bound(total, floor)


def composition(layer: CorrelationMap | ResidualMap, depth: int) -> Callable[[Tensor], Tensor]:
    """Return P o ... o P."""
    return lambda rho: 1 - layer.iterate_distance(1 - rho, depth)[-1]
