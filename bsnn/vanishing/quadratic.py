"""Gradient descent on min theta^T Q theta: the talk's example of gradients on different scales.

With Q = diag(lambda_1, ..., lambda_n), all lambda_i > 0, a step of size eta multiplies each coordinate by a constant:

    theta_i <- m_i theta_i,    m_i = 1 - s eta lambda_i

s = 2 is the gradient of theta^T Q theta itself. The talk writes theta_1 <- (1 - 0.01 eta) theta_1, which is s = 1, the
gradient of theta^T Q theta / 2: the same iteration at half the step. So every eta below is twice as large in the talk's
convention, and nothing else changes.

    contraction      rho(eta) = max_i |1 - s eta lambda_i|;  the iteration converges from everywhere where rho < 1
    threshold        eta < 2 / (s lambda_max)
    best step        eta = 2 / (s (lambda_min + lambda_max)),  there rho = (kappa - 1) / (kappa + 1)
    steps            the least k with rho^k <= tolerance; about (kappa / 2) ln(1 / tolerance) at the best step

kappa = lambda_max / lambda_min is the condition number (Polyak, "Introduction to Optimization", 1987, section 1.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT, TALK = 2.0, 1.0
"""s, the two conventions."""

TALK_EIGENVALUES = (0.01, 1.0)


def multipliers(eta: ArrayLike, eigenvalues: Sequence[float], s: float = EXACT) -> NDArray[np.float64]:
    """m_i for every step size, shape (*eta.shape, n)."""
    return 1 - s * np.multiply.outer(np.asarray(eta, dtype=np.float64), _positive(eigenvalues))


def contraction(eta: ArrayLike, eigenvalues: Sequence[float], s: float = EXACT) -> NDArray[np.float64]:
    """rho(eta) = max_i |m_i|, eta's shape."""
    worst: NDArray[np.float64] = np.abs(multipliers(eta, eigenvalues, s)).max(axis=-1)
    return worst


def threshold(eigenvalues: Sequence[float], s: float = EXACT) -> float:
    """The step size from which gradient descent no longer converges."""
    return float(2 / (s * _positive(eigenvalues).max()))


def best_step(eigenvalues: Sequence[float], s: float = EXACT) -> float:
    """The step size of the smallest rho: there the two extreme coordinates shrink at the same rate."""
    values = _positive(eigenvalues)
    return float(2 / (s * (values.min() + values.max())))


def steps_to(tolerance: float, rho: float) -> float:
    """The least k with rho^k <= tolerance: 0 < tolerance < 1; inf where rho >= 1, 1 where rho = 0."""
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a number in (0, 1), found {tolerance}")
    if rho >= 1:
        return math.inf
    return float(max(1, math.ceil(math.log(tolerance) / math.log(rho)))) if rho > 0 else 1.0


def descend(
    theta_n: ArrayLike, Q_nn: ArrayLike, etas: Sequence[float], s: float = EXACT, normalised: bool = False
) -> NDArray[np.float64]:
    """The iterates of gradient descent with these step sizes, the first one included: (len(etas) + 1, n).

    Q: any symmetric matrix. normalised: theta <- theta - eta G / ||G||_2, the talk's "simple solution" in this example;
    a gradient that is 0 moves nothing.
    """
    Q, theta = np.asarray(Q_nn, dtype=np.float64), np.array(theta_n, dtype=np.float64)
    path = [theta]
    for eta in etas:
        gradient = s * (Q @ theta)
        if normalised:
            gradient = gradient / (np.linalg.norm(gradient) or 1.0)
        theta = theta - eta * gradient
        path.append(theta)
    return np.stack(path)


def steps_until(
    tolerance: float,
    theta_n: ArrayLike,
    Q_nn: ArrayLike,
    etas: Sequence[float],
    s: float = EXACT,
    most: int = 100_000,
) -> NDArray[np.float64]:
    """Run it to find the first k with ||theta_k|| <= tolerance ||theta_0||, for every step size side by side.

    inf where that takes more than `most` steps, or where ||theta|| has grown a million times.
    """
    Q, eta_E = np.asarray(Q_nn, dtype=np.float64), np.asarray(etas, dtype=np.float64)
    first = np.asarray(theta_n, dtype=np.float64)
    theta_En = np.tile(first, (len(eta_E), 1))
    found_E = np.full(len(eta_E), math.inf)
    running = np.arange(len(eta_E))
    start = np.linalg.norm(first)
    for k in range(1, most + 1):
        theta_En -= s * eta_E[:, None] * (theta_En @ Q)
        share_E = np.linalg.norm(theta_En, axis=1) / start
        arrived = share_E <= tolerance
        if arrived.any() or (share_E > 1e6).any():
            found_E[running[arrived]] = k
            going = ~arrived & (share_E <= 1e6)
            theta_En, eta_E, running = theta_En[going], eta_E[going], running[going]
            if not len(running):
                break
    return found_E


def turn(angle: float) -> NDArray[np.float64]:
    """R, the rotation of the plane by `angle` radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def turned(eigenvalues: Sequence[float], angle: float) -> NDArray[np.float64]:
    """R diag(lambda_1, lambda_2) R^T: the same problem in other coordinates."""
    R = turn(angle)
    Q: NDArray[np.float64] = R @ np.diag(_positive(eigenvalues)) @ R.T
    return Q


def _positive(eigenvalues: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"eigenvalues: expected positive numbers, found {eigenvalues}")
    return values
