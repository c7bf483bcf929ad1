"""Haar-uniform matrices: orthogonality, and moments of the uniform law that a careless construction gets wrong.

Statistics come from fixed seeds and must lie within 4 standard errors of the exact value.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bsnn.haar import haar_orthogonal

SAMPLES = 40_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard_errors_off(sample: Tensor, exact: float) -> float:
    sample = sample.double()
    return float((sample.mean() - exact).abs() / (sample.std() / math.sqrt(sample.numel())))


def trace(q: Tensor) -> Tensor:
    return q.diagonal(dim1=-2, dim2=-1).sum(-1)


def moments(q: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Name: (one value per matrix, its exact mean on O(n)), q (S, n, n), n >= 3."""
    n = q.shape[-1]
    # Traces: Diaconis & Shahshahani, "On the eigenvalues of random matrices" (1994): E (tr Q)^2k is that of a
    # standard normal variable for k <= n, and E tr Q^2 = 1.
    # Weingarten calculus: E Q_11^2 Q_22^2 = (n+1) / ((n-1) n (n+2)), E Q_11 Q_22 Q_12 Q_21 = -1 / ((n-1) n (n+2)).
    volume = (n - 1) * n * (n + 2)
    found = {
        "tr Q": (trace(q), 0.0),
        "(tr Q)^2": (trace(q) ** 2, 1.0),
        "tr Q^2": (trace(q @ q), 1.0),
        "tr Q^3": (trace(q @ q @ q), 0.0),
        "(tr Q)^4": (trace(q) ** 4, 3.0),
        "(tr Q)^6": (trace(q) ** 6, 15.0),
        "det Q": (torch.linalg.det(q), 0.0),
        "Q_12^2": (q[:, 0, 1] ** 2, 1 / n),
        "Q_11^4": (q[:, 0, 0] ** 4, 3 / (n * (n + 2))),
        "Q_nn^4": (q[:, -1, -1] ** 4, 3 / (n * (n + 2))),
        "Q_11^2 Q_12^2": (q[:, 0, 0] ** 2 * q[:, 0, 1] ** 2, 1 / (n * (n + 2))),
        "Q_11^2 Q_22^2": (q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (n + 1) / volume),
        "Q_11 Q_22 Q_12 Q_21": (q[:, 0, 0] * q[:, 1, 1] * q[:, 0, 1] * q[:, 1, 0], -1 / volume),
        # A coordinate of a uniform unit vector: E |u| = Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)).
        "|Q_1n|": (q[:, 0, -1].abs(), math.gamma(n / 2) / (math.sqrt(math.pi) * math.gamma((n + 1) / 2))),
    }
    return found | {f"Q_{i}{i}": (q[:, i, i], 0.0) for i in range(n)}


@pytest.fixture(scope="module", params=[3, 4, 8])
def square(request: pytest.FixtureRequest) -> Tensor:
    n = request.param
    return haar_orthogonal(SAMPLES, n, n, generator=seeded(n), dtype=torch.float64)


def test_moments_of_the_uniform_law(square: Tensor) -> None:
    off = {name: standard_errors_off(sample, exact) for name, (sample, exact) in moments(square).items()}
    assert max(off.values()) < 4, off


def test_moments_after_rotation_from_either_side(square: Tensor) -> None:
    """Invariance defines the law. A fixed U that is far from the identity, so that a preferred axis would show."""
    n = square.shape[-1]
    u = torch.linalg.qr(torch.randn(n, n, generator=seeded(7), dtype=torch.float64))[0]
    for rotated in (square @ u, u @ square, u @ square @ u.mT, square.mT):
        off = {name: standard_errors_off(sample, exact) for name, (sample, exact) in moments(rotated).items()}
        assert max(off.values()) < 4, off


def test_a_qr_without_sign_fix_fails_these_moments() -> None:
    """So the tests above can fail. LAPACK's reflections choose the signs of R, hence bias Q's diagonal."""
    gaussian = torch.randn(SAMPLES, 4, 4, generator=seeded(), dtype=torch.float64)
    careless, r = torch.linalg.qr(gaussian)
    off = {name: standard_errors_off(sample, exact) for name, (sample, exact) in moments(careless).items()}
    assert off["tr Q"] > 100
    assert off["(tr Q)^2"] > 4
    assert off["Q_00"] > 100
    # With R's diagonal made positive it passes: the failure is the signs', not the test's.
    careful = careless * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    assert max(standard_errors_off(sample, exact) for sample, exact in moments(careful).values()) < 4


def test_determinant_is_either_sign_with_probability_one_half(square: Tensor) -> None:
    det = torch.linalg.det(square)
    torch.testing.assert_close(det.abs(), torch.ones_like(det), rtol=0, atol=1e-12)
    assert standard_errors_off((det > 0).double(), 0.5) < 4


@pytest.mark.parametrize("n", [1, 2])
def test_the_two_smallest_groups(n: int) -> None:
    """O(1) is a fair coin; on O(2) the first column's angle is uniform (its first four Fourier coefficients vanish)."""
    q = haar_orthogonal(SAMPLES, n, n, generator=seeded(n), dtype=torch.float64)
    assert standard_errors_off((torch.linalg.det(q) > 0).double(), 0.5) < 4
    if n == 1:
        assert set(q.flatten().tolist()) == {-1.0, 1.0}
    else:
        angle = torch.atan2(q[:, 1, 0], q[:, 0, 0])
        for k in range(1, 5):
            assert standard_errors_off(torch.cos(k * angle), 0.0) < 4
            assert standard_errors_off(torch.sin(k * angle), 0.0) < 4


