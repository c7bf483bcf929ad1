"""The collapse of narrow networks: theory against simulation, each exact value by a second route, the rules for fates.

Statistics come from fixed seeds and must lie within 4 standard errors (5 where hundreds are compared).
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from bsnn.collapse import exact as collapse_exact
from bsnn.collapse import probability as collapse
from bsnn.collapse.fate import TARGETS, fates, minimise
from bsnn.collapse.networks import NarrowStack, draw_weights, fit, last_dead_layer, member_losses

INPUT = torch.tensor([[0.4, -2.0, 0.7]], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def errors_off(count: float, total: int, exact: float) -> float:
    return abs(count / total - exact) / math.sqrt(exact * (1 - exact) / total)


@pytest.mark.parametrize("law", ["he", "he_uniform", "orthogonal"])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("widths", [(2, 2, 2), (4, 3, 2), (1, 3), (2, 1, 1, 3)])
def test_theorems_8_and_9(widths: tuple[int, ...], biases: bool, activate_last: bool, law: str) -> None:
    members, stream = 10_000, seeded()
    stack = NarrowStack(
        (3, *widths), members, initialisation=law, activate_last=activate_last, generator=stream, dtype=torch.float64
    )
    assert stack.biases is not None
    if biases:
        with torch.no_grad():
            for bias in stack.biases:
                bias.copy_(draw_weights("he_uniform", members, bias.shape[1], 1, stream))
    output = stack.signals(INPUT)[-1]
    rest = torch.zeros(()) if activate_last else stack.biases[-1].mT
    count = int((output == rest).all(dim=2).sum())
    assert errors_off(count, members, collapse.zero_for_an_input(widths, biases, activate_last)) < 4


def test_theorem_8_in_closed_form() -> None:
    assert collapse.zero_for_an_input([2, 2]) == pytest.approx(7 / 16, abs=1e-15)
    assert collapse.zero_for_an_input([2, 2], activate_last=False) == 0.25
    assert collapse.zero_for_an_input([5], activate_last=False) == 0
    assert collapse.zero_for_an_input([9, 9, 3], biases=True) == 0.125
    assert collapse.zero_for_an_input([9, 2, 3], biases=True, activate_last=False) == 0.25


@pytest.mark.parametrize("width", [3, 7, 16])
@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5])
def test_safe_depth_is_the_last_safe_one(width: int, probability: float) -> None:
    depth = collapse.safe_depth(width, probability)
    assert collapse.zero_for_an_input([width] * depth) <= probability
    assert collapse.zero_for_an_input([width] * (depth + 1)) > probability


def test_states_are_numbered_as_in_the_paper() -> None:
    """Case 1 both units for both signs; 4 both for x > 0 alone; 7 one each; 10; 13; 16 none (minus 1: from 0)."""
    plus = torch.tensor([[1.0, 1], [1, 1], [1, 0], [0, 1], [0, 0], [0, 0], [1, 0], [0, 1]])
    minus = torch.tensor([[1.0, 1], [0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [1, 1], [0, 0]])
    assert (collapse.state_of(plus, minus) + 1).tolist() == [1, 4, 7, 10, 13, 16, 5, 12]
    for state in range(16):
        (a, b), (c, d) = collapse.units(state)
        assert int(collapse.state_of(torch.tensor([[a, c]]).float(), torch.tensor([[b, d]]).float())) == state


def test_the_matrix_of_theorem_10() -> None:
    """As fractions: the integrals of appendix J by hand, with t = |u - v| pi/2 of density 2 (1 - 2t/pi), or uniform."""
    matrix = collapse.paper_matrix()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-14)
    rows = {
        1: {
            Fraction(17, 96): (1, 6, 11, 16),
            Fraction(1, 32): (2, 3, 5, 8, 9, 12, 14, 15),
            Fraction(1, 96): (4, 7, 10, 13),
        },
        2: {
            Fraction(7, 48): (1, 6, 11, 16),
            Fraction(1, 24): (2, 3, 5, 8, 9, 12, 14, 15),
            Fraction(1, 48): (4, 7, 10, 13),
        },
        4: {Fraction(1, 4): (4, 8, 12, 16)},
        6: {Fraction(1, 4): (1, 6, 11, 16)},
        7: {Fraction(1, 16): tuple(range(1, 17))},
        13: {Fraction(1, 4): (13, 14, 15, 16)},
        16: {Fraction(1): (16,)},
    }
    alike = {1: (1,), 2: (2, 3, 5, 9), 4: (4, 8, 12), 6: (6, 11), 7: (7, 10), 13: (13, 14, 15), 16: (16,)}
    for kind, row in rows.items():
        expected = np.zeros(16)
        for value, states in row.items():
            expected[[state - 1 for state in states]] = float(value)
        for state in alike[kind]:
            np.testing.assert_allclose(matrix[state - 1], expected, rtol=0, atol=1e-14)


def test_the_matrix_against_its_assumptions_simulated() -> None:
    draws, matrix = 20_000, collapse.paper_matrix()
    for state in range(16):
        counts = np.bincount(collapse.drawn_transitions(state, draws, seeded(state)).numpy(), minlength=16)
        for following in range(16):
            exact = matrix[state, following]
            if exact in (0.0, 1.0):
                assert counts[following] == exact * draws
            else:
                assert errors_off(counts[following], draws, exact) < 5


def test_the_first_layer() -> None:
    plus, minus = next(collapse.outputs(2, 1, 20_000, "he", seeded()))
    counts = np.bincount(collapse.state_of(plus, minus).numpy(), minlength=16)
    start = collapse.paper_start()
    assert start.sum() == 1
    for state in range(16):
        assert counts[state] == 0 if start[state] == 0 else errors_off(counts[state], 20_000, start[state]) < 4


@pytest.mark.parametrize("t", [0.05, 0.7, math.pi / 2])
def test_the_difference_of_directions(t: float) -> None:
    """F is the integral of f, 1 at pi, and what simulated pairs of Gaussian vectors show."""

    def phase(psi: float) -> tuple[float, float]:
        distribution, density = collapse_exact._phase(np.array(t), np.array(psi))
        return float(distribution), float(density)

    assert phase(0.0)[0] == pytest.approx(0.5, abs=1e-15)
    assert phase(math.pi)[0] == pytest.approx(1, abs=1e-15)
    g, h = torch.randn(2, 100_000, 2, generator=seeded(), dtype=torch.float64)
    other = math.cos(t) * g + math.sin(t) * h
    psi = torch.atan2(g[:, 0] * other[:, 1] - g[:, 1] * other[:, 0], (g * other).sum(dim=1))
    for end in (0.02, 0.3, 1.2, 2.5):
        area, _ = integrate.quad(lambda one: phase(one)[1], 0, end, epsabs=1e-13, epsrel=1e-13)
        assert phase(end)[0] - 0.5 == pytest.approx(area, abs=1e-12)
        assert errors_off(int((psi < end).sum()), 100_000, phase(end)[0]) < 4


def test_the_next_angles_density() -> None:
    """With its atoms it has the mass of "both alive": 1/2 + ((pi - t) / 2 pi)^2."""
    for t in (0.3, 1.0, math.pi / 2):
        p, q = (math.pi - t) / (2 * math.pi), t / (2 * math.pi)
        density = lambda u, t=t: float(collapse_exact._density(np.array(t), np.array(u)))  # noqa: E731
        area, _ = integrate.quad(
            density, 0, math.pi / 2, epsabs=1e-13, epsrel=1e-13, points=[t / 2, t] if t < 1.5 else None
        )
        assert area + 2 * p**2 + 2 * q**2 == pytest.approx(0.5 + p**2, abs=1e-11)


def test_the_exact_probability_of_width_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theorem 10's up to L = 3; converged in the step; simulated networks; and the simulated angle."""
    exact, paper = collapse_exact.exact_width_2(30), collapse.paper_collapse(30)
    np.testing.assert_allclose(exact[:3], paper[:3], rtol=0, atol=1e-14)
    assert exact[1] == pytest.approx(5 / 32, abs=1e-15)
    assert (exact[3:29] - paper[3:29] > 1e-5).all()
    with monkeypatch.context() as patch:
        patch.setattr(collapse_exact, "_STEP", 0.2)
        np.testing.assert_allclose(collapse_exact.exact_width_2(30), exact, rtol=0, atol=1e-13)
    dead = collapse.simulate(2, 12, 200_000, "he", seeded(1))
    assert max(errors_off(dead.both[k], 200_000, exact[k]) for k in range(1, 12)) < 4
    # at this size simulation tells the exact value from Theorem 10's
    assert max(errors_off(dead.both[k], 200_000, paper[k]) for k in range(1, 12)) > 5
    chain = collapse_exact.angle_chain(2, 12, 20_000, seeded(2))
    assert (np.abs(chain.dead[2:] - exact[2:12]) < 4 * chain.error[2:]).all()
    np.testing.assert_allclose(chain.dead[:2], exact[:2], rtol=0, atol=1e-15)


