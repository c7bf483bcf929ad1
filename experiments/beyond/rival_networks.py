"""Plain networks of Table 2's shape under GPN and its rivals, several of them side by side.

A method decides on phi, the initial weights and their constraint, what stands between layers, and the optimiser. All
else is the same: bottom and top layer, their initial weights, orthogonal V where it is orthogonal, mini-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.beyond import rivals
from bsnn.gpn import GPN
from bsnn.network import BSNN
from bsnn.nn.parametrizations import normalised_rows
from bsnn.optim.muon import Muon
from bsnn.randomness import Purpose, generator

MOMENTUM = 0.9
STREAM = 4
"""The stream of Gaussian weights and biases, an index of Purpose.BEYOND; experiments.beyond.config has other parts'."""


@dataclass(frozen=True)
class Method:
    """One way to make a deep plain network trainable.

    Args:
        phi: called with the number of activations in the network.
        gain: the standard deviation of weights times d^(1/2); of orthogonal ones a factor.
        gaussian: weights are independent instead of orthogonal.
        rows: rows of norm one in training.
        bias_variance: of biases that train; None: none.
        between: batch norm before phi; or residual, x <- x + W phi(x) / L^(1/2) (Hayou et al., AISTATS 2021).
        optimiser: of the hidden weights; where it is Muon, Adam trains the others.
    """

    phi: Callable[[int], Callable[[Tensor], Tensor]]
    gain: float = 1.0
    gaussian: bool = False
    rows: bool = False
    bias_variance: float | None = None
    between: str = ""
    optimiser: str = "SGD"


def _gpn(phi: nn.Module) -> Callable[[int], Callable[[Tensor], Tensor]]:
    return lambda depth: GPN(phi)


METHODS = {
    "plain Tanh": Method(lambda depth: torch.tanh, rows=True),
    "Tanh-GPN": Method(_gpn(nn.Tanh()), rows=True),
    "SELU-GPN": Method(_gpn(nn.SELU()), rows=True),
    "ReLU-GPN": Method(_gpn(nn.ReLU()), rows=True),
    "Tanh, edge of chaos": Method(
        lambda depth: torch.tanh,
        gain=math.sqrt(rivals.edge_of_chaos(torch.tanh, rivals.BIAS_VARIANCE)[0]),
        bias_variance=rivals.BIAS_VARIANCE,
    ),
    "SELU": Method(lambda depth: F.selu, gaussian=True),
    "Tanh, deep kernel shaping": Method(lambda depth: rivals.deep_kernel_shaped(torch.tanh, depth)),
    "Tanh, tailored": Method(lambda depth: rivals.tailored(torch.tanh, depth)),
    "LeakyReLU, tailored": Method(rivals.tailored_leaky_relu),
    "ReLU, batch norm": Method(lambda depth: F.relu, gain=math.sqrt(2), gaussian=True, between="batch norm"),
    "ReLU, residual": Method(lambda depth: F.relu, gain=math.sqrt(2), gaussian=True, between="residual"),
    "Tanh-GPN, Adam": Method(_gpn(nn.Tanh()), rows=True, optimiser="Adam"),
    "Tanh-GPN, Muon": Method(_gpn(nn.Tanh()), optimiser="Muon"),
}
"""GPN, what it is set beside, and GPN with other optimisers. Muon's updates don't keep norms of rows: its W is free."""


