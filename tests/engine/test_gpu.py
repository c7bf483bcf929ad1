"""bsnn.engine.gpu and selfcheck: a wrong kernel is caught, and the next best way is taken, with one sentence.

Wrong kernels are made in two ways: copies of triton_kernels.py with one thing changed, in Triton's interpreter where
there is no GPU, and the plain-torch passes with one thing undone.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine import gpu, selfcheck
from bsnn.engine.functions import Family, Function, value_and_slope
from bsnn.engine.passes import ACTIVATIONS, LayerState, Optimiser, Passes, TorchPasses
from bsnn.errors import UserError
from tests.engine.cells import make_cell

pytest.importorskip("triton")
from bsnn.engine import triton_kernels, triton_passes
from bsnn.engine.triton_passes import TritonPasses

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CELL = make_cell("tanh", width=24, batch_size=26, dtype="float32")  # MNIST's last mini-batch: 18


@pytest.fixture(autouse=True)
def _quiet_numpy() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


# --- the check ---


def in_torch(function: Function) -> ACTIVATIONS:
    return lambda u: value_and_slope(function, u)


class Plain(TorchPasses):
    """TorchPasses made as the check makes passes."""

    def __init__(self, state: LayerState, functions: Sequence[Function], optimiser: Optimiser) -> None:
        super().__init__(state, [(slice(k, k + 1), in_torch(f)) for k, f in enumerate(functions)], optimiser)


class LastUnitForgotten(Plain):
    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        super().forward(layer, h, x_out)
        if layer >= 0:
            x_out[:, -1] = 0


class LastSampleForgotten(Plain):
    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        super().backward(layer, error, h, x_out)
        error[:, :, -1] = 0


class LastRowKept(Plain):
    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        before = self.state.V[layer, :, -1].clone()
        super().update(layer, product, norms)
        self.state.V[layer, :, -1] = before


class LengthsKept(Plain):
    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        before = self.state.r[layer].clone()
        super().update(layer, product, norms)
        self.state.r[layer] = before


class RadialPartAdded(Plain):
    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        self.state.radial[layer].neg_()
        super().update(layer, product, norms)


class NormOfOneIsNan(Plain):
    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        super().update(layer, product, norms)
        norms[-1] = float("nan")


class RunningStatisticsKept(Plain):
    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        before = self.state.running_var.clone()
        super().forward(layer, h, x_out)
        self.state.running_var.copy_(before)


class WrongInEvaluationOnly(Plain):
    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        super().evaluate(layer, h, x_out)
        x_out[:, 0].neg_()


WRONG = (LastUnitForgotten, LastSampleForgotten, LastRowKept, LengthsKept, RadialPartAdded, NormOfOneIsNan,
         RunningStatisticsKept, WrongInEvaluationOnly)  # fmt: skip


@pytest.mark.parametrize(("width", "batch"), [(24, 26), (100, 64), (20, 16)])
def test_right_passes_pass(width: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a factor of a thousand, so that no rounding on any device is taken for a fault."""
    monkeypatch.setattr(selfcheck, "TOLERANCES", {"ieee": 2e-6})
    cell = make_cell("tanh", width=width, batch_size=batch, dtype="float32")
    assert selfcheck.disagreement(cell, DEVICE, "ieee", Plain) is None


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_passes_are_caught(wrong: type[Plain]) -> None:
    found = selfcheck.disagreement(CELL, DEVICE, "tf32x3", wrong)
    assert found is not None
    assert "is off by" in found


