"""The layers of a stack as compiled C++: kernels.cpp, built once for this machine and called through ctypes.

Compiling for the very CPU (AVX-512, say) and doing everything with a block of numbers while it is in the first cache is
what makes it fast; torch's own operations would send every tensor through the caches several times, and Python would
stand between any two of them. Where there is no C++ compiler the engine runs in plain torch, slower, and says so once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bsnn.engine.functions import Function
from bsnn.engine.passes import EPS, RUNNING, LayerState, Optimiser

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fPIC")


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("networks", "batch", "width", "first_bn")]


class _FunctionRow(ctypes.Structure):
    _fields_ = [("family", ctypes.c_int64), *((name, ctypes.c_double) for name in ("p", "q", "a", "b"))]


LAYERS = ("V", "V_velocity", "r", "gamma", "beta", "gamma_velocity", "beta_velocity", "mean", "rstd", "running_mean",
          "running_var", "radial")  # fmt: skip


class _Layers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in LAYERS]


class _Numbers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("learning_rate", "momentum", "eps", "running")]


P, INT = ctypes.c_void_p, ctypes.c_int64
SIGNATURES = {
    "forward": [P, P, P, P, INT, P, P],
    "evaluate": [P, P, P, P, INT, P, P],
    "backward": [P, P, P, P, INT, P, P, P],
    "update": [P, P, P, INT, P, P],
    "forward_layers": [P, P, P, P, INT, P, INT, P, P, INT],
    "backward_layers": [P, P, P, P, INT, P, INT, P, P, P, P, P],
}
ROWS = 6  # of a product that kernels.cpp computes at a time


class CompiledPasses:
    """bsnn.engine.passes.FusedPasses on a CPU, float32 or float64, for the functions of bsnn.engine.functions.

    The layers' products are computed by the kernels too, and what follows each of them while its numbers are in the
    first cache; a step then has no Python between its layers, and threads don't wait for each other's. Batches that are
    no whole number of 64-byte vectors are multiplied by torch.
    """

    def __init__(self, state: LayerState, functions: Sequence[Function], optimiser: Optimiser) -> None:
        library = kernels()
        if library is None:
            raise RuntimeError("expected a C++ compiler, found none; use TorchPasses")
        self.state = state
        self.depth, self.networks, _, self.width = state.V.shape
        self._vector = 64 // state.V.element_size()
        suffix = {torch.float32: "f32", torch.float64: "f64"}[state.V.dtype]
        self._call = {name: getattr(library, f"{name}_{suffix}") for name in SIGNATURES}
        # what the kernels are given addresses of is kept here
        self._functions = (_FunctionRow * len(functions))(
            *(_FunctionRow(int(f.family), f.p, f.q, f.a, f.b) for f in functions)
        )
        self._layers = _Layers(*(getattr(state, name).data_ptr() for name in LAYERS))
        self._numbers = _Numbers(optimiser.learning_rate, optimiser.momentum, EPS, RUNNING)
        self._shapes: dict[int, _Shape] = {}
        self._scratch = state.V.new_empty(0)

    def _arguments(self, batch: int) -> tuple[int, int, int, int]:
        """Addresses of what describes the stack."""
        if batch not in self._shapes:
            self._shapes[batch] = _Shape(self.networks, batch, self.width, self.state.first_bn)
        parts = (self._shapes[batch], self._functions, self._layers, self._numbers)
        return tuple(map(ctypes.addressof, parts))  # type: ignore[return-value]

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        self._call["forward"](*self._arguments(h.shape[2]), layer, h.data_ptr(), x_out.data_ptr())

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        self._call["evaluate"](*self._arguments(h.shape[2]), layer, h.data_ptr(), x_out.data_ptr())

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        addresses = (error.data_ptr(), h.data_ptr(), x_out.data_ptr())
        self._call["backward"](*self._arguments(h.shape[2]), layer, *addresses)

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        shape, _, layers, numbers = self._arguments(1)
        self._call["update"](shape, layers, numbers, layer, product.data_ptr(), norms.data_ptr())

    def forward_layers(self, h: Sequence[Tensor], x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[2] % self._vector:
            for layer in range(self.depth):
                torch.bmm(self.state.V[layer], x, out=h[layer + 1])
                self.forward(layer, h[layer + 1], x)
            return x, spare
        start, stride = _layout(h)
        addresses = (start, stride, x.data_ptr(), spare.data_ptr())
        self._call["forward_layers"](*self._arguments(x.shape[2]), self.depth, *addresses, 1)
        return (spare, x) if self.depth % 2 else (x, spare)

    def evaluate_layers(self, x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[2] % self._vector:
            for layer in range(self.depth):
                torch.bmm(self.state.V[layer], x, out=spare)
                self.evaluate(layer, spare, x)
            return x, spare
        addresses = (0, 0, x.data_ptr(), spare.data_ptr())
        self._call["forward_layers"](*self._arguments(x.shape[2]), self.depth, *addresses, 0)
        return (spare, x) if self.depth % 2 else (x, spare)

    def backward_layers(self, h: Sequence[Tensor], error: Tensor, spare: Tensor, x: Tensor, norms_LK: Tensor) -> Tensor:
        batch = x.shape[2]
        if batch % self._vector:
            product = torch.empty_like(self.state.V[0])
            for layer in reversed(range(self.depth)):
                torch.bmm(self.state.V[layer].mT, error, out=spare)
                self.backward(layer - 1, spare, h[layer], x)
                torch.bmm(error, x.mT, out=product)
                self.update(layer, product, norms_LK[layer])
                error, spare = spare, error
            return error
        panel = 4 * self._vector
        size = (-(-self.width // panel) * panel + self._vector) * batch + ROWS * panel
        if self._scratch.numel() < size:
            self._scratch = self.state.V.new_empty(size)
        assert norms_LK.is_contiguous()
        tensors = (error, spare, x, self._scratch, norms_LK)
        addresses = (*_layout(h), *(tensor.data_ptr() for tensor in tensors))
        self._call["backward_layers"](*self._arguments(batch), self.depth, *addresses)
        return spare if self.depth % 2 else error


def _layout(h: Sequence[Tensor]) -> tuple[int, int]:
    """Address of the first of equally spaced tensors, and the numbers between two of them."""
    stride = (h[1].data_ptr() - h[0].data_ptr()) // h[0].element_size() if len(h) > 1 else 0
    return h[0].data_ptr(), stride


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled library, from the cache or built now; None where that can't be done, with a line in the log."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        log.warning("no C++ compiler found (g++, clang++ or CXX): the engine runs in plain torch, more slowly")
        return None
    key = hashlib.sha256("\n".join([SOURCE.read_text(), compiler, *FLAGS, _cpu()]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = cache / "bsnn" / "kernels" / f"{key}.so"
    if not path.exists():
        try:
            _build(compiler, path)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            log.warning(
                "%s can't build the engine's kernels: it runs in plain torch, more slowly (%s)",
                compiler,
                detail.strip(),
            )
            return None
    library = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        for suffix in ("f32", "f64"):
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = arguments, None
    return library


def _build(compiler: str, path: Path) -> None:
    log.info("building the engine's kernels for this CPU, once")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run([compiler, *FLAGS, "-shared", "-o", built, SOURCE], check=True, capture_output=True, text=True)
        built.replace(path)  # atomic: two processes may build at once


def _cpu() -> str:
    """What -march=native depends on: a cache on a shared disk serves several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
