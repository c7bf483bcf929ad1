"""The trained networks of experiments.collapse: Figures 1-5 and section 5, many seeds of each setting in stacks.

A member's start and its mini-batches have streams named by seed, target, initialisation and chunk. So settings that
differ only in the optimiser, the loss or the remedy start from the same networks and see the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from omegaconf import MISSING
from torch import nn

from bsnn.collapse.fate import OPTIMISERS, SECOND_ORDER, TARGETS, Fate, fates, minimise
from bsnn.collapse.networks import INITIALISATIONS, NarrowStack, fit, last_dead_layer
from bsnn.propagation import each
from bsnn.randomness import Purpose, generator
from experiments.units import Row, Work

STREAM = 6  # of Purpose.COLLAPSE; those below are experiments.collapse's
DEPTH = 10  # L, the linear last layer included
BATCH = 128
CHUNK = 64  # members in a stack
POINTS = {
    1: 200,
    2: 32,
}  # of the grid in each input, by inputs; even: 0, where networks without biases are 0, is not on it
CURVE_POINTS = {1: 100, 2: 16}
CURVES = 3  # the most members of each outcome whose curves are kept

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "batch norm": {"normalisation": "batch"},
    "SELU": {"activation": nn.SELU(), "initialisation": "lecun"},
    "weight norm": {"normalisation": "weight"},
    "weight norm, data start": {"normalisation": "weight"},
    "dropout": {"dropout": 0.1},
}
"""Arguments of NarrowStack.

The fifth starts as Salimans & Kingma propose (NarrowStack.normalise_from). The paper's fourth is "a simple
re-parameterization".
"""


@dataclass
class TrainSizes:
    members: int = MISSING
    steps: int = MISSING


@dataclass
class OptimiserSizes(TrainSizes):
    second_order_members: int = MISSING
    iterations: int = MISSING


@dataclass(frozen=True)
class Run:
    target: str
    initialisation: str = "he"
    optimiser: str = "adam"
    loss: str = "mse"
    method: str = "none"


KEYS = ("target", "initialisation", "optimiser", "loss", "method")
COLUMNS = ("member", "dead_at_start", "outcome", "at_mean", "at_median", "value", "error", "dead", "curve")


def work(runs: Sequence[Run], sizes: TrainSizes, seed: int, workers: int) -> Work:
    """Make a unit of each Run; its rows are its members."""

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        run = Run(*unit)
        members = sizes.members
        if run.optimiser in SECOND_ORDER:
            assert isinstance(sizes, OptimiserSizes)
            members = sizes.second_order_members
        chunks = range(-(-members // CHUNK))
        trained = each(
            lambda chunk: train(run, sizes, seed, chunk, min(CHUNK, members - chunk * CHUNK)), chunks, workers
        )
        return _with_curves([row for rows_of_chunk in trained for row in rows_of_chunk])

    return Work(KEYS, COLUMNS, [astuple(run) for run in runs], rows, {"version": 1})


def train(run: Run, sizes: TrainSizes, seed: int, chunk: int, members: int) -> list[tuple[bool, Fate, str]]:
    """Train a chunk; return (dead at the start, fate, curve) of each member."""
    target = TARGETS[run.target]
    code = list(TARGETS).index(run.target), list(INITIALISATIONS).index(run.initialisation), chunk
    start, data = (generator(seed, Purpose.COLLAPSE, STREAM, *code, use) for use in (0, 1))
    layers = (target.inputs, *[target.width] * (DEPTH - 1), target.outputs)
    arguments = {"initialisation": run.initialisation} | METHODS[run.method]
    dtype = torch.float64 if run.optimiser in SECOND_ORDER else torch.float32  # a line search compares close losses
    stack = NarrowStack(layers, members, generator=start, dtype=dtype, **arguments)
    grid_BD = target.grid(POINTS[target.inputs], dtype)
    if run.method == "weight norm, data start":
        stack.normalise_from(next(target.batches(1, 1, BATCH, data, dtype))[0][0])
    dead_K = (last_dead_layer(stack, grid_BD) > 0).all(dim=1).tolist()
    if run.optimiser in SECOND_ORDER:
        assert isinstance(sizes, OptimiserSizes)
        minimise(stack, grid_BD, target.function(grid_BD), SECOND_ORDER[run.optimiser], sizes.iterations, run.loss)
    else:
        optimiser = OPTIMISERS[run.optimiser](stack.parameters())
        fit(stack, optimiser, target.batches(sizes.steps, members, BATCH, data, dtype), run.loss)
    found = fates(stack, target, POINTS[target.inputs], run.loss)
    with torch.no_grad():
        curves_KB = stack(target.grid(CURVE_POINTS[target.inputs], dtype))[..., 0]
    texts = [" ".join(f"{value:.4g}" for value in curve_B.tolist()) for curve_B in curves_KB]
    return list(zip(dead_K, found, texts, strict=True))


def _with_curves(trained: Sequence[tuple[bool, Fate, str]]) -> list[Row]:
    """Make the members' rows, with the curves of the first CURVES members of each outcome."""
    kept: dict[str, int] = {}
    rows: list[Row] = []
    for member, (dead, fate, curve) in enumerate(trained):
        kept[fate.outcome] = kept.get(fate.outcome, 0) + 1
        numbers = (float(f"{value:.6g}") for value in (fate.value, fate.error, fate.dead))
        shown = curve if kept[fate.outcome] <= CURVES else None
        rows.append([member, dead, fate.outcome, fate.at_mean, fate.at_median, *numbers, shown])
    return rows