def changed(folder: Path, old: str, new: str) -> ModuleType:
    """The kernels with every `old` in their source replaced."""
    source = Path(triton_kernels.__file__).read_text()
    assert old in source
    path = folder / "changed_kernels.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("changed_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MUTANTS = {
    "nothing": ("", ""),
    "a mask off by one": ("(units[:, None] < N) & (samples", "(units[:, None] < N - 1) & (samples"),
    "a sample too few": ("(samples[:, None] < B), other=0.0)", "(samples[:, None] < B - 1), other=0.0)"),
    "a wrong sign": ("gradient = product - along[:, None] * v", "gradient = product + along[:, None] * v"),
    "a part forgotten": ("for part in range(PARTS):", "for part in range(PARTS - 1):"),
    "nan in one place": ("tl.sqrt(tl.sum(parts, axis=0))", "tl.sqrt(-tl.sum(parts, axis=0))"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_kernels_broken_on_purpose_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = MUTANTS[name]
    if old:
        monkeypatch.setattr(triton_passes, "kernels", changed(tmp_path, old, new))
    monkeypatch.setattr(selfcheck, "REPLAYS", 0)
    monkeypatch.setattr(selfcheck, "WARM_UP", 1)  # steps; the interpreter takes its time
    found = selfcheck.disagreement(CELL, DEVICE, "ieee", TritonPasses)
    assert (found is None) == (name == "nothing"), found


# --- the choice ---

H100, RTX_4090, V100 = (9, 0), (8, 9), (7, 0)


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """Sets the compute capability of the GPU that the CPU is taken for."""
    monkeypatch.setattr(gpu, "_tried", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.delenv(gpu.VARIABLE, raising=False)
    return lambda capability: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def make(cell: Cell = CELL) -> Passes | None:
    """The passes of a stack of one, on the CPU."""
    part = torch.zeros(1, 1, 24, 24)
    state = LayerState(**dict.fromkeys(LayerState.__dataclass_fields__, part))
    return gpu.passes(cell, state, [Function(Family.TANH)], Optimiser(0.1, 0.5))


def test_ways_by_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpu.VARIABLE, raising=False)
    assert gpu.ways(CELL) == ("triton-ieee", "torch")
    tf32 = make_cell("tanh", dtype="tf32")
    assert gpu.ways(tf32) == ("triton-tf32", "torch")
    for first in range(3):
        monkeypatch.setenv(gpu.VARIABLE, gpu.FLOAT32[first])
        assert gpu.ways(CELL) == gpu.FLOAT32[first:]
    assert gpu.ways(tf32) == ("torch",)
    monkeypatch.setenv(gpu.VARIABLE, "cuda")
    with pytest.raises(UserError, match=r"BSNN_GPU_WAY: expected one of triton-tf32x3, .*, found 'cuda'"):
        gpu.ways(CELL)


def test_the_next_best_way_is_taken_with_one_sentence(
    gpu_of: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A way that is wrong, then one that can't be compiled, each tried once for a shape."""
    caplog.set_level("WARNING", "bsnn.engine.gpu")
    gpu_of(H100)
    monkeypatch.setenv(gpu.VARIABLE, "triton-tf32x3")
    asked: list[str] = []

    def disagreement(cell: object, device: torch.device, precision: str, make: object) -> str | None:
        asked.append(precision)
        if precision == "tf32x3":
            return "V of mnist-Tanh is off by 0.1"
        if broken:
            raise RuntimeError("PTX assembly aborted\nand more")
        return None

    monkeypatch.setattr(selfcheck, "disagreement", disagreement)
    broken = False
    for _ in range(2):
        passes = make()
        assert passes is not None
        assert passes.way == "triton-ieee"
    assert asked == ["tf32x3", "ieee"]
    assert caplog.messages == ["triton-tf32x3 is not used for width 24, batches of 26: V of mnist-Tanh is off by 0.1"]
    caplog.clear()
    monkeypatch.setattr(gpu, "_tried", {})
    broken = True
    assert make() is None
    assert caplog.messages[1].endswith("batches of 26: RuntimeError: PTX assembly aborted")


def test_what_the_kernels_are_not_for(
    gpu_of: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gpu_of(V100)
    assert make() is None
    gpu_of(RTX_4090)
    assert make(make_cell("tanh", dtype="float32", batch_size=2000)) is None
    monkeypatch.setattr(gpu, "_tried", {})
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert make() is None
    reasons = [message.split(": ", 1)[1] for message in caplog.messages]
    assert reasons == [
        "a card is older than the kernels expect, compute capability 8.0",
        "its kernels take batches of at most 1024",
        "the kernels are written for NVIDIA's GPUs, and this is one of AMD's",
    ]


def test_a_lost_device_and_no_memory(
    gpu_of: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(H100)

    def fail(error: Exception) -> Callable[..., None]:
        def failing(*arguments: object, **options: object) -> None:
            raise error

        return failing

    monkeypatch.setattr(selfcheck, "disagreement", fail(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):  # the caller's: a smaller stack may fit
        make()
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(selfcheck, "disagreement", fail(lost))
    monkeypatch.setattr(torch, "ones", fail(lost))
    with pytest.raises(UserError, match=r"The GPU stopped answering while triton-ieee .* with BSNN_GPU_WAY=torch"):
        make()
