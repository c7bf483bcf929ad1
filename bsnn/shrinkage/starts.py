"""Plain networks for training, critical from the start or linear at the start.

"Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission) ends with a suggestion
(section 5.2): trainable nonlinearities that start as linear functions, like the trainable slopes of He et al. (2015).
Here such a function is (1 - t) x + t phi(x) with a trainable share t of each layer, 0 at first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsnn.quadrature import Phi
from bsnn.shrinkage.correlation import critical
from bsnn.shrinkage.networks import LayerKind, network_of


class FromLinear(nn.Module):
    """The function (1 - share) x + share phi(x); `share` is trainable and starts at 0, where it is the identity."""

    def __init__(self, phi: Phi) -> None:
        super().__init__()
        self.phi = phi
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.phi(x), self.share)


def critical_network(
    in_features: int, out_features: int, width: int, depth: int, phi: Phi, generator: torch.Generator
) -> nn.Sequential:
    """Make `depth` layers like an `alternating_network`'s, all of them with the function phi."""
    return network_of(in_features, out_features, width, [LayerKind(phi, *critical(phi))] * (depth - 1), generator)


def linear_network(
    in_features: int, out_features: int, width: int, depth: int, phi: Phi | None, generator: torch.Generator
) -> nn.Sequential:
    """Make `depth` layers that are linear up to the normalisation, sigma_w = 1, sigma_b = 0: critical for all depths.

    phi: each layer's function is `FromLinear` of it; None: it stays linear.
    """
    functions = [nn.Identity() if phi is None else FromLinear(phi) for _ in range(depth - 1)]
    kinds = [LayerKind(function, 1.0, 0.0) for function in functions]
    return network_of(in_features, out_features, width, kinds, generator)
