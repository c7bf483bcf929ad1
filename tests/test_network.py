"""bsnn.network against an independent formulation: numpy, the paper's equations written out, no autograd."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bsnn import BSNN, GPN


def make(depth: int = 200, width: int = 24, activation: nn.Module | None = None, **options) -> BSNN:
    options = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(0)} | options
    return BSNN(30, 10, width, depth, activation or GPN(nn.Tanh()), **options)


def batch(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 30, generator=g, dtype=torch.float64), torch.randint(10, (n,), generator=g)


def numpy_forward(net: BSNN, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Logits, inputs x^(l) and pre-activations h^(l), from PROTOCOL's description: a tanh + b, rows v_i / ||v_i||."""
    a, b = net.activation.a, net.activation.b
    V = net.V.detach().numpy()
    xs = [a * np.tanh(x @ net.bottom.weight.detach().numpy().T + net.bottom.bias.detach().numpy()) + b]
    hs = []
    for layer in range(len(V)):
        W = np.stack([row / math.sqrt(sum(v * v for v in row)) for row in V[layer]])
        h = np.einsum("ij,bj->bi", W, xs[-1])
        if net.batch_norms:
            h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)  # weight 1, bias 0 at the start; biased variance
        hs.append(h)
        xs.append(a * np.tanh(h) + b)
    logits = xs[-1] @ net.top.weight.detach().numpy().T + net.top.bias.detach().numpy()
    return logits, xs, hs


def perturbed(net: BSNN) -> BSNN:
    """Rows of V no longer of norm one, as after some training."""
    with torch.no_grad():
        net.V.mul_(torch.rand(net.V.shape[:2], generator=torch.Generator().manual_seed(2)).double()[..., None] + 0.5)
    return net


@pytest.mark.parametrize("batch_norm", [False, True])
def test_forward_is_the_papers_network_at_depth_200(batch_norm: bool) -> None:
    net, (x, _) = perturbed(make(batch_norm=batch_norm)), batch()
    expected, xs, hs = numpy_forward(net, x.numpy())
    # Batch norm multiplies errors from layer to layer (claim 3: gradients explode), so its tolerance is looser.
    tolerance = 1e-3 if batch_norm else 1e-10
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=tolerance, atol=tolerance)
    signals = net.signals(x)
    np.testing.assert_allclose(signals.x_LBN.numpy(), np.stack(xs), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(signals.h_LBN.numpy(), np.stack(hs), rtol=tolerance, atol=tolerance)
    derivative = net.activation.a * (1 - np.tanh(np.stack(hs)) ** 2)
    np.testing.assert_allclose(signals.phi_prime_LBN.numpy(), derivative, rtol=tolerance, atol=tolerance)


def test_gradient_is_equations_2_to_4_through_the_row_norm() -> None:
    """dE/dW = y x^T from (2)-(4) by hand; dE/dv_i = (I - w_i w_i^T) dE/dw_i / ||v_i||."""
    net, (x, labels) = perturbed(make()), batch()
    F.cross_entropy(net(x), labels).backward()

    logits, xs, hs = numpy_forward(net, x.numpy())
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = (p - np.eye(10)[labels.numpy()]) / len(x) @ net.top.weight.detach().numpy()
    V = net.V.detach().numpy()
    norms = np.linalg.norm(V, axis=2, keepdims=True)
    expected = []
    for layer in reversed(range(len(V))):
        W = V[layer] / norms[layer]
        y = net.activation.a * (1 - np.tanh(hs[layer]) ** 2) * error
        G = y.T @ xs[layer]
        expected.append((G - (G * W).sum(1, keepdims=True) * W) / norms[layer])
        error = y @ W
    expected = np.stack(expected[::-1])
    np.testing.assert_allclose(net.V.grad.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(net.gradient_norms().numpy(), np.sqrt((expected**2).sum((1, 2))), rtol=1e-9)


def test_rows_keep_norm_one_while_training_and_v_grows() -> None:
    """The gradient is orthogonal to v_i, so without momentum ||v_i||^2 can only grow: Pythagoras."""
    net, (x, labels) = make(dtype=torch.float32), batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net.V.detach().norm(dim=2)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x.float()), labels).backward()
        optimizer.step()
        after = net.V.detach().norm(dim=2)
        assert (after >= before * (1 - 1e-6)).all()
        before = after
    assert (before > 1 + 1e-5).any()
    torch.testing.assert_close(net.W.norm(dim=2), torch.ones(200, 24), atol=1e-6, rtol=0)


