"""The layers of a stack as compiled C++: kernels.cpp, built once for this machine and called through ctypes.

It is fast for two reasons: it is compiled for this very CPU (AVX-512, say), and it does everything with a block of
numbers while the block is in the first cache. torch's own operations would send every tensor through the caches several
times, with Python between any two of them. Without a C++ compiler the engine runs in plain torch, slower, and logs that
once.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bsnn.engine.functions import Family, Function, value_and_slope
from bsnn.engine.library import load
from bsnn.engine.passes import BOTTOM, EPS, RUNNING, LayerState, Optimiser

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

    The kernels also compute the layers' products, and apply the following pass to each while its numbers are in the
    first cache. So a step has no Python between its layers, and threads don't wait for each other's. Batches that are
    no whole number of 64-byte vectors are multiplied by torch.
    """

    way = "compiled"

    def __init__(
        self,
        state: LayerState,
        functions: Sequence[Function],
        optimiser: Optimiser,
        library: ctypes.CDLL | None = None,
    ) -> None:
        library = kernels() if library is None else library
        if library is None:
            raise RuntimeError("expected a C++ compiler, found none; use TorchPasses")
        self.state = state
        self.depth, self.networks, _, self.width = state.V.shape
        self._vector = 64 // state.V.element_size()
        suffix = {torch.float32: "f32", torch.float64: "f64"}[state.V.dtype]
        self._call = {name: getattr(library, f"{name}_{suffix}") for name in SIGNATURES}
        # The kernels hold addresses of these: they must stay alive.
        self._functions = (_FunctionRow * len(functions))(
            *(_FunctionRow(int(f.family), f.p, f.q, f.a, f.b) for f in functions)
        )
        self._layers = _Layers(*(getattr(state, name).data_ptr() for name in LAYERS))
        self._numbers = _Numbers(optimiser.learning_rate, optimiser.momentum, EPS, RUNNING)
        self._shapes: dict[int, _Shape] = {}
        self._scratch = state.V.new_empty(0)

    def _arguments(self, batch: int) -> tuple[int, int, int, int]:
        """Return the addresses of the structures that describe the stack."""
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
    """Return the address of the first of equally spaced tensors, and the numbers between two of them."""
    stride = (h[1].data_ptr() - h[0].data_ptr()) // h[0].element_size() if len(h) > 1 else 0
    return h[0].data_ptr(), stride


def kernels() -> ctypes.CDLL | None:
    """Load the compiled library, see bsnn.engine.library; None if there is none."""
    with _loading:  # stacks start side by side
        return _kernels()


_loading = threading.Lock()


@functools.cache
def _kernels() -> ctypes.CDLL | None:
    return load(SOURCE, FLAGS, _prepare)


def _prepare(kernels: ctypes.CDLL) -> None:
    """Declare the functions and compute something; raises an exception if the library isn't what it should be."""
    for name, arguments in SIGNATURES.items():
        for suffix in ("f32", "f64"):
            function = getattr(kernels, f"{name}_{suffix}")
            function.argtypes, function.restype = arguments, None
    for dtype in (torch.float32, torch.float64):
        h = torch.linspace(-3, 3, 32, dtype=dtype, device="cpu").view(1, 2, 16)
        state = LayerState(**{name: h.new_ones(0, 1, 2) for name in LayerState.__dataclass_fields__})
        state.V = h.new_ones(0, 1, 2, 2)
        for family in Family:
            function_row = Function(family, p=0.5, q=1.5, a=2.0, b=0.25)
            passes = CompiledPasses(state, [function_row], Optimiser(1.0, 0.0), kernels)
            expected, expected_slope = value_and_slope(function_row, h)
            value, slope = torch.empty_like(h), torch.ones_like(h)
            passes.forward(BOTTOM, h.clone(), value)
            passes.backward(BOTTOM, slope, h.clone(), torch.empty_like(h))
            for found, right in ((value, expected), (slope, expected_slope)):
                if not torch.allclose(found, right, rtol=1e-4, atol=1e-4):
                    raise RuntimeError(f"the compiled {family.name.lower()} isn't right")
