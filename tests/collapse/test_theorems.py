"""Constant networks: made by hand, and what the counts say when a statement fails."""

from __future__ import annotations

import torch

from bsnn.collapse.networks import NarrowStack
from experiments.collapse.config import TheoremSizes
from experiments.collapse.theorems import (
    about_constants,
    gradients,
    is_constant,
    random_networks,
    shifted_to_mean,
    theorem_6,
    unit_variance,
)

SIZES = TheoremSizes(members=300, depth=5, points=21)


def test_is_constant_means_to_rounding() -> None:
    output = torch.tensor([[[1.0], [1.0 + 1e-14]], [[1.0], [1.001]], [[0.0], [0.0]]], dtype=torch.float64)
    assert is_constant(output).tolist() == [True, False, True]


def test_every_statement_holds_of_random_networks() -> None:
    for biased in (False, True):
        stack, x = random_networks("he", biased, SIZES, 0, 0)
        rows = [*about_constants(stack, x, is_constant(stack(x)), biased), *theorem_6(stack, x)]
        names = ["Theorem 1", *(["Corollary 2"] * (not biased)), "Lemma 3", "Theorem 5", "Theorem 6"]
        assert [row[0] for row in rows] == names
        assert all(isinstance(row[1], int) and row[1] > 10 and row[1] == row[2] for row in rows)


def test_networks_that_are_not_constant_break_them() -> None:
    """Counted as if they were constant, living networks have no dead layer and gradients that don't vanish."""
    stack, x = random_networks("he", False, SIZES, 0, 0)
    living_K = ~is_constant(stack(x))
    rows = about_constants(stack, x, living_K, False)
    broken = {str(row[0]): row[2] for row in rows if row[0] in ("Theorem 1", "Theorem 5")}
    assert broken == {"Theorem 1": 0, "Theorem 5": 0}


def test_gradients_are_those_of_autograd_on_one_member() -> None:
    stack, x = random_networks("he", True, SIZES, 1, 0)
    found = gradients(stack, x, x.abs())
    k = int((~is_constant(stack(x))).nonzero()[0, 0])
    one = stack.member(k)
    loss = (one(x) - x.abs()).square().mean()
    assert one.biases is not None
    for layer, parameters in enumerate(zip(one.weights, one.biases, strict=True)):
        for mine, theirs in zip(found[layer], torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(mine[k], theirs.abs().max())


def test_the_mean_is_the_constant_without_gradient() -> None:
    """One hidden layer that is dead on the domain: N = b; dE/db = 2 (b - E y), 0 at the mean alone."""
    stack = NarrowStack((1, 2, 1), 1, dtype=torch.float64)
    assert stack.biases is not None
    with torch.no_grad():
        stack.biases[0].fill_(-100.0)
        stack.biases[1].fill_(3.0)
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
    y = x.abs()
    ((weight, bias), (top_weight, top_bias)) = gradients(stack, x, y)
    assert float(weight) == float(bias) == float(top_weight) == 0
    torch.testing.assert_close(top_bias, 2 * (3 - y.mean())[None])
    assert float(shifted_to_mean(stack, x, y, torch.tensor([True]))) < 1e-15
    torch.testing.assert_close(stack.biases[1].flatten(), torch.tensor([3.0], dtype=torch.float64))  # as it was


def test_rescaling_revives_nothing() -> None:
    stack, x = random_networks("orthogonal", False, SIZES, 0, 4)
    ((_, networks, holds, dead),) = unit_variance(stack, x)
    assert networks == holds == SIZES.members
    assert isinstance(dead, float)
    assert 0.1 < dead < 0.9
