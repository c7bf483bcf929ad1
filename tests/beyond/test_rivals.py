"""GPN's rivals: constants against other computations of them, networks against bsnn.network and torch's own parts."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bsnn.beyond import rivals
from bsnn.gpn import GPN, gaussian_poincare_constants
from bsnn.network import BSNN
from bsnn.randomness import Purpose, generator
from experiments.beyond.rival_networks import METHODS, MOMENTUM, Method, Networks

DEPTHS = (10, 201)


def mean(f: object) -> float:
    """E f(z) by adaptive quadrature."""
    density = lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # type: ignore[operator] # noqa: E731
    return float(integrate.quad(density, -12, 12, epsabs=1e-13, epsrel=1e-13, limit=500)[0])


def moments(made: rivals.Shaped) -> dict[str, float]:
    """Conditions on a shaped Tanh, its derivatives written out."""
    alpha, beta, a, b = made.alpha, made.beta, made.a, made.b
    t = lambda z: math.tanh(alpha * z + beta)  # noqa: E731
    f = lambda z: a * t(z) + b  # noqa: E731
    first = lambda z: a * alpha * (1 - t(z) ** 2)  # noqa: E731
    second = lambda z: -2 * a * alpha**2 * t(z) * (1 - t(z) ** 2)  # noqa: E731
    return {
        "mean": mean(f),
        "square": mean(lambda z: f(z) ** 2),
        "scale": mean(lambda z: z * f(z) * first(z)),
        "slope": mean(lambda z: first(z) ** 2),
        "curvature": mean(lambda z: second(z) ** 2),
    }


@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_kernel_shaping_s_conditions(depth: int) -> None:
    found = moments(rivals.deep_kernel_shaped(torch.tanh, depth))
    expected = {"mean": 0.0, "square": 1.0, "scale": 1.0, "slope": 1.5 ** (1 / depth)}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("depth", DEPTHS)
def test_tailored_functions_conditions(depth: int) -> None:
    made = rivals.tailored(torch.tanh, depth)
    found = moments(made)
    assert {**found, "mean": 0.0} == pytest.approx(
        {"mean": 0.0, "square": 1.0, "scale": 1.0, "slope": 1.0, "curvature": 0.3 / depth}, abs=1e-9
    )
    # It is a GPN function of tanh(alpha x + beta), one of the two roots for b.
    constants = gaussian_poincare_constants(lambda x: torch.tanh(made.alpha * x + made.beta), "-")
    assert (made.a, made.b) == pytest.approx(constants, rel=1e-6)


@pytest.mark.parametrize(("method", "made"), [("DKS", rivals.deep_kernel_shaped), ("TAT", rivals.tailored)])
def test_the_package_of_the_methods_authors_agrees(
    method: str, made: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dks = importlib.import_module("dks.base.activation_transform")
    # Its order of 100 000 takes minutes to prepare, once for each process; its cache lies beside the package.
    monkeypatch.setattr(dks._estimate_gaussian_mean, "__defaults__", (1000,))
    monkeypatch.setattr(dks, "_ROOTS_CACHE_FILE", str(tmp_path / "roots_{}.npy"))
    mine = made(torch.tanh, 10)  # type: ignore[operator]
    parameters = {
        "input_scale": mine.alpha, "input_shift": mine.beta, "output_scale": mine.a, "output_shift": mine.b / mine.a,
    }  # fmt: skip
    theirs = dks._transform_activation(dks._get_numpy_activation_function("tanh"), parameters)
    slope = {"DKS": 1.5**0.1, "TAT": 1.0}[method]
    assert dks._calc_q_slope_1(theirs) == pytest.approx(1, abs=1e-9)
    assert dks._calc_c_slope(theirs, c=1.0) == pytest.approx(slope, abs=1e-9)
    if method == "TAT":
        assert dks._calc_c_curv(theirs, c=1.0) == pytest.approx(0.03, abs=1e-9)
    else:
        assert dks._calc_c_map(theirs, c=0.0) == pytest.approx(0, abs=1e-9)
    leaky = rivals.tailored_leaky_relu(50)
    assert isinstance(leaky.phi, nn.LeakyReLU)
    for c in (0.0, 0.3, 0.99):
        their = dks._leaky_relu_cmap(c, leaky.phi.negative_slope)
        assert rivals.leaky_relu_correlation(c, leaky.phi.negative_slope) == pytest.approx(float(their), abs=1e-12)


def test_dks_solver_finds_the_same_shape() -> None:
    """201 activations: what the package's own solver finds, kept as numbers, for it takes half a minute."""
    shaped, tailored = rivals.deep_kernel_shaped(torch.tanh, 201), rivals.tailored(torch.tanh, 201)
    assert [shaped.alpha, shaped.beta, shaped.b / shaped.a, shaped.a] == pytest.approx(
        [0.0636533882, 0.5546963144, -0.5025159319, 21.0597621939], rel=1e-6
    )
    assert [tailored.alpha, tailored.beta, tailored.b / tailored.a, tailored.a] == pytest.approx(
        [0.0406207745, 0.5197737405, -0.4777751313, 31.8826653432], rel=1e-6
    )
    assert rivals.tailored_leaky_relu(201).phi.negative_slope == pytest.approx(0.6802883148, rel=1e-6)  # type: ignore[union-attr]


