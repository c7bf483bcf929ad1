"""bsnn.vanishing.chain against the lecture's own case written out, autograd and pen and paper."""

import math

import pytest
import torch
from torch import Tensor

from bsnn.vanishing.chain import Chains, autograd_derivatives, factors, largest_relative_error

FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def random_chains(chains: int, depth: int, seed: int = 0, alpha: float = 1.0) -> Chains:
    stream = torch.Generator().manual_seed(seed)
    w_SL, b_SL = torch.randn(2, chains, depth, generator=stream, dtype=torch.float64)
    return Chains(w_SL, 0.5 * b_SL, torch.randn(chains, generator=stream, dtype=torch.float64), alpha)


def test_two_layers_are_the_lectures_formula() -> None:
    """d/dw_1 of alpha s(w_2 s(w_1 x + b_1) + b_2) = alpha s'(z_2) w_2 s'(z_1) x, s = sigmoid, s' = s (1 - s)."""
    w1, w2, b1, b2, x, alpha = 0.7, -1.3, 0.2, 0.1, 1.9, -2.5

    def s(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    def slope(z: float) -> float:
        return s(z) * (1 - s(z))

    z1 = w1 * x + b1
    z2 = w2 * s(z1) + b2
    expected = [alpha * slope(z2) * w2 * slope(z1) * x, alpha * slope(z2) * s(z1)]
    w, b = (torch.tensor([pair], dtype=torch.float64) for pair in ((w1, w2), (b1, b2)))
    found = factors(torch.sigmoid, Chains(w, b, torch.tensor([x], dtype=torch.float64), alpha))
    assert found.derivatives()[0].tolist() == pytest.approx(expected, rel=1e-14)
    assert found.z_SL[0].tolist() == pytest.approx([z1, z2], rel=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 50])
def test_formula_is_autograd(name: str, depth: int) -> None:
    """Each side multiplies 2 depth factors in another order, and their slopes may differ by a few roundings: at depth
    50 about 1e-14 each, 1e-12 with room."""
    drawn = random_chains(200, depth, alpha=0.3)
    error = largest_relative_error(
        factors(FUNCTIONS[name], drawn).derivatives(), autograd_derivatives(FUNCTIONS[name], drawn)
    )
    assert error < 1e-12


def test_autograd_derivatives_are_finite_differences() -> None:
    """Central differences with step h are off by h^2 f''' / 6 + 1e-16 / h: about 1e-10 for h = 1e-5."""
    drawn, h = random_chains(5, 3, seed=1), 1e-5

    def f(w_SL: Tensor) -> Tensor:
        u_S = drawn.x_S
        for layer in range(3):
            u_S = torch.tanh(w_SL[:, layer] * u_S + drawn.b_SL[:, layer])
        return u_S

    for layer in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[layer] = h
        expected = (f(drawn.w_SL + step) - f(drawn.w_SL - step)) / (2 * h)
        torch.testing.assert_close(autograd_derivatives(torch.tanh, drawn)[:, layer], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_depth_at_once_is_each_depth_alone(name: str) -> None:
    sigma, drawn = FUNCTIONS[name], random_chains(50, 20, seed=2, alpha=-1.7)
    whole, weights, slopes = factors(sigma, drawn).log_first_by_depth()
    for depth in (1, 2, 7, 20):
        cut = drawn.cut(depth)
        expected = factors(sigma, cut).derivatives()[:, 0].abs()
        # exp of a sum of 40 logarithms of size up to 10: rounding of 40 x 10 x 1e-16
        torch.testing.assert_close(whole[:, depth - 1].exp(), expected, rtol=1e-12, atol=0.0)
        direct = cut.w_SL[:, 1:].abs().prod(dim=1)
        torch.testing.assert_close(weights[:, depth - 1].exp(), direct, rtol=1e-12, atol=0.0)
    first = math.log(1.7) + drawn.x_S.abs().log()
    alive = whole > -math.inf
    torch.testing.assert_close((first[:, None] + weights + slopes)[alive], whole[alive], rtol=1e-13, atol=0.0)


def test_sigmoid_slopes_never_exceed_a_quarter() -> None:
    slopes = factors(torch.sigmoid, random_chains(500, 20)).slope_SL
    assert 0.2 < float(slopes.max()) <= 0.25


def test_relu_chains_die_with_probability_one_half_a_layer() -> None:
    """Without biases z_l is symmetric given that the chain lives: alive after L layers with probability 2^-L."""
    drawn = random_chains(20_000, 6, seed=3)
    drawn = Chains(drawn.w_SL, torch.zeros_like(drawn.b_SL), drawn.x_S)
    whole, _, _ = factors(torch.relu, drawn).log_first_by_depth()
    for depth in range(1, 7):
        p = 2.0**-depth
        alive = float((whole[:, depth - 1] > -math.inf).double().mean())
        assert abs(alive - p) < 4 * math.sqrt(p * (1 - p) / 20_000)


def test_tanh_with_weights_one_falls_like_a_power() -> None:
    """x_{l+1} = tanh x_l goes to 0 as (3 / 2 l)^(1/2), so that the slopes' product goes as l^(-3/2): between depths 500
    and 5000 with corrections of order log(l) / l, 0.01 in the product."""
    ones, depth = torch.ones(1, 5000, dtype=torch.float64), 5000
    found = factors(torch.tanh, Chains(ones, torch.zeros_like(ones), torch.ones(1, dtype=torch.float64)))
    logs = found.slope_SL.log().cumsum(dim=1)[0]
    exponent = float(logs[depth - 1] - logs[depth // 10 - 1]) / math.log(10)
    assert exponent == pytest.approx(-1.5, abs=0.01)


def test_relative_error_counts_a_missing_zero() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    assert largest_relative_error(zero, zero) == 0
    assert largest_relative_error(one, zero) == math.inf
    assert largest_relative_error(zero, one) == 1
