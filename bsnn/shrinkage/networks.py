"""Finite networks with layer normalisation without centring: fully connected (equation 2.1) and residual (section 3).

"Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission). Each z has length
sqrt(N):

    z_l = sqrt(N) y_l / |y_l|,   y_l = W_l phi_l(z_(l-1)) / sqrt(N_(l-1)) + b_l                       (2.1)
    z_l = sqrt(N) Y_l / |Y_l|,   Y_l = z_(l-1) + V_l phi_l(sqrt(M) U_l z_(l-1) / |U_l z_(l-1)|) / sqrt(M)

Entries of W, b, V have variance sigma_w^2, sigma_b^2, sigma^2, those of U variance 1. The first layer, an embedding,
has the identity for phi. Layers are modules, so a network is an nn.Sequential. A deep one can also be made layer by
layer, each dropped after use (`states`).

Shapes in names: B inputs, N width, M width inside of a residual block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bsnn.activations import value_and_slope
from bsnn.quadrature import Phi
from bsnn.randomness import device_of


def normalised(y: Tensor) -> Tensor:
    """Compute sqrt(N) y / |y| along the last axis: mean square 1; the mean itself stays."""
    length: Tensor = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return y * (math.sqrt(y.shape[-1]) / length)


class NormalisedLayer(nn.Module):
    """Equation 2.1. weight (N_out, N_in) and bias (N_out,) are the source's W and b; no bias if sigma_b = 0."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        phi: Phi,
        sigma_w: float = 1.0,
        sigma_b: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.phi = phi
        drawn_on = device_of(generator)
        weight = torch.randn(out_features, in_features, generator=generator, dtype=dtype, device=drawn_on)
        self.weight = nn.Parameter(weight.mul_(sigma_w))
        self.bias: nn.Parameter | None = None
        if sigma_b > 0:
            bias = torch.randn(out_features, generator=generator, dtype=dtype, device=drawn_on)
            self.bias = nn.Parameter(bias.mul_(sigma_b))

    def affine(self, x: Tensor) -> Tensor:
        """Compute W x / sqrt(N_in) + b."""
        return nn.functional.linear(x / math.sqrt(x.shape[-1]), self.weight, self.bias)

    def forward(self, z: Tensor) -> Tensor:
        return normalised(self.affine(self.phi(z)))


class Readout(NormalisedLayer):
    """The last layer: like the others, but without the normalisation, so that logits can grow."""

    def forward(self, z: Tensor) -> Tensor:
        return self.affine(self.phi(z))


class LayerKind(NamedTuple):
    """Function and initialisation of a layer: phi, and the standard deviations of W and b (equation 2.1)."""

    phi: Phi
    sigma_w: float
    sigma_b: float


def network_of(
    in_features: int, out_features: int, width: int, kinds: Sequence[LayerKind], generator: torch.Generator
) -> nn.Sequential:
    """Make an embedding (identity) and a layer of each kind; the last is a `Readout`. Inputs must be `normalised`."""
    layers: list[NormalisedLayer] = [NormalisedLayer(in_features, width, nn.Identity(), generator=generator)]
    layers += [NormalisedLayer(width, width, *kind, generator) for kind in kinds[:-1]]
    return nn.Sequential(*layers, Readout(width, out_features, *kinds[-1], generator))