@pytest.mark.parametrize("width", [3, 6])
def test_the_simulated_angle_against_networks(width: int) -> None:
    members = 40_000
    chain = collapse_exact.angle_chain(width, 10, 5_000, seeded(3))
    dead = collapse.simulate(width, 10, members, "he", seeded(4))
    for k in range(1, 10):
        error = math.hypot(chain.error[k], math.sqrt(chain.dead[k] * (1 - chain.dead[k]) / members))
        assert abs(dead.both[k] / members - chain.dead[k]) < 4 * error
        assert errors_off(dead.plus[k], members, collapse.zero_for_an_input([width] * (k + 1))) < 4
    assert (np.diff(chain.angle) < 0).all()  # the outputs for x = 1 and x = -1 grow together


def test_the_angle_chain_ends_where_it_is_told() -> None:
    chain = collapse_exact.angle_chain(4, 1000, 100, seeded(), until=0.1)
    assert chain.dead[-2] - 4 * chain.error[-2] <= 0.1 < chain.dead[-1] - 4 * chain.error[-1]
    with pytest.raises(ValueError, match="width: expected at least 2"):
        collapse_exact.angle_chain(1, 5, 10, seeded())


def test_the_bounds_hold() -> None:
    for depth, exact in enumerate(collapse_exact.exact_width_2(30), start=1):
        low, high = collapse.collapse_bounds(2, depth)
        assert low - 1e-14 <= exact <= high + 1e-14
        assert high == pytest.approx(collapse.zero_for_an_input([2] * (depth - 1)), abs=1e-14)
    chain = collapse_exact.angle_chain(5, 40, 1_000, seeded())
    low, high = np.array([collapse.collapse_bounds(5, depth) for depth in range(1, 41)]).T
    assert (low - 1e-14 <= chain.dead).all()
    assert (chain.dead <= high + 1e-14).all()


