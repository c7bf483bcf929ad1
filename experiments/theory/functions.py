"""Parts of the theory study on gradients and functions of one variable: Propositions 1-3, Theorem 1, Lemma 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.gpn import GPN, gaussian_poincare_constants
from bsnn.haar import haar_orthogonal
from bsnn.quadrature import Phi, gaussian_moments, moments_and_discriminant
from bsnn.theory.concentration import log_moment_generating, radial_slope
from bsnn.theory.hermite import hermite_coefficients, hermite_series, linearisation_error
from experiments.theory.config import Stream, TheoryConfig, functions, stream
from experiments.units import Row, Unit, Work

# Differentiable except at 0, as ReLU is, but with a jump there, for which Theorem 1 and Proposition 2 fail.
JUMPS: dict[str, Phi] = {
    "x - 2 sqrt(2/pi) sign(x)": lambda x: x - 2 * math.sqrt(2 / math.pi) * torch.sign(x),
    "x + sign(x)": lambda x: x + torch.sign(x),
}
LINES: dict[str, Phi] = {"identity": lambda x: x, "negation": lambda x: -x}


def gradient(config: TheoryConfig) -> Work:
    """Make one network for each draw of x^(1), weights and dE/dx^(L+1).

    Its function is x, -x, one of the six, or one of their GPN versions with either root b.
    """
    sizes = config.sizes.gradient
    networks: list[tuple[str, bool, str | None, Phi]] = [(name, True, None, phi) for name, phi in LINES.items()]
    networks += [(name, False, None, make()) for name, make in PAPER_ACTIVATIONS.items()]
    networks += [(name, True, root, GPN(make(), root)) for name, make in PAPER_ACTIVATIONS.items() for root in "+-"]

    def rows(unit: Unit) -> list[Row]:
        random = stream(config, Stream.GRADIENT, int(str(unit[0])))
        start_N, error_N = torch.randn(2, sizes.width, generator=random, dtype=torch.float64)
        start_N *= math.sqrt(sizes.width) / start_N.norm()
        shape = (sizes.depth, sizes.width, sizes.width)
        weights_LNN = [W_NN.requires_grad_() for W_NN in haar_orthogonal(*shape, generator=random, dtype=torch.float64)]
        return [
            [name, gpn, root, *summary(layer_norms(phi, weights_LNN, start_N, error_N))]
            for name, gpn, root, phi in networks
        ]

    columns = ("function", "gpn", "root", *(f"{norm}_{end}" for norm in NORMS for end in ENDS), "difference")
    return Work(("draw",), columns, [(draw,) for draw in range(sizes.draws)], rows, {"version": 1})


NORMS, ENDS = ("signal", "error", "gradient"), ("min", "max", "first", "last")


def summary(norms_L3: Tensor) -> Row:
    """Return each norm's least and largest value over the layers, and its values at layers 1 and L.

    The last entry is the largest relative difference between the gradient's norm and the product of the two others.
    """
    signal_L, error_L, gradient_L = norms_L3.unbind(1)
    ends = torch.stack([norms_L3.amin(0), norms_L3.amax(0), norms_L3[0], norms_L3[-1]], dim=1)
    return [*ends.flatten().tolist(), float((gradient_L / (signal_L * error_L) - 1).abs().max())]


def layer_norms(phi: Phi, weights_LNN: list[Tensor], start_N: Tensor, error_N: Tensor) -> Tensor:
    """Compute ||x^(l)||, ||y^(l)|| by equations (1)-(3), and independently ||dE/dW^(l)||_F by autograd: (L, 3)."""
    signals, slopes, x_N = [], [], start_N
    for W_NN in weights_LNN:
        signals.append(x_N)
        x_N, slope_N = value_and_slope(phi, W_NN.detach() @ x_N)
        slopes.append(slope_N)
    errors, back_N = [], error_N
    for W_NN, slope_N in zip(reversed(weights_LNN), reversed(slopes), strict=True):
        errors.append(slope_N * back_N)
        back_N = W_NN.detach().T @ errors[-1]
    output_N = start_N
    for W_NN in weights_LNN:
        output_N = phi(W_NN @ output_N)
    gradients = torch.autograd.grad(output_N, weights_LNN, error_N)
    table = zip(signals, reversed(errors), gradients, strict=True)
    return torch.stack([torch.stack([x.norm(), y.norm(), torch.linalg.matrix_norm(g)]) for x, y, g in table])


def hermite(config: TheoryConfig) -> Work:
    """Compute the coefficients a_0, ..., a_degree."""
    sizes = config.sizes.hermite
    phis = functions()

    def rows(unit: Unit) -> list[Row]:
        coefficients = hermite_coefficients(phis[str(unit[0]), bool(unit[1])], sizes.degree).tolist()
        return [[degree, value] for degree, value in enumerate(coefficients)]

    return Work(("function", "gpn"), ("degree", "coefficient"), list(phis), rows, {"version": 1})


def constants(config: TheoryConfig) -> Work:
    """Compute moments, distance from a line and both roots (a, b), with the residuals of equations (10) and (11)."""
    sizes = config.sizes.constants

    def drawn(family: str) -> dict[str, Phi]:
        index = list(FAMILIES).index(family)
        draws = (stream(config, Stream.CONSTANTS, index, draw) for draw in range(sizes.functions))
        return {str(draw): FAMILIES[family](random) for draw, random in enumerate(draws)}

    families: dict[str, Callable[[], dict[str, Phi]]] = {
        "paper": lambda: {name: make() for name, make in PAPER_ACTIVATIONS.items()},
        "lines": lambda: {**LINES, "2x + 3": lambda x: 2 * x + 3},
        # x + eps H_3 has Hermite coefficients 1 and eps: E phi'^2 - Var phi = 2 eps^2
        "rounded": lambda: {"selu": rounded_selu},
        "near a line": lambda: {f"1e-{k}": near_line(10.0**-k) for k in (1, 2, 4, 6)},
        "jumps": lambda: JUMPS,
        **{family: partial(drawn, family) for family in FAMILIES},
    }

    def rows(unit: Unit) -> list[Row]:
        describe = moments_row if unit == ("jumps",) else constants_row
        return [[name, *describe(phi)] for name, phi in families[str(unit[0])]().items()]

    columns = ("function", "mean", "second", "derivative_second", "discriminant", "nonlinearity", *ROOTS, "residual")
    return Work(("family",), columns, [(family,) for family in families], rows, {"version": 1})


ROOTS = ("a", "b_plus", "b_minus", "gain_plus", "gain_minus")


def moments_row(phi: Phi) -> Row:
    moments, discriminant = moments_and_discriminant(phi, ())
    return [*moments, discriminant, linearisation_error(phi), *[None] * (len(ROOTS) + 1)]


def constants_row(phi: Phi) -> Row:
    moments, discriminant = moments_and_discriminant(phi, ())
    # gain = E z psi psi' for psi = a phi + b (bsnn.theory.concentration.ShellLaw.gain): b^2 adds 0, two moments give
    # the rest.
    squared, linear = (radial_slope(f) for f in (lambda x: phi(x) ** 2, phi))
    residual, b, gain = 0.0, {}, {}
    for root in "+-":
        a, b[root] = gaussian_poincare_constants(phi, root)

        def normalised(x: Tensor, a: float = a, shift: float = b[root]) -> Tensor:
            return a * phi(x) + shift

        _, second, derivative_second = gaussian_moments(normalised)
        residual = max(residual, abs(second - 1), abs(derivative_second - 1))
        gain[root] = (a**2 * squared + 2 * a * b[root] * linear) / 2
    roots = (a, b["+"], b["-"], gain["+"], gain["-"])
    return [*moments, discriminant, linearisation_error(phi), *roots, residual]


def rounded_selu(x: Tensor) -> Tensor:
    """Compute SELU with its two constants rounded to four decimals, as they are often printed."""
    return 1.0507 * torch.where(x > 0, x, 1.6733 * torch.expm1(x.clamp(max=0)))


def near_line(eps: float) -> Phi:
    return lambda x: hermite_series(torch.tensor([0.0, 1.0, 0.0, eps], dtype=torch.float64), x)


def polynomial(random: torch.Generator) -> Phi:
    """Draw a polynomial of degree 8 at most, its Hermite coefficients Gaussian."""
    degree = int(torch.randint(2, 9, (), generator=random))
    coefficients = torch.randn(degree + 1, generator=random, dtype=torch.float64)
    return lambda x: hermite_series(coefficients, x)


def network(random: torch.Generator) -> Phi:
    """Draw a sum of eight tanh(w x + c)."""
    v, w, c = torch.randn(3, 8, generator=random, dtype=torch.float64)
    return lambda x: (v * torch.tanh(2 * w * x[..., None] + c)).sum(-1)


def waves(random: torch.Generator) -> Phi:
    """Draw a sum of eight sin(w x + c)."""
    v, w, c = torch.randn(3, 8, generator=random, dtype=torch.float64)
    return lambda x: (v * torch.sin(2 * w * x[..., None] + c)).sum(-1)


def kinked(random: torch.Generator) -> Phi:
    """Draw a piecewise linear function with four kinks."""
    v, c = torch.randn(2, 4, generator=random, dtype=torch.float64)
    slope = float(torch.randn((), generator=random, dtype=torch.float64))
    return lambda x: slope * x + (v * (x[..., None] - c).abs()).sum(-1)


FAMILIES: dict[str, Callable[[torch.Generator], Phi]] = {
    "polynomials": polynomial,
    "sums of tanh": network,
    "sums of sines": waves,
    "piecewise linear": kinked,
}


def lemma1(config: TheoryConfig) -> Work:
    """Compute moment generating functions of phi(z) and phi'(z) beside the bound of sub-Gaussian concentration."""
    phis = functions()

    def rows(unit: Unit) -> list[Row]:
        phi = phis[str(unit[0]), True]
        made: list[Row] = []
        slope: Phi = lambda x: value_and_slope(phi, x)[1]  # noqa: E731
        for name, f in (("phi", phi), ("slope", slope)):
            kind, proxy = variance_proxy(f)
            for rate in config.sizes.lemma1.rates:
                made.append([name, kind, proxy, rate, log_moment_generating(f, rate), proxy * rate**2 / 2])
        return made

    columns = ("of", "kind", "proxy", "rate", "log_mgf", "bound")
    return Work(("function",), columns, [(name,) for name in PAPER_ACTIVATIONS], rows, {"version": 1})


JUMP = 1e3  # a difference quotient beyond this is a jump, not a slope


def variance_proxy(f: Phi) -> tuple[str, float]:
    """Return ("Lipschitz", K^2) or, if f jumps, ("bounded", R^2 / 4), R its range's length; from a fine grid."""
    step = 1e-4
    values = f(torch.arange(-20, 20, step, dtype=torch.float64) + step / 2)
    steepest = float(values.diff().abs().max()) / step
    if steepest < JUMP:
        return "Lipschitz", steepest**2
    return "bounded", float(values.max() - values.min()) ** 2 / 4
