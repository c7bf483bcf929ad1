"""The six activation functions of the paper, unnormalised (Table 1, Table 2, Figs 1-4; footnote 1 for the formulas).

Five of them are torch.nn's own. The sixth, GELU, is not torch.nn's: the paper uses Hendrycks and Gimpel's sigmoid
approximation, which differs from the exact x * Phi(x) by up to 0.02.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn


class SigmoidGELU(nn.Module):
    """phi(x) = x * sigmoid(1.702 x), elementwise, any floating dtype: "GELU" wherever the paper says GELU.

    Hendrycks & Gimpel, "Gaussian error linear units" (2016), section 2. Neither `nn.GELU()` (exact) nor
    `nn.GELU(approximate="tanh")` is this function.

    >>> SigmoidGELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1542,  0.0000,  0.8458])
    """

    # The equations for (a, b) have two roots (`bsnn.gpn`). Table 1 takes + for the other five functions and - for GELU.
    gpn_root: ClassVar[str] = "-"

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def value_and_slope(phi: Callable[[Tensor], Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi(h) and phi'(h), elementwise, for any phi that torch can differentiate; neither is part of a graph.

    phi' is autograd's value, also at a kink. It is 0 for a phi that doesn't depend on h as far as autograd sees.
    """
    with torch.enable_grad():
        h = h.detach().clone().requires_grad_()
        value = phi(h.clone())  # the clone lets an in-place phi (nn.ReLU(inplace=True)) work
        if not value.requires_grad:
            return value, torch.zeros_like(h)
        (slope,) = torch.autograd.grad(value, h, torch.ones_like(value), materialize_grads=True)
    return value.detach(), slope


# In the order of Table 1. Zero-argument factories, since a network wants a fresh module. The hyperparameters are the
# paper's, which are also torch's defaults; written out so that they don't follow torch if it changes its mind.
PAPER_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, negative_slope=0.01),
    "elu": partial(nn.ELU, alpha=1.0),
    "selu": nn.SELU,
    "gelu": SigmoidGELU,
}
