"""Stacks of narrow networks: against plain torch modules, and that members share nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from bsnn.collapse.networks import INITIALISATIONS, NarrowStack, draw_weights, fit, last_dead_layer, member_losses
from bsnn.gpn import GPN

LAYERS = (2, 3, 4, 3, 2)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(members: int = 3, **arguments: object) -> NarrowStack:
    """A float64 stack whose biases, scales and shifts are not at their initial values."""
    stream = seeded()
    stack = NarrowStack(LAYERS, members, generator=stream, dtype=torch.float64, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if not name.startswith("weights"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
    return stack


def reference(stack: NarrowStack, k: int) -> nn.Sequential:
    """The k-th member of torch's own layers."""
    modules: list[nn.Module] = []
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(LAYERS)):
        last = layer == len(LAYERS) - 2
        linear: nn.Module = nn.Linear(n_in, n_out, dtype=torch.float64)
        batch = stack.normalisation == "batch" and not last
        with torch.no_grad():
            linear.weight.copy_(stack.weights[layer][k])
            linear.bias.zero_() if batch else linear.bias.copy_(stack.biases[layer][k, :, 0])
        if stack.normalisation == "weight":
            linear = nn.utils.parametrizations.weight_norm(linear, dim=0)
            with torch.no_grad():
                linear.parametrizations.weight.original0.copy_(stack.scales[layer][k])
        modules.append(linear)
        if batch:
            norm = nn.BatchNorm1d(n_out, dtype=torch.float64)
            with torch.no_grad():
                norm.weight.copy_(stack.scales[layer][k, :, 0])
                norm.bias.copy_(stack.shifts[layer][k, :, 0])
            modules.append(norm)
        if not last:
            modules.append(stack.activation if isinstance(stack.activation, nn.Module) else nn.ReLU())
    return nn.Sequential(*modules)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalisation": "batch"},
        {"normalisation": "weight"},
        {"activation": GPN(nn.Tanh())},
        {"activation": nn.SELU(), "initialisation": "lecun"},
    ],
)
def test_a_member_is_the_network_of_torchs_own_layers(arguments: dict[str, object]) -> None:
    """Outputs, gradients and, with batch norm, running statistics, in float64: equal up to rounding."""
    stack = made(**arguments)
    x_KBD = torch.randn(3, 16, 2, generator=seeded(1), dtype=torch.float64)
    y_BC = torch.randn(16, 2, generator=seeded(2), dtype=torch.float64)
    output_KBC = stack(x_KBD)
    member_losses(output_KBC, y_BC).sum().backward()
    for k in range(3):
        network = reference(stack, k)
        expected_BC = network(x_KBD[k])
        torch.testing.assert_close(output_KBC[k], expected_BC, **EXACT)
        nn.functional.mse_loss(expected_BC, y_BC).backward()
        linears = [module for module in network if isinstance(module, nn.Linear)]
        for layer, linear in enumerate(linears):
            named = dict(linear.named_parameters())
            weight = named.get("weight", named.get("parametrizations.weight.original1"))
            torch.testing.assert_close(stack.weights[layer].grad[k], weight.grad, **EXACT)
        torch.testing.assert_close(stack.biases[-1].grad[k, :, 0], linears[-1].bias.grad, **EXACT)
    stack.eval()
    for k in range(3):
        network = reference(stack, k)
        network(x_KBD[k])  # the running statistics of one batch, as the stack has them
        torch.testing.assert_close(stack(x_KBD)[k], network.eval()(x_KBD[k]), **EXACT)


@pytest.mark.parametrize("arguments", [{}, {"normalisation": "batch"}, {"normalisation": "weight"}, {"dropout": 0.2}])
def test_members_train_as_if_alone(arguments: dict[str, object]) -> None:
    """With one of them replaced by a network that overflows, the others' parameters after 20 steps are the same."""

    def trained(spoiled: bool) -> NarrowStack:
        stack = made(4, **arguments)
        stack._noise = seeded(3)
        if spoiled:
            other = stack.member(2)
            with torch.no_grad():
                other.weights[1].mul_(1e200)
            stack.replace(2, other)
        optimiser = torch.optim.Adam(stack.parameters(), lr=0.01)
        stream = seeded(4)
        x_SKBD = torch.randn(20, 4, 8, 2, generator=stream, dtype=torch.float64)
        fit(stack, optimiser, [(x_KBD, x_KBD.abs()) for x_KBD in x_SKBD], loss="mae")
        return stack

    with_it, without = trained(True), trained(False)
    for one, other in zip(with_it.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one[[0, 1, 3]], other[[0, 1, 3]], **EXACT)
    start = made(4, **arguments)
    moved = [
        not torch.equal(one[0], other[0]) for one, other in zip(start.parameters(), without.parameters(), strict=True)
    ]
    assert any(moved)
    if "normalisation" not in arguments:
        assert not torch.equal(with_it.weights[1][2], without.weights[1][2])


def test_a_member_and_its_place() -> None:
    stack = made(normalisation="batch", activation=GPN(nn.Tanh()))
    x_BD = torch.randn(16, 2, generator=seeded(1), dtype=torch.float64)
    stack(x_BD)  # moves the running statistics
    stack.eval()
    before = stack(x_BD)
    one = stack.member(1)
    torch.testing.assert_close(one(x_BD)[0], before[1], **EXACT)
    stack.replace(0, one)
    torch.testing.assert_close(stack(x_BD), before[[1, 1, 2]], **EXACT)