def test_initial_weights_are_orthogonal_and_the_same_in_both_precisions() -> None:
    net64, net32 = make(depth=4), make(depth=4, dtype=torch.float32)
    eye = torch.eye(24, dtype=torch.float64)
    for W in net64.V.detach():
        torch.testing.assert_close(W @ W.T, eye, atol=1e-12, rtol=0)
    bottom, top = net64.bottom.weight.detach(), net64.top.weight.detach()
    torch.testing.assert_close(bottom @ bottom.T, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(top @ top.T, torch.eye(10, dtype=torch.float64), atol=1e-12, rtol=0)
    assert net64.bottom.bias.abs().max() <= 30**-0.5
    assert net64.top.bias.abs().max() <= 24**-0.5
    assert net64.bottom.bias.std() > 0.3 * 30**-0.5
    for name, parameter in net32.named_parameters():
        assert torch.equal(parameter, net64.get_parameter(name).float()), name
    assert not torch.equal(net64.V[0], net64.V[1])
    assert not torch.equal(make(generator=torch.Generator().manual_seed(5)).V, net64.V)


def test_batch_norm_is_batchnorm1d_with_default_settings_on_constrained_layers_only() -> None:
    net = make(depth=3, batch_norm=True)
    assert [type(m) for m in net.batch_norms] == [nn.BatchNorm1d] * 3
    assert {(m.eps, m.momentum, m.affine, m.track_running_stats) for m in net.batch_norms} == {(1e-5, 0.1, True, True)}
    x, _ = batch()
    net(x)
    with torch.no_grad():
        h = net.activation(net.bottom(x)) @ net.W[0].T
    torch.testing.assert_close(net.batch_norms[0].running_mean, 0.1 * h.mean(0))
    torch.testing.assert_close(net.batch_norms[0].running_var, 0.9 + 0.1 * h.var(0, unbiased=True))
    trained = net.batch_norms[0].running_mean.clone()
    net.eval()(x)
    assert torch.equal(net.batch_norms[0].running_mean, trained)


def test_gradient_norms_do_not_underflow_and_need_a_backward_pass() -> None:
    net = make(depth=2, dtype=torch.float32)
    with pytest.raises(ValueError, match="call backward"):
        net.gradient_norms()
    net.V.grad = torch.full_like(net.V, 1e-30)
    torch.testing.assert_close(net.gradient_norms(), torch.full((2,), 24e-30, dtype=torch.float64), rtol=1e-6, atol=0)


def test_gpn_keeps_signal_and_gradient_where_relu_loses_them() -> None:
    """Claim 1 at depth 200: ||x||^2/d keeps its scale with GPN and halves in every layer with plain ReLU.

    With GPN, log(||x||^2/d) is a random walk: Var[phi^2] = 5 for ReLU-GPN, so a layer adds about sqrt(5/d) and 200 of
    them, at d = 100, about 3.2. A factor of 1e4 is three such standard deviations; plain ReLU loses 2^200 = 1e60.
    """
    x, labels = torch.randn(64, 784, generator=torch.Generator().manual_seed(3)).double(), torch.arange(64) % 10

    def run(activation: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        net = BSNN(784, 10, 100, 200, activation, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        F.cross_entropy(net(x), labels).backward()
        return net.signals(x).x_LBN.square().mean((1, 2)).detach(), net.gradient_norms()

    signal, gradients = run(GPN(nn.ReLU()))
    assert 1e-4 < signal.min() < signal.max() < 1e4
    assert gradients.max() / gradients.min() < 100
    signal, gradients = run(nn.ReLU())
    assert 2.0**-240 < signal[200] / signal[0] < 2.0**-160
    assert gradients.max() < 1e-20


def test_gaussian_initialisation_has_rows_uniform_on_the_sphere() -> None:
    """E w_i^2 = 1/N, E w_i^4 = 3/(N (N + 2)), and rows are independent: their products have variance 1/N, not 0."""
    N = 40
    net = BSNN(
        30, 10, N, 50, initialisation="gaussian", generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    W = net.W
    torch.testing.assert_close(net.V.norm(dim=-1), torch.ones(50, N, dtype=torch.float64))
    fourth = 3 / (N * (N + 2))
    eighth = 105 / (N * (N + 2) * (N + 4) * (N + 6))
    error = ((eighth - fourth**2) / W.numel()) ** 0.5  # of the mean of w^4, entries taken as independent
    assert abs(W.pow(4).mean().item() - fourth) < 4 * error
    products = (W @ W.mT)[:, *torch.triu_indices(N, N, 1)]
    # kurtosis of a product of two rows is that of an entry, 3 N / (N + 2): the variance's error is sqrt(2 / n) / N
    assert abs(products.square().mean().item() - 1 / N) < 4 * (2 / products.numel()) ** 0.5 / N
    with pytest.raises(ValueError, match="initialisation: expected orthogonal or gaussian, found 'he'"):
        BSNN(4, 2, 3, 1, initialisation="he")


def test_state_dict_and_copy_give_the_same_network() -> None:
    net, (x, _) = make(depth=3, batch_norm=True), batch()
    net(x)
    other = make(depth=3, batch_norm=True, generator=torch.Generator().manual_seed(9))
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net)):
        assert torch.equal(twin.eval()(x), net.eval()(x))


@pytest.mark.parametrize("activation", [nn.RReLU(), nn.Softmax(dim=-1), nn.Dropout(0.1), nn.LayerNorm(8)])
def test_an_activation_that_is_no_elementwise_function_is_refused(activation: nn.Module) -> None:
    with pytest.raises(ValueError, match=type(activation).__name__):
        BSNN(3, 2, width=8, depth=1, activation=activation)


def test_the_activation_is_a_module_and_goes_where_the_network_is() -> None:
    with pytest.raises(TypeError, match=r"activation: expected a module, say .*, found <built-in method tanh"):
        BSNN(3, 2, width=8, depth=1, activation=torch.tanh)  # type: ignore[arg-type]
    network = BSNN(3, 2, width=8, depth=1, activation=nn.PReLU(), dtype=torch.float64)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_one_shared_activation_with_a_parameter_trains() -> None:
    net, (x, labels) = make(depth=3, activation=nn.PReLU().double()), batch()
    F.cross_entropy(net(x), labels).backward()
    assert net.activation.weight.grad.abs() > 0


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("depth", -3), ("in_features", 0), ("out_features", -1)])
def test_sizes_out_of_range(name: str, value: int) -> None:
    sizes = {"in_features": 4, "out_features": 2, "width": 3, "depth": 1} | {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected at least"):
        BSNN(**sizes)
