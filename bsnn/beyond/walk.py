"""Law of Fig. 3: gradient norms of a wide GPN network walk randomly from layer to layer, and this is their range.

Let X = ln ||x||^2 / d and Y = ln ||y||^2 / d of one sample. A layer with Haar-uniform W draws h = W x uniformly from a
sphere, and the error W^T y from another one, so that to first order in 1/d

    X_{l+1} = gain X_l + xi_l,    Y_l = Y_{l+1} + slope_gain X_l + eta_l,    ln ||dE/dW^(l)|| = (X_l + Y_l) / 2 + const.

With f = phi^2, g = phi'^2 (both of mean 1 for a GPN function), and c_k the Hermite coefficients of f and g,

    gain = c_2(f) / sqrt(2),    slope_gain = c_2(g) / sqrt(2)
    d Var xi = E f^2 - 1 - c_2(f)^2,    d Var eta = 3 (E g^2 - 1) - c_2(g)^2
    d Cov(xi, eta) = E f g - 1 - c_2(f) c_2(g).

Two samples whose h correlate with rho and whose errors are independent share a part of the noise:

    d Cov(xi_a, xi_b) = C_f(rho) - 1 - c_2(f)^2 rho^2,    d Cov(eta_a, eta_b) = C_g(rho) - 1 - c_2(g)^2 rho^2,

C_f(rho) = sum_k c_k(f)^2 rho^k, and likewise for f beside g. Inputs become alike with depth, rho -> 1: then samples
share a third of the noise of Y, less c_2(g)^2, and the mean over many samples walks with this third.

Nothing restores Y, so max / min of the gradient norms is the range of a random walk. A Brownian motion of variance v at
its end has the mean range 2 sqrt(2 v / pi) (Feller, Ann. Math. Statist. 22, 1951). These laws are not in the paper.
Shapes in names: L layers, D draws, K samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.propagation import Draw, forward
from bsnn.quadrature import Phi, gaussian_moments
from bsnn.theory.hermite import hermite_coefficients

DEGREE = 100
"""Terms of the series in rho. What they lack of a second moment is counted at this degree."""


@dataclass(frozen=True)
class Series:
    """sum_k c_k rho^k for 0 <= rho <= 1, whose value at 1 is `at_one`."""

    coefficients: Tensor
    at_one: float

    def __call__(self, rho: float) -> float:
        powers = rho ** torch.arange(len(self.coefficients), dtype=torch.float64)
        rest = self.at_one - float(self.coefficients.sum())
        return float((self.coefficients * powers).sum()) + rest * rho ** len(self.coefficients)


@dataclass(frozen=True)
class LayerLaw:
    """The effect of one wide layer of a GPN function on the norms of signal and error, see the module.

    Args:
        gain, slope_gain: the drifts.
        own: d times the covariance of (xi, eta) of one sample, (2, 2).
        map: rho of the next layer's h.
        signal, error, mixed: C_f, C_g and the like for f beside g.
        radial: c_2(f), c_2(g).
    """

    gain: float
    slope_gain: float
    own: Tensor
    map: Series
    signal: Series
    error: Series
    mixed: Series
    radial: tuple[float, float]

    @classmethod
    def of(cls, phi: Phi) -> LayerLaw:
        """Derive it from phi. Raises ValueError for a function that isn't GPN."""

        def f(x: Tensor) -> Tensor:
            return phi(x) ** 2

        def g(x: Tensor) -> Tensor:
            return value_and_slope(phi, x)[1] ** 2

        moments = gaussian_moments(phi)
        if abs(moments.second - 1) > 1e-8 or abs(moments.derivative_second - 1) > 1e-8:
            found = f"E phi^2 = {moments.second:.6g}, E phi'^2 = {moments.derivative_second:.6g}"
            raise ValueError(f"expected a GPN function, both moments 1, found {found}; use GPN(phi)")
        a, c_f, c_g = (hermite_coefficients(one, DEGREE) for one in (phi, f, g))
        squares = [gaussian_moments(one).second for one in (f, g)]
        product = gaussian_moments(lambda x: phi(x) * value_and_slope(phi, x)[1]).second
        radial = float(c_f[2]), float(c_g[2])
        across = product - 1 - radial[0] * radial[1]
        own = [[squares[0] - 1 - radial[0] ** 2, across], [across, 3 * (squares[1] - 1) - radial[1] ** 2]]
        return cls(
            radial[0] / math.sqrt(2),
            radial[1] / math.sqrt(2),
            torch.tensor(own, dtype=torch.float64),
            Series(a**2, moments.second),
            Series(c_f**2, squares[0]),
            Series(c_g**2, squares[1]),
            Series(c_f * c_g, product),
            radial,
        )

    def shared(self, rho: float) -> Tensor:
        """d times the covariance of (xi, eta) between two samples whose h correlate with rho, (2, 2)."""
        signal, error = self.radial
        across = self.mixed(rho) - 1 - signal * error * rho**2
        own = [[self.signal(rho) - 1 - signal**2 * rho**2, across], [across, self.error(rho) - 1 - error**2 * rho**2]]
        return torch.tensor(own, dtype=torch.float64)

    @property
    def fourth(self) -> float:
        """E phi'^4."""
        return self.error.at_one


