"""Singular values of the input-output Jacobian J = D_L W_L ... D_1 W_1 of a random network, D_l = diag phi'(h^(l)).

Dynamical isometry asks that all of them are near 1 (Pennington, Schoenholz and Ganguli, NIPS 2017). Orthogonal weights
are free of the diagonal matrices in the limit of wide layers, so that moments of J J^T follow from S-transforms. With
m_k = E phi'^2k in every layer, tr the mean over the diagonal:

    tr J J^T = m_1^L,    tr (J J^T)^2 / (tr J J^T)^2 = 1 + L (m_2 / m_1^2 - 1).

A GPN function has m_1 = 1: the mean square of the singular values stays 1 at any depth. Their spread grows with depth:
of d singular values about d / (1 + L (E phi'^4 - 1)) carry the sum of squares. The law needs L (E phi'^4 - 1) << d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.quadrature import Phi


def jacobian(phi: Phi, weights_LNN: Tensor, x_N: Tensor) -> Tensor:
    """Multiply out J = dx^(L+1) / dx^(1) at one input, (N, N), in float64."""
    x_N, J_NN = x_N.double(), torch.eye(len(x_N), dtype=torch.float64, device=x_N.device)
    for W_NN in weights_LNN.double():
        x_N, slope_N = value_and_slope(phi, W_NN @ x_N)
        J_NN = slope_N[:, None] * (W_NN @ J_NN)
    return J_NN


def participation(singular_N: Tensor) -> float:
    """Compute (sum s^2)^2 / (N sum s^4), the share of values that carry the sum of squares; nan if all are 0."""
    square = singular_N.double().square()
    return float(square.sum() ** 2 / (len(square) * square.square().sum()))


def predicted_participation(fourth: float, second: float, depth: int) -> float:
    """1 / (1 + L (m_2 / m_1^2 - 1)), m_1 = E phi'^2 = `second` and m_2 = E phi'^4 = `fourth` in every layer."""
    return 1 / (1 + depth * (fourth / second**2 - 1))
