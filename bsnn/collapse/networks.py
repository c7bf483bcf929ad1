"""Many small networks at once: K perceptrons of one architecture, stacked so that one batched product serves all.

    stack = NarrowStack((1, *[2] * 9, 1), 256, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(stack.parameters(), lr=1e-3)
    fit(stack, optimiser, batches)                       # K independent trainings
    last_dead_layer(stack, x_BD) > 0                     # True where a network has collapsed (Theorem 1)

The members share nothing. The loss is the sum of theirs, so each one's gradient is its own. An optimiser that works
parameter by parameter (SGD, Adam and similar ones; not L-BFGS) trains each member as if it were alone.

The network is that of "Collapse of deep and narrow neural nets" (ICLR 2019 submission), section 3, layers l = 1..L:

    h^l = W^l x^(l-1) + b^l,   x^l = phi(h^l)  for l < L,   x^L = h^L, or phi(h^L) with `activate_last`

Shapes in names: K members, B samples, D inputs, C outputs, N units of a layer, M units of the layer before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bsnn.haar import haar_orthogonal
from bsnn.randomness import device_of

EPSILON = 1e-5  # of batch normalisation, as torch.nn.BatchNorm1d
MOMENTUM = 0.1
NORMALISATIONS = (None, "batch", "weight")


def _normal(variance: Callable[[int, int], float]) -> Callable[..., Tensor]:
    def draw(members: int, n_out: int, n_in: int, generator: torch.Generator | None) -> Tensor:
        gaussian = torch.randn(
            members, n_out, n_in, generator=generator, dtype=torch.float64, device=device_of(generator)
        )
        return gaussian * math.sqrt(variance(n_out, n_in))

    return draw


def _uniform(variance: Callable[[int, int], float]) -> Callable[..., Tensor]:
    def draw(members: int, n_out: int, n_in: int, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(
            members, n_out, n_in, generator=generator, dtype=torch.float64, device=device_of(generator)
        )
        return (2 * uniform - 1) * math.sqrt(3 * variance(n_out, n_in))

    return draw


def _orthogonal(members: int, n_out: int, n_in: int, generator: torch.Generator | None) -> Tensor:
    return haar_orthogonal(members, n_out, n_in, generator=generator, dtype=torch.float64, device=device_of(generator))


INITIALISATIONS: dict[str, Callable[..., Tensor]] = {
    "he": _normal(lambda n_out, n_in: 2 / n_in),
    "he_uniform": _uniform(lambda n_out, n_in: 2 / n_in),
    "lecun": _normal(lambda n_out, n_in: 1 / n_in),
    "glorot_uniform": _uniform(lambda n_out, n_in: 2 / (n_in + n_out)),
    "orthogonal": _orthogonal,  # Saxe et al., 2014: orthonormal rows or columns
}
"""(members, n_out, n_in, generator) -> (K, n_out, n_in) in float64. He et al. 2015, LeCun et al. 1998, Glorot 2010."""


def draw_weights(
    initialisation: str, members: int, n_out: int, n_in: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw W of one layer of every member, (K, n_out, n_in), float64."""
    if initialisation not in INITIALISATIONS:
        raise ValueError(f"initialisation: expected one of {', '.join(INITIALISATIONS)}, found {initialisation!r}")
    return INITIALISATIONS[initialisation](members, n_out, n_in, generator)


