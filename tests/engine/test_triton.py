"""bsnn.engine.triton_passes against the definition in float64: every kernel, whole steps, members kept apart.

Where there is no GPU Triton's interpreter runs the kernels (see conftest.py), hence the small shapes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bsnn.engine.functions import Family, Function, value_and_slope
from bsnn.engine.passes import BOTTOM, Optimiser, TorchPasses

pytest.importorskip("triton")
from bsnn.engine.triton_passes import MOST_SAMPLES, Fusion, TritonPasses
from tests.engine.triton_cases import (
    DEVICE,
    FUNCTIONS,
    FUSIONS,
    SGD,
    TILES,
    K,
    L,
    N,
    _quiet_numpy,  # noqa: F401 (in every test)
    all_close,
    cast,
    close,
    normal,
    pair,
    run_both,
    state,
)

# --- the passes ---


def test_functions_keep_their_digits_where_they_are_small() -> None:
    """f to 1e-6 of itself, element by element, from 1e-30 on, and f' to rounding of 1."""
    size = torch.logspace(-30, 1.9, 320, dtype=torch.float64).float()
    u = torch.stack([size, -size]).reshape(1, N, 16).to(DEVICE)
    plain = [Function(Family.TANH), Function(Family.ELU, 1.673, 1.051), Function(Family.SWISH, 1.0)]
    plain += [Function(Family.LEAKY_RELU, slope) for slope in (0.0, 0.01)]
    passes = TritonPasses(cast(state(), torch.float32), plain, SGD, tiles=TILES)
    x = u.expand(K, -1, -1).contiguous()
    passes.evaluate(BOTTOM, x, x)
    error = torch.ones_like(x)
    passes.backward(BOTTOM, error, u.expand(K, -1, -1).contiguous(), torch.empty_like(x))
    for k, function in enumerate(plain):
        value, slope = value_and_slope(function, u[0].double())
        # e^x of a large -x is a subnormal number, or 0
        torch.testing.assert_close(x[k].double(), value, rtol=1e-6, atol=1e-36)
        torch.testing.assert_close(error[k].double(), slope, rtol=2e-6, atol=3e-7)  # 1 - f^2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_functions_of_what_is_not_finite(value: float) -> None:
    passes, exact = pair(state())
    x = torch.full((K, N, 1), value, device=DEVICE)
    expected = x.double()
    passes.forward(BOTTOM, x.clone(), x)
    exact.forward(BOTTOM, expected.clone(), expected)
    if value > 0 or value != value:
        torch.testing.assert_close(x.double(), expected, equal_nan=True, rtol=1e-6, atol=0)
    else:  # x sigmoid(x) at -inf is -inf * 0 in torch
        swish = [function.family == Family.SWISH for function in FUNCTIONS]
        keep = [k for k in range(K) if not swish[k]]
        torch.testing.assert_close(x[keep].double(), expected[keep], rtol=1e-6, atol=0)


@pytest.mark.parametrize("batch", [8, 13])
@pytest.mark.parametrize("layer", [BOTTOM, 1])
def test_forward(batch: int, layer: int) -> None:
    passes, exact = pair(state())
    h = normal(K, N, batch, seed=30)
    run_both(passes, exact, lambda p, t: p.forward(layer, *t), h, torch.zeros_like(h))


def test_forward_of_one_sample() -> None:
    """A last batch may hold one: the running variance then gets 0, as torch's unbiased one has no meaning."""
    passes, exact = pair(state())
    h = normal(K, N, 1, seed=30)
    run_both(passes, exact, lambda p, t: p.forward(0, *t), h, torch.zeros_like(h))


@pytest.mark.parametrize("layer", [BOTTOM, 1])
def test_evaluate(layer: int) -> None:
    passes, exact = pair(state())
    h = normal(K, N, 45, seed=30)
    run_both(passes, exact, lambda p, t: p.evaluate(layer, t[0], t[0]), h)
    x, expected = h.float(), h.clone()
    passes.evaluate(layer, h.float(), x)
    exact.evaluate(layer, h.clone(), expected)
    close(x, expected, "not in place")


@pytest.mark.parametrize("batch", [8, 13])
@pytest.mark.parametrize("layer", [BOTTOM, 1])
def test_backward(batch: int, layer: int) -> None:
    passes, exact = pair(state())
    error, h = normal(K, N, batch, seed=31), normal(K, N, batch, seed=30)
    run_both(passes, exact, lambda p, t: p.backward(layer, *t), error, h, torch.zeros_like(h))


def test_update() -> None:
    passes, exact = pair(state())
    product, norms = normal(K, N, N, seed=32), torch.zeros(2, K, dtype=torch.float64, device=DEVICE)
    passes.update(L - 1, product.float(), norms[0])
    exact.update(L - 1, product.clone(), norms[1])
    close(norms[0], norms[1], "norms", 1e-6)
    all_close(passes.state, exact.state)


def test_product_update() -> None:
    passes, exact = pair(state())
    error, x = normal(K, N, 13, seed=31), normal(K, N, 13, seed=33)
    norms = torch.zeros(2, L, K, dtype=torch.float64, device=DEVICE)
    for layer in range(L):
        passes.product_update(layer, error.float(), x.float())
        exact.update(layer, error @ x.mT, norms[1, layer])
    passes.finish(norms[0], slice(None))
    close(norms[0], norms[1], "norms", 1e-6)
    all_close(passes.state, exact.state)


