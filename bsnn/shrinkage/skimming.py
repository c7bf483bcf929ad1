"""Skimming: a block of layers whose inputs all lie in a narrow cone is replaced by its linearisation (section 4.2).

"Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission), Figure 4: 82 critically
initialised layers, ReLU and erf in turn, are compared with the same network in which one layer replaces 16 of them, 67
layers. Both are trained on the same batches.

    full = alternating_network(784, 10, width=1024, depth=82, generator=stream)
    skimmed = skim(full, slice(41, 57), normalised(x_BN))
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.shrinkage.correlation import CorrelationMap, critical
from bsnn.shrinkage.networks import LayerKind, linearised, network_of, normalised, states


def alternating_network(
    in_features: int, out_features: int, width: int, depth: int, generator: torch.Generator
) -> nn.Sequential:
    """Make `depth` layers: an embedding (identity), then ReLU and erf in turn, each critical; the last is a `Readout`.

    Its inputs must be `normalised`.
    """
    kinds = [LayerKind(phi, *critical(phi)) for phi in (torch.erf, torch.relu)]
    return network_of(in_features, out_features, width, [kinds[number % 2] for number in range(1, depth)], generator)


def infinite_distances(depth: int) -> list[float]:
    """Compute 1 - rho after 0, ..., depth - 1 layers of an `alternating_network` of infinite width; opposite inputs."""
    maps = [CorrelationMap(phi, *critical(phi)) for phi in (torch.erf, torch.relu)]
    found = [2.0, 2.0]  # the embedding changes nothing
    for number in range(1, depth - 1):
        found.append(float(maps[number % 2].distance(found[-1])))
    return found


def skim(network: nn.Sequential, block: slice, inputs_BN: Tensor) -> nn.Sequential:
    """Copy the network with one affine layer in place of the layers `block`: their linearisation.

    It is taken at the middle of the cone: the normalised mean of the block's inputs when the network's are inputs_BN.
    Other layers have the same weights, in memory of their own.
    """
    layers: list[Any] = list(copy.deepcopy(network))
    with torch.no_grad():
        entering_BN = network[: block.start](inputs_BN)
        centre_N = normalised(entering_BN.mean(0))
    layers[block] = [linearised(layers[block], centre_N)]
    return nn.Sequential(*layers)


def train(
    network: nn.Sequential, batches: Iterable[tuple[Tensor, Tensor]], learning_rate: float, momentum: float
) -> Iterator[float]:
    """Take one step of SGD for each batch, on the cross-entropy; yields the loss before each step."""
    optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=momentum)
    for x_BN, label_B in batches:
        loss = F.cross_entropy(network(normalised(x_BN)), label_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()


@torch.no_grad()
def accuracy(network: nn.Sequential, x_BN: Tensor, label_B: Tensor) -> float:
    """Compute the share of inputs whose largest logit is their label's."""
    hits = [
        (network(normalised(x)).argmax(1) == label).sum()
        for x, label in zip(x_BN.split(2000), label_B.split(2000), strict=True)
    ]
    return float(torch.stack(hits).sum()) / len(label_B)


@torch.no_grad()
def distances_by_layer(network: nn.Sequential, x_BN: Tensor) -> list[Tensor]:
    """Compute 1 - rho of every pair of inputs before layer 1 and after each but the last: (B (B - 1) / 2,) each."""
    first, second = torch.triu_indices(len(x_BN), len(x_BN), offset=1)
    found = []
    for z_BN in states(network[:-1], normalised(x_BN)):
        gram = z_BN.double() @ z_BN.double().T / z_BN.shape[1]
        found.append(1 - gram[first, second])
    return found


def displacement_correlation(before: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Correlate (Pearson) two copies' parameters, each less `before`; nan if one of them hasn't moved."""
    moves = [
        torch.cat([(moved - start).detach().flatten().double() for moved, start in zip(after, before, strict=True)])
        for after in (first, second)
    ]
    return float(torch.corrcoef(torch.stack(moves))[0, 1])
