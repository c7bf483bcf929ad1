"""The deep convolutional networks of the study."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bsnn.data import DATASETS, Dataset
from experiments.beyond.config import ConvolutionSizes
from experiments.beyond.convolution import VERSIONS, first_gradients, kernels, network, trained

SIZES = ConvolutionSizes(depth=4, channels=6, functions=["tanh"], rates=[0.1], updates=3, images=100)


def made(version: str, name: str = "tanh") -> nn.Sequential:
    return network(version, name, SIZES, torch.Generator().manual_seed(0))


def data() -> Dataset:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(256, 3072, generator=draws), torch.randint(10, (256,), generator=draws)
    return Dataset(DATASETS["cifar10"], x, y, x, y)


@pytest.mark.parametrize("version", ["plain", "GPN", "batch norm"])
def test_delta_orthogonal_convolutions_keep_every_position_s_norm(version: str) -> None:
    part = [part for part in made(version) if isinstance(part, nn.Conv2d)][1]
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(part(x).norm(dim=1), x.norm(dim=1))


def test_gaussian_filters_have_norm_one_and_use_the_neighbours() -> None:
    part = [part for part in made("GPN, Gaussian") if isinstance(part, nn.Conv2d)][1]
    torch.testing.assert_close(part.weight.flatten(1).norm(dim=1), torch.ones(6))
    assert bool((part.weight[:, :, 0, 0] != 0).all())


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_are_those_of_a_backward_pass(version: str) -> None:
    one = made(version)
    found = first_gradients(one, data())
    nn.functional.cross_entropy(one(data().train_x[:64]), data().train_y[:64]).backward()  # type: ignore[no-untyped-call]
    norms = [float(kernel.grad.norm()) for kernel in kernels(one) if isinstance(kernel.grad, Tensor)]
    assert found == pytest.approx(norms, rel=1e-3)
    assert len(found) == 4


def test_filters_keep_norm_one_while_training() -> None:
    one = made("GPN")
    loss, accuracy = trained(one, data(), 0.1, 3, 100)
    assert math.isfinite(loss)
    assert 0 <= accuracy <= 100
    for part in [part for part in one if isinstance(part, nn.Conv2d)][1:]:
        torch.testing.assert_close(part.weight.flatten(1).norm(dim=1), torch.ones(6))
    moved = [not torch.equal(a, b) for a, b in zip(kernels(one), kernels(made("GPN")), strict=True)]
    assert all(moved)


def test_a_divergence_is_told() -> None:
    assert trained(made("plain", "relu"), data(), 1e30, 20, 100) == (math.inf, 10.0)
