"""bsnn.vanishing.quadratic: iterates, rates and thresholds against running it and pen and paper."""

import math

import numpy as np
import pytest

from bsnn.vanishing import quadratic

TALK = quadratic.TALK_EIGENVALUES
CONVENTIONS = [quadratic.EXACT, quadratic.TALK]


def test_the_talks_convention_is_half_the_gradient() -> None:
    eta = 0.3
    said = [1 - 0.01 * eta, 1 - eta]
    assert quadratic.multipliers(eta, TALK, quadratic.TALK).tolist() == pytest.approx(said, rel=1e-15)
    exact = quadratic.multipliers(eta / 2, TALK, quadratic.EXACT)
    assert exact.tolist() == pytest.approx(said, rel=1e-15)


def test_the_gradient_is_that_of_the_objective() -> None:
    """One step against a central difference of theta^T Q theta, which is exact for a quadratic but for rounding."""
    Q, theta, eta, h = quadratic.turned(TALK, 0.4), np.array([0.3, -1.2]), 0.1, 1e-3
    slopes = []
    for axis in np.eye(2):
        ahead, behind = (point @ Q @ point for point in (theta + h * axis, theta - h * axis))
        slopes.append((ahead - behind) / (2 * h))
    after = quadratic.descend(theta, Q, [eta])[1]
    assert after.tolist() == pytest.approx((theta - eta * np.array(slopes)).tolist(), abs=1e-12)


@pytest.mark.parametrize("s", CONVENTIONS)
def test_turning_changes_nothing(s: float) -> None:
    """In turned coordinates every step is the turned step; a hundred steps round a hundred times."""
    angle, eta = 0.9, 0.8 * quadratic.threshold(TALK, s)
    R = quadratic.turn(angle)
    straight = quadratic.descend([1.0, 1.0], np.diag(TALK), [eta] * 100, s)
    turned = quadratic.descend(R @ np.ones(2), quadratic.turned(TALK, angle), [eta] * 100, s)
    np.testing.assert_allclose(turned @ R, straight, rtol=0, atol=1e-13)
    multipliers = quadratic.multipliers(eta, TALK, s)
    np.testing.assert_allclose(straight[-1], multipliers**100, rtol=1e-12)


@pytest.mark.parametrize("s", CONVENTIONS)
@pytest.mark.parametrize("condition", [1.0, 3.0, 100.0])
def test_best_step_is_the_best(s: float, condition: float) -> None:
    eigenvalues = (1 / condition, 1.0)
    best = quadratic.best_step(eigenvalues, s)
    rho = float(quadratic.contraction(best, eigenvalues, s))
    assert rho == pytest.approx((condition - 1) / (condition + 1), abs=1e-15)
    grid = quadratic.threshold(eigenvalues, s) * np.linspace(0.001, 0.999, 2001)
    assert (quadratic.contraction(grid, eigenvalues, s) >= rho - 1e-15).all()


@pytest.mark.parametrize("s", CONVENTIONS)
def test_the_threshold_parts_convergence_from_divergence(s: float) -> None:
    limit, Q = quadratic.threshold(TALK, s), quadratic.turned(TALK, 0.6)
    assert float(quadratic.contraction(limit, TALK, s)) == pytest.approx(1, abs=1e-15)
    below, above = quadratic.steps_until(1e-3, [1.0, 0.5], Q, [0.99 * limit, 1.01 * limit], s, most=5000)
    assert math.isfinite(below)
    assert math.isinf(above)


@pytest.mark.parametrize("condition", [1.0, 3.0, 100.0])
def test_steps_counted_are_steps_predicted(condition: float) -> None:
    """From an eigenvector of the slowest coordinate ||theta_k|| = rho^k ||theta_0||: the count is exact, unless rho^k
    meets the tolerance to rounding, which none of these does."""
    eigenvalues = (1 / condition, 1.0)
    etas = quadratic.threshold(eigenvalues) * np.array([0.01, 0.1, 0.3, 0.7, 0.95])
    rhos = quadratic.contraction(etas, eigenvalues)
    for eta, rho in zip(etas, rhos, strict=True):
        slowest = np.abs(quadratic.multipliers(eta, eigenvalues)).argmax()
        start = quadratic.turn(0.6)[:, slowest]
        Q = quadratic.turned(eigenvalues, 0.6)
        (found,) = quadratic.steps_until(1e-6, start, Q, [eta], most=100_000)
        assert found == quadratic.steps_to(1e-6, float(rho))


def test_step_sizes_run_side_by_side_are_alone() -> None:
    Q, etas = quadratic.turned(TALK, 0.6), [0.1, 0.5, 0.9, 1.5]
    together = quadratic.steps_until(1e-3, [1.0, 1.0], Q, etas, most=4000)
    alone = [float(quadratic.steps_until(1e-3, [1.0, 1.0], Q, [eta], most=4000)[0]) for eta in etas]
    assert together.tolist() == alone
    paths = [quadratic.descend([1.0, 1.0], Q, [eta] * int(steps)) for eta, steps in zip(etas[:3], alone, strict=False)]
    for path in paths:
        shares = np.linalg.norm(path, axis=1) / math.sqrt(2)
        assert shares[-1] <= 1e-3 < shares[-2]


def test_normalised_steps_have_their_length_and_a_floor() -> None:
    eta = 0.07
    path = quadratic.descend([1.0, 1.0], np.diag(TALK), [eta] * 2000, normalised=True)
    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1), eta, rtol=1e-12)
    # two points a step apart: one of them at least is half a step from 0
    ends = np.linalg.norm(path[-2:], axis=1)
    assert eta / 2 <= ends.max() <= eta
    assert (quadratic.descend([0.0, 0.0], np.diag(TALK), [eta], normalised=True)[1] == 0).all()


def test_steps_to_at_its_edges() -> None:
    assert quadratic.steps_to(1e-6, 0.0) == 1
    assert quadratic.steps_to(0.5, 0.5) == 1
    assert quadratic.steps_to(0.25, 0.5) == 2
    assert quadratic.steps_to(1e-6, 1.0) == math.inf


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="expected positive numbers"):
        quadratic.best_step((0.0, 1.0))
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\), found 1"):
        quadratic.steps_to(1, 0.5)
