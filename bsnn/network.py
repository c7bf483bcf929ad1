"""The network of the paper's experiments: 200 row-normalised layers between two plain ones (section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.activations import value_and_slope
from bsnn.nn.init import haar_orthogonal_, spherical_
from bsnn.nn.parametrizations import normalised_rows
from bsnn.quadrature import float64_phi
from bsnn.randomness import device_of


class Signals(NamedTuple):
    """Signals in the constrained layers l = 1..L in the forward direction, for a batch of B samples.

    Args:
        x_LBN: inputs x^(l) of the layers and, as entry L, the output x^(L+1); shape (L + 1, B, N).
        h_LBN: pre-activations, after batch norm where there is one; shape (L, B, N).
        phi_prime_LBN: phi'(h^(l)), the diagonal of D^(l) in equation (2); shape (L, B, N).
    """

    x_LBN: Tensor
    h_LBN: Tensor
    phi_prime_LBN: Tensor


class BSNN(nn.Module):
    r"""A multi-layer perceptron of depth L and width N whose constrained layers have rows of norm one.

    .. math::
        x^{(1)} = \phi(A x + c), \qquad
        h^{(l)} = W^{(l)} x^{(l)}, \quad x^{(l+1)} = \phi(h^{(l)}) \quad (l = 1, \dots, L), \qquad
        \text{logits} = B x^{(L+1)} + d

    with rows :math:`w_i = v_i / \lVert v_i \rVert_2`; V is what is optimised, "a relaxation of orthogonality" (section
    3.2). At the start every W is Haar-uniform orthogonal, A and B have orthonormal rows or columns, and c and d are
    torch's default for a linear layer. The constrained layers have no bias. With batch norm, h goes through
    ``BatchNorm1d`` before phi; the bottom layer doesn't.

    Args:
        in_features: D, the size of an input.
        out_features: C, the number of classes.
        width: N.
        depth: L, the number of constrained layers.
        activation: phi, any elementwise module, say ``GPN(nn.Tanh())``. One module serves every layer, moved to
            `device` and `dtype` with the other parameters. Default: Tanh.
        batch_norm: normalise h over the batch.
        initialisation: of V: "orthogonal", as above, or "gaussian": rows independent and uniform on the sphere, what a
            Gaussian matrix becomes when its rows are normalised. A and B stay as they are.
        constraint: of W, by which V enters: "row", as above; "weight_norm": w_i = g_i v_i / ||v_i|| with lengths g_i
            that train from 1 on (Salimans and Kingma, NIPS 2016); "free": W = V. A V that an optimiser keeps orthogonal
            (bsnn.optim.stiefel) is "free", too.
        generator: a CPU generator; the same one gives the same initial weights on every device. They are drawn in
            float64 and rounded to `dtype`, so that runs in two precisions start from the same network.

    Shapes:
        input (B, D), output (B, C).

    Raises ValueError for sizes out of range and for an activation that isn't one elementwise, deterministic function,
    TypeError for one that is no module.

    >>> from bsnn import GPN
    >>> net = BSNN(784, 10, width=100, depth=200, activation=GPN(nn.Tanh()))
    >>> signals = net.signals(torch.randn(64, 784))
    >>> squares = signals.x_LBN.square().mean((1, 2))  # of layers 1 to 200 and of the output
    >>> squares.shape
    torch.Size([201])
    >>> bool(squares.max() < 10 * squares.min())
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 500,
        depth: int = 200,
        activation: nn.Module | None = None,
        batch_norm: bool = False,
        *,
        initialisation: str = "orthogonal",
        constraint: str = "row",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        if depth < 0:
            raise ValueError(f"depth: expected at least 0, found {depth}")
        if initialisation not in ("orthogonal", "gaussian"):
            raise ValueError(f"initialisation: expected orthogonal or gaussian, found {initialisation!r}")
        if constraint not in ("row", "weight_norm", "free"):
            raise ValueError(f"constraint: expected row, weight_norm or free, found {constraint!r}")
        self.initialisation, self.constraint = initialisation, constraint
        activation = nn.Tanh() if activation is None else activation
        if not isinstance(activation, nn.Module):
            raise TypeError(
                f"activation: expected a module, say torch.nn.Tanh() or GPN(torch.sin), found {activation!r}"
            )
        float64_phi(activation)  # raises ValueError for anything but one elementwise function
        self.activation = activation.to(device=device, dtype=dtype)
        self.bottom = nn.Linear(in_features, width, device=device, dtype=dtype)
        self.V = nn.Parameter(torch.empty(depth, width, width, device=device, dtype=dtype))
        if constraint == "weight_norm":
            self.lengths = nn.Parameter(torch.ones(depth, width, 1, device=device, dtype=dtype))
        self.top = nn.Linear(width, out_features, device=device, dtype=dtype)
        self.batch_norms = nn.ModuleList(
            nn.BatchNorm1d(width, device=device, dtype=dtype) for _ in range(depth if batch_norm else 0)
        )
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights anew."""
        drawn_on = device_of(generator)
        for V in self.V:  # one layer at a time: no second copy of all weights
            draw = spherical_ if self.initialisation == "gaussian" else haar_orthogonal_
            draw(V, generator=generator)
        if self.constraint == "weight_norm":
            nn.init.ones_(self.lengths)
        for layer in (self.top, self.bottom):
            haar_orthogonal_(layer.weight, generator=generator)
            uniform = torch.rand(layer.out_features, generator=generator, dtype=torch.float64, device=drawn_on)
            layer.bias.copy_((2 * uniform - 1) * layer.in_features**-0.5)
        for batch_norm in self.batch_norms:
            assert isinstance(batch_norm, nn.BatchNorm1d)
            batch_norm.reset_parameters()

    @property
    def depth(self) -> int:
        """The number of constrained layers, L."""
        return self.V.shape[0]

    @property
    def W(self) -> Tensor:
        """The constrained weights, shape (L, N, N); rows of norm one if `constraint` is row."""
        if self.constraint == "free":
            return self.V
        rows = normalised_rows(self.V, start_dim=2)
        return self.lengths * rows if self.constraint == "weight_norm" else rows

    def forward(self, x_BD: Tensor) -> Tensor:
        x_BN = self.activation(self.bottom(x_BD))
        for layer, V in enumerate(self.V.unbind()):
            x_BN = self.activation(self._pre_activation(layer, V, x_BN))
        logits: Tensor = self.top(x_BN)
        return logits

    @torch.no_grad()
    def signals(self, x_BD: Tensor) -> Signals:
        """Compute x, h and phi'(h) of every constrained layer, in the module's present mode (train or eval).

        In training mode a network with batch norm updates its running statistics, as in any forward pass.
        """
        xs, hs, phi_primes = [self.activation(self.bottom(x_BD))], [], []
        for layer, V in enumerate(self.V.unbind()):
            h_BN = self._pre_activation(layer, V, xs[-1])
            x_BN, phi_prime_BN = value_and_slope(self.activation, h_BN)
            hs.append(h_BN)
            xs.append(x_BN)
            phi_primes.append(phi_prime_BN)
        return Signals(torch.stack(xs), _stack(hs, xs[0]), _stack(phi_primes, xs[0]))

    def gradient_norms(self) -> Tensor:
        r""":math:`\lVert \partial E / \partial V^{(l)} \rVert_F` of every constrained layer after a backward pass.

        float64, shape (L,), bottom to top. Squares of float32 gradients would underflow below 1e-23 and make a small
        gradient look like a vanished one. Raises ValueError before any backward pass.
        """
        if self.V.grad is None:
            raise ValueError("gradient_norms: expected gradients, found none; call backward() first")
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in self.V.grad]
        return torch.stack(norms)

    def _pre_activation(self, layer: int, V: Tensor, x_BN: Tensor) -> Tensor:
        # One layer's W at a time: all at once (self.W) leave the cache, which makes autograd twice as slow at width 500
        W = V if self.constraint == "free" else normalised_rows(V)
        if self.constraint == "weight_norm":
            W = self.lengths[layer] * W
        h_BN = F.linear(x_BN, W)
        return self.batch_norms[layer](h_BN) if self.batch_norms else h_BN


def _stack(tensors: list[Tensor], like_BN: Tensor) -> Tensor:
    return torch.stack(tensors) if tensors else like_BN.new_empty(0, *like_BN.shape)
