r"""Stochastic gradient descent on orthogonal matrices, W W^T = I: what the rows of norm one relax (section 3.2).

With G = dE/dW, the gradient along the orthogonal matrices is the projection

    grad = A W,    A = (G W^T - W G^T) / 2,

a skew A. The velocity of momentum is kept as such an A, in the frame that moves with W, so that it needs no transport:

    M <- mu M + A,    step to  Y = (I - eta M) W,    then back onto the manifold.

Ways back (`METHODS`):

    polar     the nearest orthogonal matrix, (Y Y^T)^(-1/2) Y, by Newton and Schulz's iteration Y <- (3 I - Y Y^T) Y / 2
    qr        the factor Q of Y^T = Q R transposed, R's diagonal positive
    cayley    instead of Y: (I + eta M / 2)^(-1) (I - eta M / 2) W, orthogonal by itself
    landing   no way back: a field pulls W towards the manifold while it moves, Y - (W W^T - I) W / 2, and a step is
              shortened so that ||W W^T - I||_F stays within SAFE (Ablin and Peyré, AISTATS 2022)

Rounding errors of the first three are taken out by an iteration of Newton and Schulz, which squares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bsnn.optim.base import OnSquareMatrices, stacked

METHODS = ("polar", "qr", "cayley", "landing")
SAFE = 0.1
"""||W W^T - I||_F within which landing keeps every matrix."""
_NEAR = 0.5
"""||Y Y^T - I||_F below which Newton and Schulz's iteration is used; it converges for singular values below sqrt(3)."""


def deviation(W: Tensor) -> Tensor:
    """Compute W W^T - I of matrices (..., N, N)."""
    E: Tensor = W @ W.mT - torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
    return E


def newton_schulz(Y: Tensor) -> Tensor:
    """Take an iteration to the nearest orthogonal matrix: an error W W^T - I = E becomes about -3 E^2 / 4."""
    nearer: Tensor = Y - deviation(Y) @ Y / 2
    return nearer


def polar(Y: Tensor) -> Tensor:
    """Find the orthogonal matrices nearest to Y (K, N, N), to rounding; by singular values where Y is far from one."""
    E = deviation(Y)
    far = torch.linalg.vector_norm(E, dim=(1, 2)) >= _NEAR
    if bool(far.any()):
        left, _, right = torch.linalg.svd(Y[far])
        Y = Y.index_put((far.nonzero()[:, 0],), left @ right)
        E = deviation(Y)
    rounding = 4 * torch.finfo(Y.dtype).eps
    while True:
        size = float(torch.linalg.vector_norm(E, dim=(1, 2)).amax())
        Y = Y - E @ Y / 2
        if not size**2 > rounding:  # an iteration squares the error: what is left now is rounding
            return Y
        E = deviation(Y)


def _qr(Y: Tensor) -> Tensor:
    """Compute the factor Q of Y^T = Q R, transposed.

    Y Y^T = R^T R gives R by Cholesky's method where Y is near orthogonal, so that this is exact enough; it is faster
    than Householder's reflections.
    """
    R_T, failed = torch.linalg.cholesky_ex(Y @ Y.mT)
    Q_T: Tensor
    if not bool(failed.any()) and float(R_T.diagonal(dim1=-2, dim2=-1).amin()) > _NEAR:
        Q_T = torch.linalg.solve_triangular(R_T, Y, upper=False)
        return Q_T
    Q, R = torch.linalg.qr(Y.mT)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(Y.dtype)
    Q_T = signs.unsqueeze(-1) * Q.transpose(-2, -1)
    return Q_T


class OrthogonalSGD(OnSquareMatrices):
    """SGD with momentum that keeps square matrices exactly orthogonal.

    Args:
        params: square matrices (N, N) or stacks of them (..., N, N), orthogonal at the start.
        lr: eta.
        momentum: mu.
        method: one of METHODS.

    Raises ValueError for settings out of range and for parameters that aren't square matrices.

    >>> W = torch.nn.Parameter(torch.eye(3))
    >>> optimizer = OrthogonalSGD([W], lr=0.1)
    >>> (W[0, 1] - W[1, 0]).square().backward()
    >>> optimizer.step()
    >>> bool((W @ W.T).allclose(torch.eye(3), atol=1e-6))
    True
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.0, method: str = "polar") -> None:
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
        super().__init__(params, lr, momentum, method=method)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        W = stacked(parameter)
        P = stacked(gradient) @ W.mT
        A = (P - P.mT) / 2
        M = stacked(self.velocity(parameter).mul_(group["momentum"]).add_(A.view_as(parameter)))
        parameter.copy_(_moved(W, M, group["lr"], group["method"]).view_as(parameter))


def _moved(W: Tensor, M: Tensor, rate: float, method: str) -> Tensor:
    """Move matrices (K, N, N) by -rate M W and back onto the manifold, or towards it."""
    if method == "cayley":
        half = rate / 2 * M
        one = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        return newton_schulz(torch.linalg.solve(one + half, W - half @ W))
    if method == "landing":
        return _landed(W, M, rate)
    Y = torch.baddbmm(W, M, W, alpha=-rate)
    return polar(Y) if method == "polar" else newton_schulz(_qr(Y))


def _landed(W: Tensor, M: Tensor, rate: float) -> Tensor:
    r"""Take a step of the landing field, as long as ||W W^T - I||_F stays within SAFE.

    With E = W W^T - I and F = (rate M + E / 2), the step W - s F W gives E' = (I - s F)(I + E)(I - s F)^T - I. The
    first power of s is -(F + F^T) - ... = -E - (F E + E F^T): rate M is skew and drops out up to E's order. s is
    halved until the bound holds, which it does for some s, since E' -> E, ||E|| <= SAFE.
    """
    E = deviation(W)
    F = rate * M + E / 2
    scale = torch.ones(len(W), 1, 1, dtype=W.dtype, device=W.device)
    while True:
        Y = W - scale * (F @ W)
        size = torch.linalg.vector_norm(deviation(Y), dim=(1, 2))
        bound = torch.maximum(torch.linalg.vector_norm(E, dim=(1, 2)), torch.full_like(size, SAFE))
        far = ~(size <= bound)
        if not bool(far.any()) or float(scale.min()) < 1e-6:
            return torch.where((size <= bound)[:, None, None], Y, W)
        scale[far] /= 2
