"""Initial weights: orthogonality by Gram matrices, laws by their moments, isometry by convolving."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsnn import haar_orthogonal
from bsnn.nn import delta_orthogonal_, haar_orthogonal_, spherical_

INITS = [haar_orthogonal_, delta_orthogonal_, spherical_]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (4, 2, 3, 3), (40, 2, 3, 3), (1, 1)])
def test_haar_is_semi_orthogonal_for_every_rectangle(shape: tuple[int, ...]) -> None:
    w = haar_orthogonal_(torch.empty(shape, dtype=torch.float64), gain=3, generator=seeded()).flatten(1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    torch.testing.assert_close(gram, 9 * torch.eye(len(gram), dtype=torch.float64))
    assert torch.equal(w, 3 * haar_orthogonal(*w.shape, generator=seeded(), dtype=torch.float64))


@pytest.mark.parametrize("init", INITS)
def test_in_place_without_gradient_and_the_same_in_every_precision(init) -> None:
    conv = nn.Conv2d(4, 6, 3)
    assert init(conv.weight, generator=seeded()) is conv.weight
    assert conv.weight.requires_grad
    assert conv.weight.grad_fn is None
    wide = init(torch.empty(6, 4, 3, 3, dtype=torch.float64), generator=seeded())
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(init(torch.empty(6, 4, 3, 3, dtype=dtype), generator=seeded()), wide.to(dtype))
    assert not torch.equal(init(torch.empty(6, 4, 3, 3), generator=seeded(1)), conv.weight)
    torch.manual_seed(3)
    drawn = init(torch.empty(6, 4, 3, 3))
    torch.manual_seed(3)
    assert torch.equal(init(torch.empty(6, 4, 3, 3)), drawn)
    strided = torch.empty(3, 3, 4, 6).permute(3, 2, 0, 1)
    assert torch.equal(init(strided, generator=seeded()), conv.weight)


@pytest.mark.parametrize(
    ("convolution", "size"), [(nn.Conv1d, (9,)), (nn.Conv2d, (5, 6)), (nn.Conv3d, (3, 4, 5))], ids=["1d", "2d", "3d"]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_delta_orthogonal_convolutions_keep_norms_of_inputs_and_of_gradients(convolution, size, groups) -> None:
    conv = convolution(6, 6, 3, padding=1, groups=groups, bias=False, dtype=torch.float64)
    delta_orthogonal_(conv.weight, groups=groups)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    y = conv(x)
    torch.testing.assert_close(y.norm(), x.norm())
    error = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, error)
    torch.testing.assert_close(gradient.norm(), error.norm())


def test_delta_orthogonal_widens_isometrically_and_has_the_gain() -> None:
    wide = nn.Conv2d(3, 8, 5, padding=2, bias=False)
    delta_orthogonal_(wide.weight, gain=math.sqrt(8 / 3))
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(wide(x).square().mean(), x.square().mean())
    narrow = delta_orthogonal_(torch.empty(3, 8, 4))
    torch.testing.assert_close(narrow.flatten(1).norm(dim=1), torch.ones(3))
    assert narrow[:, :, [0, 1, 3]].abs().max() == 0


def test_haar_is_uniform() -> None:
    """An entry of a column of a Haar matrix: E w^2 = 1/n, E w^4 = 3/(n (n + 2)), over 1000 draws of (2, 3)."""
    n = 3
    g = seeded()
    entries = torch.stack([haar_orthogonal_(torch.empty(2, n, dtype=torch.float64), generator=g) for _ in range(1000)])
    for power, expected, second in ((2, 1 / n, 3 / (n * (n + 2))), (4, 3 / (n * (n + 2)), 105 / (n * 5 * 7 * 9))):
        error = math.sqrt((second - expected**2) / 1000)  # one entry a draw counted: the others depend on it
        assert abs(entries.pow(power).mean().item() - expected) < 4 * error
    assert abs(entries.mean().item()) < 4 * math.sqrt(1 / n / 1000)


def test_spherical_rows_are_independent() -> None:
    w = spherical_(torch.empty(2000, 4, dtype=torch.float64), gain=2, generator=seeded())
    torch.testing.assert_close(w.norm(dim=1), torch.full((2000,), 2.0, dtype=torch.float64))
    products = (w[::2] * w[1::2]).sum(1) / 4
    assert abs(products.square().mean().item() - 1 / 4) < 4 * math.sqrt(3 / 24 - 1 / 16) / math.sqrt(1000)


def test_refusals() -> None:
    for init in (haar_orthogonal_, spherical_):
        with pytest.raises(ValueError, match=r"expected a weight with at least two axes.*found shape \(3,\)"):
            init(torch.empty(3))
        with pytest.raises(ValueError, match=r"and entries, found shape \(0, 3\)"):
            init(torch.empty(0, 3))
    with pytest.raises(ValueError, match=r"expected a convolution's weight.*found shape \(3, 3\).*haar_orthogonal_"):
        delta_orthogonal_(torch.empty(3, 3))
    for init in (haar_orthogonal_, spherical_, delta_orthogonal_):
        with pytest.raises(ValueError, match=rf"{init.__name__}: expected .* floating point .* found torch.int64"):
            init(torch.zeros(3, 3, 3, dtype=torch.int64))
        with pytest.raises(TypeError, match=rf"{init.__name__}: expected a tensor to fill, found list"):
            init([1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups: expected a divisor of the 6 output channels, found 4"):
        delta_orthogonal_(torch.empty(6, 2, 3), groups=4)
