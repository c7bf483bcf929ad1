"""Passes between the matrix products of a step, in plain torch: the definition of the compiled kernels.

A layer's product comes in as V x and leaves as h = r V x, the network's W x, since W is V with row i divided by
|v_i| = 1 / r_i. With batch norm, u = gamma (h - mean) rstd + beta, else u = h; phi(u) is the next layer's input.

Backwards, with e = dE/dx of the layer's output and g = e phi'(u):

    no batch norm:  y = g
    batch norm:     y = gamma rstd (g - mean_b g - n mean_b (g n)),  n = (h - mean) rstd
    gradient of v_i:   r_i sum_b y_ib x_b - r_i^2 (sum_b y_ib h_ib) v_i

The last line is the derivative of h = v.x / |v|: its second term takes the part along v_i away, and needs only the sum
over y h, which is at hand (`radial`). So W and dE/dW are never formed, and the error of the layer below is V^T (r y).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

BOTTOM = -1  # the layer below the constrained ones: h is given, there is no r and no batch norm
ACTIVATIONS = Callable[[Tensor], tuple[Tensor, Tensor]]  # u -> phi(u), phi'(u)


@dataclass(frozen=True)
class Optimiser:
    """SGD: velocity = momentum velocity + gradient; weight = weight - learning_rate velocity."""

    learning_rate: float
    momentum: float


@dataclass
class LayerState:
    """All that belongs to the L constrained layers of K networks, Kb of which have batch norm: the last ones."""

    V: Tensor  # (L, K, N, N)
    V_velocity: Tensor
    r: Tensor  # (L, K, N), 1 / |v_i|
    gamma: Tensor  # (L, Kb, N), and so are the others
    beta: Tensor
    gamma_velocity: Tensor
    beta_velocity: Tensor
    running_mean: Tensor
    running_var: Tensor
    mean: Tensor  # of the last forward pass, as are rstd
    rstd: Tensor
    radial: Tensor  # (L, K, N), of the last backward pass

    @property
    def first_bn(self) -> int:
        return self.V.shape[1] - self.gamma.shape[1]


class Passes(Protocol):
    """The passes over one layer of all K networks.

    h, x_out and error have the shape (K, N, B), contiguous: a unit's samples lie side by side, which makes batch norm's
    sums and the row's r one unit's business, and 64 samples are whole vectors where 100 units aren't.
    """

    way: str  # its name in a record

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        """h: V x on entry, r V x on return; x_out = phi(u). Training mode: batch statistics, running ones updated."""

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        """x_out = phi(u) from V x, with the running statistics; h may be x_out, and is of no use afterwards."""

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        """error: dE/dx of the layer's output on entry, r y on return. Also: radial, x_out = phi(u) once more (cheaper
        than keeping it), SGD on gamma and beta."""

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        """SGD on V from product = (r y) x^T, (K, N, N); r of the new V; norms (K,) float64: |dE/dV|_F."""


@runtime_checkable
class FusedPasses(Passes, Protocol):
    """Passes that go through all constrained layers by themselves, products included. h: L + 1 tensors (K, N, B)."""

    def forward_layers(self, h: Sequence[Tensor], x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """Go from x, the input of the lowest layer, to h[1:] and the output of the highest layer.

        Returns the output, and the other one of the two tensors."""

    def evaluate_layers(self, x: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all layers with the running statistics; no h is kept."""

    def backward_layers(self, h: Sequence[Tensor], error: Tensor, spare: Tensor, x: Tensor, norms_LK: Tensor) -> Tensor:
        """`update` of all layers, from error = r y of the highest. Returns y of the layer below them, in `error` or
        `spare`; x is scratch."""


