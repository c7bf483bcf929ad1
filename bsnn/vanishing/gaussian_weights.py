"""Networks with independent Gaussian weights: the talk's example of vanishing and exploding gradients.

Entries of W^(l) are N(0, s^2); let S = s^2 d. In the limit of infinite width h^(l) is Gaussian, and norms follow a
recursion (Poole et al. 2016, Schoenholz et al. 2017; there with biases):

    q_1 = S ||x^(1)||^2 / d,   q_{l+1} = S E phi(sqrt(q_l) z)^2              mean square of h^(l)
    chi_l = S E phi'(sqrt(q_l) z)^2,   ||y^(l)||^2 = chi_l ||y^(l+1)||^2     z ~ N(0, 1), l < L

chi is the wide layer's counterpart of the chain's factor w_l sigma'(z_l) (bsnn.vanishing.chain), squared. On their way
down gradients vanish where it is below 1, and explode where it is above.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bsnn.propagation import Draw
from bsnn.quadrature import Phi, gaussian_moments


def gaussian_draw(depth: int, width: int, samples: int, std: float, stream: torch.Generator) -> Draw:
    """Draw input, target (as the draw's `error`) and weights, all Gaussian, float64; weights' entries have `std`."""
    double = torch.float64
    input_BN, target_BN = torch.randn(2, samples, width, generator=stream, dtype=double, device=stream.device)
    W_LNN = torch.randn(depth, width, width, generator=stream, dtype=double, device=stream.device).mul_(std)
    return Draw(input_BN, target_BN, W_LNN)


def with_squared_error(phi: Phi, drawn: Draw) -> Draw:
    """Return the draw whose error is dE/dx^(L+1) of E = ||x^(L+1) - t||^2 / 2, where t is the given draw's `error`."""
    x_BN = drawn.input
    for W_NN in drawn.weights:
        x_BN = phi(x_BN @ W_NN.T)
    return Draw(drawn.input, x_BN - drawn.error, drawn.weights)


def mean_field(phi: Phi, S: float, depth: int) -> tuple[Tensor, Tensor]:
    """Compute q_l and chi_l for l = 1..L of inputs with ||x^(1)||^2 = d, both (L,)."""
    qs, chis = [], []
    q = S
    for _ in range(depth):
        scale = math.sqrt(q)
        moments = gaussian_moments(lambda z, scale=scale: phi(scale * z))  # type: ignore[misc]
        qs.append(q)
        chis.append(S * moments.derivative_second / q)
        q = S * moments.second
    q_L, chi_L = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (qs, chis))
    return q_L, chi_L


def predicted_gradients(phi: Phi, S: float, depth: int) -> Tensor:
    """Compute ||dE/dW^(l)||_F / ||dE/dW^(L)||_F at infinite width, (L,): sqrt of chi_l ... chi_{L-1} q_l / q_L."""
    q_L, chi_L = mean_field(phi, S, depth)
    logs = chi_L[:-1].log().flip(0).cumsum(0).flip(0)
    backward = torch.cat([logs, logs.new_zeros(1)])
    return ((backward + q_L.log() - q_L[-1].log()) / 2).exp()
