"""bsnn.vanishing.tricks and equal_steps: update rules by hand, networks against what they claim, one start for all."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.data import Dataset, load
from bsnn.engine.reference import initial_network
from bsnn.haar import haar_orthogonal
from bsnn.network import BSNN
from bsnn.randomness import batch_order
from bsnn.vanishing.equal_steps import METHODS, Method, mini_batches, sgd, train
from bsnn.vanishing.tricks import FreeBSNN, NormalisedSGD, ShortcutBSNN, decayed, normalised_sgd, shortcut_growth
from experiments.vanishing.report.findings import RELU_SHORTCUT
from tests.training import toy

CPU = torch.device("cpu")
CELL = replace(
    toy.CELL,
    gpn=False,
    batch_norm=False,
    depth=4,
    width=12,
    epochs=1,
    evaluations_per_epoch=1,
    batch_size=16,
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    data = load("mnist", dtype=torch.float64)
    return replace(data, train_x=data.train_x[:100], train_y=data.train_y[:100])


def small(kind: type[BSNN] = BSNN, **settings: object) -> BSNN:
    generator = torch.Generator().manual_seed(0)
    return kind(7, 3, 6, 5, generator=generator, dtype=torch.float64, **settings)  # type: ignore[arg-type]


def with_gradients(network: BSNN) -> BSNN:
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    F.cross_entropy(network(x), torch.arange(9) % 3).backward()
    return network


def radial_part(network: BSNN) -> float:
    """The largest |<v_i, dE/dv_i>| over all rows."""
    assert network.V.grad is not None
    return float((network.V.detach() * network.V.grad).sum(-1).abs().max())


def test_every_layer_moves_by_eta_along_its_gradient() -> None:
    network = with_gradients(small())
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    normalised_sgd(network, 0.03).step()
    layers = [(name, parameter) for name, parameter in network.named_parameters()]
    assert {name for name, _ in layers} == {"V", "bottom.weight", "bottom.bias", "top.weight", "top.bias"}
    for name, parameter in layers:
        assert parameter.grad is not None
        stacked = name == "V"
        moves, gradients = parameter.detach() - before[name], parameter.grad
        for move, gradient in zip(moves, gradients, strict=True) if stacked else [(moves, gradients)]:
            torch.testing.assert_close(move, -0.03 * gradient / gradient.norm(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("size", [1e-30, 1e-36, 1e30])
def test_the_size_of_a_float32_gradient_does_not_matter(size: float) -> None:
    """Its squares would be 0, or inf, in float32."""
    W = nn.Parameter(torch.zeros(3, 3))
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    W.grad = size * direction
    NormalisedSGD([W], lr=0.5).step()
    torch.testing.assert_close(W.detach(), -0.5 * direction / direction.norm(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_a_layer_without_a_direction_stays(value: float) -> None:
    """1e-42 has no more than ten bits in float32."""
    stack = nn.Parameter(torch.ones(2, 3, 3))
    stack.grad = torch.stack([torch.full((3, 3), value), torch.ones(3, 3)])
    NormalisedSGD([{"params": [stack], "stacked": True}], lr=0.3).step()
    assert (stack[0] == 1).all()
    torch.testing.assert_close(stack.detach()[1], torch.full((3, 3), 1 - 0.1))


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="lr: expected a number > 0, found 0"):
        NormalisedSGD([nn.Parameter(torch.ones(1))], lr=0)


@pytest.mark.parametrize("branch", [1.0, 0.3])
def test_shortcuts_add_the_input(branch: float) -> None:
    network = small(ShortcutBSNN, branch=branch)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    signal = torch.tanh(network.bottom(x))
    for W in network.W.detach():
        signal = signal + branch * torch.tanh(signal @ W.T)
    torch.testing.assert_close(network(x), network.top(signal), rtol=1e-12, atol=1e-14)
    signals = network.signals(x)
    torch.testing.assert_close(signals.x_LBN[-1], signal, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(signals.phi_prime_LBN, 1 - torch.tanh(signals.h_LBN) ** 2, rtol=1e-12, atol=1e-14)


def test_without_a_branch_a_shortcut_is_a_wire() -> None:
    network = small(ShortcutBSNN, branch=0.0)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(network(x), network.top(torch.tanh(network.bottom(x))))


@pytest.mark.parametrize("name", ["tanh", "relu"])
@pytest.mark.parametrize("branch", [1.0, 100**-0.5])
def test_the_signal_grows_as_predicted(name: str, branch: float) -> None:
    """By x <- x + c phi(W x) itself, W fresh and orthogonal, at width 300: a layer's relative growth strays by about
    300^(-1/2) of itself, and a hundred layers by a tenth of that on average: 2 % of the logarithm, with room."""
    generator = torch.Generator().manual_seed(0)
    phi, depth, width = PAPER_ACTIVATIONS[name](), 100, 300
    x_BN = torch.randn(20, width, generator=generator, dtype=torch.float64)
    x_BN -= x_BN.mean(dim=1, keepdim=True)
    x_BN *= math.sqrt(width) / x_BN.norm(dim=1, keepdim=True)
    for _ in range(depth):
        x_BN = x_BN + branch * phi(x_BN @ haar_orthogonal(width, width, generator=generator, dtype=torch.float64).T)
    measured = float((x_BN.norm(dim=1) / math.sqrt(width)).log().mean())
    predicted = math.log(shortcut_growth(phi, branch, depth)[-1])
    assert measured == pytest.approx(predicted, rel=0.02)


def test_what_relu_grows_by_a_layer() -> None:
    """For ReLU q_{l+1} / q_l = 1.5 + 2 r a, a = (2 pi)^(-1/2), r = mu / q^(1/2) -> the positive root of
    r^2 (1.5 + 2 a r) = (r + a)^2."""
    a = (2 * math.pi) ** -0.5
    r = max(root.real for root in np.roots([2 * a, 0.5, -2 * a, -(a**2)]) if abs(root.imag) < 1e-12)
    growth = shortcut_growth(nn.ReLU(), 1.0, 60)
    assert growth[60] / growth[59] == pytest.approx(math.sqrt(1.5 + 2 * a * r), rel=1e-9)
    assert growth[60] / growth[59] == pytest.approx(RELU_SHORTCUT, abs=1e-6)


def test_the_free_network_starts_as_the_constrained_one() -> None:
    """W is orthogonal at the start, so that its rows have norm one already; a gradient then has a radial part."""
    free, constrained = with_gradients(small(FreeBSNN)), with_gradients(small())
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(free(x), constrained(x), rtol=1e-12, atol=1e-14)
    free_radial, radial = (radial_part(network) for network in (free, constrained))
    assert radial < 1e-12 < 1e-5 < free_radial
    with torch.no_grad():
        for network in (free, constrained):
            network.V.mul_(1.5)
    assert not torch.allclose(free(x), constrained(x))


def test_decay_loses_its_decades() -> None:
    etas = [decayed(0.3, 2.0, step, 100) for step in range(101)]
    assert etas[0] == 0.3
    assert etas[100] == pytest.approx(0.003, rel=1e-12)
    assert etas[51] / etas[50] == pytest.approx(etas[1] / etas[0], rel=1e-12)
    assert decayed(0.3, 0.0, 77, 100) == 0.3


# --- equal steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_all_methods_start_from_one_network(name: str) -> None:
    method = METHODS[name]
    cell = replace(CELL, gpn=method.gpn, batch_norm=method.batch_norm)
    expected = dict(initial_network(CELL, CPU).named_parameters())
    found = dict(initial_network(cell, CPU, method.network or BSNN).named_parameters())
    for key, parameter in expected.items():
        assert torch.equal(found[key], parameter)


@pytest.mark.parametrize(("gpn", "batch_norm"), [(False, False), (True, False), (False, True)])
def test_the_engine_and_autograd_train_alike(mnist: Dataset, gpn: bool, batch_norm: bool) -> None:
    """float64, 6 steps: rounding of 1e-16, which training and batch norm multiply a few times, stays below 1e-9."""
    method = Method(gpn=gpn, batch_norm=batch_norm)
    ours = train(method, CELL, mnist, 6, 2, 50)
    theirs = train(replace(method, optimiser=sgd), CELL, mnist, 6, 2, 50)
    assert [point.step for point in ours] == [0, 2, 4, 6]
    for one, other in zip(ours, theirs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.ratio == pytest.approx(other.ratio, rel=1e-7)
        assert one.norm == pytest.approx(other.norm, rel=1e-7)
    assert ours[-1].test_accuracy == theirs[-1].test_accuracy is not None


def test_what_the_engine_does_not_do_needs_an_optimiser() -> None:
    for settings in ({"network": ShortcutBSNN}, {"clip": 1.0}):
        with pytest.raises(ValueError, match="expected an optimiser"):
            Method(**settings)  # type: ignore[arg-type]


def test_mini_batches_are_those_of_training(mnist: Dataset) -> None:
    """100 images in batches of 16: six whole ones, a short one, then the next epoch's order."""
    batches = list(mini_batches(CELL, mnist, 9))
    assert [len(y) for _, y in batches] == [16] * 6 + [4] + [16] * 2
    order = torch.cat([batch_order(CELL.seed, epoch, 100) for epoch in (0, 1)])
    assert torch.equal(torch.cat([y for _, y in batches]), mnist.train_y[order][:132])