class NormalisedResidualBlock(nn.Module):
    """The residual block of section 3, inner (M, N) and outer (N, M) are the source's U and V."""

    def __init__(
        self,
        width: int,
        inner_width: int,
        phi: Phi,
        sigma: float,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.phi = phi
        inner, outer = (
            torch.randn(*shape, generator=generator, dtype=dtype, device=device_of(generator))
            for shape in ((inner_width, width), (width, inner_width))
        )
        self.inner, self.outer = nn.Parameter(inner), nn.Parameter(outer.mul_(sigma))

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.phi(normalised(z @ self.inner.T))
        return normalised(z + hidden @ self.outer.T / math.sqrt(hidden.shape[-1]))


class AffineLayer(nn.Module):
    """The layer z -> normalised(W z + b), which replaces a block of layers in section 4.2 (`linearised`)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        # scaled like a NormalisedLayer's, so that one learning rate suits both
        self.weight = nn.Parameter(weight * math.sqrt(weight.shape[1]))
        self.bias = nn.Parameter(bias.clone())

    def forward(self, z: Tensor) -> Tensor:
        return normalised(nn.functional.linear(z / math.sqrt(z.shape[-1]), self.weight, self.bias))


def linearised(block: Sequence[NormalisedLayer], centre_N: Tensor) -> AffineLayer:
    """Make the affine map with `block`'s value and Jacobian at `centre_N`, and a normalisation like the block's."""
    with torch.no_grad():
        *_, jacobian = jacobians(block, centre_N)
        *_, value_N = states(block, centre_N)
        return AffineLayer(jacobian, value_N - jacobian @ centre_N)


def states(layers: Iterable[Callable[[Tensor], Tensor]], z_BN: Tensor) -> Iterator[Tensor]:
    """Yield z_0, z_1, ...: the inputs and the output of each layer. `layers` may be made while it is read."""
    yield z_BN
    for layer in layers:
        z_BN = layer(z_BN)
        yield z_BN


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Compute 1 - rho of normalised signals as |first - second|^2 / (2 N), last axis: no cancellation; float64."""
    return (first - second).square().sum(-1, dtype=torch.float64) / (2 * first.shape[-1])


def pairs(rho: Iterable[float], width: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw normalised inputs x and y (B, N) whose correlations are exactly rho (up to rounding)."""
    rho_B1 = torch.tensor(list(rho), dtype=torch.float64, device=generator.device)[:, None]
    x, other = torch.randn(2, len(rho_B1), width, generator=generator, dtype=torch.float64, device=generator.device)
    x = normalised(x)
    across = normalised(other - (other * x).mean(-1, keepdim=True) * x)
    y = rho_B1 * x + torch.sqrt(1 - rho_B1**2) * across
    return x.to(dtype), y.to(dtype)


@torch.no_grad()
def jacobians(layers: Iterable[NormalisedLayer], z_N: Tensor) -> Iterator[Tensor]:
    """Yield dz_l/dz_0 at z_N for l = 1, 2, ...: (N_l, N_0) each, by the chain rule.

    Normalisation projects: dz = sqrt(N) / |y| (I - z z^T / N) dy. So each has rank N - 1 at most.
    """
    total: Tensor | None = None
    for layer in layers:
        x, slope = value_and_slope(layer.phi, z_N)
        y = layer.affine(x)
        own = layer.weight * slope / math.sqrt(len(z_N))
        total = own if total is None else own @ total
        z_N = normalised(y)
        along = z_N @ total / len(z_N)
        total = (total - z_N[:, None] * along) * (math.sqrt(len(y)) / torch.linalg.vector_norm(y))
        yield total


def farthest_pair(
    network: Callable[[Tensor], Tensor], x_BN: Tensor, y_BN: Tensor, steps: int, learning_rate: float
) -> Tensor:
    """Find the largest 1 - rho at a frozen network's output by gradient ascent on the inputs, per start: (B,).

    Adam on both inputs, kept normalised, maximises log(1 - rho). The best value on the way counts, the start included,
    so it is a lower bound of the true maximum.
    """
    inputs = torch.stack([x_BN, y_BN]).detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([inputs], lr=learning_rate)
    best = torch.zeros(len(x_BN), dtype=torch.float64, device=x_BN.device)
    for step in range(steps + 1):
        output = network(normalised(inputs).flatten(0, 1)).view(2, len(x_BN), -1)
        found = distance(output[0], output[1])
        best = torch.maximum(best, found.detach())
        if step < steps:
            (gradient,) = torch.autograd.grad(-found.log().sum(), inputs)
            inputs.grad = gradient
            optimiser.step()
    return best
