"""Norms of signals and gradients in a random orthogonal network: Figs 1-3 (section 3.1), no training.

For l = 1..L, with x^(1) and dE/dx^(L+1) standard Gaussian, one of each for every sample, and every W^(l) Haar-uniform:

    h^(l) = W^(l) x^(l),   x^(l+1) = phi(h^(l))                                                  (1)
    y^(L) = phi'(h^(L)) * dE/dx^(L+1)                                                            (2)
    y^(l) = phi'(h^(l)) * W^(l+1)^T y^(l+1)                                                      (3)
    dE/dW^(l) = y^(l) x^(l)^T                                                                    (4)

A `Draw` holds everything random; functions that are to be compared share one draw, so that they differ in phi alone:

    drawn = draw(depth=200, width=500, samples=500, seed=0)
    plain, normalised = propagate(torch.tanh, drawn), propagate(GPN(torch.nn.Tanh()), drawn)
    print(plain.signal_mean[-1], ratio(normalised.gradient_mean))

Shapes in names: L layers, B samples, N width (the paper's d).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.haar import haar_orthogonal
from bsnn.quadrature import Phi
from bsnn.randomness import Purpose, generator

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Draw:
    """One random experiment: input x^(1) (B, N), output error dE/dx^(L+1) (B, N), weights (L, N, N)."""

    input: Tensor
    error: Tensor
    weights: Tensor

    def to(self, dtype: torch.dtype) -> Draw:
        return Draw(self.input.to(dtype), self.error.to(dtype), self.weights.to(dtype))


def draw(
    depth: int,
    width: int,
    samples: int,
    seed: int,
    index: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    workers: int = 1,
) -> Draw:
    """Draw the `index`-th repetition at this width.

    Layer l has a stream of its own, named by (seed, index, width, l). Input and error share the stream of l = 0. So a
    deeper draw begins like a shallower one, and any number of `workers` threads gives the same draw. Needs memory for
    depth x width x width numbers: 1.8 GB for 200 layers of width 1500 in float32.
    """
    stream = generator(seed, Purpose.SYNTHETIC, index, width, 0)
    input_BN, error_BN = torch.randn(2, samples, width, generator=stream, dtype=dtype, device="cpu").to(device)
    W_LNN = torch.empty(depth, width, width, dtype=dtype, device=device)

    def fill(layer: int) -> None:
        stream = generator(seed, Purpose.SYNTHETIC, index, width, layer + 1)
        W_LNN[layer] = haar_orthogonal(width, width, generator=stream, dtype=dtype, device=device)

    each(fill, range(depth), workers)
    return Draw(input_BN, error_BN, W_LNN)


def each(task: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Return [task(item) for item in items], computed `workers` at a time.

    Made for torch with one thread in each operation (torch.set_num_threads(1)). If operations were split instead of
    items, each would wait for its slowest part, which takes several times as long once other processes use the cores.
    """
    if workers == 1:
        return list(map(task, items))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, items))


@dataclass(frozen=True)
class Profile:
    """Norms by layer, l = 1..L; each a float64 tensor of shape (L,) on the CPU.

    signal_mean, signal_std      ||x^(l)||_2 / sqrt(d): mean and standard deviation over the samples
    gradient_mean, gradient_std  ||y^(l)||_2 ||x^(l)||_2 = ||dE/dW^(l)||_F of one sample (Proposition 1): the same
    batch_gradient               ||1/B sum_b y_b^(l) x_b^(l)^T||_F, the norm of the gradient averaged over the samples

    Squares are summed: a norm below 1e-154 (float64) or 1e-19 (float32) loses accuracy and finally becomes 0.
    """

    signal_mean: Tensor
    signal_std: Tensor
    gradient_mean: Tensor
    gradient_std: Tensor
    batch_gradient: Tensor


