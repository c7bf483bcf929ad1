"""Batch norm's growth, the first layers and floating-point formats: against torch's own layers and against theory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsnn.shrinkage.networks import NormalisedLayer, distance, pairs
from experiments.shrinkage.limits import NORMALISED, batch_norm_gradients, error_of, in_format


@pytest.mark.parametrize("name", ["linear", "relu", "tanh"])
def test_gradients_are_those_of_torchs_batch_norm(name: str) -> None:
    """The same weights in nn.Linear and nn.BatchNorm1d; gradients caught by hooks."""
    batch, width, depth = 6, 10, 4
    x_BN = torch.randn(batch, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = batch_norm_gradients(NORMALISED[name], x_BN, depth, torch.Generator().manual_seed(1))
    draws, norms = torch.Generator().manual_seed(1), {}
    z_BN = x_BN
    for layer in range(depth):
        linear = nn.Linear(width, width, bias=False, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(width, width, generator=draws, dtype=torch.float64) / math.sqrt(width))
        h_BN = linear(z_BN)
        h_BN.register_hook(lambda gradient, layer=layer: norms.update({layer: float(gradient.norm())}))
        centre = nn.BatchNorm1d(width, eps=1e-15, affine=False, dtype=torch.float64)
        z_BN = NORMALISED[name](centre(h_BN))
    (z_BN * torch.randn(batch, width, generator=draws, dtype=torch.float64)).sum().backward()
    assert found.tolist() == pytest.approx([norms[layer] for layer in range(depth)], rel=1e-9)


def test_linear_networks_grow_by_the_known_law() -> None:
    """(B - 2) / (B - 3) a layer for the squared norm, B = 6: 4 / 3."""
    stream = torch.Generator().manual_seed(0)
    x_BN = torch.randn(6, 300, generator=stream, dtype=torch.float64)
    logs = batch_norm_gradients(NORMALISED["linear"], x_BN, 60, stream).square().log()
    growth = float(logs[5] - logs[-5]) / 50
    assert growth == pytest.approx(math.log(4 / 3), abs=0.04)


def test_a_format_keeps_small_angles_down_to_its_eps() -> None:
    """Layers of slope below 1 shrink the angle; float32's distance is float64's until the angle is below its eps."""
    width, depth = 32, 120
    draws = torch.Generator().manual_seed(0)
    layers = [
        NormalisedLayer(width, width, torch.erf, 1.0, 1.0, draws, torch.float64).requires_grad_(False)
        for _ in range(depth)
    ]
    x_BN, y_BN = pairs([0.0], width, draws, torch.float64)
    target_N = torch.ones(width, dtype=torch.float64)
    shown = list(range(1, depth + 1))
    z_2N = torch.cat([x_BN, y_BN])
    for one in layers:
        z_2N = one(z_2N)
    exact = dict(in_format(layers, x_BN, y_BN, target_N, torch.float64, shown))
    single = dict(in_format(layers, x_BN, y_BN, target_N, torch.float32, shown))
    assert exact[depth][0] == pytest.approx(float(distance(*z_2N)), rel=1e-9)
    eps = torch.finfo(torch.float32).eps
    angles = {layer: math.sqrt(2 * moved) for layer, (moved, _) in exact.items()}
    assert angles[depth] < 1e-3 * eps
    for layer, angle in angles.items():
        off = abs(single[layer][0] / exact[layer][0] - 1)
        assert off < 0.5 or angle < 30 * eps
        assert off > 0.5 or angle > eps / 30
    assert error_of(single[10][1], exact[10][1]) < 1e-4
