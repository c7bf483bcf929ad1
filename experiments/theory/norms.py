"""Parts of the theory study about norms: Theorems 2 and 3, Definition 4, Lemmas 2, 3 and 5.

For a fixed x with ||x|| = sqrt(d) and Haar-uniform W, W x is uniform on the sphere of radius sqrt(d); parts lemma4 and
lemma6 test that with matrices. So u = sqrt(d) z / ||z|| with z ~ N(0, I_d) is drawn instead of W: d numbers for d^2.

Shapes in names: B draws, N width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.gpn import GPN
from bsnn.haar import haar_orthogonal
from bsnn.quadrature import Phi
from bsnn.theory.concentration import ShellLaw, backward_law, chi_tails, forward_law, radial_slope
from experiments.theory.config import Stream, TheoryConfig, functions, stream
from experiments.units import Row, Unit, Work

BLOCK = 2**21  # numbers drawn at a time
SPHERE, HAAR = "sphere", "haar"

# The measurement of a layer: 1/d sum y_i^2 g(h_i), g = phi^2 or phi'^2, for h on the sphere or Gaussian, and y.
CASES = {
    "forward": ("phi", True, "ones"),  # Theorem 2, ||x|| = sqrt(d)
    "forward, x Gaussian": ("phi", False, "ones"),  # Theorem 2, x thin-shell concentrated, not on the shell
    "lemma 2": ("phi", False, "bounded"),  # independent phi(z_i), weighed
    "backward": ("slope", True, "ones"),  # Theorem 3, |y_i| = 1
    "backward, y bounded": ("slope", True, "bounded"),  # Theorem 3
    "backward, y one unit": ("slope", True, "spike"),  # not Theorem 3: ||y||_inf = sqrt(d) is not bounded
}


def error_vector(kind: str, width: int) -> Tensor:
    """Make a fixed y, ||y||^2 = d: all 1; nearly evenly spread over [-sqrt(3), sqrt(3)]; or sqrt(d) at one unit."""
    if kind == "ones":
        y_N = torch.ones(width, dtype=torch.float64)
    elif kind == "bounded":
        y_N = torch.linspace(-1, 1, width, dtype=torch.float64)
    else:
        y_N = torch.zeros(width, dtype=torch.float64)
        y_N[0] = 1
    scaled: Tensor = y_N * (math.sqrt(width) / y_N.norm())
    return scaled


def shell(config: TheoryConfig) -> Work:
    """Count how often 1/d sum y_i^2 g(h_i) is eps or more away from 1, with its mean and standard deviation."""
    sizes = config.sizes.shell
    phis = functions()
    laws = {key: {"phi": forward_law(phi), "slope": backward_law(phi)} for key, phi in phis.items()}

    def rows(unit: Unit) -> list[Row]:
        route, width = str(unit[0]), int(str(unit[1]))
        h_BN, radius_B1 = preactivations(config, route, width)
        return [
            [*key, case, *shell_row(phi, laws[key], case, h_BN, radius_B1, sizes.eps)]
            for key, phi in phis.items()
            for case in CASES
        ]

    columns = ("function", "gpn", "case", "draws", "mean", "std", "limit_mean", "limit_std")
    counts = [name for eps in sizes.eps for name in (f"out_{eps:g}", f"limit_{eps:g}")]
    units = [(HAAR, width) for width in sizes.haar_widths] + [(SPHERE, width) for width in sizes.widths]
    return Work(("route", "width"), (*columns, *counts), units, rows, {"version": 1})


def preactivations(config: TheoryConfig, route: str, width: int) -> tuple[Tensor, Tensor]:
    """Compute W x for x = (1, ..., 1), by either route (B, N), and ||z|| / sqrt(d) of an independent Gaussian z."""
    sizes = config.sizes.shell
    random = stream(config, Stream.SHELL, width, [SPHERE, HAAR].index(route))
    if route == HAAR:
        step = max(1, BLOCK // width**2)
        blocks = [
            haar_orthogonal(min(step, sizes.haar_draws - at), width, width, generator=random, dtype=torch.float64).sum(
                -1
            )
            for at in range(0, sizes.haar_draws, step)
        ]
        h_BN = torch.cat(blocks)
        z_BN = torch.randn(len(h_BN), width, generator=random, dtype=torch.float64)
        return h_BN, z_BN.norm(dim=1, keepdim=True) / math.sqrt(width)
    z_BN = torch.randn(sizes.draws, width, generator=random, dtype=torch.float64)
    radius_B1 = z_BN.norm(dim=1, keepdim=True) / math.sqrt(width)
    return z_BN / radius_B1, radius_B1


def shell_row(
    phi: Phi, laws: dict[str, ShellLaw], case: str, h_BN: Tensor, radius_B1: Tensor, all_eps: list[float]
) -> Row:
    what, on_sphere, weights = CASES[case]
    width = h_BN.shape[1]
    square_N = error_vector(weights, width).square()
    scale_B1 = torch.ones_like(radius_B1) if on_sphere else radius_B1
    value_B = torch.cat([
        measured(phi, what, h * scale) @ square_N / width for h, scale in blocks_of(h_BN, scale_B1)
    ])  # fmt: skip
    law, fourth = laws[what], float(square_N.square().mean())
    variance = law.variance(fourth, on_sphere)
    row: list[float | int] = [len(value_B), float(value_B.mean()), float(value_B.std())]
    row += [law.mean, math.sqrt(variance / width)]
    for eps in all_eps:
        row += [int(((value_B - 1).abs() >= eps).sum()), law.outside(eps, width, variance)]
    return row


def measured(phi: Phi, what: str, h_BN: Tensor) -> Tensor:
    """Compute phi(h)^2 or phi'(h)^2."""
    if what == "phi":
        with torch.no_grad():
            return phi(h_BN).square()
    return value_and_slope(phi, h_BN)[1].square()


