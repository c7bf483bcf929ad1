"""The passes as compiled C++: kernels.cpp, built once for this machine and called through ctypes.

Compiling for the very CPU (AVX-512, say) and fusing each pass into one loop is what makes the element-wise part cheap;
torch's own operations would send every tensor through the cache several times. Where there is no C++ compiler the
engine runs in plain torch, slower, and says so once.
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
from bsnn.engine.passes import BOTTOM, EPS, RUNNING, LayerState, Optimiser

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fPIC")


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("networks", "batch", "width", "first_bn")]


class _FunctionRow(ctypes.Structure):
    _fields_ = [("family", ctypes.c_int64), *((name, ctypes.c_double) for name in ("p", "q", "a", "b"))]


P, D = ctypes.c_void_p, ctypes.c_double
SIGNATURES = {
    "forward": [P] * 10 + [D, D, P],
    "evaluate": [P] * 8 + [D, P],
    "backward": [P] * 11 + [D, D, P, P],
    "update": [P] * 6 + [D, D, P],
}


class CompiledPasses:
    """bsnn.engine.passes.Passes on a CPU, float32 or float64, for the functions of bsnn.engine.functions."""

    def __init__(self, state: LayerState, functions: Sequence[Function], optimiser: Optimiser) -> None:
        library = kernels()
        if library is None:
            raise RuntimeError("expected a C++ compiler, found none; use TorchPasses")
        suffix = {torch.float32: "f32", torch.float64: "f64"}[state.V.dtype]
        self._forward, self._evaluate, self._backward, self._update = (
            getattr(library, f"{name}_{suffix}") for name in SIGNATURES
        )
        self.state, self.optimiser = state, optimiser
        self._functions = (_FunctionRow * len(functions))(
            *(_FunctionRow(int(f.family), f.p, f.q, f.a, f.b) for f in functions)
        )
        self._rows = ctypes.addressof(self._functions)
        self._shapes: dict[tuple[int, bool], _Shape] = {}
        # addresses of a layer's part of each tensor: cheaper than making a view for every call
        self._address = {
            name: (value.data_ptr(), value.stride(0) * value.element_size())
            for name, value in vars(state).items()
            if isinstance(value, Tensor)
        }

    def _at(self, name: str, layer: int) -> int | None:
        start, stride = self._address[name]
        return None if layer == BOTTOM else start + layer * stride

    def _shape(self, batch: int, layer: int) -> int:
        key = (batch, layer == BOTTOM)
        if key not in self._shapes:
            networks, width = self.state.V.shape[1], self.state.V.shape[-1]
            first_bn = networks if layer == BOTTOM else self.state.first_bn
            self._shapes[key] = _Shape(networks, batch, width, first_bn)
        return ctypes.addressof(self._shapes[key])

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        self._forward(
            self._shape(h.shape[2], layer),
            self._rows,
            h.data_ptr(),
            *(self._at(name, layer) for name in ("r", "gamma", "beta", "mean", "rstd", "running_mean", "running_var")),
            EPS,
            RUNNING,
            x_out.data_ptr(),
        )

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        self._evaluate(
            self._shape(h.shape[2], layer),
            self._rows,
            h.data_ptr(),
            *(self._at(name, layer) for name in ("r", "gamma", "beta", "running_mean", "running_var")),
            EPS,
            x_out.data_ptr(),
        )

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        names = ("r", "gamma", "beta", "gamma_velocity", "beta_velocity", "mean", "rstd")
        self._backward(
            self._shape(h.shape[2], layer),
            self._rows,
            error.data_ptr(),
            h.data_ptr(),
            *(self._at(name, layer) for name in names),
            self.optimiser.learning_rate,
            self.optimiser.momentum,
            self._at("radial", layer),
            x_out.data_ptr(),
        )

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        self._update(
            self._shape(1, layer),
            product.data_ptr(),
            *(self._at(name, layer) for name in ("V", "V_velocity", "r", "radial")),
            self.optimiser.learning_rate,
            self.optimiser.momentum,
            norms.data_ptr(),
        )


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
