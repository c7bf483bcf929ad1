"""The passes on a GPU, and whole layers in one kernel each: V is read once on the way forward, once on the way back.

On a GPU a step is bound by what moves through memory. With plain products between the passes V is read three times, the
gradient's product (K, N, N) is written and read, and the signals (K, N, B) go out and in between any two kernels. Here
a kernel multiplies and does the pass as well. What a layer of K networks moves at the least, in units of K N^2 numbers:

    forward     V read                                                               1
    backward    V and velocity read and written                                      4

Arithmetic is float32 (`precision="ieee"`) unless another of PRECISIONS is chosen: tensor cores multiply numbers of 11
or 8 significant bits, and "tf32x3" or "bf16x6" make nearly a float32 product of three or six of theirs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bsnn.engine import triton_kernels as kernels
from bsnn.engine.functions import Function
from bsnn.engine.passes import BOTTOM, EPS, RUNNING, LayerState, Optimiser

log = logging.getLogger(__name__)
PRECISIONS = ("ieee", "tf32x3", "bf16x6", "bf16x3", "tf32")
FMA = {"enable_fp_fusion": True}  # a product and a sum rounded once; Triton is about to change its default
MOST_SAMPLES = 1024  # of a batch in training: a program holds all of them for some units
MOST_FUSED = 128  # with more, plain products and the passes between them are better


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts its work: a program owns `own` units, and goes through the others `step` at a time."""

    own: int
    step: int = 0
    warps: int = 4
    stages: int = 1  # of loads on their way at once


