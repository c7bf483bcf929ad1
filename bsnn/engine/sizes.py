"""The number of networks in a stack: on a CPU it follows the cache, on a GPU the memory."""

from __future__ import annotations

import torch

from bsnn.cell import Cell
from bsnn.data import dataset_spec

# On a CPU the kernels take a stack's networks one after the other, so that more of them only save calls from Python,
# which are 2 % of a step at 200 x 100 for one network. What counts is whether their weights, velocities and activations
# stay in the last-level cache from step to step: 3 networks of 200 x 100 do.
CPU_CACHE = 64 * 2**20
CPU_MOST = 32
GPU_SHARE = 0.85  # of the free memory; the rest is for torch's own needs and the data's batches


def network_bytes(cell: Cell) -> int:
    """Compute the memory of one network in a stack: weights, velocities, and what a step keeps of its activations.

    2 (L N^2 + N D + C N) numbers of weights and velocity (biases and batch norm left out: a hundredth), (L + 1) B N of
    pre-activations, N^2 + 3 B N of scratch.
    """
    spec = dataset_spec(cell.dataset)
    L, N, B = cell.depth, cell.width, cell.batch_size
    weights = 2 * (L * N * N + N * (spec.features + spec.classes))
    activations = (L + 1) * B * N + N * N + 3 * B * N
    return (weights + activations) * cell.torch_dtype.itemsize


def largest_stack(cell: Cell, device: torch.device) -> int:
    """Return the number of networks shaped like `cell`'s that should share a stack on `device`, at least 1."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, int(GPU_SHARE * free) // network_bytes(cell))
    return max(1, min(CPU_MOST, CPU_CACHE // network_bytes(cell)))
