"""Initial weights in the style of torch.nn.init: in place, without gradient, on any device.

All draw in float64 and round to the tensor's dtype, so that networks in two precisions start from the same weights. A
generator's numbers are drawn on its own device: a CPU generator gives the same weights everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsnn.haar import haar_orthogonal
from bsnn.nn.parametrizations import normalised_rows


@torch.no_grad()
def haar_orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill `tensor` with gain times a Haar-uniform orthogonal matrix (sections 2.3 and 4 of the paper).

    The tensor is taken as a matrix (n, m) of its first axis and all others. n <= m: orthonormal rows, each of norm
    `gain`. n > m: orthonormal columns, so that rows have norm gain sqrt(m / n) on average; gain = sqrt(n / m) makes
    pre-activations of mean square one from inputs of mean square one.

    Shape: (n, m) or (out, in / groups, *kernel). See `bsnn.haar` for the law and the method; torch.nn.init.orthogonal_
    has the same law up to rounding, in its own order of random numbers.

    Returns `tensor`. Raises ValueError for a tensor of fewer than two axes or without entries.

    >>> import torch
    >>> w = haar_orthogonal_(torch.empty(3, 5), generator=torch.Generator().manual_seed(0))
    >>> (w @ w.T).allclose(torch.eye(3), atol=1e-6)
    True
    """
    n, m = _matrix_shape(tensor, "haar_orthogonal_")
    return tensor.copy_(_haar(tensor, n, m, generator).reshape(tensor.shape).mul_(gain))


@torch.no_grad()
def delta_orthogonal_(
    tensor: Tensor, gain: float = 1.0, groups: int = 1, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Fill a convolution's weight with zeros, and its central entries with gain times a Haar-uniform matrix.

    Xiao et al., "Dynamical isometry and a mean field theory of CNNs" (ICML 2018), section 2.4. The channels at every
    position are multiplied by one (out x in) matrix, orthogonal if out >= in: with stride 1 and kernel // 2 zeros of
    padding the convolution as a whole keeps the norm of its input, and its transpose that of the gradient if out = in.
    A row has norm `gain` if out <= in, else gain sqrt(in / out) on average. The centre is entry
    kernel // 2 of an axis, as in torch.nn.init.dirac_.

    Args:
        tensor: shape (out, in / groups, *kernel), one to three kernel axes.
        gain: as for `haar_orthogonal_`.
        groups: of the convolution; each gets a matrix of its own.
        generator: for the random numbers.

    Returns `tensor`. Raises ValueError for another shape, or if `groups` doesn't divide out.

    >>> import torch
    >>> conv = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
    >>> _ = delta_orthogonal_(conv.weight)
    >>> x = torch.randn(2, 8, 5, 5)
    >>> conv(x).norm().allclose(x.norm())
    True
    """
    _check(tensor, "delta_orthogonal_")
    if not 3 <= tensor.dim() <= 5:
        raise ValueError(
            f"delta_orthogonal_: expected a convolution's weight (out, in / groups, *kernel) with one to three kernel "
            f"axes, found shape {tuple(tensor.shape)}; for a matrix use haar_orthogonal_"
        )
    _matrix_shape(tensor, "delta_orthogonal_")
    out, inputs = tensor.shape[:2]
    if groups < 1 or out % groups:
        raise ValueError(f"groups: expected a divisor of the {out} output channels, found {groups}")
    drawn = [_haar(tensor, out // groups, inputs, generator) for _ in range(groups)]
    tensor.zero_()
    centre = tensor
    for size in tensor.shape[2:]:
        centre = centre.select(2, size // 2)
    centre.copy_(gain * torch.cat(drawn))
    return tensor


@torch.no_grad()
def spherical_(tensor: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill `tensor` with rows independent and uniform on the sphere of radius `gain`: a Gaussian matrix, its rows
    normalised.

    Shape: (out, ...); a row is all of tensor[i]. Returns `tensor`. Raises ValueError for a tensor of fewer than two
    axes or without entries.

    >>> import torch
    >>> spherical_(torch.empty(4, 3, 2)).flatten(1).norm(dim=1).allclose(torch.ones(4))
    True
    """
    _matrix_shape(tensor, "spherical_")
    device = tensor.device if generator is None else generator.device
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=device)
    return tensor.copy_(normalised_rows(drawn).mul_(gain))


def _haar(tensor: Tensor, n: int, m: int, generator: torch.Generator | None) -> Tensor:
    """Draw an (n, m) matrix in float64 on the generator's device, which makes it the same for every `tensor` device."""
    device = tensor.device if generator is None else generator.device
    return haar_orthogonal(n, m, generator=generator, dtype=torch.float64, device=device)


def _check(tensor: Tensor, caller: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{caller}: expected a tensor to fill, found {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{caller}: expected a tensor of floating point numbers to fill, found {tensor.dtype}")


def _matrix_shape(tensor: Tensor, caller: str) -> tuple[int, int]:
    _check(tensor, caller)
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(
            f"{caller}: expected a weight with at least two axes, (out, in, ...), and entries, found shape "
            f"{tuple(tensor.shape)}; a bias has no orthogonal start: use torch.nn.init.zeros_"
        )
    return tensor.shape[0], tensor.numel() // tensor.shape[0]
