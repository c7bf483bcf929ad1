"""bsnn.optim.stiefel: exact after 1000 steps, the right direction, the known minimum; cells that train with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from bsnn.config import CONSTRAINTS
from bsnn.engine.reference import initial_network
from bsnn.haar import haar_orthogonal
from bsnn.network import BSNN
from bsnn.optim.stiefel import METHODS, SAFE, OrthogonalSGD, _qr, deviation, polar
from bsnn.training.checkpoints import load_network
from bsnn.training.loop import completed, train
from tests.training.toy import CELL, images, train_one, without_seconds

EXACT = [method for method in METHODS if method != "landing"]


def haar(count: int, size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return haar_orthogonal(count, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("method", METHODS)
def test_after_1000_steps_of_noise_in_float32(method: str) -> None:
    """Gradients as large as turn W by up to 0.2 a step. Without a way back the first step alone leaves by 0.01."""
    W = torch.nn.Parameter(haar(4, 24, torch.float32))
    optimizer = OrthogonalSGD([W], lr=0.01, momentum=0.5, method=method)
    random = torch.Generator().manual_seed(1)
    start, farthest = W.detach().clone(), 0.0
    for _ in range(1000):
        W.grad = torch.randn(W.shape, generator=random)
        optimizer.step()
        farthest = max(farthest, float(torch.linalg.vector_norm(deviation(W.detach()), dim=(1, 2)).max()))
    assert float(deviation(W.detach().double()).abs().max()) < (1e-5 if method in EXACT else SAFE)
    assert farthest <= (1e-4 if method in EXACT else SAFE * 1.0001)
    assert float((W.detach() - start).abs().max()) > 0.3  # it went far


@pytest.mark.parametrize("method", METHODS)
def test_a_step_follows_the_geodesic(method: str) -> None:
    """W(eta) = exp(-eta A) W with A = skew(G W^T): a quarter of the difference, or less, at half the step."""
    W = haar(1, 6, torch.float64)
    G = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    A = (G[0] @ W[0].T - W[0] @ G[0].T).numpy() / 2
    differences = []
    for rate in (1e-2, 5e-3):
        moved = torch.nn.Parameter(W.clone())
        moved.grad = G
        OrthogonalSGD([moved], lr=rate, method=method).step()
        differences.append(np.abs(moved.detach()[0].numpy() - expm(-rate * A) @ W[0].numpy()).max())
        assert differences[-1] < 10 * rate**2
    assert differences[1] < 0.3 * differences[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_finds_the_nearest_orthogonal_matrix(method: str, momentum: float) -> None:
    """||W - B||^2 is least at the polar factor U V^T of B = U S V^T, which has a unique one here."""
    target = haar(1, 5, torch.float64)[0]
    B = target @ torch.diag(torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64))
    turn = torch.tensor(expm(0.3 * np.triu(np.ones((5, 5)), 1) - 0.3 * np.tril(np.ones((5, 5)), -1)))
    W = torch.nn.Parameter(turn @ target)
    optimizer = OrthogonalSGD([W], lr=0.02, momentum=momentum, method=method)
    for _ in range(1500):
        optimizer.zero_grad()
        (W - B).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(W.detach(), target, atol=1e-6, rtol=0)


def test_polar_of_a_matrix_far_from_orthogonal() -> None:
    Y = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    left, _, right = np.linalg.svd(Y.numpy())
    np.testing.assert_allclose(polar(Y).numpy(), left @ right, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_qr_of_matrices_near_and_far(size: float) -> None:
    """One way by Cholesky's factor, one by Householder's reflections: numpy's Q with R's diagonal positive."""
    noise = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    Y = haar(3, 7, torch.float64) + size * noise
    for found, matrix in zip(_qr(Y), Y.numpy(), strict=True):
        Q, R = np.linalg.qr(matrix.T)
        np.testing.assert_allclose(found.numpy(), (Q * np.sign(np.diag(R))).T, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lr": 0.0}, "lr: expected a number > 0, found 0.0"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), found 1.0"),
        ({"method": "none"}, "method: expected one of polar, qr, cayley, landing, found 'none'"),
        ({"params": [torch.zeros(2, 3)]}, "expected square matrices (..., N, N), found (2, 3)"),
    ],
)
def test_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        OrthogonalSGD(**({"params": [torch.eye(2)], "lr": 0.1} | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_cells_keep_their_constraint_and_go_on_from_a_checkpoint(tmp_path: Path, constraint: str) -> None:
    cell = dataclasses.replace(CELL, batch_norm=False, constraint=constraint, learning_rate=0.05)
    rows: list[object] = []
    whole = completed(train([cell], images(), [tmp_path / "whole.pt"], keep_checkpoint=True))[0]

    def interrupt(row: object) -> None:
        rows.append(row)
        if len(rows) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_one(cell, images(), tmp_path / "parts.pt", interrupt)
    assert without_seconds(train_one(cell, images(), tmp_path / "parts.pt")) == without_seconds(whole)
    W = load_network(tmp_path / "whole.pt", cell).W.detach()
    away = float(torch.linalg.vector_norm(deviation(W), dim=(1, 2)).max())
    lengths = W.norm(dim=-1)
    start = initial_network(cell, torch.device("cpu")).W.detach()
    assert float((W - start).abs().max()) > 1e-3
    if constraint == "row":
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    if constraint in ("weight_norm", "free"):
        assert float((lengths - 1).abs().max()) > 1e-3
    if constraint.startswith("orthogonal"):
        assert away < 1e-10
    else:
        assert away > 1e-6  # the others do leave it


def test_weight_norm_is_torchs() -> None:
    """torch.nn.utils.parametrizations.weight_norm of a Linear layer: same output, same gradients of v and g."""
    network = BSNN(3, 2, width=4, depth=1, constraint="weight_norm", dtype=torch.float64)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4, bias=False).double())
    with torch.no_grad():
        network.lengths.mul_(1.7)
        layer.parametrizations.weight.original1.copy_(network.V[0])
        layer.parametrizations.weight.original0.copy_(network.lengths[0])
    x = torch.randn(5, 3, dtype=torch.float64)
    other = network.top(torch.tanh(layer(torch.tanh(network.bottom(x)))))
    torch.testing.assert_close(network(x), other)
    theirs = torch.autograd.grad(other.square().sum(), list(layer.parameters()))
    ours = torch.autograd.grad(network(x).square().sum(), [network.lengths, network.V])
    for one, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one[0], their)
