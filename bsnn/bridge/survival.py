"""Survival of an input in a random network: correlations, and the share of the signal that varies.

Two measures, for pre-activations h of inputs to one network:

    gap        1 - rho = |u_a - u_b|^2 / 2, with u = h / |h|, for two inputs a and b
    variation  sqrt(mean_x |h(x) - h_mean|^2 / mean_x |h(x)|^2) over a set of inputs x, in [0, 1]

gap is the shrinkage paper's 1 - rho (not centred: the common part of all inputs counts). It is computed from a
difference and so keeps its digits where rho rounds to 1. variation = 0 is a network that is constant over the set.

Shapes in names: B inputs, N width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn.haar import haar_orthogonal
from bsnn.quadrature import Phi
from bsnn.randomness import device_of

LAWS = ("haar", "rows", "gaussian")
"""Laws of W that keep lengths on average.

haar: uniform orthogonal, as in the BSNN paper's theorems. rows: Gaussian rows divided by their norm, which keeps only
the constraint on row norms. gaussian: i.i.d. N(0, 1 / N).
"""


def random_weights(
    law: str, *shape: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw independent square matrices of the law, shape (..., N, N), with E |W x|^2 = |x|^2.

    Raises ValueError for an unknown law or for matrices that aren't square.
    """
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"expected a shape (..., N, N), found {shape}")
    if law == "haar":
        return haar_orthogonal(*shape, generator=generator, dtype=dtype, device=device_of(generator))
    if law not in LAWS:
        raise ValueError(f"expected one of {', '.join(LAWS)}, found {law!r}")
    normal = torch.randn(*shape, generator=generator, dtype=dtype, device=device_of(generator))
    return F.normalize(normal, dim=-1) if law == "rows" else normal / math.sqrt(shape[-1])


def correlated_inputs(width: int, rho: list[float], generator: torch.Generator | None = None) -> Tensor:
    """Draw inputs (1 + R, N), float64: a uniform vector of norm sqrt(N), and R others of that norm.

    The correlations of the others with the first are exactly `rho` (up to rounding); otherwise they are uniform. N >=
    2.
    """
    drawn_on = device_of(generator)
    first_N, others_RN = (
        torch.randn(rows, width, generator=generator, dtype=torch.float64, device=drawn_on)
        for rows in (1, max(len(rho), 1))
    )
    first_N = F.normalize(first_N, dim=-1)
    others_RN = F.normalize(others_RN - (others_RN @ first_N.T) * first_N, dim=-1)
    rho_R1 = torch.tensor(rho, dtype=torch.float64, device=drawn_on).unsqueeze(1)
    pairs_RN = rho_R1 * first_N + (1 - rho_R1**2).sqrt() * others_RN[: len(rho)]
    return math.sqrt(width) * torch.cat([first_N, pairs_RN])


def pre_activations(phi: Phi, x_BN: Tensor, weights: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield h = W x of layer 1, 2, ... for all given weights; leading dimensions are broadcast (networks)."""
    for W_NN in weights:
        h_BN = x_BN @ W_NN.mT
        yield h_BN
        x_BN = phi(h_BN)


def gap(a: Tensor, b: Tensor) -> Tensor:
    """Compute 1 - cosine similarity over the last dimension, >= 0; nan for a vector of zeros, without direction."""
    difference = _direction(a) - _direction(b)
    found: Tensor = difference.square().sum(-1) / 2
    return found


def variation(h_BN: Tensor) -> Tensor:
    """Compute the module's `variation` over the last two dimensions, (..., B, N) -> (...). 0 for h = 0."""
    scale = h_BN.abs().amax(dim=(-2, -1), keepdim=True)
    h_BN = h_BN / torch.where(scale > 0, scale, 1)  # plain functions' signals have squares that underflow
    varying = (h_BN - h_BN.mean(dim=-2, keepdim=True)).square().sum(dim=(-2, -1))
    whole = h_BN.square().sum(dim=(-2, -1))
    found: Tensor = (varying / torch.where(whole > 0, whole, 1)).sqrt()
    return found


def _direction(h: Tensor) -> Tensor:
    scaled = h / h.abs().amax(dim=-1, keepdim=True)
    direction: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return direction
