r"""GPN's rivals: activations and weights chosen so that very deep plain networks train.

With z ~ N(0, 1), a function f(x) = gamma (phi(alpha x + beta) + delta) and L layers of it:

    deep kernel shaping (Martens et al., 2021)      E f = 0, E f^2 = 1, E z f f' = 1, E f'^2 = zeta^(1/L), zeta = 1.5
    tailored activations (Zhang, Botev and Martens, ICLR 2022)
        smooth phi                                  E f^2 = 1, E f'^2 = 1, E z f f' = 1, E f''^2 = tau / L, tau = 0.3
        leaky ReLU of slope a                       E f^2 = 1, and L of its maps of correlations take 0 to eta = 0.9
    edge of chaos (Schoenholz et al., ICLR 2017)    weights' variance s_w^2 / d and biases' s_b^2 so that
                                                    q = s_w^2 E phi(q^(1/2) z)^2 + s_b^2, s_w^2 E phi'(q^(1/2) z)^2 = 1

The first two conditions on tailored activations are Gaussian-Poincaré normalisation (Definition 3 of the BSNN paper):
they are GPN functions of phi(alpha x + beta), alpha and beta such that the function is nearly linear, 1 / L away.
E z f f' = 1 keeps E f^2 = 1 if the signal's scale errs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, root
from torch import Tensor, nn

from bsnn.quadrature import Phi

ZETA, TAU, ETA = 1.5, 0.3, 0.9
"""The targets that the papers use."""
BIAS_VARIANCE = 2e-5
"""s_b^2 of the edge of chaos: s_w^2 = 1.05 for Tanh, as Xiao et al. (ICML 2018) train 10 000 convolutional layers."""
_NODES = 200
"""Nodes of Gauss and Hermite's rule, exact to rounding for the smooth functions here."""


class Shaped(nn.Module):
    """x -> a phi(alpha x + beta) + b, elementwise; a = gamma and b = gamma delta."""

    def __init__(self, phi: Phi, alpha: float, beta: float, a: float, b: float) -> None:
        super().__init__()
        self.phi, self.alpha, self.beta, self.a, self.b = phi, alpha, beta, a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.phi(self.alpha * x + self.beta) + self.b

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:.6g}, beta={self.beta:.6g}, a={self.a:.6g}, b={self.b:.6g}"


Vector = NDArray[np.float64]


def deep_kernel_shaped(phi: Phi, depth: int, slope: float = ZETA) -> Shaped:
    """Shape a smooth phi for `depth` layers, whose map of correlations has slope zeta at 1.

    Raises ValueError if no such alpha and beta are found.
    """

    def errors(f: Vector, first: Vector, _: Vector) -> list[float]:
        return [_mean(_Z * f * first) - 1, _mean(first**2) - slope ** (1 / depth)]

    return _solved(phi, depth, errors, free_shift=False)


def tailored(phi: Phi, depth: int, curvature: float = TAU) -> Shaped:
    """Tailor a smooth phi to `depth` layers, whose map of correlations has slope 1 and curvature tau at 1.

    Raises ValueError if no such alpha, beta and delta are found.
    """

    def errors(f: Vector, first: Vector, second: Vector) -> list[float]:
        return [_mean(_Z * f * first) - 1, _mean(first**2) - 1, _mean(second**2) - curvature / depth]

    return _solved(phi, depth, errors, free_shift=True)


def tailored_leaky_relu(depth: int, at_zero: float = ETA) -> Shaped:
    """Tailor the slope of a leaky ReLU to `depth` layers: orthogonal inputs end with the correlation eta.

    The slope is 0 where even `depth` ReLUs leave less than that.
    """

    def through(slope: float) -> float:
        c = 0.0
        for _ in range(depth):
            c = leaky_relu_correlation(c, slope)
        return c - at_zero

    slope = float(brentq(through, 0.0, 1.0)) if through(0.0) > 0 else 0.0
    return Shaped(nn.LeakyReLU(slope), 1.0, 0.0, math.sqrt(2 / (1 + slope**2)), 0.0)


