"""What is looked at in training, against other routes to the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from bsnn import BSNN, GPN
from bsnn.data import DATASETS, Dataset
from experiments.beyond.during import COLUMNS, from_normal, layers_shown, looked_at


def data(images: int = 60) -> Dataset:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(images, 12, generator=draws), torch.randint(3, (images,), generator=draws)
    return Dataset(DATASETS["mnist"], x, y, x, y)


def table(**settings: object) -> pd.DataFrame:
    network = BSNN(12, 3, width=40, depth=200, generator=torch.Generator().manual_seed(0), **settings)  # type: ignore[arg-type]
    return pd.DataFrame(looked_at(network, data(), 60), columns=COLUMNS[1:]).set_index("layer")


def test_a_random_gpn_network_has_what_the_theory_assumes() -> None:
    found = table(activation=GPN(nn.SELU()))
    assert list(found.index) == [1, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200]
    assert found.drift.max() < 1e-5
    assert (found[["smallest", "largest"]] - 1).abs().to_numpy().max() < 1e-5
    assert found["value"].between(0.3, 3).all()
    assert found.slope.between(0.5, 2).all()
    assert found.distance.max() < 0.2
    assert found.gamma.isna().all()


def test_independent_rows_are_far_from_orthogonal() -> None:
    found = table(activation=GPN(nn.SELU()), initialisation="gaussian")
    assert found.drift.to_numpy() == pytest.approx(math.sqrt(39 / 40), rel=0.1)
    assert found.largest.between(1.6, 2.2).all()  # Marchenko and Pastur: 2
    assert found.smallest.max() < 0.2


def test_the_jacobian_is_autograds() -> None:
    network = BSNN(12, 3, width=10, depth=5, activation=nn.Tanh(), dtype=torch.float64)
    made = data()
    x = network.signals(made.test_x[:1].double()).x_LBN[0, 0]

    def constrained(x_N: torch.Tensor) -> torch.Tensor:
        for W in network.W:
            x_N = torch.tanh(W @ x_N)
        return x_N

    singular = torch.linalg.svdvals(torch.autograd.functional.jacobian(constrained, x))
    found = pd.DataFrame(looked_at(network, made, 60), columns=COLUMNS[1:]).iloc[0]
    assert found.jacobian_rms == pytest.approx(float(singular.square().mean().sqrt()))
    assert found.jacobian_participation == pytest.approx(
        float(singular.square().sum() ** 2 / (10 * singular.pow(4).sum()))
    )


def test_batch_norm_takes_the_batch() -> None:
    found = table(activation=nn.Tanh(), batch_norm=True)
    assert found.deviation.to_numpy() == pytest.approx(1, abs=1e-3)
    assert found["mean"].abs().max() < 1e-9
    assert (found.gamma == 1).all()
    assert found.jacobian_rms.isna().all()


def test_the_distance_is_kolmogorovs() -> None:
    values = np.random.default_rng(0).gumbel(size=500)
    assert from_normal(torch.tensor(values)) == pytest.approx(stats.kstest(values, "norm").statistic)


def test_layers_of_a_shallow_network() -> None:
    assert layers_shown(3) == [1, 2, 3]
    assert layers_shown(200)[:3] == [1, 20, 40]