@pytest.mark.parametrize("scale", [1e-42, 1e-31, 1e-19, 1e19, 1e30])
def test_norms_neither_underflow_nor_overflow(scale: float) -> None:
    """The smallest are subnormal numbers, whose squares are 0 in float32 by far."""
    given = state()
    for name in ("V_velocity", "radial"):
        getattr(given, name).zero_()
    product = (normal(K, N, 8, seed=31) * scale).float()
    x = torch.zeros(K, N, 8, device=DEVICE)
    x[:, torch.arange(8), torch.arange(8)] = 1  # the gradient is the error itself
    expected = torch.linalg.vector_norm(product.double(), dim=(1, 2))
    norms = torch.zeros(L, K, dtype=torch.float64, device=DEVICE)
    passes, _ = pair(given, optimiser=Optimiser(0.0, 0.5))
    passes.product_update(L - 1, product, x)
    passes.finish(norms[L - 1 :], slice(L - 1, L))
    torch.testing.assert_close(norms[L - 1], expected, rtol=1e-6, atol=0)
    full = torch.zeros(K, N, N, device=DEVICE)
    full[:, :, :8] = product
    passes.update(0, full, norms[0])
    torch.testing.assert_close(norms[0], expected, rtol=1e-6, atol=0)


# --- through all layers ---


def through(passes: TorchPasses | TritonPasses, h: list[Tensor], error: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and back, as a stack does it: the top's input, and y of the bottom."""
    V, x, below = passes.state.V, torch.empty_like(error), torch.empty_like(error)
    passes.forward(BOTTOM, h[0], x)
    if isinstance(passes, TritonPasses):
        x, below = passes.forward_layers(h, x, below)
        top = x.clone()
        passes.backward(L - 1, error, h[L], x)
        return top, passes.backward_layers(h, error, below, x, norms)
    for layer in range(L):
        torch.bmm(V[layer], x, out=h[layer + 1])
        passes.forward(layer, h[layer + 1], x)
    top = x.clone()
    passes.backward(L - 1, error, h[L], x)
    for layer in reversed(range(L)):
        torch.bmm(V[layer].mT, error, out=below)
        passes.backward(layer - 1, below, h[layer], x)
        passes.update(layer, error @ x.mT, norms[layer])
        error, below = below, error
    return top, error


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: f"{fusion.forward}-{fusion.backward}")
def test_layers_forward_and_back(fusion: Fusion) -> None:
    """Twice, with another number of samples each time: what a step leaves is what the next one needs."""
    passes, exact = pair(state(), fusion)
    for batch in (13, 4):
        h = [normal(K, N, batch, seed=40 + layer) for layer in range(L + 1)]
        error = normal(K, N, batch, seed=50)
        norms = torch.zeros(2, L, K, dtype=torch.float64, device=DEVICE)
        single = [part.float() for part in h]
        actual = through(passes, single, error.float(), norms[0])
        expected = through(exact, h, error.clone(), norms[1])
        # sums of 40 products, some layers of them
        for name, a, b in zip(("x", "y"), actual, expected, strict=True):
            close(a, b, name, 2e-5)
        for layer in range(L + 1):
            close(single[layer], h[layer], f"h {layer}", 2e-5)
        close(norms[0], norms[1], "norms", 2e-5)
        all_close(passes.state, exact.state, 2e-5)


@pytest.mark.parametrize(("fusion", "sick"), [(FUSIONS[0], 1), (FUSIONS[0], K - 1), (FUSIONS[1], 2)])
def test_a_member_that_is_nan_changes_no_bit_of_the_others(fusion: Fusion, sick: int) -> None:
    h = [normal(K, N, 8, seed=40 + layer).float() for layer in range(L + 1)]
    error = normal(K, N, 8, seed=50).float()
    results = []
    for poison in (False, True):
        passes, _ = pair(state(), fusion)
        hs, e = [part.clone() for part in h], error.clone()
        norms = torch.zeros(L, K, dtype=torch.float64, device=DEVICE)
        if poison:
            hs[0][sick], e[sick] = float("nan"), float("inf")
            passes.state.V[:, sick] = float("nan")
        results.append((*through(passes, hs, e, norms), norms.T.contiguous(), passes.state))
    others = [k for k in range(K) if k != sick]
    for healthy, poisoned in zip(results[0][:3], results[1][:3], strict=True):
        assert torch.equal(healthy[others], poisoned[others])
        assert not poisoned[sick].isfinite().all()
    for name, part in vars(results[0][3]).items():
        ks = [k - (K - part.shape[1]) for k in others if k >= K - part.shape[1]]
        assert torch.equal(part[:, ks], getattr(results[1][3], name)[:, ks]), name


def test_large_batches_take_plain_products() -> None:
    """More samples than a fused kernel takes: the same numbers by the other way."""
    passes, exact = pair(state())
    h = [normal(K, N, 130, seed=40 + layer) for layer in range(L + 1)]
    error, norms = normal(K, N, 130, seed=50), torch.zeros(2, L, K, dtype=torch.float64, device=DEVICE)
    actual = through(passes, [part.float() for part in h], error.float(), norms[0])
    expected = through(exact, h, error.clone(), norms[1])
    close(actual[1], expected[1], "y", 2e-5)
    close(norms[0], norms[1], "norms", 2e-5)


def test_what_it_does_not_take() -> None:
    given = state()
    with pytest.raises(ValueError, match="expected weights in float32"):
        TritonPasses(given, FUNCTIONS, SGD)
    with pytest.raises(ValueError, match=r"precision: expected one of ieee, .*, found 'half'"):
        TritonPasses(cast(given, torch.float32), FUNCTIONS, SGD, precision="half")
    passes, _ = pair(given)
    h = torch.zeros(K, N, MOST_SAMPLES + 1, device=DEVICE)
    with pytest.raises(ValueError, match="expected at most 1024 samples in a batch, found 1025"):
        passes.forward(0, h, h.clone())
