"""The tf32x3 product of float32 numbers on tensor cores, computed bit by bit on a CPU.

Triton splits a number into big, the nearest number with 11 significant bits, and small = x - big, of which the hardware
reads the first 11 bits. A B is then small big + big small + big big. STEP terms at a time are summed from 0, and that
sum is added in float32.

NVIDIA doesn't publish how a tensor core adds. Measurements of it (Fasi et al., "Numerical behavior of NVIDIA tensor
cores", 2021) say: products are exact; they and the sum so far are aligned to the largest of them, and bits below are
cut off; the sum is cut to 24 bits. Newer cores keep more bits in between. Here none are kept, and eight products are
added at a time: no tensor core is less exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 8  # products that are added at once
LOW = 0x1FFF  # the bits that tf32 doesn't have


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 numbers into (big, small), each with 11 significant bits: x = big + small to 2^-22 |x|."""
    bits = x.contiguous().view(torch.int32)
    big = ((bits + (LOW + 1) // 2) & ~LOW).view(torch.float32)
    big = torch.where(x.isfinite(), big, x)
    return big, cut(x - big)


def cut(x: Tensor) -> Tensor:
    """Keep the first 11 significant bits of float32 numbers."""
    return (x.contiguous().view(torch.int32) & ~LOW).view(torch.float32)


def multiply(A: Tensor, B: Tensor, step: int) -> Tensor:
    """Compute A B as tf32x3, for float32 matrices (K, M, n) and (K, n, P)."""
    total = A.new_zeros(*A.shape[:2], B.shape[2])
    for start in range(0, A.shape[2], step):
        (big_a, small_a), (big_b, small_b) = split(A[..., start : start + step]), split(B[:, start : start + step])
        part = _accumulate(small_a, big_b, torch.zeros_like(total))
        part = _accumulate(big_a, small_b, part)
        total += _accumulate(big_a, big_b, part.nan_to_num(0.0, torch.inf, -torch.inf))
    return total


def _accumulate(A: Tensor, B: Tensor, total: Tensor) -> Tensor:
    for start in range(0, A.shape[2], GROUP):
        a, b = A[..., start : start + GROUP], B[:, start : start + GROUP]
        products = a.double().unsqueeze(3) * b.double().unsqueeze(1)  # (K, M, GROUP, P), exact
        largest = torch.maximum(products.abs().amax(2), total.double().abs())
        exponent = torch.frexp(largest).exponent.clamp(min=-125)  # float32's least unit is 2^-149
        scale = torch.ldexp(torch.ones_like(largest), 24 - exponent)
        aligned = (products * scale.unsqueeze(2)).to(torch.int32).sum(2) + (total * scale).to(torch.int32)
        total = _toward_zero(aligned / scale)
    return total


def _toward_zero(x: Tensor) -> Tensor:
    rounded = x.float()
    nearer = torch.nextafter(rounded, torch.zeros_like(rounded))
    return torch.where(rounded.double().abs() > x.abs(), nearer, rounded)


def chain(A: Tensor, B: Tensor) -> Tensor:
    """Compute A B of float32 matrices like a float32 kernel: one product after another, each sum rounded once."""
    total = A.new_zeros(*A.shape[:2], B.shape[2])
    for i in range(A.shape[2]):
        product = A[..., i : i + 1].double() * B[:, i : i + 1].double()
        total = (total.double() + product).float()
    return total
