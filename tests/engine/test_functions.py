"""The engine's activation functions, in torch and compiled, against the modules themselves and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS, SigmoidGELU
from bsnn.activations import value_and_slope as by_autograd
from bsnn.engine.cpu import CompiledPasses, kernels
from bsnn.engine.functions import Family, Function, function_of, value_and_slope
from bsnn.engine.passes import BOTTOM, LayerState, Optimiser
from bsnn.gpn import GPN

MODULES = {
    **{name: make() for name, make in PAPER_ACTIVATIONS.items()},
    **{f"{name}-gpn": GPN(make()) for name, make in PAPER_ACTIVATIONS.items()},
    "silu": nn.SiLU(),
    "identity": nn.Identity(),
    "steep leaky": nn.LeakyReLU(1.5),
    "elu alpha": nn.ELU(alpha=0.3),
}
# both sides of the kinks, subnormal and tiny numbers, saturation
POINTS = torch.cat(
    [sign * torch.logspace(-44, 2.3, 2000, dtype=torch.float64) for sign in (1, -1)]
    + [torch.linspace(-12, 12, 4001, dtype=torch.float64)]
)


def compiled(function: Function, u: Tensor) -> tuple[Tensor, Tensor]:
    """phi and phi' out of the kernels' forward and backward pass: of one network, one unit, a batch of all points."""
    n = len(u)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=u.dtype)

    per_unit = {name: zeros(0, 0, 1) for name in ("gamma", "beta", "gamma_velocity", "beta_velocity", "running_mean",
                                                  "running_var", "mean", "rstd")}  # fmt: skip
    state = LayerState(V=zeros(0, 1, 1, 1), V_velocity=zeros(0, 1, 1, 1), r=zeros(0, 1, 1), radial=zeros(0, 1, 1),
                       **per_unit)  # fmt: skip
    passes = CompiledPasses(state, [function], Optimiser(1.0, 0.0))
    h, value, again, slope = u.clone().view(1, 1, n), zeros(1, 1, n), zeros(1, 1, n), zeros(1, 1, n) + 1
    passes.forward(BOTTOM, h, value)
    passes.backward(BOTTOM, slope, h, again)
    unit = torch.finfo(u.dtype).eps  # the compiler may contract the two differently
    torch.testing.assert_close(value, again, rtol=unit, atol=2 * unit, equal_nan=True)
    evaluated = zeros(1, 1, n)
    passes.evaluate(BOTTOM, h, evaluated)
    torch.testing.assert_close(value, evaluated, rtol=unit, atol=2 * unit, equal_nan=True)
    return value.flatten(), slope.flatten()


@pytest.mark.parametrize("name", MODULES)
def test_formulas_are_the_modules(name: str) -> None:
    function = function_of(MODULES[name])
    assert function is not None
    value, slope = value_and_slope(function, POINTS)
    expected_value, expected_slope = by_autograd(MODULES[name], POINTS)
    torch.testing.assert_close(value, expected_value, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-13, atol=1e-15)


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODULES)
def test_compiled_functions_are_right_to_a_few_roundings(name: str, dtype: torch.dtype) -> None:
    """Relative error of f; of f' relative to the largest slope, since 1 - tanh^2 cancels where it hardly matters. GPN's
    b may cancel a f, so there the error is measured against |a f| + |b|. e^(pu) knows pu to a rounding of |pu|."""
    module = MODULES[name]
    function = function_of(module)
    assert function is not None
    u = POINTS.to(dtype)
    value, slope = compiled(function, u)
    expected_value, expected_slope = by_autograd(module, u.double())
    unit = torch.finfo(dtype).eps * (1 + u.double().abs())
    scale = (expected_value - function.b).abs() + abs(function.b) + 1e-29  # e^x is 0 below the normal numbers
    assert ((value.double() - expected_value).abs() / scale < 6 * unit).all()
    assert ((slope.double() - expected_slope).abs() < 6 * unit * max(1.0, expected_slope.abs().max().item())).all()


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_compiled_functions_at_the_edges(name: str) -> None:
    """What torch gives at 0, infinity and nan; a nan never becomes a number."""
    module = PAPER_ACTIVATIONS[name]()
    function = function_of(module)
    assert function is not None
    for dtype in (torch.float32, torch.float64):
        edges = torch.tensor([0.0, -0.0, math.inf, -1e30, 1e30], dtype=dtype)
        value, slope = compiled(function, edges)
        expected_value, expected_slope = by_autograd(module, edges)
        torch.testing.assert_close(value, expected_value, rtol=1e-6, atol=1e-30)
        finite = expected_slope.isfinite()
        torch.testing.assert_close(slope[finite], expected_slope[finite], rtol=1e-6, atol=1e-30)
        assert compiled(function, torch.tensor([math.nan], dtype=dtype))[0].isnan()


def test_what_the_table_doesnt_hold() -> None:
    class Shifted(nn.Tanh):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    for module in (
        Shifted(),
        nn.Softplus(),
        nn.GELU(),
        nn.PReLU(),
        GPN(Shifted()),
        GPN(torch.tanh),
        GPN(GPN(nn.Tanh())),
    ):
        assert function_of(module) is None, module
    assert function_of(SigmoidGELU()) == Function(Family.SWISH, 1.702)
