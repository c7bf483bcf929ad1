"""A chain of scalar layers and the product formula for its derivatives (MSU CMSE 890-002, lecture 14, equation 23).

    z_1 = w_1 x + b_1,   z_l = w_l sigma(z_{l-1}) + b_l,   f(x; theta) = alpha sigma(z_L)

    df/dw_1 = alpha (prod_{k=2}^L w_k) (prod_{k=1}^L sigma'(z_k)) x                                            (23)
    df/dw_l = alpha (prod_{k=l+1}^L w_k) (prod_{k=l}^L sigma'(z_k)) u_l,   u_1 = x,  u_l = sigma(z_{l-1})

The second line is what the lecture calls "similar analysis for the other weights, although less multiplications". The
z_l don't depend on the layers above, so one pass gives df/dw_1 of the chain cut off after every depth.

Shapes in names: S chains side by side, L layers. float64: products below 1e-308 become 0, their logarithms don't.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.quadrature import Phi


@dataclass(frozen=True)
class Chains:
    """S chains: weights w and biases b (S, L), inputs x (S,), and the factor alpha in front."""

    w_SL: Tensor
    b_SL: Tensor
    x_S: Tensor
    alpha: float = 1.0

    def cut(self, depth: int) -> Chains:
        """Cut the chains off after the first `depth` layers."""
        return Chains(self.w_SL[:, :depth], self.b_SL[:, :depth], self.x_S, self.alpha)


@dataclass(frozen=True)
class Factors:
    """The factors of the derivatives, each (S, L): z_l, sigma'(z_l), w_l, and u_l, the layer's input."""

    z_SL: Tensor
    slope_SL: Tensor
    w_SL: Tensor
    u_SL: Tensor
    alpha: float

    def derivatives(self) -> Tensor:
        """Compute df/dw_l for l = 1..L, (S, L); the first column is equation (23)."""
        slopes = self.slope_SL.flip(1).cumprod(1).flip(1)  # over k >= l
        weights = self.w_SL.flip(1).cumprod(1).flip(1)
        above = torch.cat([weights[:, 1:], torch.ones_like(weights[:, :1])], dim=1)  # over k > l
        return self.alpha * above * slopes * self.u_SL

    def log_first_by_depth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute ln |df/dw_1| of the chains cut off after L = 1, 2, ..., and the parts of the weights and the slopes.

        Each is (S, L): ln |alpha x| + weights + slopes, sum_{k=2}^L ln |w_k|, sum_{k=1}^L ln |sigma'(z_k)|. -inf where
        a factor is 0.
        """
        w_logs = self.w_SL.abs().log()
        w_logs = torch.cat([torch.zeros_like(w_logs[:, :1]), w_logs[:, 1:]], dim=1)
        weights, slopes = w_logs.cumsum(dim=1), self.slope_SL.abs().log().cumsum(dim=1)
        first = math.log(abs(self.alpha)) + self.u_SL[:, :1].abs().log()
        return first + weights + slopes, weights, slopes


def factors(sigma: Phi, chains: Chains) -> Factors:
    """Go forward through the chains. sigma' is autograd's, also at a kink: ReLU's is 0 at 0."""
    zs, slopes, inputs = [], [], []
    u_S = chains.x_S
    for w_S, b_S in zip(chains.w_SL.unbind(1), chains.b_SL.unbind(1), strict=True):
        inputs.append(u_S)
        z_S = w_S * u_S + b_S
        u_S, slope_S = value_and_slope(sigma, z_S)
        zs.append(z_S)
        slopes.append(slope_S)
    z_SL, slope_SL, u_SL = (torch.stack(parts, dim=1) for parts in (zs, slopes, inputs))
    return Factors(z_SL, slope_SL, chains.w_SL, u_SL, chains.alpha)


def autograd_derivatives(sigma: Phi, chains: Chains) -> Tensor:
    """Compute df/dw_l by automatic differentiation of f, (S, L), to compare the formula with."""
    w_SL = chains.w_SL.clone().requires_grad_()
    u_S = chains.x_S
    for w_S, b_S in zip(w_SL.unbind(1), chains.b_SL.unbind(1), strict=True):
        u_S = sigma(w_S * u_S + b_S)
    (gradient_SL,) = torch.autograd.grad((chains.alpha * u_S).sum(), w_SL)
    return gradient_SL


def largest_relative_error(found: Tensor, expected: Tensor) -> float:
    """Compute max |found - expected| / |expected|: 0 where both are 0, inf where only `expected` is."""
    error = torch.where(found == expected, 0.0, (found - expected).abs() / expected.abs())
    return float(error.max())