class NarrowStack(nn.Module):
    """K multi-layer perceptrons: (B, D), or (K, B, D) for inputs of their own, -> (K, B, C).

    Args:
        layers: widths (D, N, ..., N, C); L = len(layers) - 1.
        members: K.
        activation: phi, an elementwise function or module (bsnn.GPN is one); a module serves all layers.
        initialisation: of the weights, see INITIALISATIONS. Biases start at 0.
        bias: True if there are biases.
        normalisation: "batch" normalises h over the batch before phi (affine, torch.nn.BatchNorm1d's constants, its
            shift in place of the bias) in all layers but the last. "weight" makes every row of W g v / |v|
            (Salimans & Kingma, 2016) in all layers; g starts as |v|, so the functions at the start are those of a
            stack without normalisation.
        dropout: the probability with which a hidden unit is dropped, in training mode, after phi.
        activate_last: phi follows the last layer too ("the last layer also employs ReLU activation").
        generator: a CPU generator for weights and dropout. Weights are drawn in float64 and rounded to `dtype`.

    Raises ValueError for fewer than two layer widths, widths or members below 1, and unknown names.
    """

    def __init__(
        self,
        layers: Sequence[int],
        members: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        initialisation: str = "he",
        *,
        bias: bool = True,
        normalisation: str | None = None,
        dropout: float = 0.0,
        activate_last: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(layers) < 2 or min(layers) < 1:
            raise ValueError(f"layers: expected at least two widths of 1 or more, as in (1, 2, 2, 1), found {layers}")
        if members < 1:
            raise ValueError(f"members: expected at least 1, found {members}")
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation: expected one of {NORMALISATIONS}, found {normalisation!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), found {dropout}")
        self.layers, self.members, self.activation = tuple(layers), members, activation
        self.normalisation, self.dropout, self.activate_last = normalisation, dropout, activate_last
        self._noise = generator
        dtype = torch.get_default_dtype() if dtype is None else dtype
        pairs = list(zip(layers[1:], layers[:-1], strict=True))
        drawn = [draw_weights(initialisation, members, n_out, n_in, generator) for n_out, n_in in pairs]
        self.weights = nn.ParameterList(W_KNM.to(dtype) for W_KNM in drawn)
        column = {
            n_out: torch.zeros(members, n_out, 1, dtype=dtype, device=device_of(generator)) for n_out in layers[1:]
        }
        self.biases = nn.ParameterList(column[n].clone() for n in layers[1:]) if bias else None
        if normalisation == "weight":
            self.scales = nn.ParameterList(torch.linalg.vector_norm(W, dim=2, keepdim=True) for W in self.weights)
        if normalisation == "batch":
            self.scales = nn.ParameterList(column[n] + 1 for n in layers[1:-1])
            self.shifts = nn.ParameterList(column[n].clone() for n in layers[1:-1])
            for layer, n in enumerate(layers[1:-1]):
                self.register_buffer(f"mean_{layer}", column[n].clone())
                self.register_buffer(f"variance_{layer}", column[n] + 1)

    @property
    def depth(self) -> int:
        """The number of layers, L."""
        return len(self.weights)

    @torch.no_grad()
    def member(self, k: int) -> NarrowStack:
        """Make a stack of the k-th member alone, with copies of its parameters."""
        one = NarrowStack(
            self.layers,
            1,
            self.activation,
            bias=self.biases is not None,
            normalisation=self.normalisation,
            dropout=self.dropout,
            activate_last=self.activate_last,
            generator=torch.Generator(),  # a new one: drawing weights that are overwritten would move the state of ours
            dtype=self.weights[0].dtype,
        )
        one._noise = self._noise
        for mine, its in zip(self._own(), one._own(), strict=True):
            its.copy_(mine[k : k + 1])
        return one.train(self.training)

    @torch.no_grad()
    def replace(self, k: int, one: NarrowStack) -> None:
        """Put the only member of `one` in place of the k-th."""
        for mine, its in zip(self._own(), one._own(), strict=True):
            mine[k].copy_(its[0])

    def _own(self) -> list[Tensor]:
        """List every parameter and buffer with an axis of members: all but the activation's."""
        named = [*self.named_parameters(), *self.named_buffers()]
        return [value for name, value in named if not name.startswith("activation.")]

    def effective_weight(self, layer: int) -> Tensor:
        """Return W of layer `layer` (from 0) as it multiplies, (K, N, M)."""
        W_KNM: Tensor = self.weights[layer]
        return self.scales[layer] * F.normalize(W_KNM, dim=2) if self.normalisation == "weight" else W_KNM

    def forward(self, x: Tensor) -> Tensor:
        *_, x_KCB = self._signals(x)
        return x_KCB.mT

    @torch.no_grad()
    def signals(self, x: Tensor) -> list[Tensor]:
        """Compute x^1, ..., x^L in the module's present mode, each (K, B, N)."""
        return [x_KNB.mT for x_KNB in self._signals(x)]

    def _signals(self, x: Tensor) -> Iterator[Tensor]:
        # Samples come last: the units' means, scales and biases then broadcast over contiguous memory.
        x_KMB = (x if x.dim() == 3 else x.expand(self.members, -1, -1)).mT
        for layer in range(self.depth):
            last = layer == self.depth - 1
            W_KNM = self.effective_weight(layer)
            normalised = self.normalisation == "batch" and not last
            bias_KN1 = None if self.biases is None or normalised else self.biases[layer]
            h_KNB = torch.bmm(W_KNM, x_KMB) if bias_KN1 is None else torch.baddbmm(bias_KN1, W_KNM, x_KMB)
            if normalised:
                h_KNB = self._batch_norm(layer, h_KNB)
            x_KMB = self.activation(h_KNB) if not last or self.activate_last else h_KNB
            if self.dropout and self.training and not last:
                drawn_on = device_of(self._noise)
                kept = (
                    torch.rand(x_KMB.shape, generator=self._noise, dtype=x_KMB.dtype, device=drawn_on) >= self.dropout
                )
                x_KMB = x_KMB * kept.to(x_KMB.device) / (1 - self.dropout)
            yield x_KMB

    def _batch_norm(self, layer: int, h_KNB: Tensor) -> Tensor:
        # every unit of every member is a channel of one fused operation
        mean, variance = (getattr(self, f"{name}_{layer}").view(-1) for name in ("mean", "variance"))
        scale, shift = self.scales[layer].view(-1), self.shifts[layer].view(-1)
        flat = h_KNB.reshape(1, -1, h_KNB.shape[2])
        return F.batch_norm(flat, mean, variance, scale, shift, self.training, MOMENTUM, EPSILON).view_as(h_KNB)

    @torch.no_grad()
    def normalise_from(self, x: Tensor) -> None:
        """Set scale and bias so that every h has mean 0 and variance 1 over the batch x.

        This is Salimans & Kingma's data-dependent start (their section 3), for a stack with normalisation "weight" and
        biases.
        """
        if self.normalisation != "weight" or self.biases is None:
            raise ValueError('normalise_from: expected a stack with normalisation="weight" and biases')
        for layer in range(self.depth):
            self.scales[layer].fill_(1)
            self.biases[layer].zero_()
            x_KMB = (x.expand(self.members, -1, -1) if layer == 0 else self.signals(x)[layer - 1]).mT
            h_KNB = torch.bmm(self.effective_weight(layer), x_KMB)
            deviation, mean = torch.std_mean(h_KNB, dim=2, keepdim=True, correction=0)
            deviation.clamp_(min=EPSILON)
            self.scales[layer].copy_(1 / deviation)
            self.biases[layer].copy_(-mean / deviation)


def member_losses(output_KBC: Tensor, target: Tensor, loss: str = "mse") -> Tensor:
    """Average over samples and outputs for each member, (K,). target: (B, C) or (K, B, C); loss: "mse" or "mae"."""
    if loss not in ("mse", "mae"):
        raise ValueError(f'loss: expected "mse" or "mae", found {loss!r}')
    error_KBC = output_KBC - target
    return (error_KBC.square() if loss == "mse" else error_KBC.abs()).mean(dim=(1, 2))


def fit(
    stack: NarrowStack, optimiser: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]], loss: str = "mse"
) -> None:
    """Take one step for every (x, y) of `batches`, x (B, D) or (K, B, D), y (B, C) or (K, B, C)."""
    stack.train()
    for x, y in batches:
        optimiser.zero_grad()
        member_losses(stack(x), y, loss).sum().backward()
        optimiser.step()


@torch.no_grad()
def last_dead_layer(stack: NarrowStack, x: Tensor) -> Tensor:
    """Find the largest l < L with x^l = 0 in every unit, for each sample: (K, B); 0 if there is none.

    If a ReLU network is constant on a connected set, there is such a layer (Theorem 1). Samples with the same such
    layer have the same output. Evaluated in evaluation mode; the stack's mode is restored.
    """
    training = stack.training
    stack.eval()
    signals = stack.signals(x)[:-1]
    stack.train(training)
    shape = (stack.members, x.shape[-2])
    deepest_KB = torch.zeros(shape, dtype=torch.int64, device=x.device)
    for number, x_KBN in enumerate(signals, start=1):
        deepest_KB[(x_KBN == 0).all(dim=2)] = number
    return deepest_KB