def test_leaky_relus_correlations_by_simulation() -> None:
    draws = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 1_000_000, generator=draws, dtype=torch.float64)
    for c, slope in ((0.0, 0.0), (0.5, 0.3), (0.9, 0.7)):
        f = [math.sqrt(2 / (1 + slope**2)) * F.leaky_relu(h, slope) for h in (x, c * x + math.sqrt(1 - c * c) * other)]
        assert float((f[0] * f[1]).mean()) == pytest.approx(rivals.leaky_relu_correlation(c, slope), abs=0.01)


def test_tailored_leaky_relu_takes_orthogonal_inputs_to_the_target() -> None:
    """Through random layers of width 2000; where ReLU itself stays below the target its slope is 0."""
    phi, depth, width = rivals.tailored_leaky_relu(20), 20, 1500
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(2, width, generator=draws)
    for _ in range(depth):
        x = phi(x @ torch.randn(width, width, generator=draws) / math.sqrt(width))
    assert float(F.cosine_similarity(x[:1], x[1:])) == pytest.approx(0.9, abs=0.02)
    assert rivals.tailored_leaky_relu(2).phi.negative_slope == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("bias_variance", "weights"), [(0.05, 1.76), (2e-5, 1.05)])
def test_edge_of_chaos_of_tanh(bias_variance: float, weights: float) -> None:
    """Constants that Schoenholz et al. and Xiao et al. print, and their definition."""
    found, q = rivals.edge_of_chaos(torch.tanh, bias_variance)
    assert found == pytest.approx(weights, abs=0.005)
    assert found * mean(lambda z: math.tanh(math.sqrt(q) * z) ** 2) + bias_variance == pytest.approx(q, rel=1e-8)
    assert found * mean(lambda z: (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2) == pytest.approx(1, rel=1e-8)


def test_refused() -> None:
    with pytest.raises(ValueError, match="found none of its shapes do"):
        rivals.tailored(lambda x: 2 * x, 10)  # a line has no curvature
    with pytest.raises(ValueError, match="bias_variance: expected one with a critical point"):
        rivals.edge_of_chaos(torch.tanh, -1.0)


def made(name: str | Method, rates: list[float], depth: int = 3, width: int = 8) -> Networks:
    method = METHODS[name] if isinstance(name, str) else name
    return Networks(method, depth, width, 12, 4, list(range(len(rates))), rates, torch.device("cpu"))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(2)
    return torch.randn(2, 16, 12, generator=draws), torch.randint(4, (2, 16), generator=draws)


def test_gpn_networks_are_bsnns_and_train_as_they_do() -> None:
    x, y = batch()
    for k, rate in enumerate((0.01, 0.1)):
        one = BSNN(12, 4, width=8, depth=3, activation=GPN(nn.Tanh()), generator=generator(k, Purpose.INITIAL_WEIGHTS))
        optimizer = torch.optim.SGD(one.parameters(), lr=rate, momentum=MOMENTUM)
        ours = made("Tanh-GPN", [0.01, 0.1])
        for _ in range(3):
            loss = F.cross_entropy(one(x[k]), y[k])
            optimizer.zero_grad()
            loss.backward()
            found, norms = ours.step(x, y)
            torch.testing.assert_close(found[k], loss.detach())
            torch.testing.assert_close(norms[k], one.gradient_norms().double())
            optimizer.step()
        torch.testing.assert_close(ours.logits(x)[k], one(x[k]))


def test_batch_norm_is_torchs() -> None:
    networks, (x, _) = made("ReLU, batch norm", [0.01, 0.01], depth=2), batch()
    of = {name: value.detach()[1] for name, value in networks.parameters.items()}
    norms = [nn.BatchNorm1d(8) for _ in range(2)]
    for training in (True, False):
        h = F.relu(x[1] @ of["A"].T + of["a"])
        for layer, norm in enumerate(norms):
            h = F.relu(norm.train(training)(h @ of["V"][layer].T))
        torch.testing.assert_close(networks.logits(x, training=training)[1], h @ of["C"].T + of["c"])


def test_residual_networks_keep_the_scale() -> None:
    """E x^2 grows by e over any depth: each branch adds 2 E relu(x)^2 / L, which is E x^2 / L."""
    networks = made(METHODS["ReLU, residual"], [0.1], depth=100, width=200)
    x = torch.randn(1, 64, 12, generator=torch.Generator().manual_seed(3))
    of = {name: value.detach() for name, value in networks.parameters.items()}
    bottom = (x @ of["A"].mT + of["a"])[0]
    plain = bottom
    for layer in range(100):
        plain = plain + F.relu(plain) @ of["V"][0, layer].T / 10
    torch.testing.assert_close(networks.logits(x)[0], plain @ of["C"][0].T + of["c"][0], rtol=1e-4, atol=1e-4)
    assert float(plain.square().mean() / bottom.square().mean()) == pytest.approx(math.e, rel=0.2)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_learns_a_small_problem(name: str) -> None:
    draws = torch.Generator().manual_seed(4)
    x = torch.randn(256, 12, generator=draws)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    rate = {"SGD": 0.02, "Adam": 0.005, "Muon": 0.02}[METHODS[name].optimiser]
    networks = made(name, [rate], width=16)
    for _ in range(200):
        networks.step(x[None], y[None])
    assert float(networks.accuracy(x[:250], y[:250])) > 80


def test_networks_of_several_rates_are_independent() -> None:
    x, y = batch()
    together, alone = made("SELU", [0.1, 0.01]), made("SELU", [0.1])
    for _ in range(3):
        together.step(x, y)
        alone.step(x[:1], y[:1])
    torch.testing.assert_close(together.logits(x)[0], alone.logits(x[:1])[0])
    assert not np.allclose(together.parameters["V"][0].detach(), made("SELU", [0.1]).parameters["V"][0].detach())
