"""Part of the study about training: whether what holds of random networks still holds of trained ones.

Networks are trained as Table 2's are and looked at after some updates, layer by layer. Batch norm takes the statistics
of the batch that is looked at, as in training.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from bsnn.beyond.jacobian import jacobian, participation
from bsnn.cell import Cell
from bsnn.data import Dataset, load
from bsnn.engine.reference import initial_network
from bsnn.network import BSNN
from bsnn.results import provenance
from bsnn.results.claims_synthetic import NEAR_ONE
from bsnn.results.tables import unfinished_folder
from bsnn.training import loop
from bsnn.training.checkpoints import load_network
from experiments.beyond.config import BeyondConfig, cell_of
from experiments.units import Row, Unit, Work

DATASET = "mnist"
VERSIONS = {"plain": (False, False), "GPN": (True, False), "batch norm": (False, True)}
"""(gpn, batch norm) of each version of a function."""
SHOWN = 10
"""Layers that are looked at: the first, the last, and those between at equal distances."""


def during(config: BeyondConfig) -> Work:
    """Train every version of every function, and look at its layers after each of `sizes.updates`."""
    sizes = config.sizes.during
    units = [(version, name) for version in VERSIONS for name in sizes.functions]

    def versioned(version: str, name: str, depth: int, width: int, updates: int) -> Cell:
        gpn, batch_norm = VERSIONS[version]
        settings = {"depth": depth, "width": width, "max_steps": updates, "evaluations_per_epoch": 1}
        return cell_of(config, DATASET, name, config.seed, gpn=gpn, batch_norm=batch_norm, **settings)

    def rows(unit: Unit) -> list[Row]:
        data = load(DATASET, str(provenance.choose_device(config.device)))
        version, name = map(str, unit)
        cell = versioned(version, name, sizes.depth, sizes.width, max(sizes.updates))
        folder = unfinished_folder(Path(config.results_dir) / config.budget.name / "beyond" / config.part)
        path = folder / f"{cell.id}.pt"
        path.unlink(missing_ok=True)  # of a unit that was killed; it may be further than the first update asked for
        found: list[Row] = []
        try:
            for step in sorted(sizes.updates):
                network = initial_network(cell, torch.device("cpu")) if step == 0 else None
                if network is None:
                    for _ in loop.train([cell], data, [path], goal=step, keep_checkpoint=True):
                        pass
                    network = load_network(path, cell)
                found += [[step, *row] for row in looked_at(network, data, sizes.images)]
        finally:
            torch.set_flush_denormal(False)  # training switches it on, for this thread
            path.unlink(missing_ok=True)
        return found

    depends = {"cells": [versioned(version, name, 1, 2, 1).hash for version, name in units]}
    return Work(("version", "function"), COLUMNS, units, rows, {"version": 1}, depends=depends, torch_threads=None)


COLUMNS = (
    "step", "layer", "drift", "smallest", "largest", "mean", "deviation", "distance", "value", "slope", "near",
    "gradient", "gamma", "jacobian_rms", "jacobian_participation",
)  # fmt: skip


def looked_at(network: BSNN, data: Dataset, images: int) -> list[Row]:
    """Measure a network's layers on the first test images, in float64.

    layer; drift: ||W W^T - I||_F / sqrt(N); smallest, largest: singular values of W; mean, deviation: of h over units
    and samples, distance: Kolmogorov's, of h from N(0, 1); value, slope: means of phi(h)^2 and phi'(h)^2; near: the
    share of phi'(h) within NEAR_ONE of 1; gradient: ||dE/dV||_F of the batch; gamma: mean |scale| of the layer's batch
    norm; jacobian_rms, jacobian_participation: of the singular values of dx^(L+1)/dx^(1) at the first image, the same
    for all layers, nan with batch norm.
    """
    network = copy.deepcopy(network).double().train()
    x_BD, y_B = data.test_x[:images].cpu().double(), data.test_y[:images].cpu()
    network.zero_grad()
    nn.functional.cross_entropy(network(x_BD), y_B).backward()
    gradients_L = network.gradient_norms()
    signals = network.signals(x_BD)
    W_LNN = network.W.detach()
    spread = [math.nan, math.nan]
    if not network.batch_norms:
        singular_N = torch.linalg.svdvals(jacobian(network.activation, W_LNN, signals.x_LBN[0, 0]))
        spread = [float(singular_N.square().mean().sqrt()), participation(singular_N)]
    rows: list[Row] = []
    for layer in layers_shown(network.depth):
        W_NN, h_BN = W_LNN[layer - 1], signals.h_LBN[layer - 1]
        slope_BN = signals.phi_prime_LBN[layer - 1]
        gram_NN = W_NN @ W_NN.T - torch.eye(len(W_NN), dtype=W_NN.dtype)
        values_N = torch.linalg.svdvals(W_NN)
        rows.append([
            layer,
            float(gram_NN.norm() / len(W_NN) ** 0.5),
            float(values_N.min()),
            float(values_N.max()),
            float(h_BN.mean()),
            float(h_BN.std(correction=0)),
            from_normal(h_BN),
            float(signals.x_LBN[layer].square().mean()),
            float(slope_BN.square().mean()),
            float(((slope_BN - 1).abs() < NEAR_ONE).double().mean()),
            float(gradients_L[layer - 1]),
            scale(network, layer),
            *spread,
        ])  # fmt: skip
    return rows


def scale(network: BSNN, layer: int) -> float:
    if not network.batch_norms:
        return math.nan
    batch_norm = network.batch_norms[layer - 1]
    assert isinstance(batch_norm, nn.BatchNorm1d)
    return float(batch_norm.weight.detach().abs().mean())


def from_normal(values: Tensor) -> float:
    """Compute Kolmogorov's distance sup |F_n - Phi| of all values from the standard normal law."""
    ordered = values.flatten().double().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    normal = torch.special.ndtr(ordered)
    return float(torch.maximum((steps[1:] - normal).max(), (normal - steps[:-1]).max()))


def layers_shown(depth: int) -> list[int]:
    return sorted({1, *(round(depth * k / SHOWN) for k in range(1, SHOWN + 1) if round(depth * k / SHOWN))})
