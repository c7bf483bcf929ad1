"""Constrained weights: the constraint by direct computation, and everything in torch that a layer meets."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bsnn import BSNN, GPN
from bsnn.nn import delta_orthogonal_, haar_orthogonal_, orthogonal, unit_rows

LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "tall linear": lambda: nn.Linear(3, 5),
    "conv1d": lambda: nn.Conv1d(3, 4, 3),
    "grouped conv2d": lambda: nn.Conv2d(4, 6, (3, 2), groups=2),
    "conv3d": lambda: nn.Conv3d(2, 3, 2, bias=False),
}
CONSTRAINTS = {"unit_rows": unit_rows, "orthogonal": orthogonal}


def holds(weight: torch.Tensor, constraint: str, tolerance: float = 1e-5) -> bool:
    """By loops over rows for unit_rows, by the Gram matrix for orthogonal."""
    matrix = weight.detach().double().flatten(1)
    if constraint == "unit_rows":
        norms = [math.sqrt(sum(entry**2 for entry in row)) for row in matrix.tolist()]
        return all(abs(norm - 1) < tolerance for norm in norms)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return bool((gram - torch.eye(len(gram)).double()).abs().max() < tolerance)


class SumOfTwo(nn.Module):
    """A parametrization by two tensors."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one + other

    def right_inverse(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return value - 1, torch.ones_like(value)


def network(constrain: Callable[[nn.Module], nn.Module] = unit_rows) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        constrain(nn.Conv2d(2, 3, 3, padding=1)), GPN(nn.Tanh()), nn.Flatten(), constrain(nn.Linear(48, 5))
    )


def batch() -> torch.Tensor:
    return torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_constraint_holds_before_and_after_steps_of_torchs_optimisers(kind: str, constraint: str) -> None:
    optimisers = (
        lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    )
    for make in optimisers:
        torch.manual_seed(0)
        layer = LAYERS[kind]()
        parameters = list(layer.parameters())
        CONSTRAINTS[constraint](layer)
        assert {id(p) for p in layer.parameters()} == {id(p) for p in parameters}  # an optimiser made before goes on
        assert holds(layer.weight, constraint)
        before = layer.weight.detach().clone()
        optimiser = make(parameters)
        for _ in range(3):
            optimiser.zero_grad()
            (layer.weight * torch.arange(layer.weight.numel()).view_as(layer.weight)).sum().backward()
            optimiser.step()
            assert holds(layer.weight, constraint)
        assert (layer.weight - before).abs().max() > 0.01


def test_directions_are_kept_and_orthogonal_weights_stay_as_they_are() -> None:
    layer = nn.Linear(6, 4)
    expected = torch.stack([row / row.norm() for row in layer.weight.detach()])
    torch.testing.assert_close(unit_rows(layer).weight.detach(), expected)
    for shape in ((4, 6), (6, 4), (5, 5)):
        layer = nn.Linear(shape[1], shape[0]).double()
        W = haar_orthogonal_(layer.weight).detach().clone()
        torch.testing.assert_close(orthogonal(layer, gain=2).weight.detach(), 2 * W, rtol=0, atol=1e-14)


@pytest.mark.parametrize("constrain", [unit_rows, orthogonal])
def test_gradients_are_those_of_the_composed_map(constrain: Callable[[nn.Module], nn.Module]) -> None:
    for shape in ((3, 5), (5, 3), (4, 4)):
        layer = constrain(nn.Linear(shape[1], shape[0]).double())
        constraint = layer.parametrizations.weight[0]
        V = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(constraint, V)


@pytest.mark.parametrize("constrain", [unit_rows, orthogonal])
def test_state_dict_copies_and_pickles_give_the_same_network(constrain: Callable[[nn.Module], nn.Module]) -> None:
    net, x = network(constrain), batch()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    other = network(constrain)
    other.load_state_dict(net.state_dict(), strict=True)
    saved = io.BytesIO()
    torch.save(net, saved)
    saved.seek(0)
    pickled = pickle.loads(pickle.dumps(net))
    twins = [other, copy.deepcopy(net), pickled, pickle.loads(pickle.dumps(copy.deepcopy(pickled)))]
    for twin in [*twins, torch.load(saved, weights_only=False)]:
        assert torch.equal(twin(x), net(x))
        assert list(twin.state_dict()) == list(net.state_dict())
        assert parametrize.is_parametrized(twin[0], "weight")
        twin(x).sum().backward()
        assert twin[0].parametrizations.weight.original.grad.abs().sum() > 0
    parametrize.remove_parametrizations(pickled[0], "weight")
    assert type(pickled[0]) is nn.Conv2d
    assert torch.equal(pickle.loads(pickle.dumps(pickled))(x), net(x))


