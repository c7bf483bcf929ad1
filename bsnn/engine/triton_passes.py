"""The passes on a GPU, fused with the products of constrained layers.

On a GPU the traffic through memory limits a step. With plain products between the passes the gradient's product
(K, N, N) is written and read, and the signals (K, N, B) go out and in between any two kernels. Here one kernel does the
product and the pass. The traffic of a layer of K networks, in units of K N^2 numbers:

    layer_forward   V read                                1
    layer_error     V read                                1, or 0 where the next kernel finds it in the cache
    update          V and velocity read and written       4

One kernel for the whole way back would save the second reading, but it needs two products at once. That takes more
registers than a thread has, and more instructions for each number than the memory's time pays for. The compiled code of
each kernel is shown by `python -m scripts.gpu.kernels`.

Products are exact float32 (`precision="ieee"`) or another of PRECISIONS. Tensor cores multiply numbers of 11 or 8
significant bits; "tf32x3" and "bf16x6" combine three or six such products into nearly a float32 product.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bsnn.engine import triton_kernels as kernels
from bsnn.engine.functions import Function
from bsnn.engine.passes import BOTTOM, EPS, RUNNING, LayerState, Optimiser
from bsnn.engine.products import bmm

PRECISIONS = ("ieee", "tf32x3", "bf16x6", "bf16x3", "tf32")
MOST_SAMPLES = 1024  # of a batch in training: a program holds all samples for some units
MOST_FUSED = 128  # for larger batches, plain products with V and the passes between them are better


@dataclass(frozen=True)
class Tile:
    """The division of a kernel's work.

    A program owns `own` units (`update`: own x own weights) and multiplies with `step` others (`update`: samples) at a
    time.
    """

    own: int
    step: int = 0
    warps: int = 4
    stages: int = 1  # of loads on their way at once


def default_tile(kernel: str, block_b: int, precision: str = "ieee") -> Tile:
    """Return the sizes for a kernel and a batch of at most block_b, a power of two.

    They are the best, by the bounds of scripts.gpu.kernels, of those without spilled registers. They depend on nothing
    else, so neither do a cell's numbers.
    """
    if kernel == "update":
        return Tile(64, 16)
    if kernel in ("layer_forward", "layer_error"):
        return Tile(64, 32, warps=8 if block_b > 64 else 4, stages=4)
    return Tile(max(8, min(64, 4096 // block_b)))


@dataclass(frozen=True)
class Fusion:
    """The two forms of a kernel: "layer" does the product with V and the pass after it; "pass" follows a plain product.

    The gradient's product is always computed by the kernel that uses it.
    """

    forward: Literal["layer", "pass"] = "layer"
    backward: Literal["layer", "pass"] = "layer"


class TritonPasses:
    """bsnn.engine.passes.Passes and FusedPasses on a GPU, float32, for the functions of bsnn.engine.functions.

    Args:
        precision: how the kernels multiply, one of PRECISIONS.
        tiles: sizes by kernel that take the place of `default_tile`'s.

    Results don't depend on timing: the same input gives the same bits.
    """

    def __init__(
        self,
        state: LayerState,
        functions: Sequence[Function],
        optimiser: Optimiser,
        *,
        precision: str = "ieee",
        fusion: Fusion | None = None,
        tiles: Mapping[str, Tile] | None = None,
    ) -> None:
        if state.V.dtype != torch.float32:
            raise ValueError(f"expected weights in float32, found {state.V.dtype}; use TorchPasses")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
        self.state, self.optimiser = state, optimiser
        self.precision, self.fusion, self._tiles = precision, fusion or Fusion(), dict(tiles or {})
        self.way = f"triton-{precision}"
        self.depth, self.networks, _, self.width = state.V.shape
        device = state.V.device
        self._families = torch.tensor([int(f.family) for f in functions], dtype=torch.int32, device=device)
        self._numbers = torch.tensor([[f.p, f.q, f.a, f.b] for f in functions], dtype=torch.float32, device=device)
        # Views of each layer's part, made once; a stack without layers has tensors that are never read.
        self._parts = {
            name: value.unbind() or (value,) for name, value in vars(state).items() if isinstance(value, Tensor)
        }
        self._VT = [V.mT for V in self._parts["V"]]
        # sums of squares: of the new weights by parts of rows, of the gradient by tiles
        self._strips = -(-self.width // self._tile("update", 32).own)
        shape = (self.depth, self.networks, self._strips)
        self._row_squares = torch.empty(*shape, self.width, device=device)
        self._norm_squares = torch.empty(*shape, self._strips, dtype=torch.float64, device=device)

    # --- Passes ---

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        block_b, tile = self._pass("forward", h.shape[2])
        self._launch(
            "forward", (-(-self.width // tile.own), self.networks), tile, h, x_out, *self._statistics(layer),
            B=h.shape[2], N=self.width, BLOCK_B=block_b, OWN=tile.own, BOTTOM=layer == BOTTOM,
        )  # fmt: skip

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        block_b, batch = 32, h.shape[2]
        tile = self._tile("evaluate", block_b)
        names = ("r", "gamma", "beta", "running_mean", "running_var")
        self._launch(
            "evaluate", (-(-batch // block_b), -(-self.width // tile.own), self.networks), tile, h, x_out,
            self._families, self._numbers, *self._of(layer, names), self.state.first_bn, EPS, batch, N=self.width,
            BLOCK_B=block_b, OWN=tile.own, BOTTOM=layer == BOTTOM,
        )  # fmt: skip

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        block_b, tile = self._pass("backward", h.shape[2])
        self._launch(
            "backward", (-(-self.width // tile.own), self.networks), tile, error, h, x_out, *self._backward_of(layer),
            B=h.shape[2], N=self.width, BLOCK_B=block_b, OWN=tile.own, BOTTOM=layer == BOTTOM,
        )  # fmt: skip

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        self._update(layer, product, None, None)
        self.finish(norms.unsqueeze(0), slice(layer, layer + 1))

    # --- FusedPasses ---

    def forward_layers(self, h: Sequence[Tensor], x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """Go forward through all constrained layers: Passes.forward with the products before it.

        x is the input of the lowest layer. The buffers x and `spare` serve in turn. Returns the output of the highest
        layer, and the other buffer.
        """
        for layer in range(self.depth):
            if self.fusion.forward == "layer" and x.shape[2] <= MOST_FUSED:
                self.layer_forward(layer, x, h[layer + 1], spare)
                x, spare = spare, x
            else:
                bmm(self._parts["V"][layer], x, out=h[layer + 1])
                self.forward(layer, h[layer + 1], x)
        return x, spare

    def evaluate_layers(self, x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        for layer in range(self.depth):
            bmm(self._parts["V"][layer], x, out=spare)
            self.evaluate(layer, spare, x)
        return x, spare

    def backward_layers(self, h: Sequence[Tensor], error: Tensor, spare: Tensor, x: Tensor, norms_LK: Tensor) -> Tensor:
        """Go back through all constrained layers and update them.

        error: r y of the highest layer. `error`, `spare` and x are overwritten. Returns y of the layer below the
        lowest, in `error` or `spare`.
        """
        for layer in reversed(range(self.depth)):
            if self.fusion.backward == "layer" and x.shape[2] <= MOST_FUSED:
                self.layer_error(layer, error, h[layer], spare, x)
            else:
                bmm(self._VT[layer], error, out=spare)
                self.backward(layer - 1, spare, h[layer], x)
            self.product_update(layer, error, x)
            error, spare = spare, error
        self.finish(norms_LK, slice(None))
        return error

    def layer_forward(self, layer: int, x: Tensor, h_out: Tensor, x_out: Tensor) -> None:
        """Compute h_out = r V x and x_out = phi(u), which must not be x itself."""
        block_b, tile = self._fused("layer_forward", x.shape[2])
        self._launch(
            "layer_forward", (-(-self.width // tile.own), self.networks), tile, x, h_out, x_out,
            self._parts["V"][layer], *self._statistics(layer), B=x.shape[2], N=self.width, BLOCK_B=block_b,
            OWN=tile.own, STEP=tile.step, STAGES=tile.stages, PRECISION=self.precision,
        )  # fmt: skip

    def layer_error(self, layer: int, error: Tensor, h: Tensor, below: Tensor, x_out: Tensor) -> None:
        """Compute below, the lower layer's r y, and x_out, its output, from error = r y of `layer` and the lower h."""
        block_b, tile = self._fused("layer_error", h.shape[2])
        self._launch(
            "layer_error", (-(-self.width // tile.own), self.networks), tile, error, h, below, x_out,
            self._parts["V"][layer], *self._backward_of(layer - 1), B=h.shape[2], N=self.width, BLOCK_B=block_b,
            OWN=tile.own, STEP=tile.step, STAGES=tile.stages, PRECISION=self.precision, BOTTOM=layer - 1 == BOTTOM,
        )  # fmt: skip

    def product_update(self, layer: int, error: Tensor, x: Tensor) -> None:
        """Take SGD's step on V from error = r y and the layer's input x. `finish` adds r and the gradient's norm."""
        self._update(layer, None, error, x)

    def finish(self, norms: Tensor, layers: slice) -> None:
        """Compute r of `layers`, and norms (number of layers, K) in float64, after their updates."""
        if len(norms) == 0:
            return
        own = 256
        self._launch(
            "norms", (-(-self.width // own), self.networks, len(norms)), Tile(own), self._row_squares[layers],
            self._norm_squares[layers], self.state.r[layers], norms, norms.stride(0), norms.stride(1),
            PARTS=self._strips, TILES=_power_of_two(self._strips**2), N=self.width, OWN=own,
        )  # fmt: skip

    # --- what they share ---

    def _update(self, layer: int, product: Tensor | None, error: Tensor | None, x: Tensor | None) -> None:
        batch = 1 if x is None else x.shape[2]
        _, tile = self._fused("update", batch)
        unused = self._parts["V"][layer]
        tensors = [unused if tensor is None else tensor for tensor in (product, error, x)]
        parts = self._row_squares[layer], self._norm_squares[layer]
        self._launch(
            "update", (self._strips, self._strips, self.networks), tile, *tensors, *self._of(layer, ROW), *parts,
            self.optimiser.learning_rate, self.optimiser.momentum, B=batch, N=self.width, OWN=tile.own, STEP=tile.step,
            STAGES=tile.stages, PRECISION=self.precision, MULTIPLY=product is None,
        )  # fmt: skip

    def _launch(self, kernel: str, grid: tuple[int, ...], tile: Tile, *arguments: Any, **constants: Any) -> None:
        # A product and a sum are rounded once; Triton is about to change its default.
        getattr(kernels, f"{kernel}_kernel")[grid](*arguments, **constants, num_warps=tile.warps, enable_fp_fusion=True)

    def _of(self, layer: int, names: Sequence[str]) -> list[Tensor]:
        """Return a layer's part of some tensors; for BOTTOM, whose kernels read none of them, any layer's."""
        return [self._parts[name][max(layer, 0)] for name in names]

    def _statistics(self, layer: int) -> tuple[Any, ...]:
        names = ("r", "gamma", "beta", "mean", "rstd", "running_mean", "running_var")
        return (self._families, self._numbers, *self._of(layer, names), self.state.first_bn, EPS, RUNNING)

    def _backward_of(self, layer: int) -> tuple[Any, ...]:
        rates = self.optimiser.learning_rate, self.optimiser.momentum
        return (self._families, self._numbers, *self._of(layer, UNIT), self.state.first_bn, *rates)

    def _pass(self, kernel: str, batch: int) -> tuple[int, Tile]:
        """Return the power of two for the samples, and the sizes."""
        if batch > MOST_SAMPLES:
            raise ValueError(f"expected at most {MOST_SAMPLES} samples in a batch, found {batch}; use TorchPasses")
        block_b = _power_of_two(batch)
        return block_b, self._tile(kernel, block_b)

    def _fused(self, kernel: str, batch: int) -> tuple[int, Tile]:
        block_b = max(16, _power_of_two(batch))  # the least that tl.dot takes
        return block_b, self._tile(kernel, block_b)

    def _tile(self, kernel: str, block_b: int) -> Tile:
        return self._tiles.get(kernel) or default_tile(kernel, block_b, self.precision)


ROW = ("V", "V_velocity", "r", "radial")
UNIT = ("r", "gamma", "beta", "gamma_velocity", "beta_velocity", "mean", "rstd", "radial")


@functools.cache
def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