def test_lengths_are_those_of_networks() -> None:
    """q^4 of matrices that are drawn: share of zeros and mean of q^(1/4), which has small tails, as of `lengths`."""
    members = 20_000
    stack = NarrowStack((1, 3, 3, 3, 3), members, bias=False, generator=seeded(), dtype=torch.float64)
    networks = stack.signals(torch.ones(1, 1, dtype=torch.float64))[-1].square().mean(dim=(1, 2)).numpy()
    drawn = collapse.lengths(torch.relu, 3, 4, members, seeded(1))[-1]
    zero = collapse.zero_for_an_input([3, 3, 3])
    for q in (networks, drawn):
        assert errors_off(int((q == 0).sum()), members, zero) < 4
    roots = [q**0.25 for q in (networks, drawn)]
    error = math.hypot(*(root.std() / math.sqrt(members) for root in roots))
    assert abs(roots[0].mean() - roots[1].mean()) < 4 * error


def test_equations_2_and_3() -> None:
    np.testing.assert_allclose(collapse.expected_lengths(torch.relu, 6, q0=0.3), 0.6, rtol=1e-12)
    general = collapse.expected_lengths(torch.relu, 3, weight_variance=1.5, bias_variance=0.2, q0=2.0)
    np.testing.assert_allclose(general, [3.2, 0.75 * 3.2 + 0.2, 0.75 * (0.75 * 3.2 + 0.2) + 0.2], rtol=1e-12)
    linear = collapse.expected_lengths(lambda z: z, 3, weight_variance=1.1, q0=1.0)
    np.testing.assert_allclose(linear, [1.1, 1.21, 1.331], rtol=1e-12)


def test_mean_and_spread_of_the_length() -> None:
    """Width 50: the mean within 4 exact standard errors, the variance within 10 %."""
    members = 100_000
    q = collapse.lengths(torch.relu, 50, 6, members, seeded())
    relative = collapse.relative_variance(50, 6)
    assert (np.abs(q.mean(axis=1) / 2 - 1) < 4 * np.sqrt(relative / members)).all()
    np.testing.assert_allclose(q.var(axis=1) / 4, relative, rtol=0.1)
    wide = collapse.lengths(torch.tanh, 5_000, 4, 200, seeded())
    np.testing.assert_allclose(wide.mean(axis=1), collapse.expected_lengths(torch.tanh, 4), rtol=0.01)


def by_hand(weights: list[float], biases: list[float]) -> NarrowStack:
    """One network of width 1, in float64."""
    stack = NarrowStack((1,) * (len(weights) + 1), 1, dtype=torch.float64)
    assert stack.biases is not None
    with torch.no_grad():
        for parameter, value in zip([*stack.weights, *stack.biases], [*weights, *biases], strict=True):
            parameter.fill_(value)
    return stack


