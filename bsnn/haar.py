"""Haar-uniform orthogonal matrices (section 2.3 of the paper: the law of W in its theorems; section 4: the initial V).

The QR factorisation of a Gaussian matrix gives a Haar-uniform Q if R's diagonal is made positive; as LAPACK returns it,
Q is not uniform (Mezzadri, "How to generate random matrices from the classical compact groups", Notices AMS, 2007).
QR builds Q = H_1 H_2 ... D from Householder reflections H_k and signs D. The first k - 1 reflections are applied to the
k-th column before H_k is made, which maps the column to its first axis. They leave this column Gaussian, and it is
independent of them. So the factorisation can be skipped: the columns, of n, n - 1, ... entries, are drawn directly
(Stewart, "The efficient generation of random orthogonal matrices", SIAM J. Numer. Anal. 17, 1980). The reflections are
then multiplied, which is half of the work of QR.
"""

from __future__ import annotations

import torch
from torch import Tensor


def haar_orthogonal(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Independent uniform matrices, shape (..., n, m): Q Q^T = I if n <= m, Q^T Q = I if n >= m.

    The law is the one that multiplying by a fixed orthogonal matrix, from either side, leaves unchanged: Haar measure
    on O(n) if n = m (half of it has determinant -1), the uniform law on the Stiefel manifold otherwise.

    generator: the normal numbers are drawn on its device and then moved, so that a CPU generator gives the same
    matrices, up to rounding, on every device. dtype: float32 or float64; for a lower precision, in which torch can't
    multiply reflections, draw in float32 and cast. dtype and device default to torch's defaults.

    Raises ValueError for a shape that isn't (..., n, m) with n, m >= 1, and for another dtype.

    >>> Q = haar_orthogonal(200, 3, 5, dtype=torch.float64)
    >>> (Q @ Q.mT).allclose(torch.eye(3, dtype=torch.float64))
    True
    """
    if len(shape) < 2 or min(shape[-2:]) < 1 or min(shape) < 0:
        raise ValueError(f"expected a shape (..., n, m) with n, m >= 1, as in haar_orthogonal(500, 500), found {shape}")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"expected dtype torch.float32 or torch.float64, found {dtype}; draw in float32 and cast the result"
        )
    device = torch.get_default_device() if device is None else torch.device(device)
    *batch, n, m = shape
    if n < m:
        return haar_orthogonal(*batch, m, n, generator=generator, dtype=dtype, device=device).mT.contiguous()

    # Column k of the lower triangle is the Gaussian vector x_k of n - k entries (k = 0, ..., m - 1), its first entry
    # on the diagonal.
    draw_on = device if generator is None else generator.device
    x = torch.randn(*batch, n, m, generator=generator, dtype=dtype, device=draw_on).to(device).tril_()
    first = x.diagonal(dim1=-2, dim2=-1)
    # In float32 an exact 0 has a chance of about 1e-7; as the last column of a square matrix it would be a zero vector.
    first.masked_fill_(first == 0, torch.finfo(dtype).eps)
    norm = torch.linalg.vector_norm(x, dim=-2)
    # H_k = I - tau v v^T, with v = (1, x_k[1:] / (x_k[0] - r)) and r^2 = |x_k|^2, maps x_k to (r, 0, ..., 0). The sign
    # of r is such that x_k[0] - r does not cancel. householder_product supplies the 1 itself.
    r = torch.copysign(norm, -first)
    tau = 1 + first.abs() / norm
    q: Tensor = torch.linalg.householder_product(x / (first - r).unsqueeze(-2), tau)
    # r is the diagonal of R: a column of Q changes sign with it, so that R's diagonal is positive.
    return q * r.sign().unsqueeze(-2)
