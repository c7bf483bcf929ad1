"""The talk's alternatives to GPN, its "simple solution" and its "tricks", as far as torch doesn't have them.

    normalised gradient     W^(l) <- W^(l) - eta G^(l) / ||G^(l)||_F,   G^(l) = dE/dW^(l)            NormalisedSGD
    adaptive gradients      torch.optim.Adam
    batch normalisation     bsnn.network.BSNN(batch_norm=True)
    gradient clipping       torch.nn.utils.clip_grad_norm_
    shortcut connections    x^(l+1) = x^(l) + c phi(h^(l))                                           ShortcutBSNN

Both networks here have BSNN's parameters, with the same names, shapes and initial values from the same generator. So
networks that are compared start from the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn.activations import value_and_slope
from bsnn.network import BSNN, Signals
from bsnn.optim.base import EachParameter
from bsnn.quadrature import gaussian_moments


class NormalisedSGD(EachParameter):
    """An optimiser that moves every layer by exactly lr in the Frobenius norm, whatever the size of its gradient.

    Args:
        params: tensors, or torch's parameter groups. A group with `stacked=True` holds tensors whose first axis counts
            layers, such as BSNN's V (L, N, N): each slice is normalised by its own norm, not the stack by one.
        lr: eta, the length of a step.

    A layer whose gradient is 0, or so small that its dtype has no normal number for the norm (below 1e-38 in float32),
    has no direction and stays. Norms are computed in float64: squares of float32 numbers below 1e-23 are 0, and the
    method is meant for such gradients.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float) -> None:
        if not lr > 0:
            raise ValueError(f"lr: expected a number > 0, found {lr}")
        super().__init__(params, {"lr": lr, "stacked": False})

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        axes = tuple(range(1 if group["stacked"] else 0, parameter.dim()))
        norm = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True, dtype=torch.float64)
        norm = norm.masked_fill_(norm < torch.finfo(parameter.dtype).tiny, math.inf).to(parameter.dtype)
        parameter.sub_(gradient / norm, alpha=group["lr"])


def normalised_sgd(network: BSNN, lr: float) -> NormalisedSGD:
    """Make a NormalisedSGD that takes a BSNN's constrained layers one by one."""
    others = [parameter for name, parameter in network.named_parameters() if name != "V"]
    groups: list[dict[str, Any]] = [{"params": [network.V], "stacked": True}, {"params": others}]
    return NormalisedSGD(groups, lr)


class ShortcutBSNN(BSNN):
    r"""BSNN with an identity skip around every constrained layer: :math:`x^{(l+1)} = x^{(l)} + c\,\phi(W^{(l)}
    x^{(l)})`.

    branch: c. 1 is the plain shortcut of He et al. (2016), with which the signal grows (`shortcut_growth`): by a factor
    of 1.474 a layer for ReLU. c = L^(-1/2) bounds the growth of an odd phi, such as Tanh, whatever L, but not ReLU's,
    whose mean adds up.
    """

    def __init__(self, *args: Any, branch: float = 1.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.branch = branch

    def forward(self, x_BD: Tensor) -> Tensor:
        x_BN = self.activation(self.bottom(x_BD))
        for layer, V in enumerate(self.V.unbind()):
            x_BN = x_BN + self.branch * self.activation(self._pre_activation(layer, V, x_BN))
        logits: Tensor = self.top(x_BN)
        return logits

    @torch.no_grad()
    def signals(self, x_BD: Tensor) -> Signals:
        xs, hs, phi_primes = [self.activation(self.bottom(x_BD))], [], []
        for layer, V in enumerate(self.V.unbind()):
            hs.append(self._pre_activation(layer, V, xs[-1]))
            phi_BN, phi_prime_BN = value_and_slope(self.activation, hs[-1])
            xs.append(xs[-1] + self.branch * phi_BN)
            phi_primes.append(phi_prime_BN)
        return Signals(torch.stack(xs), torch.stack(hs), torch.stack(phi_primes))


def shortcut_growth(phi: Callable[[Tensor], Tensor], branch: float, depth: int, length: float = 1.0) -> list[float]:
    """Compute ||x^(l)|| / ||x^(1)|| for l = 1..depth + 1 in an infinitely wide ShortcutBSNN at its start.

    h^(l) is N(0, q_l), q the mean square of x over its units and mu their mean, so that

        q_{l+1} = q_l + c^2 E phi(h)^2 + 2 c mu_l E phi(h),   mu_{l+1} = mu_l + c E phi(h);   q_1 = length, mu_1 = 0

    since W x depends on x only through its length, so that phi(h) and x share nothing but their means.
    """
    q, mu, squares = length, 0.0, [length]
    for _ in range(depth):
        scale = math.sqrt(q)
        moments = gaussian_moments(lambda z, scale=scale: phi(scale * z))  # type: ignore[misc]
        q += branch**2 * moments.second + 2 * branch * mu * moments.mean
        mu += branch * moments.mean
        squares.append(q)
    return [math.sqrt(square / length) for square in squares]


class FreeBSNN(BSNN):
    """BSNN without its constraint, h = V x: the network that the talk's update W <- W - eta G / ||G||_F speaks of.

    With the constraint a step turns W by less the longer the rows of V, and since dE/dV is orthogonal to them they only
    grow: a fixed eta then decays by itself.
    """

    def _pre_activation(self, layer: int, V: Tensor, x_BN: Tensor) -> Tensor:
        h_BN = F.linear(x_BN, V)
        return self.batch_norms[layer](h_BN) if self.batch_norms else h_BN


def decayed(eta: float, decades: float, step: int, steps: int) -> float:
    """Compute the step size eta 10^(-decades step / steps) of step 0, ..., steps - 1: a decay over `decades`."""
    return eta * math.pow(10.0, -decades * step / steps)
