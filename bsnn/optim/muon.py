r"""Stochastic gradient descent with an orthogonalised update (Muon, Jordan et al., 2024).

    M <- mu M + (1 - mu) G,    U = orthogonalised((1 - mu) G + mu M),    W <- W - eta U

U is near the polar factor of the velocity: five iterations of Newton and Schulz's kind with the coefficients of Muon,
X <- a X + (b X X^T + c (X X^T)^2) X, take its singular values to between 0.7 and 1.2. torch.optim.Muon does the same
for one matrix at a time in bfloat16; this is for stacks of square matrices, in their own precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bsnn.optim.base import OnSquareMatrices, stacked

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(X: Tensor) -> Tensor:
    """Take the singular values of matrices (K, N, N) near 1; those of a zero matrix stay 0."""
    a, b, c = COEFFICIENTS
    X = X / torch.linalg.vector_norm(X, dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = X @ X.mT
        X = a * X + (b * square + c * square @ square) @ X
    return X


class Muon(OnSquareMatrices):
    """Muon for square matrices (N, N) or stacks of them (..., N, N).

    Args:
        params: the matrices.
        lr: eta, the length of an update's singular values.
        momentum: mu.

    Raises ValueError for settings out of range and for parameters that aren't square matrices.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, lr, momentum)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        velocity = self.velocity(parameter).lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(velocity, group["momentum"])
        parameter.sub_(group["lr"] * orthogonalised(stacked(ahead)).view_as(parameter))
