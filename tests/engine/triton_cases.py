"""Small states for the Triton kernels, and comparisons of their passes with the definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from bsnn.engine.functions import Family, Function, value_and_slope
from bsnn.engine.passes import ACTIVATIONS, LayerState, Optimiser, TorchPasses

pytest.importorskip("triton")
from bsnn.engine.triton_passes import Fusion, Tile, TritonPasses

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
