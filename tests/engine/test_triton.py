"""bsnn.engine.triton_passes against the definition in float64: every kernel, whole steps, members kept apart.

Where there is no GPU Triton's interpreter runs the kernels (see conftest.py), hence the small shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine.functions import Family, Function, function_of, value_and_slope
from bsnn.engine.passes import ACTIVATIONS, BOTTOM, LayerState, Optimiser, TorchPasses
from bsnn.engine.stack import Stack, in_order

pytest.importorskip("triton")
from bsnn.engine.triton_passes import MOST_SAMPLES, Fusion, Tile, TritonPasses
from tests.engine.cells import make_cell

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SGD = Optimiser(learning_rate=0.05, momentum=0.5)
# all families, with and without a and b; the last two have batch norm
FUNCTIONS = [
    Function(Family.TANH, a=1.59, b=0.1),
    Function(Family.ELU, 1.673, 1.051),
    Function(Family.SWISH, 1.702, a=1.3, b=-0.2),
    Function(Family.LEAKY_RELU, 0.01, a=1.4, b=-0.03),
    Function(Family.TANH),
]
K, KB, L, N = len(FUNCTIONS), 2, 2, 40
TILES = {
    "forward": Tile(32),
    "evaluate": Tile(32),
    "backward": Tile(16),
    "update": Tile(32, 16),
    "layer_forward": Tile(32, 32),
    "layer_error": Tile(32, 32),
}
FUSIONS = [Fusion("layer", "layer"), Fusion("pass", "pass")]


@pytest.fixture(autouse=True)
def _quiet_numpy() -> Iterator[None]:
    """The interpreter computes with numpy, which would warn of an overflow where a GPU gives inf."""
    with np.errstate(all="ignore"):
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    """float64 that is representable in float32."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.double().to(DEVICE)


def state() -> LayerState:
    names = ("gamma", "beta", "gamma_velocity", "beta_velocity", "running_mean", "running_var", "mean", "rstd")
    bn = {name: normal(L, KB, N, seed=seed) for seed, name in enumerate(names)}
    bn["running_var"] = bn["running_var"].square() + 0.5
    bn["rstd"] = bn["rstd"].square() + 0.5
    V = normal(L, K, N, N, seed=20) / 4
    return LayerState(
        V=V.float().double(),
        V_velocity=normal(L, K, N, N, seed=21),
        r=(1 / V.norm(dim=-1)).float().double(),
        radial=normal(L, K, N, seed=22),
        **bn,
    )


def cast(value: LayerState, dtype: torch.dtype) -> LayerState:
    return LayerState(**{name: part.to(dtype, copy=True) for name, part in vars(value).items()})


def in_torch(function: Function) -> ACTIVATIONS:
    return lambda u: value_and_slope(function, u)


def pair(
    given: LayerState, fusion: Fusion | None = None, optimiser: Optimiser = SGD
) -> tuple[TritonPasses, TorchPasses]:
    """The same passes in Triton and float32, and in plain torch and float64."""
    activations = [(slice(k, k + 1), in_torch(function)) for k, function in enumerate(FUNCTIONS)]
    passes = TritonPasses(cast(given, torch.float32), FUNCTIONS, optimiser, fusion=fusion, tiles=TILES)
    return passes, TorchPasses(cast(given, torch.float64), activations, optimiser)


def close(actual: Tensor, expected: Tensor, what: str, tolerance: float = 2e-6) -> None:
    """Every member to some float32 roundings of its largest number; the first axis that has K or KB entries is k."""
    axis = next((i for i, extent in enumerate(expected.shape) if extent in (K, KB)), 0)
    others = [i for i in range(expected.dim()) if i != axis]
    error = (actual.double() - expected).abs().amax(others) / expected.abs().amax(others).clamp(min=1e-300)
    assert torch.all(error <= tolerance), f"{what}: {error.tolist()}"


def all_close(actual: LayerState, expected: LayerState, tolerance: float = 2e-6) -> None:
    for name, part in vars(expected).items():
        if name == "radial":  # with batch norm it is rounding around 0: no y has a part along h
            torch.testing.assert_close(actual.radial.double(), part, rtol=0, atol=tolerance * float(part.abs().max()))
        else:
            close(getattr(actual, name), part, name, tolerance)


def run_both(
    passes: TritonPasses, exact: TorchPasses, call: Callable[[TritonPasses | TorchPasses, list[Tensor]], None],
    *tensors: Tensor,
) -> None:  # fmt: skip
    """`call` with both, on copies of `tensors`, which must come out close, like the states."""
    single, double = [t.float() for t in tensors], [t.double().clone() for t in tensors]
    call(passes, single)
    call(exact, double)
    for i, (actual, expected) in enumerate(zip(single, double, strict=True)):
        close(actual, expected, f"tensor {i}")
    all_close(passes.state, exact.state)


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


# --- in a stack ---

CELL = make_cell("tanh-gpn", seed=3, depth=3, width=20, batch_size=8, learning_rate=0.05, dtype="float32")
RELU = {"_target_": "torch.nn.ReLU"}


