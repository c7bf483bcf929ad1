"""bsnn.optim.muon against torch's Muon, which computes in bfloat16, and against singular values."""

from __future__ import annotations

import re

import pytest
import torch

from bsnn.optim.muon import Muon, orthogonalised


def test_singular_values_come_near_one_and_vectors_stay() -> None:
    X = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(X)
    found = left.mT @ orthogonalised(X) @ right.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-10, rtol=0)
    large = values / values.norm(dim=1, keepdim=True) > 0.02
    assert bool(((diagonal > 0.6) & (diagonal < 1.3))[large].all())


def test_a_zero_gradient_moves_nothing() -> None:
    assert not bool(orthogonalised(torch.zeros(1, 4, 4)).any())


def test_it_is_torchs_but_for_bfloat16() -> None:
    draws = torch.Generator().manual_seed(1)
    start = torch.randn(2, 16, 16, generator=draws)
    ours = torch.nn.Parameter(start.clone())
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    one = Muon([ours], lr=0.1)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, momentum=0.95)
    for _ in range(5):
        ours.grad = torch.randn(2, 16, 16, generator=draws)
        for matrix, gradient in zip(theirs, ours.grad, strict=True):
            matrix.grad = gradient.clone()
        one.step()
        other.step()
    moved = float((ours - start).detach().abs().max())
    assert float((ours - torch.stack(list(theirs))).detach().abs().max()) < 0.03 * moved


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lr": 0.0}, "lr: expected a number > 0, found 0.0"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), found 1.0"),
        ({"params": [torch.zeros(2, 3)]}, "expected square matrices (..., N, N), found (2, 3)"),
    ],
)
def test_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Muon(**({"params": [torch.eye(2)], "lr": 0.1} | wrong))  # type: ignore[arg-type]
