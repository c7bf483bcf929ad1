"""Part of the study about rivals: GPN beside other ways to train 200 plain layers, with equal steps and equal tuning.

Each method (experiments.beyond.rival_networks.METHODS) takes equally many updates at each rate of a grid with as many
rates for every optimiser. The rate with the best accuracy on VALIDATION training images that are held back is chosen,
with one seed. Networks of other seeds are then trained at that rate, and tested once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bsnn.data import Dataset, load
from bsnn.randomness import batch_order
from bsnn.results import provenance
from experiments.beyond.config import BeyondConfig, RivalsSizes
from experiments.beyond.rival_networks import METHODS, Networks
from experiments.units import Row, Unit, Work, threads_for

DATASET = "mnist"
VALIDATION = 5000
"""The last training images, which no network trains on."""
BATCH = 64
LAST = 5
"""The training loss is the mean over the last 1 / LAST of the updates."""


class Trained(NamedTuple):
    """Networks after their last update; each a value per network."""

    loss: Tensor
    accuracy: Tensor
    ratio: Tensor  # max / min over the layers of ||dE/dV||_F in the first update


def rivals(config: BeyondConfig) -> Work:
    """Tune every method with one seed, and train the chosen rate's networks with others."""
    sizes = config.sizes.rivals
    device = provenance.choose_device(config.device)

    def rows(unit: Unit) -> list[Row]:
        method = str(unit[0])
        data = load(DATASET, str(device))
        rates = list(sizes.rates[METHODS[method].optimiser])
        tuned = trained(method, sizes, [config.seed] * len(rates), rates, data, held_back(data, sizes.images))
        best = int(tuned.accuracy.argmax())  # the smallest rate, where several are best
        seeds = [config.seed + 1 + k for k in range(sizes.seeds)]
        images = data.test_x[: sizes.images], data.test_y[: sizes.images]
        final = trained(method, sizes, seeds, [rates[best]] * len(seeds), data, images)
        found: list[Row] = [["tuning", rate, config.seed, *row] for rate, row in zip(rates, values(tuned), strict=True)]
        found += [["test", rates[best], seed, *row] for seed, row in zip(seeds, values(final), strict=True)]
        return found

    columns = ("stage", "rate", "seed", "loss", "accuracy", "ratio")
    threads = threads_for(device, config.threads)
    return Work(("method",), columns, [(name,) for name in METHODS], rows, {"version": 1}, torch_threads=threads)


def values(of: Trained) -> list[list[float]]:
    return [list(row) for row in zip(*(one.tolist() for one in of), strict=True)]


def held_back(data: Dataset, images: int) -> tuple[Tensor, Tensor]:
    """Return up to `images` of the VALIDATION images."""
    chosen = slice(-VALIDATION, None if images >= VALIDATION else images - VALIDATION)
    return data.train_x[chosen], data.train_y[chosen]


def trained(
    method: str,
    sizes: RivalsSizes,
    seeds: list[int],
    rates: list[float],
    data: Dataset,
    images: tuple[Tensor, Tensor],
) -> Trained:
    """Train a method's networks side by side, each seed in its own order of mini-batches."""
    x, y = data.train_x[:-VALIDATION], data.train_y[:-VALIDATION]
    shape = (x.shape[1], int(data.train_y.max()) + 1)
    networks = Networks(METHODS[method], sizes.depth, sizes.width, *shape, seeds, rates, x.device)
    order_KS = torch.stack([batch_order(seed, 0, len(x)) for seed in seeds]).to(x.device)
    losses: list[Tensor] = []
    torch.set_flush_denormal(True)  # as in training
    try:
        for step in range(sizes.updates):
            chosen_KB = order_KS[:, torch.arange(step * BATCH, (step + 1) * BATCH) % len(x)]
            loss_K, norms_KL = networks.step(x[chosen_KB], y[chosen_KB])
            losses.append(loss_K)
            if step == 0:
                ratio_K = norms_KL.amax(dim=1) / norms_KL.amin(dim=1)
        accuracy_K = networks.accuracy(*images)
    finally:
        torch.set_flush_denormal(False)
    return Trained(torch.stack(losses[-max(1, sizes.updates // LAST) :]).mean(dim=0), accuracy_K, ratio_K)