def cells(dtype: str = "float32", depth: int = 3, width: int = 20) -> list[Cell]:
    base = replace(CELL, dtype=dtype, depth=depth, width=width)
    relu = replace(base, activation="relu", activation_module=RELU, gpn=False)
    return sorted([base, replace(base, batch_norm=True), relu, replace(relu, batch_norm=True, seed=5)], key=in_order)


def injected(members: list[Cell], device: torch.device, **options: object) -> Stack:
    """A stack whose passes are Triton's, on whatever device."""
    stack = Stack(members, device, compiled=False)
    functions = [f for f in (function_of(cell.make_activation()) for cell in members) if f is not None]
    stack.passes = TritonPasses(stack.layers, functions, stack.optimiser, **options)  # type: ignore[arg-type]
    return stack


def batches(members: int, steps: int, batch: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    sizes = [batch] * (steps - 1) + [batch // 2 + 1]  # the last one short
    return [
        (torch.randn(members, size, 784, generator=g), torch.randint(10, (members, size), generator=g))
        for size in sizes
    ]


def train_both(single: Stack, double: Stack, steps: int, batch: int, tolerance: float) -> None:
    K, L = len(single.cells), single.depth
    for x, y in batches(K, steps, batch):
        norms = torch.zeros(L, K, dtype=torch.float64, device=single.device)
        expected_norms = torch.zeros(L, K, dtype=torch.float64)
        loss, correct = single.step(x.to(single.device), y.to(single.device), norms)
        expected, expected_correct = double.step(x.double(), y, expected_norms)
        torch.testing.assert_close(loss.cpu().double(), expected, rtol=tolerance, atol=0)
        torch.testing.assert_close(norms.cpu(), expected_norms, rtol=10 * tolerance, atol=0)
        assert torch.equal(correct.cpu(), expected_correct)


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: f"{fusion.forward}-{fusion.backward}")
def test_steps_of_a_stack(fusion: Fusion) -> None:
    """Tiles as they are chosen where nobody says otherwise."""
    single = injected(cells(), DEVICE, fusion=fusion)
    double = Stack(cells("float64"), torch.device("cpu"), compiled=False)
    train_both(single, double, 3, 8, 1e-5)
    for k in range(len(single.cells)):
        expected = double.member(k)
        for name, part in single.member(k).items():
            torch.testing.assert_close(part.double(), expected[name], rtol=2e-4, atol=2e-5, msg=name)
    x = torch.randn(33, 784, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        single.logits(x.to(DEVICE)).cpu().double(), double.logits(x.double()), rtol=1e-4, atol=1e-4
    )


def test_a_stack_without_batch_norm() -> None:
    """Whose tensors for batch norm are empty."""
    members = [cell for cell in cells() if not cell.batch_norm]
    double = Stack([replace(cell, dtype="float64") for cell in members], torch.device("cpu"), compiled=False)
    train_both(injected(members, DEVICE), double, 2, 8, 1e-5)


def test_a_member_computes_the_same_bits_alone_and_with_others() -> None:
    """With and without batch norm among the neighbours: on a GPU whatever the size of the stack."""
    members = cells(depth=1)[::3]
    assert [cell.batch_norm for cell in members] == [False, True]
    together, alone = injected(members, DEVICE), [injected([cell], DEVICE) for cell in members]
    x, y = (part.to(DEVICE) for part in batches(2, 2, 8)[0])
    norms = torch.zeros(1, 2, dtype=torch.float64, device=DEVICE)
    loss, _ = together.step(x, y, norms)
    for k, stack in enumerate(alone):
        norm = torch.zeros(1, 1, dtype=torch.float64, device=DEVICE)
        assert torch.equal(stack.step(x[k : k + 1], y[k : k + 1], norm)[0], loss[k : k + 1])
        assert torch.equal(norm[:, 0], norms[:, k])
    x = batches(1, 2, 16)[0][0][0].to(DEVICE)
    for k, stack in enumerate(alone):
        assert torch.equal(stack.logits(x)[0], together.logits(x)[k])
        for name, part in stack.member(0).items():
            assert torch.equal(part, together.member(k)[name]), name


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "bf16x6"])
def test_steps_of_deep_networks_on_a_gpu(precision: str) -> None:
    """20 steps at 200 x 100 against the CPU's engine in float64: the two stay together where training is stable."""
    gpn = [cell for cell in cells(depth=200, width=100) if cell.gpn and not cell.batch_norm]
    double = Stack([replace(cell, dtype="float64") for cell in gpn], torch.device("cpu"))
    train_both(injected(gpn, DEVICE, precision=precision), double, 20, 64, 1e-3)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_a_gpu_gives_the_same_bits_twice_and_whatever_the_neighbours_are() -> None:
    members = cells(depth=20, width=100)
    stacks = [injected(members, DEVICE) for _ in range(3)]
    stacks[2].layers.V[:, 1] = float("nan")
    for x, y in batches(len(members), 5, 64):
        for stack in stacks:
            norms = torch.zeros(20, len(members), dtype=torch.float64, device=DEVICE)
            stack.step(x.to(DEVICE), y.to(DEVICE), norms)
    first, again, sick = (copy.copy(stack) for stack in stacks)
    for k in range(len(members)):
        for name, part in first.member(k).items():
            assert torch.equal(part, again.member(k)[name]), name
            assert k == 1 or torch.equal(part, sick.member(k)[name]), name
