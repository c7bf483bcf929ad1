"""Parts of experiments.vanishing on random networks: the talk's and SELU's wide ones, the lecture's scalar chains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.gpn import GPN
from bsnn.haar import haar_orthogonal
from bsnn.propagation import Draw, draw, each, propagate
from bsnn.randomness import Purpose, generator
from bsnn.vanishing.chain import Chains, Factors, autograd_derivatives, factors, largest_relative_error
from bsnn.vanishing.gaussian_weights import gaussian_draw, predicted_gradients, with_squared_error
from experiments.units import Row, Work
from experiments.vanishing.config import ChainSizes, VanishingConfig, workers

Unit = tuple[Any, ...]

CHAIN_FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
BIAS_STD = 0.1  # of the random chains
FAR = 3.0  # |z| from which a sigmoid counts as saturated: its slope is 0.045 there, tanh's 0.0099
QUANTILES = (0.1, 0.5, 0.9)


class Stream(IntEnum):
    """The first index of a part's random streams. It is part of every result: never renumber."""

    TALK = 0
    CHAIN = 1
    FACTORS = 2


def talk(config: VanishingConfig) -> Work:
    sizes = config.sizes.talk
    gpn = GPN(torch.sigmoid)

    def rows(unit: Unit) -> list[Row]:
        (index,) = unit
        result: list[Row] = []
        for number, std in enumerate(sizes.stds):
            stream = generator(config.seed, Purpose.VANISHING, Stream.TALK, index, number)
            drawn = gaussian_draw(sizes.depth, sizes.width, sizes.samples, std, stream)
            predicted_L = predicted_gradients(torch.sigmoid, std**2 * sizes.width, sizes.depth)
            result += profile(std, torch.sigmoid, drawn, predicted_L)
        stream = generator(config.seed, Purpose.VANISHING, Stream.TALK, index, len(sizes.stds))
        drawn = gaussian_draw(sizes.depth, sizes.width, sizes.samples, 1.0, stream)
        W_LNN = haar_orthogonal(sizes.depth, sizes.width, sizes.width, generator=stream, dtype=torch.float64)
        equal_L = torch.ones(sizes.depth, dtype=torch.float64)  # Proposition 1
        return result + profile("gpn", gpn, Draw(drawn.input, drawn.error, W_LNN), equal_L)

    def profile(weights: float | str, phi: Any, drawn: Draw, predicted_L: Tensor) -> list[Row]:
        found = propagate(phi, with_squared_error(phi, drawn))
        columns = found.signal_mean.tolist(), found.gradient_mean.tolist(), predicted_L.tolist()
        return [[weights, layer, *values] for layer, values in enumerate(zip(*columns, strict=True), start=1)]

    columns = ("weights", "layer", "signal", "gradient", "predicted")
    return Work(("draw",), columns, [(index,) for index in range(sizes.draws)], rows, {"version": 1})


def selu(config: VanishingConfig) -> Work:
    sizes = config.sizes.selu
    functions = {False: PAPER_ACTIVATIONS["selu"](), True: GPN(PAPER_ACTIVATIONS["selu"]())}

    def rows(unit: Unit) -> list[Row]:
        (index,) = unit
        drawn = draw(sizes.depth, sizes.width, sizes.samples, config.seed, index, workers=workers(config))

        def profile(gpn: bool) -> list[Row]:
            found = propagate(functions[gpn], with_squared_error(functions[gpn], drawn))
            norms = zip(found.signal_mean.tolist(), found.gradient_mean.tolist(), strict=True)
            return [[gpn, layer, *values] for layer, values in enumerate(norms, start=1)]

        return [row for found in each(profile, functions, workers(config)) for row in found]

    columns = ("gpn", "layer", "signal", "gradient")
    return Work(("draw",), columns, [(index,) for index in range(sizes.draws)], rows, {"version": 1})