@pytest.mark.parametrize(
    ("initialisation", "variance"),
    [("he", 2 / 3), ("he_uniform", 2 / 3), ("lecun", 1 / 3), ("glorot_uniform", 2 / 8), ("orthogonal", 1 / 5)],
)
def test_variance_of_the_weights(initialisation: str, variance: float) -> None:
    """5 x 3 matrices; mean and mean square within 4 standard errors. Orthonormal columns: E w^2 = 1/5."""
    W_KNM = draw_weights(initialisation, 4000, 5, 3, seeded())
    for sample, exact in ((W_KNM, 0.0), (W_KNM.square(), variance)):
        by_matrix_K = sample.mean(dim=(1, 2))  # entries of an orthogonal matrix depend on each other, matrices don't
        error = max(float(by_matrix_K.std()) / math.sqrt(4000), 1e-15)
        assert abs(float(by_matrix_K.mean()) - exact) < 4 * error
    if "uniform" in initialisation:
        assert float(W_KNM.abs().max()) <= math.sqrt(3 * variance)
    assert set(INITIALISATIONS) == {"he", "he_uniform", "lecun", "glorot_uniform", "orthogonal"}


def test_weight_norm_starts_as_the_same_function() -> None:
    x_BD = torch.randn(16, 2, generator=seeded(1), dtype=torch.float64)
    plain, normalised = (
        NarrowStack(LAYERS, 3, normalisation=how, generator=seeded(), dtype=torch.float64) for how in (None, "weight")
    )
    torch.testing.assert_close(plain(x_BD), normalised(x_BD), **EXACT)


def test_weight_norm_started_from_data() -> None:
    """Every h has mean 0 and variance 1 over that batch, so no unit is dead or linear on it."""
    x_BD = torch.randn(64, 2, generator=seeded(1), dtype=torch.float64)
    stack = NarrowStack(LAYERS, 5, nn.Identity(), normalisation="weight", generator=seeded(), dtype=torch.float64)
    stack.normalise_from(x_BD)
    for h_KBN in stack.signals(x_BD):
        torch.testing.assert_close(h_KBN.mean(dim=1), torch.zeros_like(h_KBN[:, 0]), rtol=0, atol=1e-9)
        torch.testing.assert_close(h_KBN.var(dim=1, correction=0), torch.ones_like(h_KBN[:, 0]), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="normalise_from: expected a stack with normalisation"):
        NarrowStack(LAYERS, 2).normalise_from(x_BD.float())


def test_dropout() -> None:
    """Drops with its probability (4 standard errors), keeps the mean, and is off in evaluation mode."""
    stack = NarrowStack((1, 1000, 1), 20, nn.Identity(), dropout=0.3, generator=seeded(), dtype=torch.float64)
    x_BD = torch.ones(5, 1, dtype=torch.float64)
    h_KBN = stack.signals(x_BD)[0]
    dropped = float((h_KBN == 0).double().mean())
    assert abs(dropped - 0.3) < 4 * math.sqrt(0.3 * 0.7 / h_KBN.numel())
    kept = stack.weights[0][:, None, :, 0].expand_as(h_KBN)
    torch.testing.assert_close(h_KBN[h_KBN != 0], kept[h_KBN != 0] / 0.7, **EXACT)
    stack.eval()
    torch.testing.assert_close(stack.signals(x_BD)[0], kept, **EXACT)


def test_the_last_dead_layer() -> None:
    """Layer 1 is dead for x < -1, layer 2 (1 - x) for x > 1: made so by hand."""
    stack = NarrowStack((1, 1, 1, 1), 1, dtype=torch.float64)
    with torch.no_grad():
        for layer, (weight, bias) in enumerate([(1.0, 1.0), (-1.0, 2.0), (1.0, 0.5)]):
            stack.weights[layer].fill_(weight)
            stack.biases[layer].fill_(bias)
    x_BD = torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64)
    assert last_dead_layer(stack, x_BD).tolist() == [[1, 0, 2]]
    assert stack(x_BD).flatten().tolist() == [2.5, 1.5, 0.5]
    assert stack.training


def losses_of(output: Tensor, loss: str) -> list[float]:
    found: list[float] = member_losses(output, torch.zeros(2, 1), loss).tolist()
    return found


def test_losses_are_each_members_own() -> None:
    output_KBC = torch.tensor([[[1.0], [3.0]], [[0.0], [-2.0]]])
    assert losses_of(output_KBC, "mse") == [5.0, 2.0]
    assert losses_of(output_KBC, "mae") == [2.0, 1.0]
    with pytest.raises(ValueError, match=r'expected "mse" or "mae", found \'huber\''):
        losses_of(output_KBC, "huber")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (2,)}, r"at least two widths"),
        ({"layers": (2, 0, 1)}, r"at least two widths"),
        ({"members": 0}, r"members: expected at least 1, found 0"),
        ({"initialisation": "xavier"}, r"expected one of he, .*found 'xavier'"),
        ({"normalisation": "layer"}, r"normalisation: expected one of .*found 'layer'"),
        ({"dropout": 1.0}, r"expected a probability in \[0, 1\), found 1.0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NarrowStack(**({"layers": (1, 2, 1), "members": 2} | arguments))  # type: ignore[arg-type]
