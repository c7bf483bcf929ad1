"""Figure 4 of experiments.shrinkage: a deep network against its skimmed version, trained on MNIST side by side."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from bsnn import data
from bsnn.randomness import Purpose, generator
from bsnn.results import provenance
from bsnn.shrinkage.networks import distance, farthest_pair, normalised
from bsnn.shrinkage.skimming import (
    accuracy,
    alternating_network,
    displacement_correlation,
    distances_by_layer,
    infinite_distances,
    skim,
    train,
)
from experiments.units import Row, Unit, Work

BATCH = 100
LEARNING_RATE = 0.03
MOMENTUM = 0.9
CONE_IMAGES = 1000  # the middle of the cone is the mean over these
SEARCH_RATE = 0.05
WEIGHTS, BATCHES, STARTS = range(10, 13)  # of the streams


def fig4(sizes: Any, seed: int, device: str) -> Work:
    block = slice(sizes.block_start, sizes.block_start + sizes.block_length)

    def rows(unit: Unit) -> list[Row]:
        draw = int(str(unit[0]))
        mnist = data.load("mnist", provenance.choose_device(device))
        test_x, test_y = mnist.test_x[: sizes.test_images], mnist.test_y[: sizes.test_images]
        full = alternating_network(
            mnist.spec.features, mnist.spec.classes, sizes.width, sizes.depth, stream(seed, WEIGHTS, draw)
        ).to(test_x.device)
        networks = {"full": full, "skimmed": skim(full, block, normalised(mnist.train_x[:CONE_IMAGES]))}
        before = copy.deepcopy(full)
        found: list[Row] = []

        def tell_distances(stage: str) -> None:
            for name, network in networks.items():
                for layer, values in enumerate(distances_by_layer(network, test_x[: sizes.pair_images])):
                    found.append(["mean distance", name, stage, layer, float(values.mean())])
                    found.append(["largest distance", name, stage, layer, float(values.max())])
            entrance = copy.deepcopy(full[: block.start]).requires_grad_(False)
            features = mnist.spec.features
            x_BN, y_BN = torch.randn(2, 4, features, generator=stream(seed, STARTS, draw)).to(test_x.device)
            best = farthest_pair(entrance, normalised(x_BN), normalised(y_BN), sizes.search_steps, SEARCH_RATE)
            found.append(["farthest", "full", stage, block.start, float(best.max())])

        tell_distances("before")
        with torch.no_grad():
            ends = {"full": block.stop, "skimmed": block.start + 1}
            leaving = [networks[name][:end](normalised(test_x)) for name, end in ends.items()]
        found.append(["skimming error", None, "before", block.stop, float(distance(*leaving).mean())])
        order = torch.randint(len(mnist.train_x), (sizes.steps, BATCH), generator=stream(seed, BATCHES, draw))
        every = max(1, sizes.steps // sizes.evaluations)
        for name, network in networks.items():
            found.append(["accuracy", name, None, 0, accuracy(network, test_x, test_y)])
            batches = ((mnist.train_x[index], mnist.train_y[index]) for index in order.to(test_x.device))
            window: list[float] = []
            for step, loss in enumerate(train(network, batches, LEARNING_RATE, MOMENTUM), start=1):
                window.append(loss)
                if step % every == 0:
                    found.append(["loss", name, None, step, sum(window) / len(window)])
                    found.append(["accuracy", name, None, step, accuracy(network, test_x, test_y)])
                    window = []
        tell_distances("after")
        for layer, start in enumerate(before):
            if not block.start <= layer < block.stop:
                twin = layer if layer < block.start else layer - sizes.block_length + 1
                moved = [parameters(network[place]) for network, place in ((full, layer), (networks["skimmed"], twin))]
                value = displacement_correlation(parameters(start), *moved)
                found.append(["displacement", None, None, layer + 1, value])
        found += [["infinite", None, None, layer, d] for layer, d in enumerate(infinite_distances(sizes.depth))]
        found += [["layers", name, None, 0, len(network)] for name, network in networks.items()]
        return found

    columns = ("quantity", "network", "stage", "index", "value")
    units = [(draw,) for draw in range(sizes.draws)]
    identity = {"version": 2, "learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "batch": BATCH}
    return Work(("draw",), columns, units, rows, identity)


def stream(seed: int, purpose: int, draw: int) -> torch.Generator:
    return generator(seed, Purpose.SHRINKAGE, purpose, draw)


def parameters(layer: nn.Module) -> list[torch.Tensor]:
    return list(layer.parameters())