def test_a_point_is_the_mean_of_its_steps(mnist: Dataset) -> None:
    each = train(METHODS["adam"], CELL, mnist, 6, 1, 50)
    thirds = train(METHODS["adam"], CELL, mnist, 6, 3, 50)
    assert [point.step for point in thirds] == [0, 3, 6]
    assert thirds[1].loss == pytest.approx(sum(point.loss for point in each[1:4]) / 3, rel=1e-12)
    assert each[0].loss == each[1].loss  # before any update, both
    assert thirds[-1].ratio == each[-1].ratio
    assert [point.images for point in thirds] == [None, None, 50]


def test_clipping_bounds_what_a_step_moves(mnist: Dataset) -> None:
    """With a huge rate unclipped SGD would move by rate x gradient; clipped, by at most rate x 1 in the first step."""
    cell = replace(CELL, learning_rate=1.0)
    network = initial_network(cell, CPU)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    optimiser = sgd(network, cell)
    (F.cross_entropy(network(mnist.train_x), mnist.train_y) * 1e3).backward()
    assert METHODS["clipping"].clip is not None
    nn.utils.clip_grad_norm_(network.parameters(), METHODS["clipping"].clip)
    optimiser.step()
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(1.0, rel=1e-5)


def test_clipping_changes_only_steps_with_large_gradients(mnist: Dataset) -> None:
    loose = replace(METHODS["clipping"], clip=1e9)
    plain = Method(optimiser=sgd)
    tight = replace(METHODS["clipping"], clip=1e-3)
    losses = [train(method, CELL, mnist, 4, 1, 10)[-1].loss for method in (loose, plain, tight)]
    assert losses[0] == losses[1] != losses[2]


def test_a_diverged_training_ends_with_inf(mnist: Dataset) -> None:
    cell = replace(CELL, activation="relu", activation_module={"_target_": "torch.nn.ReLU"}, learning_rate=1e200)
    points = train(METHODS["shortcuts"], cell, mnist, 20, 5, 10)
    assert points[-1].loss == math.inf
    assert points[-1].test_accuracy is None
    assert points[-1].step < 20


def test_gpn_is_the_gpn_version(mnist: Dataset) -> None:
    """At the start the loss is that of bsnn.network with the GPN function; it isn't the plain one's."""
    x, y = next(mini_batches(CELL, mnist, 1))
    expected = F.cross_entropy(initial_network(replace(CELL, gpn=True), CPU)(x), y)
    first = train(METHODS["gpn"], CELL, mnist, 1, 1, 10)[0].loss
    assert first == pytest.approx(float(expected.detach()), rel=1e-10)
    assert first != pytest.approx(train(METHODS["nothing"], CELL, mnist, 1, 1, 10)[0].loss, rel=1e-3)
    assert set(PAPER_ACTIVATIONS) >= {"tanh", "relu"}