def simple_range(law: LayerLaw, depth: int, width: int, share: float = 1.0) -> float:
    """Mean range of Y / 2 if each layer's noise has d Var eta = 3 (E phi'^4 - 1): the law in one formula.

    share: of this noise; 1 for one sample, 1/3 for the mean over many alike ones with independent errors.
    """
    variance = share * 3 * (law.fourth - 1) * depth / width
    return math.sqrt(2 * variance / math.pi)


@dataclass(frozen=True)
class Ranges:
    """ln(max_l / min_l) of gradient norms: of single samples (D, K), and of the mean over the K samples (D,)."""

    single: Tensor
    mean: Tensor


def predicted(law: LayerLaw, depth: int, width: int, samples: int, draws: int, generator: torch.Generator) -> Ranges:
    """Draw the walks of the law: Gaussian inputs and errors, independent for each sample, as in Fig. 3."""
    shape = draws, samples
    start = math.sqrt(2 / width)
    X_DK = start * torch.randn(shape, generator=generator, dtype=torch.float64)
    steps, signals, rho = [], [], 0.0
    for _ in range(depth):
        shared = _root(law.shared(rho)) @ torch.randn(draws, 2, 1, generator=generator, dtype=torch.float64)
        own = _root(law.own - law.shared(rho)) @ torch.randn(*shape, 2, 1, generator=generator, dtype=torch.float64)
        noise = (shared.unsqueeze(1) + own).squeeze(-1) / math.sqrt(width)
        signals.append(X_DK)
        steps.append(law.slope_gain * X_DK + noise[..., 1])
        X_DK = law.gain * X_DK + noise[..., 0]
        rho = law.map(rho)
    Y_DK = start * torch.randn(shape, generator=generator, dtype=torch.float64)
    logarithms = []
    for X, step in zip(reversed(signals), reversed(steps), strict=True):
        Y_DK = Y_DK + step
        logarithms.append((X + Y_DK) / 2)
    return ranges(torch.stack(logarithms).exp())


def ranges(norms_LDK: Tensor) -> Ranges:
    """Compute the ranges of the logarithms of gradient norms; a draw's samples share its weights."""
    logarithms = norms_LDK.log(), norms_LDK.mean(2).log()
    single_DK, mean_D = (one.amax(0) - one.amin(0) for one in logarithms)
    return Ranges(single_DK, mean_D)


def gradient_norms(phi: Phi, drawn: Draw) -> Tensor:
    """Compute ||dE/dW^(l)||_F = ||x^(l)|| ||y^(l)|| of every layer and sample of a random network, (L, K), float64."""
    layers = [(torch.linalg.vector_norm(x, dim=1).double(), slope) for x, slope in forward(phi, drawn)]
    error_KN, norms = drawn.error, []
    for W_NN in reversed(drawn.weights.unbind()):
        x_K, slope_KN = layers.pop()
        y_KN = slope_KN * error_KN
        norms.append(x_K * torch.linalg.vector_norm(y_KN, dim=1).double())
        error_KN = y_KN @ W_NN
    return torch.stack(norms[::-1])


def _root(covariance: Tensor) -> Tensor:
    """Return R with R R^T = covariance; rounding can leave an eigenvalue slightly negative."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
