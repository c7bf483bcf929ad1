"""The part of experiments.shrinkage on training: do deeper networks need more steps, and does a linear start help?

Section 3, item 2: the alignment of preactivations disappears layer by layer, which suggests that deeper networks need
more optimization steps. Section 5.2: trainable nonlinearities, initialised as linear functions. Networks of each kind
and depth are trained on MNIST until their loss is below BAR nats. Each kind and depth has its own learning rate, the
one with the fewest steps in a draw that isn't judged.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bsnn import data
from bsnn.results import provenance
from bsnn.shrinkage.skimming import accuracy, distances_by_layer, train
from bsnn.shrinkage.starts import critical_network, linear_network
from experiments.shrinkage.skimming import BATCH, MOMENTUM, stream
from experiments.units import Row, Unit, Work

WEIGHTS, BATCHES = range(23, 25)  # of the streams
TUNING = 0
"""The draw that chooses the rates; it isn't judged."""
BAR = 1.0
"""Mean loss, in nats, over WINDOW steps at which training stops; a chance guess has ln 10 = 2.3."""
WINDOW = 20
NETWORKS: dict[str, Callable[..., nn.Sequential]] = {
    "relu": partial(critical_network, phi=torch.relu),
    "erf": partial(critical_network, phi=torch.erf),
    "relu from linear": partial(linear_network, phi=torch.relu),
    "erf from linear": partial(linear_network, phi=torch.erf),
    "linear": partial(linear_network, phi=None),
}


class Run(NamedTuple):
    """Outcome of a training: the steps to BAR (None: not reached), the last mean loss, 1 - rho by checkpoint and layer.

    distances: after 0, every, 2 every, ... steps, and at the end; empty if not asked for.
    """

    steps: int | None
    loss: float
    distances: list[list[float]]


def steps(sizes: Any, seed: int, device: str) -> Work:
    """Train networks to BAR: the number of steps, and the step at which each layer's alignment has disappeared."""

    def rows(unit: Unit) -> list[Row]:
        name, depth = str(unit[0]), int(str(unit[1]))
        mnist = data.load("mnist", provenance.choose_device(device))
        pairs_BN = mnist.test_x[: sizes.pair_images]

        def start(draw: int) -> tuple[nn.Sequential, Iterator[tuple[Tensor, Tensor]]]:
            network = NETWORKS[name](
                in_features=mnist.spec.features, out_features=mnist.spec.classes, width=sizes.width, depth=depth,
                generator=stream(seed, WEIGHTS, draw),
            ).to(mnist.train_x.device)  # fmt: skip
            shape = (sizes.max_steps, BATCH)
            order = torch.randint(len(mnist.train_x), shape, generator=stream(seed, BATCHES, draw))
            return network, ((mnist.train_x[index], mnist.train_y[index]) for index in order.to(mnist.train_x.device))

        found: list[Row] = []
        best, fewest, least = sizes.rates[0], sizes.max_steps, math.inf
        for rate in sizes.rates:
            run = to_bar(*start(TUNING), rate, fewest)
            found.append(["tuning", rate, TUNING, "steps", None, run.steps])
            if run.steps is not None and run.steps < fewest:
                best, fewest, least = rate, run.steps, -math.inf
            elif run.loss < least:
                best, least = rate, run.loss
        for draw in range(TUNING + 1, TUNING + 1 + sizes.draws):
            network, batches = start(draw)
            run = to_bar(network, batches, best, sizes.max_steps, pairs_BN, sizes.every)
            told: list[tuple[str, int | None, float | int | None]] = [
                ("steps", None, run.steps),
                ("accuracy", None, accuracy(network, mnist.test_x, mnist.test_y)),
            ]
            for layer, half in enumerate(half_steps(run.distances, sizes.every)):
                told.append(("distance before", layer, run.distances[0][layer]))
                told.append(("distance after", layer, run.distances[-1][layer]))
                told.append(("half step", layer, half))
            found += [["test", best, draw, *one] for one in told]
        return found

    units = [(name, depth) for name in NETWORKS for depth in sizes.depths]
    columns = ("stage", "rate", "draw", "quantity", "layer", "value")
    return Work(("network", "depth"), columns, units, rows, {"version": 1})


def to_bar(
    network: nn.Sequential,
    batches: Iterator[tuple[Tensor, Tensor]],
    rate: float,
    max_steps: int,
    pairs_BN: Tensor | None = None,
    every: int = 0,
) -> Run:
    """Train until the mean loss of the last WINDOW steps is below BAR; at most max_steps, or until it diverges."""
    distances: list[list[float]] = []

    def look() -> None:
        if pairs_BN is not None:
            distances.append([float(values.mean()) for values in distances_by_layer(network, pairs_BN)])

    window: deque[float] = deque(maxlen=WINDOW)
    look()
    reached = None
    for step, loss in enumerate(train(network, batches, rate, MOMENTUM), start=1):
        window.append(loss)
        if len(window) == WINDOW and sum(window) / WINDOW < BAR:
            reached = step
            break
        if every and step % every == 0:
            look()
        if step == max_steps or not math.isfinite(loss):
            break
    look()
    mean = sum(window) / len(window)
    return Run(reached, mean if math.isfinite(mean) else math.inf, distances)


def half_steps(distances: list[list[float]], every: int) -> list[int | None]:
    """Tell for each layer the checkpoint from which on 1 - rho is at least half of its last value.

    None: it is so at the start, so there was no alignment that could disappear; or a value isn't finite.

    distances: by checkpoint (`every` steps apart but the last, which is the end) and layer.
    """
    found: list[int | None] = []
    for one in zip(*distances, strict=True):
        below = [index for index, value in enumerate(one) if value < one[-1] / 2]
        proper = all(math.isfinite(value) for value in one) and one[0] < one[-1] / 2
        found.append((below[-1] + 1) * every if proper else None)
    return found
