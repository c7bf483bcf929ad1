"""Part of the study about convolutions: deep plain convolutional networks on CIFAR-10, under the paper's recipe.

The paper leaves convolutions to future work. A network here is a first convolution that halves the image twice, `depth`
convolutions of 3 x 3 with as many channels in as out, circular padding and nothing between them but phi, and a linear
layer on all positions. Versions:

    plain          delta-orthogonal kernels (Xiao et al., ICML 2018), the plain function
    GPN            the same kernels, filters of norm one while training, the GPN function
    GPN, Gaussian  filters uniform on the sphere instead of delta-orthogonal
    batch norm     as plain, filters of norm one, with batch norm before phi
"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.data import Dataset, load
from bsnn.gpn import GPN
from bsnn.nn.init import delta_orthogonal_, haar_orthogonal_, spherical_
from bsnn.nn.parametrizations import unit_rows
from bsnn.randomness import Purpose, generator
from bsnn.results import provenance
from experiments.beyond.config import BeyondConfig, ConvolutionSizes
from experiments.units import Row, Unit, Work

DATASET = "cifar10"
VERSIONS = ("plain", "GPN", "GPN, Gaussian", "batch norm")
STREAM = 3
"""The stream of this part, an index of Purpose.BEYOND; experiments.beyond.config has other parts'."""
MOMENTUM = 0.9
BATCH = 64


def convolution(config: BeyondConfig) -> Work:
    """Train every version of every function at every rate; gradients by layer are those of the first update."""
    sizes = config.sizes.convolution

    def rows(unit: Unit) -> list[Row]:
        version, name = map(str, unit)
        device = provenance.choose_device(config.device)
        data = dataset(str(device))
        made = network(version, name, sizes, generator(config.seed, Purpose.BEYOND, STREAM)).to(device)
        gradients_L = first_gradients(made, data)
        found: list[Row] = []
        for rate in sizes.rates:
            loss, accuracy = trained(copy.deepcopy(made), data, rate, sizes.updates, sizes.images)
            found += [[rate, layer, norm, loss, accuracy] for layer, norm in enumerate(gradients_L, start=1)]
        return found

    units = [(version, name) for version in VERSIONS for name in sizes.functions]
    columns = ("rate", "layer", "gradient", "loss", "test_accuracy")
    return Work(("version", "function"), columns, units, rows, {"version": 1}, torch_threads=None)


@lru_cache(maxsize=1)
def dataset(device: str) -> Dataset:
    return load(DATASET, device)


def network(version: str, name: str, sizes: ConvolutionSizes, random: torch.Generator) -> nn.Sequential:
    """Make one version. All of them share the numbers that they draw alike."""
    channels, phi = sizes.channels, PAPER_ACTIVATIONS[name]()
    first = nn.Conv2d(3, channels, 4, stride=4)
    last = nn.Linear(channels * 64, 10)
    for layer in (first, last):
        haar_orthogonal_(layer.weight, generator=random)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    layers: list[nn.Module] = [nn.Unflatten(1, (3, 32, 32)), first, activation(phi, version)]
    for _ in range(sizes.depth):
        part = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", bias=False)
        (spherical_ if version == "GPN, Gaussian" else delta_orthogonal_)(part.weight, generator=random)
        if version != "plain":
            unit_rows(part)
        layers += [part, *([nn.BatchNorm2d(channels)] if version == "batch norm" else []), activation(phi, version)]
    return nn.Sequential(*layers, nn.Flatten(), last)


def activation(phi: nn.Module, version: str) -> nn.Module:
    return GPN(phi) if version.startswith("GPN") else phi


def kernels(made: nn.Sequential) -> list[Tensor]:
    """Return the trainable weights of the constrained convolutions, bottom to top."""
    parts = [part for part in made if isinstance(part, nn.Conv2d)][1:]
    return [next(iter(part.parameters())) for part in parts]


def first_gradients(made: nn.Sequential, data: Dataset) -> list[float]:
    """Compute ||dE/dV_l||_F of every constrained convolution on the first batch."""
    probe = copy.deepcopy(made).double()
    x_BD, y_B = data.train_x[:BATCH].double(), data.train_y[:BATCH]
    gradients = torch.autograd.grad(nn.functional.cross_entropy(probe(x_BD), y_B), kernels(probe))
    return [float(gradient.norm()) for gradient in gradients]


def trained(made: nn.Sequential, data: Dataset, rate: float, updates: int, images: int) -> tuple[float, float]:
    """Train with SGD; returns the mean loss of the last tenth of the updates (inf: it diverged) and the test accuracy
    in % on the first `images` test images."""
    optimiser = torch.optim.SGD(made.parameters(), lr=rate, momentum=MOMENTUM)
    losses = []
    for step in range(updates):
        chosen = torch.arange(BATCH * step, BATCH * (step + 1)) % len(data.train_x)
        loss = nn.functional.cross_entropy(made(data.train_x[chosen]), data.train_y[chosen])
        if not loss.isfinite():
            return float("inf"), 10.0
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    made.eval()
    with torch.no_grad():
        right = [
            (made(x).argmax(dim=1) == y).sum()
            for x, y in zip(data.test_x[:images].split(500), data.test_y[:images].split(500), strict=True)
        ]
    last = losses[-max(1, updates // 10) :]
    return sum(last) / len(last), 100 * int(sum(right)) / min(images, len(data.test_x))