def leaky_relu_correlation(c: float, slope: float) -> float:
    """Map the correlation c of two pre-activations to that of their leaky ReLUs (Cho and Saul, NIPS 2009, for a = 0).

    c + (1 - a)^2 / (pi (1 + a^2)) ((1 - c^2)^(1/2) - c arccos c)
    """
    c = min(c, 1.0)
    return c + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * (math.sqrt(1 - c * c) - c * math.acos(c))


def edge_of_chaos(phi: Phi, bias_variance: float) -> tuple[float, float]:
    """Find (s_w^2, q): the critical variance of the weights for that of the biases, and the pre-activations'.

    Raises ValueError if there is none with q <= 100.
    """

    def critical(q: float) -> float:
        _, first, _ = _values(phi, math.sqrt(q), 0.0)
        return q / _mean(first**2)  # first is the derivative by z, q^(1/2) phi'

    def error(q: float) -> float:
        f, _, _ = _values(phi, math.sqrt(q), 0.0)
        return q - critical(q) * _mean(f**2) - bias_variance

    low, high = 1e-12, 100.0
    if error(low) * error(high) > 0:
        raise ValueError(f"bias_variance: expected one with a critical point q <= {high:g}, found {bias_variance}")
    q = float(brentq(error, low, high, xtol=1e-15))
    return critical(q), q


_Z, _WEIGHTS = np.polynomial.hermite_e.hermegauss(_NODES)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _mean(values: Vector) -> float:
    return float(_WEIGHTS @ values)


def _values(phi: Phi, alpha: float, beta: float) -> tuple[Vector, Vector, Vector]:
    """Evaluate phi(alpha z + beta) and its first two derivatives by z at the nodes."""
    z = torch.tensor(_Z, requires_grad=True)
    f = phi(alpha * z + beta)
    (first,) = torch.autograd.grad(f.sum(), z, create_graph=True)
    # Of a piecewise linear phi autograd knows no second derivative.
    second = torch.autograd.grad(first.sum(), z)[0] if first.requires_grad else torch.zeros_like(first)
    return f.detach().numpy(), first.detach().numpy(), second.numpy()


def _solved(phi: Phi, depth: int, errors: Callable[[Vector, Vector, Vector], list[float]], free_shift: bool) -> Shaped:
    """Find alpha, beta (and delta; otherwise that of mean 0) for which depth times the errors are 0; E f^2 = 1."""

    def shaped(unknown: Vector) -> tuple[float, float, float, float]:
        alpha, beta = math.exp(min(float(unknown[0]), 5.0)), float(unknown[1])
        f, _, _ = _values(phi, alpha, beta)
        delta = float(unknown[2]) * alpha - _mean(f) if free_shift else -_mean(f)
        return alpha, beta, delta, 1 / math.sqrt(max(_mean((f + delta) ** 2), 1e-300))

    def missed(unknown: Vector) -> Vector:
        alpha, beta, delta, gamma = shaped(unknown)
        f, first, second = _values(phi, alpha, beta)
        return depth * np.array(errors(gamma * (f + delta), gamma * first, gamma * second))

    for alpha, beta in product((0.1, 0.3, 1.0), (0.5, -0.5, 1.0, -1.0, 0.1, -0.1)):
        start = [math.log(alpha), beta, *([0.0] * free_shift)]
        found = root(missed, start, tol=1e-12)
        alpha, beta, delta, gamma = shaped(found.x)
        # The package of the methods' authors rejects alpha gamma >= 2 alike: solutions whose maps are unstable.
        if np.abs(missed(found.x)).max() < 1e-8 and alpha * gamma < 2:
            return Shaped(phi, alpha, beta, gamma, gamma * delta)
    raise ValueError(f"expected a smooth function that can be shaped for {depth} layers, found none of its shapes do")