def chain(config: VanishingConfig) -> Work:
    sizes = config.sizes.chain

    def rows(unit: Unit) -> Iterator[Row]:
        name, law, scale = unit
        sigma, drawn = CHAIN_FUNCTIONS[name], _chains(config, sizes, Stream.CHAIN, law, scale)
        found = factors(sigma, drawn)
        logs = [part / math.log(10) for part in found.log_first_by_depth()]
        slope_max, far_max, on_min, on_max = _slopes(found)
        for depth in range(1, sizes.depth + 1):
            of_chains, weights, slopes = (part[:, depth - 1] for part in logs)
            alive = of_chains > -math.inf
            spread = [math.nan] * 5
            if alive.any():
                low, median, high = of_chains[alive].quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
                spread = [median, low, high, float(slopes[alive].mean()), float(weights[alive].mean())]
            cut = drawn.cut(depth)
            error = largest_relative_error(factors(sigma, cut).derivatives(), autograd_derivatives(sigma, cut))
            yield [depth, float((~alive).double().mean()), *spread, slope_max, far_max, on_min, on_max, error]

    columns = ("depth", "vanished", "median", "low", "high", "slopes", "weights",
               "slope_max", "far_max", "on_slope_min", "on_slope_max", "error")  # fmt: skip
    return Work(("function", "law", "scale"), columns, _laws(sizes), lambda unit: list(rows(unit)), {"version": 1})


def factors_of_one(config: VanishingConfig) -> Work:
    """Write down the first drawn chain whose derivatives are not all 0, or else the first."""
    sizes = config.sizes.factors

    def rows(unit: Unit) -> list[Row]:
        name, law, scale = unit
        sigma, drawn = CHAIN_FUNCTIONS[name], _chains(config, sizes, Stream.FACTORS, law, scale)
        found = factors(sigma, drawn)
        derivatives_SL, autograd_SL = found.derivatives(), autograd_derivatives(sigma, drawn)
        one = int((derivatives_SL[:, 0] != 0).double().argmax())
        columns = (part[one].tolist() for part in (drawn.w_SL, found.z_SL, found.slope_SL, derivatives_SL, autograd_SL))
        alive_SL = torch.where(derivatives_SL == 0, math.nan, derivatives_SL.abs().log10())
        means = alive_SL.nanmean(dim=0).tolist()
        return [[layer, *values] for layer, values in enumerate(zip(*columns, means, strict=True), start=1)]

    columns = ("layer", "w", "z", "slope", "derivative", "autograd", "mean_log10")
    return Work(("function", "law", "scale"), columns, _laws(sizes), rows, {"version": 1})


def _laws(sizes: ChainSizes) -> list[Unit]:
    laws = [("fixed", scale) for scale in sizes.fixed] + [("random", scale) for scale in sizes.random]
    return [(name, law, scale) for name in CHAIN_FUNCTIONS for law, scale in laws]


def _chains(config: VanishingConfig, sizes: ChainSizes, part: Stream, law: str, scale: float) -> Chains:
    """Draw the chains: all functions and scales see the same numbers, x ~ N(0, 1); alpha = 1."""
    stream = generator(config.seed, Purpose.VANISHING, part)
    x_S = torch.randn(sizes.chains, generator=stream, dtype=torch.float64)
    w_SL, b_SL = torch.randn(2, sizes.chains, sizes.depth, generator=stream, dtype=torch.float64)
    if law == "fixed":
        return Chains(torch.full_like(w_SL, scale), torch.zeros_like(b_SL), x_S)
    return Chains(scale * w_SL, BIAS_STD * b_SL, x_S)


def _slopes(found: Factors) -> tuple[float, ...]:
    """Find the largest slope, the largest where |z| > FAR, the extremes where z > 0; nan where there is none."""

    def extreme(chosen: Tensor, largest: bool) -> float:
        slopes = found.slope_SL[chosen]
        return float(slopes.max() if largest else slopes.min()) if len(slopes) else math.nan

    far, on = found.z_SL.abs() > FAR, found.z_SL > 0
    return float(found.slope_SL.max()), extreme(far, True), extreme(on, False), extreme(on, True)