class Networks:
    """K networks of one method, that share their shape and nothing else.

    Args:
        method: one of METHODS.
        depth, width: L and N.
        features, classes: of the data.
        seeds: one for each network.
        rates: their learning rates.
        device: where they train, in float32.
    """

    def __init__(
        self,
        method: Method,
        depth: int,
        width: int,
        features: int,
        classes: int,
        seeds: Sequence[int],
        rates: Sequence[float],
        device: torch.device,
    ) -> None:
        self.method, self.depth = method, depth
        self.phi = method.phi(depth + 1)
        made = [_initial(method, depth, width, features, classes, seed) for seed in seeds]
        self.parameters = {
            name: torch.stack([one[name] for one in made]).to(device).requires_grad_() for name in made[0]
        }
        K = len(made)
        self.statistics = torch.stack([torch.zeros(depth, K * width), torch.ones(depth, K * width)]).to(device)
        self.optimisers = [self._optimiser(k, rate) for k, rate in enumerate(rates)]

    def _optimiser(self, k: int, rate: float) -> tuple[dict[str, nn.Parameter], list[torch.optim.Optimizer]]:
        """Make torch's optimisers of network k, on views of the parameters."""
        views = {name: nn.Parameter(value.detach()[k]) for name, value in self.parameters.items()}
        others = [view for name, view in views.items() if name != "V"]
        if self.method.optimiser == "Muon":
            return views, [Muon([views["V"]], lr=rate), torch.optim.Adam(others, lr=rate)]
        if self.method.optimiser == "Adam":
            return views, [torch.optim.Adam(views.values(), lr=rate)]
        return views, [torch.optim.SGD(views.values(), lr=rate, momentum=MOMENTUM)]

    def logits(self, x_KBD: Tensor, training: bool = False) -> Tensor:
        """Compute (K, B, classes)."""
        of, method = self.parameters, self.method
        layers = zip(*(of[name].unbind(dim=1) for name in ("V", "scale", "b") if name in of), strict=True)
        residual = method.between == "residual"
        x_KBN = torch.baddbmm(of["a"], x_KBD, of["A"].mT)
        x_KBN = x_KBN if residual else self.phi(x_KBN)
        for layer, (V_KNN, *others) in enumerate(layers):
            W_KNN = normalised_rows(V_KNN, start_dim=2) if method.rows else V_KNN
            if residual:
                x_KBN = torch.baddbmm(x_KBN, self.phi(x_KBN), W_KNN.mT, alpha=1 / math.sqrt(self.depth))
                continue
            h_KBN = torch.bmm(x_KBN, W_KNN.mT)
            if method.between == "batch norm":
                scale, shift = others
                h_KBN = self._normalised(h_KBN, layer, training) * scale + shift
            elif others:
                h_KBN = h_KBN + others[0]
            x_KBN = self.phi(h_KBN)
        return torch.baddbmm(of["c"], x_KBN, of["C"].mT)

    def _normalised(self, h_KBN: Tensor, layer: int, training: bool) -> Tensor:
        K, B, N = h_KBN.shape
        mean, variance = self.statistics[:, layer]
        h_BC = F.batch_norm(h_KBN.transpose(0, 1).reshape(B, K * N), mean, variance, training=training)
        return h_BC.view(B, K, N).transpose(0, 1)

    def step(self, x_KBD: Tensor, y_KB: Tensor) -> tuple[Tensor, Tensor]:
        """Take an update of every network; return mean losses (K,) and layers' gradient norms (K, L) before it."""
        loss_KB = F.cross_entropy(self.logits(x_KBD, training=True).transpose(1, 2), y_KB, reduction="none")
        loss_K = loss_KB.mean(dim=1)
        found = torch.autograd.grad(loss_K.sum(), list(self.parameters.values()))
        gradients = dict(zip(self.parameters, found, strict=True))
        for k, (views, optimisers) in enumerate(self.optimisers):
            for name, view in views.items():
                view.grad = gradients[name][k]
            for optimiser in optimisers:
                optimiser.step()
        return loss_K.detach(), torch.linalg.vector_norm(gradients["V"].double(), dim=(2, 3))

    @torch.no_grad()
    def accuracy(self, x_BD: Tensor, y_B: Tensor) -> Tensor:
        """Compute each network's accuracy, % (K,)."""
        K = len(self.optimisers)
        right = sum(
            (self.logits(x.expand(K, -1, -1)).argmax(dim=-1) == y).sum(dim=1)
            for x, y in zip(x_BD.split(250), y_B.split(250), strict=True)
        )
        return 100 * torch.as_tensor(right) / len(y_B)


def _initial(method: Method, depth: int, width: int, features: int, classes: int, seed: int) -> dict[str, Tensor]:
    """Draw one network: bottom A, a; hidden V and what stands beside it; top C, c. V is BSNN's where orthogonal."""
    network = BSNN(
        features, classes, width=width, depth=depth, generator=generator(seed, Purpose.INITIAL_WEIGHTS),
    )  # fmt: skip
    random = generator(seed, Purpose.BEYOND, STREAM)
    V = torch.randn(depth, width, width, generator=random) / math.sqrt(width) if method.gaussian else network.V
    made = {
        "A": network.bottom.weight, "a": network.bottom.bias[None], "V": method.gain * V,
        "C": network.top.weight, "c": network.top.bias[None],
    }  # fmt: skip
    if method.bias_variance is not None:
        made["b"] = math.sqrt(method.bias_variance) * torch.randn(depth, 1, width, generator=random)
    if method.between == "batch norm":
        made |= {"scale": torch.ones(depth, 1, width), "b": torch.zeros(depth, 1, width)}
    return {name: value.detach() for name, value in made.items()}
