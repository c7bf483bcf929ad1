"""The way a stack takes on a GPU: Triton's kernels where they work and are right, plain torch elsewhere.

The ways, by the names that `Stack.way` gives and BSNN_GPU_WAY asks for:

    triton-ieee     float32 cells: exact float32 products
    triton-tf32x3   float32 cells, on request: each product as three on tensor cores, in the mean with errors of
                    float32's size (results/bench/tf32x3.md: five seeds at width 64; single networks differ more)
    triton-tf32     cells of dtype tf32
    torch           everything

A way is tried once for each shape: bsnn.engine.selfcheck compares it with float64. If it can't be compiled or launched
there, or is wrong, the log says so in one line, and the next best is tried.

BSNN_GPU_WAY=triton-tf32x3 asks for tensor cores, BSNN_GPU_WAY=torch for plain torch. Neither is part of a
cell's identity; the record says which way was taken.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from bsnn.cell import Cell
from bsnn.engine.functions import Function
from bsnn.engine.passes import LayerState, Optimiser, Passes
from bsnn.errors import UserError

log = logging.getLogger(__name__)
VARIABLE = "BSNN_GPU_WAY"
FLOAT32 = ("triton-tf32x3", "triton-ieee", "torch")
"""The values of BSNN_GPU_WAY. If a way doesn't work, the next one is tried. The default is the second."""


def passes(cell: Cell, state: LayerState, functions: Sequence[Function], optimiser: Optimiser) -> Passes | None:
    """Return the passes of a float32 or tf32 stack on a GPU, shaped like `cell`; None for plain torch."""
    device = state.V.device
    for way in ways(cell):
        if way != "torch" and _works(way, device, _shape(cell)):
            return _make(way, state, functions, optimiser)
    return None


def ways(cell: Cell) -> tuple[str, ...]:
    """List what to try, best first. Raises UserError for an unknown BSNN_GPU_WAY."""
    asked = os.environ.get(VARIABLE) or FLOAT32[1]
    if asked not in FLOAT32:
        raise UserError(f"{VARIABLE}: expected one of {', '.join(FLOAT32)}, found {asked!r}.")
    if cell.dtype == "tf32" and asked != "torch":
        return ("triton-tf32", "torch")
    return FLOAT32[FLOAT32.index(asked) :]


def _make(way: str, state: LayerState, functions: Sequence[Function], optimiser: Optimiser) -> Passes:
    from bsnn.engine.triton_passes import TritonPasses

    return TritonPasses(state, functions, optimiser, precision=way.removeprefix("triton-"))


def _shape(cell: Cell) -> Cell:
    """Return a cell that is equal for all cells with the same kernels."""
    return replace(cell, activation="", activation_module={}, gpn=False, batch_norm=False, seed=0, depth=2, epochs=1,
                   max_steps=None, evaluations_per_epoch=1, learning_rate=0.1, momentum=0.5,
                   initialisation="orthogonal")  # fmt: skip


_tried: dict[tuple[str, torch.device, str], bool] = {}


def _works(way: str, device: torch.device, shape: Cell) -> bool:
    key = (way, device, shape.hash)
    if key not in _tried:
        reason = _reason_against(way, device, shape)
        _tried[key] = reason is None
        if reason is not None:
            log.warning("%s is not used for width %d, batches of %d: %s", way, shape.width, shape.batch_size, reason)
    return _tried[key]


def _reason_against(way: str, device: torch.device, shape: Cell) -> str | None:
    """Say why a way can't be taken there; None if it can.

    Raises UserError if the GPU is lost meanwhile, and torch.OutOfMemoryError.
    """
    reason = _unsupported(device)
    if reason is not None:
        return reason
    from bsnn.engine import selfcheck
    from bsnn.engine.triton_passes import MOST_SAMPLES

    if shape.batch_size > MOST_SAMPLES:
        return f"its kernels take batches of at most {MOST_SAMPLES}"
    log.info("comparing %s with float64, once for this shape; its kernels are compiled for it", way)
    try:
        return selfcheck.disagreement(shape, device, way.removeprefix("triton-"), functools.partial(_make, way))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, a driver too old, a GPU that Triton doesn't know: all raise their own
        reason = f"{type(error).__name__}: {_first_line(error)}"
    try:
        torch.ones(1, device=device).item()
    except RuntimeError as error:
        raise UserError(
            f"The GPU stopped answering while {way} was tried on it ({_first_line(error)}). "
            f"Run again with {VARIABLE}=torch, or with device=cpu."
        ) from error
    return reason


def _unsupported(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA's GPUs, and this is one of AMD's"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than the kernels expect, compute capability 8.0"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed (pip install triton)"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
