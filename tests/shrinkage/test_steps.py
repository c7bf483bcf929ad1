"""Linear starts against functions written out, training to a bar against a plain loop, and half steps by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.shrinkage.correlation import critical
from bsnn.shrinkage.networks import distance, normalised, pairs, states
from bsnn.shrinkage.starts import FromLinear, critical_network, linear_network
from experiments.shrinkage.steps import BAR, MOMENTUM, WINDOW, half_steps, to_bar


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(seed: int, count: int = 400) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels that a linear function of the inputs gives."""
    stream = draws(seed)
    truth = torch.randn(12, 3, generator=stream)
    for _ in range(count):
        x_BN = torch.randn(50, 12, generator=stream)
        yield x_BN, (x_BN @ truth).argmax(1)


def test_the_share_goes_from_the_identity_to_phi_and_learns() -> None:
    function = FromLinear(torch.relu)
    x = torch.tensor([-2.0, 3.0])
    assert function(x).tolist() == [-2.0, 3.0]
    function(x).sum().backward()
    assert function.share.grad is not None
    assert float(function.share.grad) == 2.0  # sum of relu(x) - x
    for share, expected in ((1.0, [0.0, 3.0]), (0.25, [-1.5, 3.0]), (-1.0, [-4.0, 3.0])):
        with torch.no_grad():
            function.share.fill_(share)
        assert function(x).tolist() == pytest.approx(expected)


def test_linear_starts_keep_the_angles_of_inputs_through_200_layers() -> None:
    """Infinite width keeps 1 - rho; at width 400 it stays within a factor 2, where critical ReLU loses 96 %."""
    x_BN, y_BN = pairs([0.5], 784, draws(), torch.float32)
    ends = {}
    for name, network in {
        "from linear": linear_network(784, 10, 400, 202, torch.relu, draws(1)),
        "critical": critical_network(784, 10, 400, 202, torch.relu, draws(1)),
    }.items():
        with torch.no_grad():
            *_, last = states(network[:-1], torch.cat([x_BN, y_BN]))
        ends[name] = float(distance(*last))
    assert 0.25 < ends["from linear"] < 1
    assert ends["critical"] < 0.02


def test_every_layer_has_a_share_of_its_own_and_nothing_else_differs() -> None:
    network = linear_network(20, 3, 8, 5, torch.erf, draws())
    linear = linear_network(20, 3, 8, 5, None, draws())
    shares = [name for name, _ in network.named_parameters() if name.endswith("share")]
    assert len(set(shares)) == 4
    x_BN = normalised(torch.randn(6, 20, generator=draws(1)))
    assert torch.equal(network(x_BN), linear(x_BN))


def test_a_critical_network_is_equation_2_1_written_out() -> None:
    network = critical_network(20, 3, 8, 3, torch.relu, draws())
    weights = [layer.weight.detach() for layer in network]
    sigma_w, sigma_b = critical(torch.relu)
    assert sigma_b == 0
    assert float(weights[1].std()) == pytest.approx(sigma_w, rel=0.3)
    x_BN = normalised(torch.randn(6, 20, generator=draws(1)))
    z_BN = normalised(x_BN @ weights[0].T)
    z_BN = normalised(z_BN.clamp(min=0) @ weights[1].T)
    assert torch.allclose(network(x_BN), z_BN.clamp(min=0) @ weights[2].T / math.sqrt(8), atol=1e-6)


def test_training_stops_where_a_plain_loop_is_below_the_bar() -> None:
    network, twin = (linear_network(12, 3, 16, 3, torch.relu, draws(2)) for _ in range(2))
    run = to_bar(network, batches(3), 0.05, 400)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=MOMENTUM)
    losses: list[float] = []
    for x_BN, label_B in batches(3):
        loss = F.cross_entropy(twin(normalised(x_BN)), label_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) >= WINDOW and sum(losses[-WINDOW:]) < WINDOW * BAR:
            break
    assert run.steps == len(losses) < 400
    assert run.loss == pytest.approx(sum(losses[-WINDOW:]) / WINDOW)
    assert run.distances == []
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_bar_out_of_reach_is_not_counted_and_divergence_ends() -> None:
    network = linear_network(12, 3, 16, 3, None, draws(2))
    run = to_bar(network, batches(3), 1e-6, WINDOW + 5, torch.randn(4, 12, generator=draws(4)), every=10)
    assert run.steps is None
    assert len(run.distances) == 1 + 2 + 1  # the start, steps 10 and 20, the end
    assert len(run.distances[0]) == len(network)
    broken = to_bar(nn.Sequential(nn.Linear(12, 3)), batches(3), math.inf, 400)
    assert broken.steps is None
    assert broken.loss == math.inf


def test_half_steps() -> None:
    distances = [
        # aligned and rises once; was apart; rises, falls, rises; never finite
        [0.1, 0.6, 0.1, math.nan],
        [0.1, 0.1, 0.6, 0.1],
        [0.5, 0.7, 0.2, 0.1],
        [0.9, 0.9, 0.5, 0.1],
        [1.0, 1.0, 1.0, 0.5],
    ]
    assert half_steps(distances, every=10) == [20, None, 30, None]