def test_pickling_keeps_other_parametrizations_of_the_same_layer() -> None:
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "bias", SumOfTwo())
    unit_rows(layer)
    twin = pickle.loads(pickle.dumps(layer))
    x = torch.randn(4, 3)
    assert torch.equal(twin(x), layer(x))
    assert list(twin.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize("constrain", [unit_rows, orthogonal])
def test_compile_export_and_functional_calls(constrain: Callable[[nn.Module], nn.Module]) -> None:
    net, x = network(constrain), batch()
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)
    parameters = dict(net.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, parameters, (sample[None],)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), parameter.grad, rtol=1e-3, atol=1e-4)
    stacked, _ = torch.func.stack_module_state([network(constrain), network(constrain)])
    outputs = torch.func.vmap(lambda p: torch.func.functional_call(net, p, (x,)))(stacked)
    torch.testing.assert_close(outputs[1], expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_half_precision_and_autocast(constraint: str) -> None:
    net, x = network(CONSTRAINTS[constraint]), batch()
    expected = net(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x)
        assert holds(net[0].weight, constraint)  # not rounded before it is used
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.05)
    low.float().sum().backward()
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(net).to(dtype)
        assert half[0].weight.dtype is dtype
        assert holds(half[0].weight, constraint, tolerance=0.01)
        torch.testing.assert_close(half(x.to(dtype)).float(), expected, rtol=0.1, atol=0.05)


def test_replicas_as_data_parallel_makes_them() -> None:
    """What torch.nn.parallel.replicate does, without its copies to GPUs: tensors instead of parameters."""
    net, x = network(), batch()
    replicas = {name: module._replicate_for_data_parallel() for name, module in net.named_modules()}
    for name, module in net.named_modules():
        replica = replicas[name]
        for key in module._modules:
            setattr(replica, key, replicas[f"{name}.{key}".lstrip(".")])
        for key, parameter in module._parameters.items():
            setattr(replica, key, None if parameter is None else parameter * 1)
    out = replicas[""](x)
    assert torch.equal(out, net(x))
    out.sum().backward()
    assert net[0].parametrizations.weight.original.grad.abs().sum() > 0


def test_random_inputs_of_mean_square_one_give_such_pre_activations() -> None:
    """Rows uniform on the sphere: h_i^2 has mean |x|^2 / 144 and, h_i nearly Gaussian, variance twice its square."""
    g = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(16, 4000, 3, bias=False).double()
    nn.init.normal_(layer.weight, generator=g)
    x = torch.randn(1, 16, 3, 3, generator=g).double()
    length = x.square().mean().item()
    h = unit_rows(layer)(x)
    assert h.square().mean().item() == pytest.approx(length, abs=4 * math.sqrt(2 / 4000) * length)


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"expected a Linear or Conv1d/2d/3d layer, found ConvTranspose2d.*Upsample"):
        unit_rows(nn.ConvTranspose2d(2, 3, 4, stride=2))
    with pytest.raises(TypeError, match=r"found Embedding; .* register bsnn.nn.UnitRows"):
        orthogonal(nn.Embedding(3, 4))
    with pytest.raises(ValueError, match=r"Linear.weight: expected a plain parameter.*remove_parametrizations"):
        unit_rows(unit_rows(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="expected initialised weights"):
        unit_rows(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="found a row of zeros"):
        unit_rows(nn.utils.skip_init(nn.Linear, 2, 2).requires_grad_(False).apply(lambda m: m.weight.data.zero_()))
    with pytest.raises(ValueError, match=r"Linear\.wieght: expected a parameter, found none of this name"):
        unit_rows(nn.Linear(2, 2), "wieght")
    with pytest.raises(ValueError, match="at least two axes"):
        unit_rows(nn.Linear(2, 2), "bias")
    with pytest.raises(ValueError, match="gain: expected a positive number, found 0"):
        orthogonal(nn.Linear(2, 2), gain=0)


def test_the_papers_network_is_made_of_the_same_parts() -> None:
    """A BSNN, written as a Sequential of constrained layers, computes the same numbers."""
    bsnn = BSNN(7, 3, 6, 4, GPN(nn.ReLU()), generator=torch.Generator().manual_seed(0))
    layers: list[nn.Module] = [bsnn.bottom, bsnn.activation]
    for V in bsnn.V.detach():
        layer = nn.Linear(6, 6, bias=False)
        layer.weight.data.copy_(V)
        layers += [unit_rows(layer), bsnn.activation]
    x = torch.randn(5, 7)
    torch.testing.assert_close(nn.Sequential(*layers, bsnn.top)(x), bsnn(x))


def test_a_delta_orthogonal_convolution_stays_an_isometry_under_unit_rows() -> None:
    conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    delta_orthogonal_(conv.weight)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(unit_rows(conv)(x).norm(), x.norm())