def default_tile(kernel: str, block_b: int) -> Tile:
    """The sizes for a kernel and a batch of at most block_b, a power of two: those that need few enough registers."""
    passes = Tile(max(8, min(64, 4096 // block_b)))
    return {
        "forward": passes,
        "evaluate": passes,
        "backward": passes,
        "update": Tile(16, 128),
        "product_update": Tile(32, 64, warps=8, stages=2),
        "layer_forward": Tile(64, 32, stages=3),
        "layer_error": Tile(64, 64, warps=8, stages=2),
        "layer_backward": Tile(32, 64, warps=8, stages=2),
    }[kernel]


@dataclass(frozen=True)
class Fusion:
    """How much one kernel does.

    forward: "layer" multiplies and does the pass; "pass" comes after a plain product.
    backward: "layer" does all; "pair" is one kernel for the error below and one for the update, each with its product;
    "update" has only the second; "pass" has all products plain.
    """

    forward: Literal["layer", "pass"] = "layer"
    backward: Literal["layer", "pair", "update", "pass"] = "layer"


class TritonPasses:
    """bsnn.engine.passes.Passes and FusedPasses on a GPU, float32, for the functions of bsnn.engine.functions.

    Args:
        precision: how the fused kernels multiply, one of PRECISIONS.
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
        self.depth, self.networks, _, self.width = state.V.shape
        device = state.V.device
        self._families = torch.tensor([int(f.family) for f in functions], dtype=torch.int32, device=device)
        self._numbers = torch.tensor([[f.p, f.q, f.a, f.b] for f in functions], dtype=torch.float32, device=device)
        # views made once, of each layer's part; a stack without layers has tensors that nobody looks at
        self._parts = {
            name: value.unbind() or (value,) for name, value in vars(state).items() if isinstance(value, Tensor)
        }
        self._VT = [V.mT for V in self._parts["V"]]
        self._scratch: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    # --- Passes ---

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        own, block_b, tile = self._pass("forward", h.shape[2])
        kernels.forward_kernel[own, self.networks](
            h, x_out, *self._statistics(layer), B=h.shape[2], N=self.width, BLOCK_B=block_b, OWN=tile.own,
            BOTTOM=layer == BOTTOM, BATCH_NORM=self._has_batch_norm(layer), num_warps=tile.warps, **FMA,
        )  # fmt: skip

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        block_b, batch = 32, h.shape[2]
        own, _, tile = self._pass("evaluate", block_b)
        names = ("r", "gamma", "beta", "running_mean", "running_var")
        kernels.evaluate_kernel[-(-batch // block_b), own, self.networks](
            h, x_out, self._families, self._numbers, *self._of(layer, names), self.state.first_bn, EPS, batch,
            N=self.width, BLOCK_B=block_b, OWN=tile.own, BOTTOM=layer == BOTTOM,
            BATCH_NORM=self._has_batch_norm(layer), num_warps=tile.warps, **FMA,
        )  # fmt: skip

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        own, block_b, tile = self._pass("backward", h.shape[2])
        kernels.backward_kernel[own, self.networks](
            error, h, x_out, self._families, self._numbers, *self._of(layer, UNIT), self.state.first_bn,
            self.optimiser.learning_rate, self.optimiser.momentum, B=h.shape[2], N=self.width, BLOCK_B=block_b,
            OWN=tile.own, BOTTOM=layer == BOTTOM, BATCH_NORM=self._has_batch_norm(layer), num_warps=tile.warps, **FMA,
        )  # fmt: skip

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        _, squares = self._update("update", layer, product, product, product)
        self.finish(norms.unsqueeze(0), (None, squares[layer : layer + 1]))

    # --- FusedPasses ---

    def forward_layers(self, h: Sequence[Tensor], x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """Through all constrained layers, as Passes.forward with the products before it: x, the input of the lowest,
        and `spare` serve in turn; returned are the output of the highest and the other one."""
        batch = x.shape[2]
        for layer in range(self.depth):
            if self.fusion.forward == "layer" and batch <= MOST_FUSED:
                self.layer_forward(layer, x, h[layer + 1], spare)
                x, spare = spare, x
            else:
                torch.bmm(self._parts["V"][layer], x, out=h[layer + 1])
                self.forward(layer, h[layer + 1], x)
        return x, spare

    def evaluate_layers(self, x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        for layer in range(self.depth):
            torch.bmm(self._parts["V"][layer], x, out=spare)
            self.evaluate(layer, spare, x)
        return x, spare

    def backward_layers(self, h: Sequence[Tensor], error: Tensor, spare: Tensor, x: Tensor, norms_LK: Tensor) -> Tensor:
        """Back through all constrained layers with their updates. error: r y of the highest, whose input is x; of
        both and of `spare` nothing is kept. Returns y of the layer below, in `error` or `spare`."""
        way = self.fusion.backward if x.shape[2] <= MOST_FUSED else "pass"
        product = torch.empty_like(self.state.V[0]) if way == "pass" else None
        squares: tuple[Tensor | None, Tensor] | None = None
        for layer in reversed(range(self.depth)):
            if way == "layer":
                squares = self.layer_backward(layer, error, h[layer], spare, None)
            elif way == "pair":
                self.layer_backward(layer, error, h[layer], spare, x)
            else:
                torch.bmm(self._VT[layer], error, out=spare)
                self.backward(layer - 1, spare, h[layer], x)
            if product is not None:
                torch.bmm(error, x.mT, out=product)
                self.update(layer, product, norms_LK[layer])
            elif way != "layer":
                squares = self.product_update(layer, error, x)
            error, spare = spare, error
        if squares is not None:
            self.finish(norms_LK, squares)
        return error

    def layer_forward(self, layer: int, x: Tensor, h_out: Tensor, x_out: Tensor) -> None:
        """h_out = r V x, x_out = phi(u), another tensor than x."""
        batch = x.shape[2]
        block_b, tile = self._fused("layer_forward", batch)
        kernels.layer_forward_kernel[-(-self.width // tile.own), self.networks](
            x, h_out, x_out, self._parts["V"][layer], *self._statistics(layer), B=batch, N=self.width, BLOCK_B=block_b,
            OWN=tile.own, STEP=tile.step, STAGES=tile.stages, PRECISION=self.precision,
            BATCH_NORM=self._has_batch_norm(layer), num_warps=tile.warps, **FMA,
        )  # fmt: skip

    def layer_backward(
        self, layer: int, error: Tensor, h: Tensor, below: Tensor, x_out: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """From error = r y of `layer` and h of the layer below to below = r y of that layer, and its output to x_out.

        Without x_out: also SGD on V. Left for `finish` are r and the norms; returned is what it needs, the sums of
        squares of parts of rows (L, K, P, N) and of the gradient (L, K, P).
        """
        batch, update = h.shape[2], x_out is None
        block_b, tile = self._fused("layer_backward" if update else "layer_error", batch)
        parts = -(-self.width // tile.own)
        rows, norms = self._squares(parts, rows=update)
        kernels.layer_backward_kernel[parts, self.networks](
            error, h, below, below if x_out is None else x_out, *self._of(layer, ROW), rows[layer], norms[layer],
            self._families, self._numbers, *self._of(layer - 1, UNIT), self.state.first_bn,
            self.optimiser.learning_rate, self.optimiser.momentum, B=batch, N=self.width, BLOCK_B=block_b, OWN=tile.own,
            STEP=tile.step, STAGES=tile.stages, PRECISION=self.precision, BOTTOM=layer - 1 == BOTTOM,
            BATCH_NORM=self._has_batch_norm(layer - 1), UPDATE=update, num_warps=tile.warps, **FMA,
        )  # fmt: skip
        return rows, norms

    def product_update(self, layer: int, error: Tensor, x: Tensor) -> tuple[None, Tensor]:
        """`update` from the factors of its product: error = r y and the layer's input x. `finish` gives the norms."""
        return self._update("product_update", layer, error, error, x)

    def finish(self, norms: Tensor, squares: tuple[Tensor | None, Tensor]) -> None:
        """norms (L, K) float64, and from sums over parts of rows, where there are any, r of all layers."""
        row_squares, norm_squares = squares
        layers, networks, parts = norm_squares.shape
        if layers == 0:
            return
        own = 256
        blocks = 1 if row_squares is None else -(-self.width // own)
        kernels.norms_kernel[blocks, networks, layers](
            norm_squares if row_squares is None else row_squares, norm_squares, self.state.r, norms, norms.stride(0),
            norms.stride(1), parts, N=self.width, OWN=own, ROWS=row_squares is not None, **FMA,
        )  # fmt: skip

    # --- what they share ---

    def _update(self, kernel: str, layer: int, product: Tensor, error: Tensor, x: Tensor) -> tuple[None, Tensor]:
        """SGD on V and r; returned are the gradient's sums of squares of blocks of rows (L, K, P)."""
        multiply = kernel == "product_update"
        batch = x.shape[2] if multiply else 1
        block_b, tile = self._fused(kernel, batch)
        parts = -(-self.width // tile.own)
        _, squares = self._squares(parts, rows=False)
        kernels.update_kernel[parts, self.networks](
            product, error, x, *self._of(layer, ROW), squares[layer],
            self.optimiser.learning_rate, self.optimiser.momentum, B=batch, N=self.width, BLOCK_B=block_b, OWN=tile.own,
            STEP=tile.step, STAGES=tile.stages, PRECISION=self.precision, MULTIPLY=multiply, num_warps=tile.warps,
            **FMA,
        )  # fmt: skip
        return None, squares

    def _squares(self, parts: int, rows: bool) -> tuple[Tensor, Tensor]:
        """Memory for sums of squares, kept: (L, K, P, N) float32, empty without `rows`, and (L, K, P) float64."""
        key = (parts, rows)
        if key not in self._scratch:
            shape, device = (self.depth, self.networks, parts), self.state.V.device
            self._scratch[key] = (
                torch.empty(*shape, self.width if rows else 0, device=device),
                torch.empty(shape, dtype=torch.float64, device=device),
            )
        return self._scratch[key]

    def _of(self, layer: int, names: Sequence[str]) -> list[Tensor]:
        """A layer's part of some tensors; for BOTTOM, whose kernels look at none of them, any layer's."""
        return [self._parts[name][max(layer, 0)] for name in names]

    def _statistics(self, layer: int) -> tuple[Any, ...]:
        names = ("r", "gamma", "beta", "mean", "rstd", "running_mean", "running_var")
        return (self._families, self._numbers, *self._of(layer, names), self.state.first_bn, EPS, RUNNING)

    def _has_batch_norm(self, layer: int) -> bool:
        return layer != BOTTOM and self.state.first_bn < self.networks

    def _pass(self, kernel: str, batch: int) -> tuple[int, int, Tile]:
        """Programs for each member, the power of two for its samples, and the sizes."""
        if batch > MOST_SAMPLES:
            raise ValueError(f"expected at most {MOST_SAMPLES} samples in a batch, found {batch}; use TorchPasses")
        block_b = _power_of_two(batch)
        tile = self._tile(kernel, block_b)
        return -(-self.width // tile.own), block_b, tile

    def _fused(self, kernel: str, batch: int) -> tuple[int, Tile]:
        block_b = max(16, _power_of_two(batch))  # the least that tl.dot takes
        return block_b, self._tile(kernel, block_b)

    def _tile(self, kernel: str, block_b: int) -> Tile:
        return self._tiles.get(kernel) or default_tile(kernel, block_b)


ROW = ("V", "V_velocity", "r", "radial")
UNIT = ("r", "gamma", "beta", "gamma_velocity", "beta_velocity", "mean", "rstd", "radial")


@functools.cache
def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def serves(device: torch.device, batch_size: int) -> bool:
    """Whether TritonPasses can train there with such mini-batches."""
    return batch_size <= MOST_SAMPLES and _works_on(device)


@functools.cache
def _works_on(device: torch.device) -> bool:
    """Whether Triton can build and launch a kernel there; if not, a line in the log says why."""
    squares, norms = torch.full((1, 1, 1), 4.0, dtype=torch.float64, device=device), torch.zeros(1, 1, device=device)
    try:
        kernels.norms_kernel[1, 1, 1](squares, squares, squares, norms, 1, 1, 1, N=1, OWN=16, ROWS=False)
        return norms.item() == 2
    except Exception as error:  # no compiler, a driver too old, a GPU that Triton doesn't know: all raise their own
        log.warning("Triton can't build the engine's kernels: it runs in plain torch, more slowly (%s)", error)
        return False