def forward(phi: Phi, drawn: Draw) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield x^(l) and phi'(h^(l)) for l = 1..L, both of shape (B, N)."""
    x_BN = drawn.input
    for W_NN in drawn.weights:
        following_BN, slope_BN = value_and_slope(phi, x_BN @ W_NN.T)
        yield x_BN, slope_BN
        x_BN = following_BN


def propagate(phi: Phi, drawn: Draw) -> Profile:
    """Go forward and backward through all layers. Holds x and phi' of every layer: 2 L B N numbers beside the draw."""
    layers = list(forward(phi, drawn))
    width = drawn.input.shape[1]
    rows = []
    error_BN = drawn.error  # dE/dx^(l+1)
    for W_NN in reversed(drawn.weights.unbind()):
        x_BN, slope_BN = layers.pop()
        y_BN = slope_BN * error_BN
        x_B, y_B = torch.linalg.vector_norm(x_BN, dim=1), torch.linalg.vector_norm(y_BN, dim=1)
        signal_B, gradient_B = x_B.double() / math.sqrt(width), x_B.double() * y_B.double()
        statistics = [*_mean_and_std(signal_B), *_mean_and_std(gradient_B), batch_gradient_norm(x_BN, y_BN).double()]
        rows.append(torch.stack(statistics))
        error_BN = y_BN @ W_NN
    return Profile(*torch.stack(rows[::-1]).cpu().unbind(dim=1))


def batch_gradient_norm(x_BN: Tensor, y_BN: Tensor) -> Tensor:
    """Compute ||1/B sum_b y_b x_b^T||_F, a scalar.

    For wide layers it uses the Gram matrices, ||Y^T X||_F^2 = sum_ab (X X^T)_ab (Y Y^T)_ab. That takes 4 B^2 N
    operations instead of 2 B N^2.
    """
    samples, width = x_BN.shape
    if width <= 2 * samples:
        square = (y_BN.T @ x_BN).square().sum()
    else:
        square = ((x_BN @ x_BN.T) * (y_BN @ y_BN.T)).sum().clamp(min=0)  # rounding can leave a 0 slightly negative
    return square.sqrt() / samples


def ratio(norms_L: Tensor) -> float:
    """Compute max_l / min_l, the gradient norm ratio of Fig. 3: >= 1; inf if the minimum is 0, nan for 0/0."""
    return float(norms_L.max() / norms_L.min())


@dataclass
class SlopeHistogram:
    """Counts of phi'(h_i^(l)) over units, layers and samples (Fig. 2).

    Bin k is [left + k width, left + (k + 1) width). Values outside are counted in `below` and `above`.
    """

    left: float
    bin_width: float
    bins: int

    def __post_init__(self) -> None:
        self._counts = torch.zeros(self.bins + 2, dtype=torch.int64, device="cpu")

    def add(self, values: Tensor) -> None:
        if values.isnan().any():
            raise ValueError("a histogram of phi' expects numbers, found nan: the signal overflowed in float64.")
        position = ((values.double() - self.left) / self.bin_width).floor_().clamp_(-1, self.bins)
        self._counts += torch.bincount(position.long().flatten() + 1, minlength=self.bins + 2).cpu()

    @property
    def below(self) -> int:
        return int(self._counts[0])

    @property
    def above(self) -> int:
        return int(self._counts[-1])

    @property
    def counts(self) -> list[int]:
        return [int(count) for count in self._counts[1:-1]]


def slope_histogram(phi: Phi, drawn: Draw, left: float, bin_width: float, bins: int) -> SlopeHistogram:
    """Count phi'(h_i^(l)) over all N units, L layers and B samples of a draw: L B N values."""
    histogram = SlopeHistogram(left, bin_width, bins)
    for _, slope_BN in forward(phi, drawn):
        histogram.add(slope_BN)
    return histogram


def _mean_and_std(values_B: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the sample standard deviation; the latter is 0 for one sample."""
    return values_B.mean(), values_B.std() if len(values_B) > 1 else torch.zeros_like(values_B.mean())
