"""Products of K pairs of matrices, each independent of how many others there are.

torch's batched products on a GPU come from a library that chooses its kernel, and so the order of its sums, by K. A
network's last digits would then depend on the size of its stack. So on a GPU every pair has a product of its own. In a
CUDA graph that costs some microseconds for each pair, and a step has few such products. On a CPU the batched products
don't depend on K.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bmm(A: Tensor, B: Tensor, out: Tensor) -> Tensor:
    """Compute out = A B, all (K, ., .)."""
    if not _by_number(A):
        return torch.bmm(A, B, out=out)
    for pair in zip(A, B, out, strict=True):
        torch.mm(pair[0], pair[1], out=pair[2])
    return out


def baddbmm(C: Tensor, A: Tensor, B: Tensor, out: Tensor, beta: float = 1.0) -> Tensor:
    """Compute out = beta C + A B, where C may be a column for each member, (K, ., 1)."""
    if not _by_number(A):
        return torch.baddbmm(C, A, B, beta=beta, out=out)
    for c, a, b, o in zip(C, A, B, out, strict=True):
        torch.addmm(c, a, b, beta=beta, out=o)
    return out


def _by_number(A: Tensor) -> bool:
    """Tell whether the batched product's last digits depend on the number of pairs."""
    return A.is_cuda