class TorchPasses:
    """Any functions, any device."""

    way = "torch"

    def __init__(
        self, state: LayerState, activations: Sequence[tuple[slice, ACTIVATIONS]], optimiser: Optimiser
    ) -> None:
        self.state, self.activations, self.optimiser = state, activations, optimiser

    def forward(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        u = h
        if layer != BOTTOM:
            state = self.state
            h.mul_(state.r[layer].unsqueeze(2))
            bn = h[state.first_bn :]
            if len(bn):
                variance, mean = torch.var_mean(bn, dim=2, correction=0)
                batch = h.shape[2]
                state.mean[layer] = mean
                torch.rsqrt(variance + EPS, out=state.rstd[layer])
                state.running_mean[layer].mul_(1 - RUNNING).add_(mean, alpha=RUNNING)
                unbiased = variance * (batch / max(batch - 1, 1))
                state.running_var[layer].mul_(1 - RUNNING).add_(unbiased, alpha=RUNNING)
                u = self._normalised(layer, h)
        for members, function in self.activations:
            x_out[members] = function(u[members])[0]

    def evaluate(self, layer: int, h: Tensor, x_out: Tensor) -> None:
        if layer != BOTTOM:
            state = self.state
            h.mul_(state.r[layer].unsqueeze(2))
            bn = h[state.first_bn :]
            if len(bn):
                scale = (state.running_var[layer] + EPS).rsqrt_().mul_(state.gamma[layer])
                bn.sub_(state.running_mean[layer].unsqueeze(2)).mul_(scale.unsqueeze(2))
                bn.add_(state.beta[layer].unsqueeze(2))
        for members, function in self.activations:
            x_out[members] = function(h[members])[0]

    def backward(self, layer: int, error: Tensor, h: Tensor, x_out: Tensor) -> None:
        state = self.state
        has_bn = layer != BOTTOM and state.first_bn < len(h)
        u = self._normalised(layer, h) if has_bn else h
        for members, function in self.activations:
            x_out[members], slope = function(u[members])
            error[members].mul_(slope)
        if layer == BOTTOM:
            return
        if has_bn:
            self._batch_norm_backward(layer, error[state.first_bn :], h[state.first_bn :])
        torch.sum(error * h, dim=2, out=state.radial[layer])
        error.mul_(state.r[layer].unsqueeze(2))

    def update(self, layer: int, product: Tensor, norms: Tensor) -> None:
        state, optimiser = self.state, self.optimiser
        V, velocity, r = state.V[layer], state.V_velocity[layer], state.r[layer]
        gradient = product.addcmul_(V, (r.square() * state.radial[layer]).unsqueeze(2), value=-1)
        norms.copy_(torch.linalg.vector_norm(gradient, dim=(1, 2), dtype=torch.float64))
        torch.add(gradient, velocity, alpha=optimiser.momentum, out=velocity)
        V.sub_(velocity, alpha=optimiser.learning_rate)
        torch.linalg.vector_norm(V, dim=-1, out=r)
        r.reciprocal_()

    def _normalised(self, layer: int, h: Tensor) -> Tensor:
        """u: a copy of h with batch norm applied to the last members."""
        state = self.state
        u = h.clone()
        bn = u[state.first_bn :]
        bn.sub_(state.mean[layer].unsqueeze(2)).mul_(state.rstd[layer].unsqueeze(2))
        bn.mul_(state.gamma[layer].unsqueeze(2)).add_(state.beta[layer].unsqueeze(2))
        return u

    def _batch_norm_backward(self, layer: int, g: Tensor, h: Tensor) -> None:
        """g -> y in place, for the members with batch norm."""
        state, optimiser = self.state, self.optimiser
        rstd = state.rstd[layer].unsqueeze(2)
        n = (h - state.mean[layer].unsqueeze(2)).mul_(rstd)
        dbeta, dgamma = g.sum(dim=2), (g * n).sum(dim=2)
        batch = g.shape[2]
        g.sub_(dbeta.unsqueeze(2) / batch).sub_(n.mul_(dgamma.unsqueeze(2) / batch))
        g.mul_(rstd * state.gamma[layer].unsqueeze(2))
        for weight, velocity, gradient in (
            (state.gamma, state.gamma_velocity, dgamma),
            (state.beta, state.beta_velocity, dbeta),
        ):
            velocity[layer].mul_(optimiser.momentum).add_(gradient)
            weight[layer].sub_(velocity[layer], alpha=optimiser.learning_rate)


EPS, RUNNING = 1e-5, 0.1  # torch.nn.BatchNorm1d's defaults
