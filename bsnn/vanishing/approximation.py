r"""Approximations of a function on [0, 1] by sums of simple functions, and by compositions (the talk, the lecture).

ReLU          one hidden layer that interpolates F at N + 1 nodes t_i = i / N:
              F(0) + sum_i (s_i - s_(i-1)) ReLU(x - t_i), s_i the slope of F's chord on [t_i, t_(i+1)], s_(-1) = 0
sigmoid       one hidden layer of steep steps between the nodes, k = STEEP N, m_i the middle of [t_i, t_(i+1)]:
              F(0) + sum_i (F(t_(i+1)) - F(t_i)) sigmoid(k (x - m_i))
polynomial    of degree N, through Chebyshev's points
Fourier       a_0 + sum_(n <= N) a_n cos 2 pi n x + b_n sin 2 pi n x, of least squares
radial        sum_i c_i exp(-((x - t_i) N / SPREAD)^2 / 2), N + 1 centres, of least squares
composition   N - 1 compositions of the tent map g(x) = min(2 x, 2 - 2 x): x - sum_(s < N) g o ... o g (s times) / 4^s
              interpolates x^2 at 2^(N-1) + 1 nodes; its error is 4^-N exactly (Yarotsky, Neural Networks 2017)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Function = Callable[[Vector], Vector]

STEEP = 20.0
SPREAD = 1.0
FITTED = 2001
"""Points of a fit of least squares."""


def relu_network(F: Function, N: int) -> Function:
    t = np.linspace(0, 1, N + 1)
    turns = np.diff(np.diff(F(t)) * N, prepend=0.0)
    return lambda x: F(t[:1]) + np.maximum(x[:, None] - t[:-1], 0) @ turns


def sigmoid_network(F: Function, N: int) -> Function:
    t = np.linspace(0, 1, N + 1)
    middles, rises = (t[:-1] + t[1:]) / 2, np.diff(F(t))
    return lambda x: F(t[:1]) + _sigmoid(STEEP * N * (x[:, None] - middles)) @ rises


def polynomial(F: Function, N: int) -> Function:
    fitted: Function = Chebyshev.interpolate(F, N, domain=[0, 1])
    return fitted


def fourier(F: Function, N: int) -> Function:
    n = 2 * np.pi * np.arange(1, N + 1)
    return _least_squares(
        F, lambda x: np.hstack([np.ones((len(x), 1)), np.cos(x[:, None] * n), np.sin(x[:, None] * n)])
    )


def radial(F: Function, N: int) -> Function:
    t = np.linspace(0, 1, N + 1)
    return _least_squares(F, lambda x: np.exp(-(((x[:, None] - t) * N / SPREAD) ** 2) / 2))


def square_by_composition(N: int) -> Function:
    def f(x: Vector) -> Vector:
        total, tooth = x.copy(), x
        for s in range(1, N):
            tooth = np.minimum(2 * tooth, 2 - 2 * tooth)
            total = total - tooth / 4**s
        return total

    return f


SUMS: dict[str, Callable[[Function, int], Function]] = {
    "ReLU": relu_network,
    "sigmoid": sigmoid_network,
    "polynomial": polynomial,
    "Fourier": fourier,
    "radial": radial,
}
JUMP = 1 / np.pi
"""The place where the step jumps, no node of any N."""
TARGETS: dict[str, Function] = {
    "square": lambda x: x**2,
    "abs": lambda x: np.abs(x - 0.3),
    "wave": lambda x: x * np.sin(15 * x),
    "step": lambda x: np.where(x > JUMP, 1.0, 0.0),
}
"""The last one isn't continuous."""


def errors(f: Function, F: Function, points: int = 8001) -> tuple[float, float]:
    """Compute max |F - f| and (int (F - f)^2)^(1/2) on a grid, and just beside the step's jump."""
    x = np.linspace(0, 1, points)
    off = f(x) - F(x)
    beside = np.array([np.nextafter(JUMP, 0), np.nextafter(JUMP, 1)])
    return float(max(np.abs(off).max(), np.abs(f(beside) - F(beside)).max())), float(np.sqrt(np.mean(off**2)))


def _least_squares(F: Function, features: Callable[[Vector], Vector]) -> Function:
    x = np.linspace(0, 1, FITTED)
    coefficients = np.linalg.lstsq(features(x), F(x), rcond=None)[0]
    return lambda at: features(at) @ coefficients


def _sigmoid(x: Vector) -> Vector:
    found: Vector = 0.5 * (1 + np.tanh(x / 2))
    return found
