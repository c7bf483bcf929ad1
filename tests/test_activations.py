"""The activation functions: the paper's formulas (footnote 1), names and order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bsnn.activations import PAPER_ACTIVATIONS, SigmoidGELU

X = torch.linspace(-6, 6, 1201, dtype=torch.float64)
# Klambauer et al. (2017): the constants whose Gaussian fixed point is mean 0, variance 1.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    "relu": lambda x: x.clamp(min=0),
    "leaky_relu": lambda x: x.clamp(min=0) + 0.01 * x.clamp(max=0),
    "elu": lambda x: x.clamp(min=0) + (torch.exp(x) - 1).clamp(max=0),
    "selu": lambda x: SELU_SCALE * (x.clamp(min=0) + SELU_ALPHA * (torch.exp(x) - 1).clamp(max=0)),
    "gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
}


def test_the_six_in_the_order_of_table_1() -> None:
    assert list(PAPER_ACTIVATIONS) == list(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_each_is_the_papers_formula(name: str) -> None:
    torch.testing.assert_close(PAPER_ACTIVATIONS[name]()(X), FORMULAS[name](X), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_each_call_makes_a_new_module_without_parameters(name: str) -> None:
    one, other = PAPER_ACTIVATIONS[name](), PAPER_ACTIVATIONS[name]()
    assert isinstance(one, nn.Module)
    assert one is not other
    assert not one.state_dict()


def test_sigmoid_gelu_derivative() -> None:
    x = X.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(SigmoidGELU()(x).sum(), x)
    sigmoid = torch.sigmoid(1.702 * X)
    torch.testing.assert_close(derivative, sigmoid + 1.702 * X * sigmoid * (1 - sigmoid), rtol=1e-12, atol=1e-14)


def test_sigmoid_gelu_is_neither_of_torchs() -> None:
    def distance(other: nn.Module) -> float:
        difference: Tensor = SigmoidGELU()(X) - other(X)
        return float(difference.abs().max())

    assert 0.019 < distance(nn.GELU()) < 0.021
    assert 0.019 < distance(nn.GELU(approximate="tanh")) < 0.021


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sigmoid_gelu_keeps_dtype(dtype: torch.dtype) -> None:
    assert SigmoidGELU()(X.to(dtype)).dtype == dtype


def test_only_gelu_asks_for_the_other_root() -> None:
    assert [name for name, make in PAPER_ACTIVATIONS.items() if hasattr(make(), "gpn_root")] == ["gelu"]
    assert SigmoidGELU.gpn_root == "-"
