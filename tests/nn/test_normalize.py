"""bsnn.normalize: what it changes keeps signals and gradients at one scale; what it keeps, it keeps for a reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bsnn
from bsnn import GPN
from bsnn.nn import UnitRows


class Kinked(nn.Module):
    """A user's own function, with kinks at -0.4 and 0.3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.3, 2 * x - 0.3, torch.where(x < -0.4, -0.4 + 0.1 * (x + 0.4), x))


def deep(depth: int = 30, width: int = 256) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for k in range(depth):
        parts += [nn.Linear(width, width), nn.Mish() if k % 2 else Kinked()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def batch(width: int = 256) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(64, width), torch.randint(10, (64,))


def reasons(done: bsnn.Normalization) -> dict[str, tuple[str, str]]:
    return {module: (action, why) for module, _, action, why in done.changes}


def test_a_deep_network_of_other_functions_keeps_its_scales() -> None:
    """30 layers of Mish and of a function with kinks, against the same network as it was."""
    network = deep()
    before = bsnn.diagnose(network, batch(), functional.cross_entropy)
    done = bsnn.normalize(network)
    after = bsnn.diagnose(network, batch(), functional.cross_entropy)
    assert before.gradient_ratio > 1e6
    assert after.gradient_ratio < 5
    assert after.signal_ratio < 5
    assert [action for action, _ in reasons(done).values()].count("replaced") == 30
    for part in network:
        if isinstance(part, nn.Linear) and part.out_features > 10:
            assert part.weight.norm(dim=1).allclose(torch.ones(256))


def test_undone_everything_is_as_it_was() -> None:
    network = deep(4, 16)
    names, state = list(network.state_dict()), copy.deepcopy(network.state_dict())
    parts, x = list(network), torch.randn(3, 16)
    expected = network(x)
    done = bsnn.normalize(network)
    assert not network(x).allclose(expected)
    done.undo()
    assert list(network.state_dict()) == names
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [type(one) for one in network] == [type(one) for one in parts]
    assert torch.equal(network(x), expected)
    with pytest.raises(ValueError, match="undone already"):
        done.undo()


def test_what_was_changed_since_is_not_undone() -> None:
    network = deep(2, 8)
    done = bsnn.normalize(network)
    network[1] = nn.ReLU()
    with pytest.raises(ValueError, match="whose modules were changed since; nothing was changed"):
        done.undo()
    assert isinstance(network[3], GPN)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second, self.last = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(x + self.second(self.act(self.first(x)))))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.act, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.value(x) * self.act(self.gate(x)))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x)) if x.sum() > 0 else x


def shared() -> nn.Module:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    network[2].weight = network[0].weight
    return network


@pytest.mark.parametrize(
    ("network", "module", "why"),
    [
        (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), "2", "its output is the network's"),
        (nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 2)), "1", "not elementwise"),
        (nn.Sequential(nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 2)), "1", "it trains a parameter"),
        (nn.Sequential(nn.Linear(8, 8), nn.RReLU(), nn.Linear(8, 2)), "1", "not one elementwise function"),
        (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), "1", "over the batch"),
        (Residual(), "last", "it follows relu"),
        (Residual(), "relu()", "called in a forward"),
        (Gate(), "act", "a gate|multiplies"),
        (shared(), "0", "another module has the same weight"),
        (Branching(), "act", "can't be traced"),
    ],
)
def test_what_is_kept_and_why(network: nn.Module, module: str, why: str) -> None:
    torch.manual_seed(0)
    action, found = reasons(bsnn.normalize(network))[module]
    assert action == "kept"
    assert any(part in found for part in why.split("|")), found


def test_a_network_that_cannot_be_followed_stays_as_it_is() -> None:
    network = Branching()
    before = copy.deepcopy(network.state_dict())
    done = bsnn.normalize(network)
    assert {action for action, _ in reasons(done).values()} == {"kept"}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert type(network.act) is nn.ReLU


def test_a_module_used_twice_is_replaced_at_both_places() -> None:
    act = nn.Tanh()
    network = nn.Sequential(nn.Linear(8, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 2))
    bsnn.normalize(network)
    assert isinstance(network[1], GPN)
    assert network[1] is network[3]


def test_convolutions_train_on() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ELU(), nn.Conv2d(8, 8, 3, padding=1), nn.ELU(), nn.Flatten(),
        nn.Linear(8 * 64, 10),
    )  # fmt: skip
    bsnn.normalize(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    x, y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    weight: Any = network[2].weight
    assert weight.flatten(1).norm(dim=1).allclose(torch.ones(8))
    parametrizations: Any = network[2].parametrizations
    assert isinstance(parametrizations["weight"][0], UnitRows)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, found function"):
        bsnn.normalize(functional.relu)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a network, found an activation.*use GPN"):
        bsnn.normalize(nn.ReLU())
