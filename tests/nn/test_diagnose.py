"""bsnn.diagnose: every number against its definition, computed another way; nothing of the network changes."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bsnn
from bsnn.nn.verdict import ratio

LOSS = functional.cross_entropy


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        made[2].weight[:2], made[2].bias[:2] = 0, -1  # two dead units
    return made


def batch(n: int = 5, features: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, features, dtype=torch.float64), torch.randint(3, (n,))


def test_every_number_is_what_it_says() -> None:
    made, (x, y) = network(), batch()
    found = bsnn.diagnose(made, (x, y), LOSS).table
    outputs = [x]
    for part in made:
        outputs.append(part(outputs[-1]))
        outputs[-1].retain_grad()
    LOSS(outputs[-1], y).backward()
    for row, (part, before, after) in enumerate(zip(made, outputs, outputs[1:], strict=False), start=1):
        assert after.grad is not None
        call = found.loc[row]
        assert call["rms"] == pytest.approx(float(after.square().mean().sqrt().detach()))
        assert call["rms_in"] == pytest.approx(float(before.square().mean().sqrt().detach()))
        assert call["gradient"] == pytest.approx(float(after.grad.norm()))
        pairs = itertools.permutations(functional.normalize(after.detach(), dim=1), 2)
        assert call["correlation"] == pytest.approx(float(torch.stack([a @ b for a, b in pairs]).mean()), abs=1e-6)
        if isinstance(part, nn.Linear):
            assert part.weight.grad is not None
            assert call["weight_gradient"] == pytest.approx(float(part.weight.grad.norm()))
            assert math.isnan(call["slope_square"])
    slopes = 1 - torch.tanh(outputs[1].detach()).square()
    assert found.loc[2, "slope_square"] == pytest.approx(float(slopes.square().mean()))
    assert found.loc[2, "linear"] == pytest.approx(float((slopes > 0.9).double().mean()))
    always_zero = float((outputs[4].detach() == 0).all(0).double().mean())
    assert found.loc[4, "dead"] == pytest.approx(always_zero)
    assert always_zero >= 0.25


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"layer": nn.Linear(6, 6)})

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.block["layer"](x)) + torch.tanh(x)


def test_functions_that_a_forward_calls_are_layers_too() -> None:
    found = bsnn.diagnose(Functions().double(), batch(), LOSS).table
    assert found.module.tolist() == ["block.layer", "relu()", "tanh()"]
    assert (found.gradient > 0).all()


def test_the_network_stays_as_it_is() -> None:
    """Also if the loss raises."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(6, 3))
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    made[0].weight.grad = torch.ones(6, 6)
    state, random = copy.deepcopy(made.state_dict()), torch.get_rng_state()

    def raising(output: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no loss")

    inputs = x.clone()
    bsnn.diagnose(made, (x, y), LOSS)
    with pytest.raises(RuntimeError, match="no loss"):
        bsnn.diagnose(made, (x, y), raising)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, inputs)
    assert torch.equal(made[0].weight.grad, torch.ones(6, 6))
    assert made[4].weight.grad is None
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in made.modules())
    assert made.training


def chain(phi: type[nn.Module], gain: float) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        *[part for _ in range(40) for part in (nn.Linear(32, 32, bias=False), phi())], nn.Linear(32, 3)
    )
    for part in made:
        if isinstance(part, nn.Linear) and part.out_features == 32:
            nn.init.orthogonal_(part.weight, gain)
    return made.double()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (chain(nn.Tanh, 0.5), "Gradients shrink to 8e-13 towards the input"),
        (chain(nn.Identity, 1.5), "Gradients grow "),
        (chain(nn.Identity, 1.0), "Gradients keep their scale: largest / smallest over 41 layers is 1"),
        (chain(nn.ReLU, 1.0), "Each ReLU passes 0.47 of the signal's square and 0.49 of the gradient's"),
        (chain(nn.Tanh, 0.5), "Tanh is as good as linear in"),
    ],
    ids=["shrink", "grow", "keep", "half", "linear"],
)
def test_the_verdict_says_what_happens(made: nn.Module, told: str) -> None:
    verdict = bsnn.diagnose(made, batch(16, 32), LOSS).verdict
    assert told in verdict.replace("1.0 ", "1 ")


def test_zero_and_lost_gradients_are_told() -> None:
    made = chain(nn.ReLU, 1.0)
    with torch.no_grad():
        made[20].weight.neg_().abs_().neg_()  # all units of the layer are dead from here on
    assert "Gradients are exactly 0 in" in bsnn.diagnose(made, batch(16, 32), LOSS).verdict
    assert ratio([1.0, 0.0]) == math.inf
    assert math.isnan(ratio([0.0, 0.0]))
    assert math.isnan(ratio([]))


def test_text_and_figure() -> None:
    found = bsnn.diagnose(network(), batch(), LOSS)
    assert str(found).startswith("Sequential: ")
    assert "weight_gradient" in str(found)
    figure = found.figure()
    assert len(figure.axes) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((functional.relu, batch(), LOSS), TypeError, r"expected a torch\.nn\.Module, found function"),
        ((network(), 3, LOSS), TypeError, "expected .inputs, targets., or inputs as a tensor or a mapping, found int"),
        ((network(), batch(), lambda output, y: output), ValueError, r"expected a scalar tensor, found shape \(5, 3\)"),
        ((network(), batch(), lambda output, y: output.detach().sum()), ValueError, "without a gradient"),
        ((nn.Sequential(nn.LazyLinear(3)), batch(), LOSS), ValueError, "expected initialised weights, found lazy ones"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[object, object, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        bsnn.diagnose(*arguments)  # type: ignore[arg-type]
