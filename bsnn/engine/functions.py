"""Activation functions as compiled kernels see them: a family, two parameters, and GPN's a and b.

    phi(x) = a f(x) + b,   phi'(x) = a f'(x)

    family        f(x)                                        p       q
    tanh          tanh x
    leaky_relu    x for x > 0, p x otherwise                  slope
    elu           q x for x > 0, q p (e^x - 1) otherwise      alpha   scale
    swish         x / (1 + e^(-p x))                          p

ReLU is leaky_relu with p = 0, SELU an elu, the paper's GELU the swish with p = 1.702, SiLU the swish with p = 1. Any
other module is trained in plain torch with autograd's derivative (`bsnn.engine.passes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from bsnn.activations import SigmoidGELU
from bsnn.gpn import GPN

# torch.nn.SELU's own constants, which it doesn't export
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


class Family(IntEnum):
    """The family's number, as in kernels.cpp and in the Triton kernels."""

    TANH = 0
    LEAKY_RELU = 1
    ELU = 2
    SWISH = 3


@dataclass(frozen=True)
class Function:
    """One function of the table above."""

    family: Family
    p: float = 0.0
    q: float = 0.0
    a: float = 1.0
    b: float = 0.0


def function_of(activation: nn.Module) -> Function | None:
    """Return the module as a row of the table, or None if it isn't one.

    Only modules of exactly these classes count: a subclass may compute something else.
    """
    if type(activation) is GPN:
        inner = function_of(activation.phi) if isinstance(activation.phi, nn.Module) else None
        if inner is None or (inner.a, inner.b) != (1.0, 0.0):
            return None
        return Function(inner.family, inner.p, inner.q, activation.a, activation.b)
    kind = type(activation)
    if kind is nn.Tanh:
        return Function(Family.TANH)
    if kind is nn.Identity:
        return Function(Family.LEAKY_RELU, 1.0)
    if kind is nn.ReLU:
        return Function(Family.LEAKY_RELU, 0.0)
    if isinstance(activation, nn.LeakyReLU) and kind is nn.LeakyReLU:
        return Function(Family.LEAKY_RELU, activation.negative_slope)
    if isinstance(activation, nn.ELU) and kind is nn.ELU:
        return Function(Family.ELU, activation.alpha, 1.0)
    if kind is nn.SELU:
        return Function(Family.ELU, SELU_ALPHA, SELU_SCALE)
    if kind is SigmoidGELU:
        return Function(Family.SWISH, 1.702)
    if kind is nn.SiLU:
        return Function(Family.SWISH, 1.0)
    return None


def value_and_slope(function: Function, u: Tensor) -> tuple[Tensor, Tensor]:
    """Compute phi(u) and phi'(u) by the table's formulas, new tensors of u's shape.

    At a kink phi' is that of the left side, as in torch.
    """
    p, q, a, b = function.p, function.q, function.a, function.b
    if function.family == Family.TANH:
        f = torch.tanh(u)
        slope = 1 - f * f
    elif function.family == Family.LEAKY_RELU:
        # not u * (p or 1): 0 * inf is nan
        f = u.clamp(min=0) if p == 0 else torch.where(u > 0, u, p * u)
        slope = torch.full_like(u, p).masked_fill_(u > 0, 1)
    elif function.family == Family.ELU:
        m = torch.expm1(u.clamp(max=0))
        f = torch.where(u > 0, q * u, q * p * m)
        slope = torch.where(u > 0, q, q * p * (m + 1))
    else:
        s = torch.sigmoid(p * u)
        f = u * s
        slope = s + p * f * (1 - s)
    if (a, b) != (1.0, 0.0):
        f, slope = f.mul_(a).add_(b), slope.mul_(a)
    return f, slope
