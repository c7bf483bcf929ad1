"""Normalise a network of your own: 30 convolutions, Mish and a function with kinks, trained on real images.

python docs/examples/normalise_your_network.py        ten seconds on two cores; writes two figures beside itself
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import bsnn
from bsnn.data import load

HERE = Path(__file__).parent


class Kinked(nn.Module):
    """A function of your own; its kinks at -0.4 and 0.3 are found."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.3, 2 * x - 0.3, torch.where(x < -0.4, -0.4 + 0.1 * (x + 0.4), x))


def network() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.Mish()]
    for k in range(29):
        layers += [nn.Conv2d(16, 16, 3, padding=1), Kinked() if k % 2 else nn.Mish()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 14 * 14, 10))


def train(made: nn.Module, images: Tensor, labels: Tensor, steps: int = 60) -> float:
    """The mean loss of the last ten steps."""
    optimiser = torch.optim.SGD(made.parameters(), lr=0.0005, momentum=0.9)
    losses = []
    for step in range(steps):
        chosen = slice(64 * step, 64 * (step + 1))
        loss = functional.cross_entropy(made(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / 10


def main() -> None:
    torch.manual_seed(0)
    data = load("mnist")
    batch = data.train_x[:64], data.train_y[:64]
    plain = network()
    normalised = copy.deepcopy(plain)

    for part in normalised[3:-2:2]:  # orthogonal at the start: 29 convolutions of 16 channels
        bsnn.delta_orthogonal_(part.weight)  # type: ignore[arg-type]
    changes = bsnn.normalize(normalised)
    print("\n".join(str(changes).splitlines()[:6]), "...", sep="\n")

    for name, made in (("plain", plain), ("normalised", normalised)):
        found = bsnn.diagnose(made, batch, functional.cross_entropy)
        print(f"\n{name}: {found.verdict}")
        found.figure().savefig(HERE / f"{name}.png", dpi=150)
        print(f"{name}: mean loss of steps 51 to 60: {train(made, data.train_x, data.train_y):.3f}")


if __name__ == "__main__":
    main()