ROOT = math.sqrt(3)


@pytest.mark.parametrize(
    ("weights", "biases", "outcome", "dead"),
    [
        ([1, 0], [0, ROOT / 2], "constant", 0.5),  # at the mean of |x|, which is its median
        ([1, 0], [-9, 0.3], "constant", 1.0),
        ([1, 1], [0, ROOT / 2], "partial", 0.5),  # for x < 0 the mean of |x| there; for x > 0 it is off
        ([1, 1], [0, 0.0], "other", 0.5),  # for x < 0 constant, but at 0
        ([math.inf, 1], [0, 0.0], "diverged", 0.5),
    ],
)
def test_fates(weights: list[float], biases: list[float], outcome: str, dead: float) -> None:
    (fate,) = fates(by_hand(weights, biases), TARGETS["abs"], 200)
    assert (fate.outcome, fate.dead) == (outcome, dead)
    assert fate.at_mean == fate.at_median == (outcome == "constant" and biases[1] == ROOT / 2)


def test_a_network_that_is_its_target() -> None:
    stack = NarrowStack((1, 2, 1), 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        stack.weights[0].copy_(torch.tensor([[[1.0], [-1.0]]]))
        stack.weights[1].fill_(1.0)
    (fate,) = fates(stack, TARGETS["abs"], 200)
    assert fate.outcome == "approximates"
    assert fate.error < 1e-15


def test_mean_or_median() -> None:
    """x sin 5x has different ones: a constant at the one is not at the other."""
    target = TARGETS["wave"]
    y = target.function(target.grid(200, torch.float64))
    for value, expected in ((y.mean(), (True, False)), (y.median(), (False, True))):
        (fate,) = fates(by_hand([0, 0], [0, float(value)]), target, 200)
        assert (fate.outcome, fate.at_mean, fate.at_median) == ("constant", *expected)
    assert float(y.mean()) == pytest.approx((math.sin(5) / 25 - math.cos(5) / 5), abs=0.01)


@pytest.mark.parametrize(("loss", "name"), [("mse", "at_mean"), ("mae", "at_median")])
def test_theorem_4(loss: str, name: str) -> None:
    """Networks dead on the domain: gradient 0 but for the last bias; training takes that to the mean (median)."""
    target = TARGETS["wave"]
    stack = NarrowStack((1, *[2] * 9, 1), 64, generator=seeded())
    x_BD = target.grid(200)
    dead_K = (last_dead_layer(stack, x_BD) > 0).all(dim=1)
    assert 40 < int(dead_K.sum()) < 64  # 88 % are expected
    member_losses(stack(x_BD), target.function(x_BD), loss).sum().backward()
    assert stack.biases is not None
    *others, last = [*stack.weights, *stack.biases]
    assert all((parameter.grad[dead_K] == 0).all() for parameter in others)
    assert (last.grad[dead_K] != 0).all()
    optimiser = torch.optim.SGD(stack.parameters(), lr=0.01)
    fit(stack, optimiser, target.batches(600, 64, 128, seeded(1)), loss)
    found = [fate for fate, dead in zip(fates(stack, target, 200, loss), dead_K.tolist(), strict=True) if dead]
    assert all(fate.outcome == "constant" and getattr(fate, name) for fate in found)


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B"])
def test_second_order_training(method: str) -> None:
    """A linear network fits a line exactly, each member for itself."""
    stack = NarrowStack((1, 2, 1), 3, nn.Identity(), generator=seeded(), dtype=torch.float64)
    x_BD = TARGETS["abs"].grid(20, torch.float64)
    y_BC = 3 * x_BD - 1
    before = member_losses(stack(x_BD), y_BC)
    minimise(stack, x_BD, y_BC, method, 100)
    after = member_losses(stack(x_BD), y_BC)
    assert (before > 0.1).all()
    assert (after < 1e-9).all()


def test_targets() -> None:
    pair = TARGETS["pair"]
    x, y = next(pair.batches(1, 3, 1000, seeded()))
    assert x.shape == y.shape == (3, 1000, 2)
    assert 0.99 < float(x.max()) <= 1
    assert -1 <= float(x.min()) < -0.99
    torch.testing.assert_close(y[..., 1], (x[..., 0] - x[..., 1]).abs())
    assert not torch.equal(x[0], x[1])
    grid = pair.grid(3)
    assert grid.shape == (9, 2)
    assert grid[1].tolist() == [-1, 0]
    assert TARGETS["abs"].grid(2).flatten().tolist() == pytest.approx([-ROOT, ROOT])