def test_distribution_of_the_largest_entry() -> None:
    """A statistic no moment above fixes, against an independent construction: the polar factor of a Gaussian matrix."""
    ours = haar_orthogonal(20_000, 4, 4, generator=seeded(1), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(torch.randn(20_000, 4, 4, generator=seeded(2), dtype=torch.float64))
    largest, reference = ours.abs().amax((-2, -1)), (u @ vh).abs().amax((-2, -1))
    standard_error = math.sqrt((float(largest.var()) + float(reference.var())) / 20_000)
    assert abs(float(largest.mean() - reference.mean())) < 4 * standard_error


@pytest.mark.parametrize(("n", "m"), [(3, 5), (5, 3), (1, 4), (4, 1)])
def test_rectangles_are_orthonormal_and_uniform(n: int, m: int) -> None:
    q = haar_orthogonal(SAMPLES, n, m, generator=seeded(n), dtype=torch.float64)
    gram = q @ q.mT if n <= m else q.mT @ q
    torch.testing.assert_close(gram, torch.eye(min(n, m), dtype=torch.float64).expand_as(gram), rtol=0, atol=1e-13)
    longer = max(n, m)  # every entry is a coordinate of a uniform unit vector of this dimension
    for i in range(n):
        for j in range(m):
            assert standard_errors_off(q[:, i, j], 0.0) < 4
            assert standard_errors_off(q[:, i, j] ** 2, 1 / longer) < 4
            assert standard_errors_off(q[:, i, j] ** 4, 3 / (longer * (longer + 2))) < 4


def test_matrices_of_a_batch_are_independent() -> None:
    q = haar_orthogonal(SAMPLES, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    one, other = q[:, 0], q[:, 1]
    assert standard_errors_off((one * other).sum((-2, -1)), 0.0) < 4
    assert standard_errors_off(trace(one) * trace(other), 0.0) < 4
    # Given independence and invariance, Q_1^T Q_2 is again uniform.
    off = {name: standard_errors_off(sample, exact) for name, (sample, exact) in moments(one.mT @ other).items()}
    assert max(off.values()) < 4, off


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_orthogonal_to_rounding_at_the_papers_largest_width(dtype: torch.dtype, bound: float) -> None:
    q = haar_orthogonal(1500, 1500, generator=seeded(), dtype=dtype)
    assert q.dtype == dtype
    assert float((q @ q.mT - torch.eye(1500, dtype=dtype)).abs().max()) < bound


def test_is_what_qr_with_a_positive_diagonal_gives() -> None:
    """Path by path: Q times any upper triangle with positive diagonal factors back into Q."""
    q = haar_orthogonal(5, 6, 6, generator=seeded(), dtype=torch.float64)
    triangle = torch.randn(5, 6, 6, generator=seeded(1), dtype=torch.float64).triu(1) + 2 * torch.eye(6)
    back, r = torch.linalg.qr(q @ triangle)
    signs = r.diagonal(dim1=-2, dim2=-1).sign()
    torch.testing.assert_close(back * signs.unsqueeze(-2), q, rtol=0, atol=1e-12)


def test_first_column_is_the_normalised_gaussian_draw() -> None:
    """The reflections are built from the drawn columns themselves: the first one maps to Q's first column."""
    x = torch.randn(7, 7, generator=seeded(), dtype=torch.float64)
    q = haar_orthogonal(7, 7, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(q[:, 0], x[:, 0] / x[:, 0].norm(), rtol=0, atol=1e-14)


def test_an_exact_zero_draw_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.tensor([1.0, 1.0, 1.0, 0.0]).diag()  # a last column of one entry, and that entry 0
    monkeypatch.setattr(torch, "randn", lambda *_, **__: draw.clone())
    q = haar_orthogonal(4, 4, dtype=torch.float32)
    torch.testing.assert_close(q @ q.mT, torch.eye(4))


def test_generator_decides_everything() -> None:
    before = torch.random.get_rng_state()
    one, same = (haar_orthogonal(3, 20, 30, generator=seeded(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, haar_orthogonal(3, 20, 30, generator=seeded(6)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_generator_torchs_global_seed_decides() -> None:
    draws = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(3)
            draws.append(haar_orthogonal(6, 6))
    assert torch.equal(*draws)


def test_defaults_are_torchs() -> None:
    q = haar_orthogonal(2, 3, 4)
    assert (q.shape, q.dtype, q.device) == ((2, 3, 4), torch.get_default_dtype(), torch.get_default_device())
    assert not q.requires_grad
    assert q.is_contiguous()
    assert haar_orthogonal(0, 3, 3).shape == (0, 3, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_matrices_on_a_gpu() -> None:
    on_cpu = haar_orthogonal(2, 50, 50, generator=seeded(), dtype=torch.float64)
    on_gpu = haar_orthogonal(2, 50, 50, generator=seeded(), dtype=torch.float64, device="cuda")
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0), (-1, 3, 3)])
def test_shape_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a shape \(\.\.\., n, m\) with n, m >= 1"):
        haar_orthogonal(*shape)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.float16, torch.complex64])
def test_dtype_errors(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected dtype torch.float32 or torch.float64, found {dtype}"):
        haar_orthogonal(3, 3, dtype=dtype)
