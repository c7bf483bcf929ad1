"""Approximations on [0, 1]: interpolation by another route, exact errors, known orders; distances after a layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bsnn.gpn import GPN
from bsnn.shrinkage.covariance import covariance_of
from bsnn.vanishing.approximation import JUMP, SUMS, TARGETS, errors, relu_network, square_by_composition


@pytest.mark.parametrize("target", TARGETS)
def test_a_relu_network_is_linear_interpolation(target: str) -> None:
    x, t = np.linspace(0, 1, 1001), np.linspace(0, 1, 11)
    np.testing.assert_allclose(relu_network(TARGETS[target], 10)(x), np.interp(x, t, TARGETS[target](t)), atol=1e-12)


@pytest.mark.parametrize("N", [1, 2, 5, 8])
def test_composed_tents_interpolate_the_square(N: int) -> None:
    """They are the interpolation at 2^(N-1) + 1 nodes, whose largest error is the square of half the step."""
    x, t = np.linspace(0, 1, 1001), np.linspace(0, 1, 2 ** (N - 1) + 1)
    np.testing.assert_allclose(square_by_composition(N)(x), np.interp(x, t, t**2), atol=1e-12)
    assert errors(square_by_composition(N), TARGETS["square"])[0] == pytest.approx(4.0**-N, rel=1e-3)


@pytest.mark.parametrize("family", SUMS)
def test_every_sum_approximates_better_with_more_terms(family: str) -> None:
    rms = [errors(SUMS[family](TARGETS["abs"], N), TARGETS["abs"])[1] for N in (4, 16, 64)]
    assert rms[0] > 1.5 * rms[1] > 2.25 * rms[2]


def test_a_polynomial_is_exact_and_a_jump_is_seen() -> None:
    largest, rms = errors(SUMS["polynomial"](TARGETS["square"], 4), TARGETS["square"])
    assert largest < 1e-14
    assert rms < 1e-14
    constant = errors(lambda x: np.full_like(x, 0.5), TARGETS["step"])
    assert constant == pytest.approx((0.5, 0.5))
    assert errors(lambda x: np.where(x > JUMP + 1e-9, 1.0, 0.0), TARGETS["step"])[0] == 1  # between grid points


def test_distances_after_a_wide_layer_by_simulation() -> None:
    """E (phi(h) - phi(h'))^2 / E (h - h')^2, 1e6 pairs of correlation 0.3."""
    h, other = torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paired = 0.3 * h + (1 - 0.09) ** 0.5 * other
    for phi in (GPN(nn.Tanh()), GPN(nn.ReLU())):
        measured = (phi(h) - phi(paired)).square().mean() / (h - paired).square().mean()
        expected = covariance_of(phi).gap(torch.tensor(0.7, dtype=torch.float64)) / 0.7
        assert float(measured) == pytest.approx(float(expected), rel=0.01)