def blocks_of(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    step = max(1, BLOCK // tensors[0].shape[1])
    return zip(*(tensor.split(step) for tensor in tensors), strict=True)


def depth(config: TheoryConfig) -> Work:
    """Follow ||x^(l)||^2 / d along a network of fresh Haar matrices with GPN functions; x^(1) is on the shell.

    Given ||x^(l)||, h^(l) = W^(l) x^(l) is uniform on the sphere of that radius, whatever its direction. So the norms
    are a Markov chain, drawn here without matrices. All functions, with either root b, see the same directions.
    """
    sizes = config.sizes.depth
    phis = {(name, root): GPN(make(), root) for name, make in PAPER_ACTIVATIONS.items() for root in "+-"}
    laws = {key: forward_law(phi) for key, phi in phis.items()}

    def rows(unit: Unit) -> list[Row]:
        width = int(str(unit[0]))
        random = stream(config, Stream.DEPTH, width)
        square_B = {key: torch.ones(sizes.draws, dtype=torch.float64) for key in phis}
        limit = dict.fromkeys(phis, 0.0)  # of the variance: v <- gain^2 v + variance / d
        made: list[Row] = []
        for layer in range(2, max(sizes.layers) + 1):
            z_BN = torch.randn(sizes.draws, width, generator=random, dtype=torch.float64)
            u_BN = z_BN * (math.sqrt(width) / z_BN.norm(dim=1, keepdim=True))
            for key, phi in phis.items():
                square_B[key] = phi(square_B[key].sqrt().unsqueeze(1) * u_BN).square().mean(1)
                limit[key] = laws[key].gain ** 2 * limit[key] + laws[key].variance() / width
                if layer in sizes.layers:
                    made.append([*key, layer, *depth_row(square_B[key], limit[key], laws[key].gain, sizes.eps)])
        return made

    columns = ("function", "root", "layer", "draws", "mean", "median", "std", "limit_std", "gain")
    counts = tuple(f"out_{eps:g}" for eps in sizes.eps)
    return Work(("width",), (*columns, *counts), [(width,) for width in sizes.widths], rows, {"version": 1})


def depth_row(square_B: Tensor, limit: float, gain: float, all_eps: list[float]) -> Row:
    statistics = [float(square_B.mean()), float(square_B.median()), float(square_B.std()), math.sqrt(limit), gain]
    return [len(square_B), *statistics, *(int(((square_B - 1).abs() >= eps).sum()) for eps in all_eps)]


def lemma3(config: TheoryConfig) -> Work:
    """Compute the exact probability of leaving the shell beside the lemma's bound, without random numbers."""
    sizes = config.sizes.lemma3

    def rows(unit: Unit) -> list[Row]:
        delta = float(str(unit[0]))
        bounds = {d: 2 * math.exp(-d * delta**2) for d in range(1, max(sizes.widths) + 1)}
        exceeded = (d for d, bound in bounds.items() if sum(chi_tails(d, delta)) > bound > 0)
        first = next(exceeded, None)
        return [[d, *chi_tails(d, delta), bounds[d], first] for d in sizes.widths]

    columns = ("width", "below", "above", "bound", "first_exceeded")
    return Work(("delta",), columns, [(delta,) for delta in sizes.deltas], rows, {"version": 1})


# Continuous functions that are not the square of a Lipschitz function: E f(z) is finite for the first alone.
EXPONENTIALS: dict[str, Phi] = {
    "exp(x^2/8)": lambda x: torch.exp(x.square() / 8),
    "exp(x^2)": lambda x: torch.exp(x.square()),
}


def lemma5(config: TheoryConfig) -> Work:
    """Compute |sum a_i f(sqrt(d) z_i / ||z||) - sum a_i f(z_i)| / d against d, a = (1, ..., 1)."""
    sizes = config.sizes.lemma5
    phis = {name: GPN(make()) for name, make in PAPER_ACTIVATIONS.items()}

    def rows(unit: Unit) -> list[Row]:
        width = int(str(unit[0]))
        z_BN = torch.randn(sizes.draws, width, generator=stream(config, Stream.LEMMA5, width), dtype=torch.float64)
        made: list[Row] = []
        for name, f in EXPONENTIALS.items():
            made.append([name, "f", *row(f, z_BN, radial_slope(f) if name == "exp(x^2/8)" else math.inf)])
        for name, phi in phis.items():
            for what, law in (("phi", forward_law(phi)), ("slope", backward_law(phi))):

                def f(x: Tensor, phi: Phi = phi, what: str = what) -> Tensor:
                    return measured(phi, what, x)

                made.append([name, what, *row(f, z_BN, math.sqrt(2) * law.radial)])
        return made

    def row(f: Phi, z_BN: Tensor, slope: float) -> Row:
        difference_B = torch.cat([
            (f(z) - f(z * (math.sqrt(z.shape[1]) / z.norm(dim=1, keepdim=True)))).mean(1).abs()
            for (z,) in blocks_of(z_BN)
        ])  # fmt: skip
        # To first order E z f'(z) (||z|| / sqrt(d) - 1), and the bracket is normal with variance 1 / (2 d).
        limit = abs(slope) / math.sqrt(math.pi * z_BN.shape[1])
        outside = int((difference_B >= sizes.eps).sum())
        return [len(difference_B), float(difference_B.mean()), float(difference_B.median()), limit, outside]

    columns = ("function", "of", "draws", "mean", "median", "limit_mean", "outside")
    return Work(("width",), columns, [(width,) for width in sizes.widths], rows, {"version": 1})
