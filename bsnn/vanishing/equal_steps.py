"""The talk's list of tricks and GPN on one deep network and real data: same start, same mini-batches, same steps.

    method            function   network              update, learning rate eta
    nothing           phi        BSNN                 SGD
    adam              phi        BSNN                 Adam, torch's defaults
    batch_norm        phi        BSNN, batch norm     SGD
    clipping          phi        BSNN                 SGD on the gradient, all layers' together, cut to norm 1
    normalised        phi        BSNN                 every layer's gradient divided by its norm (NormalisedSGD)
    shortcuts         phi        x + phi(W x)         SGD
    scaled_shortcuts  phi        x + phi(W x)/sqrt(L) SGD
    gpn               a phi + b  BSNN                 SGD

SGD has the cell's momentum. BSNN: rows of W have norm one (bsnn.network). bsnn.engine trains the methods with plain
SGD, autograd the others; the numbers are the same (tests/vanishing/test_tricks.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import Dataset
from bsnn.engine.reference import initial_network
from bsnn.engine.stack import Stack
from bsnn.network import BSNN
from bsnn.propagation import ratio
from bsnn.randomness import batch_order
from bsnn.vanishing.tricks import ShortcutBSNN, normalised_sgd

CLIP_NORM = 1.0
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Method:
    """One line of the table above. `network` None: BSNN; `optimiser` None: SGD by the engine, which has BSNN alone."""

    gpn: bool = False
    batch_norm: bool = False
    network: Callable[..., BSNN] | None = None
    optimiser: Callable[[BSNN, Cell], torch.optim.Optimizer] | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.optimiser is None and (self.network is not None or self.clip is not None):
            raise ValueError("expected an optimiser for another network or clipped gradients, found none")


@dataclass(frozen=True)
class Point:
    """A training's state after `step` updates.

    loss: mean cross-entropy over the steps since the last point, each before its update; at step 0, of the first batch.
    ratio, norm: max / min and max over layers of ||dE/dV_l||_F at the last of these steps.
    train_accuracy, test_accuracy: percent of the first `images` of each split, in evaluation mode; last point only.
    """

    step: int
    loss: float
    ratio: float
    norm: float
    train_accuracy: float | None = None
    test_accuracy: float | None = None
    images: int | None = None


def sgd(network: BSNN, cell: Cell) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=cell.learning_rate, momentum=cell.momentum)


def _adam(network: BSNN, cell: Cell) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=cell.learning_rate)


def _normalised(network: BSNN, cell: Cell) -> torch.optim.Optimizer:
    return normalised_sgd(network, cell.learning_rate)


def _scaled_shortcuts(*arguments: Any, depth: int, **settings: Any) -> BSNN:
    return ShortcutBSNN(*arguments, depth=depth, branch=depth**-0.5, **settings)


METHODS = {
    "nothing": Method(),
    "adam": Method(optimiser=_adam),
    "batch_norm": Method(batch_norm=True),
    "clipping": Method(optimiser=sgd, clip=CLIP_NORM),
    "normalised": Method(optimiser=_normalised),
    "shortcuts": Method(network=ShortcutBSNN, optimiser=sgd),
    "scaled_shortcuts": Method(network=_scaled_shortcuts, optimiser=sgd),
    "gpn": Method(gpn=True),
}


def adam(eps: float) -> Method:
    """Adam whose denominator is sqrt(v) + eps. torch's default, 1e-8, stops it where gradients are much smaller."""

    def make(network: BSNN, cell: Cell) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=cell.learning_rate, eps=eps)

    return Method(optimiser=make)


def train(method: Method, cell: Cell, data: Dataset, steps: int, every: int, evaluated: int) -> list[Point]:
    """Train for `steps` updates on the data's device, with a point at 0 and after each `every` of them.

    cell: of the plain function without batch norm; the method decides on both. evaluated: the number of images, the
    first of each split, for the accuracies. A training whose loss is nan or inf ends there, with a last point whose
    loss is inf and without accuracies.
    """
    # As in bsnn.training.loop: a dead network's subnormal numbers are a hundred times slower than zeros. This thread
    # only.
    torch.set_flush_denormal(True)
    cell = replace(cell, gpn=method.gpn, batch_norm=method.batch_norm)
    device = data.train_x.device
    trainee = _Engine(cell, device) if method.optimiser is None else _Autograd(method, cell, device)
    points: list[Point] = []
    losses: list[float] = []
    for step, (x_BD, y_B) in enumerate(mini_batches(cell, data, steps), start=1):
        loss, norms_L = trainee.step(x_BD, y_B)
        losses.append(loss)
        spread = ratio(norms_L), float(norms_L.max())
        if step == 1:
            points.append(Point(0, loss, *spread))
        if not math.isfinite(loss):
            return [*points, Point(step, math.inf, *spread)]
        if step % every == 0 or step == steps:
            points.append(Point(step, sum(losses) / len(losses), *spread))
            losses = []
    accuracies = [
        _accuracy(trainee, x[:evaluated], y[:evaluated])
        for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y))
    ]
    points[-1] = replace(points[-1], train_accuracy=accuracies[0], test_accuracy=accuracies[1], images=evaluated)
    return points


def end_loss(points: Sequence[Point], steps: int) -> float:
    """Average the loss over the points of the last tenth of `steps`; inf for a training that diverged."""
    if points[-1].step < steps or not math.isfinite(points[-1].loss):
        return math.inf
    late = [point.loss for point in points if point.step > 0.9 * steps]
    return sum(late) / len(late)


def mini_batches(cell: Cell, data: Dataset, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first `steps` mini-batches of the cell's seed, in the order of bsnn.training.loop."""
    n, taken, epoch = len(data.train_x), 0, 0
    while taken < steps:
        order = batch_order(cell.seed, epoch, n).to(data.train_x.device)
        for indices in order.split(cell.batch_size)[: steps - taken]:
            yield data.train_x[indices], data.train_y[indices]
            taken += 1
        epoch += 1


class _Engine:
    def __init__(self, cell: Cell, device: torch.device) -> None:
        self.stack = Stack([cell], device)
        self.norms_LK = torch.zeros(cell.depth, 1, dtype=torch.float64, device=device)

    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[float, Tensor]:
        loss_K, _ = self.stack.step(x_BD.unsqueeze(0), y_B.unsqueeze(0), self.norms_LK)
        return float(loss_K), self.norms_LK[:, 0]

    def logits(self, x_BD: Tensor) -> Tensor:
        return self.stack.logits(x_BD)[0]


class _Autograd:
    def __init__(self, method: Method, cell: Cell, device: torch.device) -> None:
        assert method.optimiser is not None
        self.network = initial_network(cell, device, method.network or BSNN)
        self.optimiser, self.clip = method.optimiser(self.network, cell), method.clip

    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[float, Tensor]:
        self.network.train()
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.network(x_BD), y_B)
        loss.backward()
        norms_L = self.network.gradient_norms()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimiser.step()
        return float(loss.detach()), norms_L

    @torch.no_grad()
    def logits(self, x_BD: Tensor) -> Tensor:
        logits: Tensor = self.network.eval()(x_BD)
        return logits


def _accuracy(trainee: _Engine | _Autograd, x_BD: Tensor, y_B: Tensor) -> float:
    pairs = zip(x_BD.split(EVALUATION_BATCH), y_B.split(EVALUATION_BATCH), strict=True)
    hits = sum(int((trainee.logits(x).argmax(dim=1) == y).sum()) for x, y in pairs)
    return 100 * hits / len(y_B)
