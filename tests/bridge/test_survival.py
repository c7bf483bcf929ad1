"""bsnn.bridge.survival: laws of W, inputs of given correlations, and the two measures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bsnn.bridge.survival import LAWS, correlated_inputs, gap, pre_activations, random_weights, variation
from bsnn.gpn import GPN
from bsnn.network import BSNN


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", LAWS)
def test_weights_keep_lengths_on_average(law: str) -> None:
    """E |W x|^2 = |x|^2 for a fixed x of norm 1, within 4 standard errors of 4000 draws."""
    W = random_weights(law, 4000, 6, 6, generator=random())
    x = F.normalize(torch.arange(1.0, 7, dtype=torch.float64), dim=0)
    squares = (W @ x).square().sum(-1)
    assert abs(float(squares.mean()) - 1) <= 4 * float(squares.std()) / math.sqrt(4000) + 1e-12
    norms = W.norm(dim=-1)
    assert bool(((norms - 1).abs() < 1e-12).all()) == (law != "gaussian")
    assert bool(((W @ W.mT - torch.eye(6)).abs() < 1e-12).all()) == (law == "haar")


def test_unknown_laws_and_shapes() -> None:
    with pytest.raises(ValueError, match="haar, rows, gaussian"):
        random_weights("normal", 3, 3)
    with pytest.raises(ValueError, match=r"\(\.\.\., N, N\)"):
        random_weights("haar", 3, 4)


def test_inputs_have_their_correlations() -> None:
    rho = [-1.0, -0.5, 0.0, 0.9, 1.0]
    x = correlated_inputs(20, rho, random())
    assert torch.allclose(x.norm(dim=1), torch.full((6,), math.sqrt(20), dtype=torch.float64), rtol=1e-12)
    assert (x[1:] @ x[0] / 20).tolist() == pytest.approx(rho, abs=1e-12)


def test_gaps() -> None:
    a, b = torch.randn(2, 50, 8, generator=random(), dtype=torch.float64)
    assert torch.allclose(gap(a, b), 1 - F.cosine_similarity(a, b), atol=1e-12)
    assert torch.allclose(gap(1e-200 * a, 1e-180 * b), gap(a, b), rtol=1e-9)  # squares would underflow
    e = torch.eye(3, dtype=torch.float64)
    assert float(gap(e[0], e[0] + 1e-9 * e[1])) == pytest.approx(5e-19, rel=1e-6)  # 1 - cos t = t^2 / 2; 1 - cos is 0
    assert math.isnan(float(gap(e[0], 0 * e[0])))


def test_variation() -> None:
    h = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)  # mean (2, 2): 2 of 18 vary
    assert float(variation(h)) == pytest.approx(math.sqrt(2 / 18))
    assert float(variation(1e-200 * h)) == pytest.approx(math.sqrt(2 / 18))
    assert float(variation(h - h.mean(0))) == pytest.approx(1)
    assert float(variation(h[:1].expand(5, -1))) == 0
    assert float(variation(0 * h)) == 0
    assert variation(torch.stack([h, h, h])).shape == (3,)


def test_pre_activations_are_the_networks() -> None:
    network = BSNN(4, 3, width=8, depth=5, activation=GPN(torch.nn.SELU()), generator=random(), dtype=torch.float64)
    x = torch.randn(7, 4, generator=random(1), dtype=torch.float64)
    signals = network.signals(x)
    found = list(pre_activations(network.activation, signals.x_LBN[0], iter(network.W.detach())))
    assert torch.allclose(torch.stack(found), signals.h_LBN, rtol=1e-12)
