"""Parts of the theory study on directions: Lemmas 4 and 6, and the talk's two demonstrations.

Shapes in names: B samples, N dimension or width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bsnn.haar import haar_orthogonal
from bsnn.theory.concentration import bingham_p, normal_distance, rayleigh_p, sphere_coordinate_cdf
from experiments.theory.config import Stream, TheoryConfig, stream
from experiments.units import Row, Unit, Work

BLOCK = 2**21  # numbers of matrices at a time

Sampler = Callable[[int, int, torch.Generator], Tensor]


def gaussian(samples: int, width: int, random: torch.Generator) -> Tensor:
    return torch.randn(samples, width, generator=random, dtype=torch.float64)


def cube(samples: int, width: int, random: torch.Generator) -> Tensor:
    """Draw independent numbers uniform on [-sqrt(3), sqrt(3)]: variance 1, thin-shell concentrated, not spherical."""
    return (torch.rand(samples, width, generator=random, dtype=torch.float64) * 2 - 1) * math.sqrt(3)


def haar_product(samples: int, width: int, random: torch.Generator) -> Tensor:
    """Compute W x with a W for each sample, x from the cube: the direction must be uniform, though x's is not."""
    x_BN = cube(samples, width, random)
    return torch.cat([
        (haar_orthogonal(len(x), width, width, generator=random, dtype=torch.float64) @ x.unsqueeze(-1)).squeeze(-1)
        for x in x_BN.split(max(1, BLOCK // width**2))
    ])  # fmt: skip


def raw_qr(samples: int, width: int, random: torch.Generator) -> Tensor:
    """Take the first column of Q as LAPACK's QR of a Gaussian matrix returns it, without correcting signs."""
    columns = []
    for at in range(0, samples, max(1, BLOCK // width**2)):
        count = min(BLOCK // width**2, samples - at)
        A_BNN = torch.randn(count, width, width, generator=random, dtype=torch.float64)
        columns.append(torch.linalg.qr(A_BNN).Q[..., 0])
    return torch.cat(columns)


def stretched(samples: int, width: int, random: torch.Generator) -> Tensor:
    """Draw a Gaussian vector whose first entry is half as large again as the others."""
    x_BN = gaussian(samples, width, random)
    x_BN[:, 0] *= 1.5
    return x_BN


UNIFORM: dict[str, Sampler] = {"z / ||z||": gaussian, "W x / ||x||": haar_product}
CONTROLS: dict[str, Sampler] = {"cube": cube, "raw QR": raw_qr, "stretched": stretched}


def lemma4(config: TheoryConfig) -> Work:
    """Compute p-values of three tests of uniformity; each control is not uniform in a way that one test detects."""
    sizes = config.sizes.lemma4
    samplers = UNIFORM | CONTROLS

    def rows(unit: Unit) -> list[Row]:
        source, dimension = str(unit[0]), int(str(unit[1]))
        random = stream(config, Stream.LEMMA4, list(samplers).index(source), dimension)
        x_BN = samplers[source](sizes.samples, dimension, random)
        x_BN = x_BN / x_BN.norm(dim=1, keepdim=True)
        first_B = x_BN[:, 0].numpy() * math.sqrt(dimension)
        ks = stats.kstest(first_B, lambda t: sphere_coordinate_cdf(np.asarray(t), dimension)).pvalue
        tests = {"Rayleigh": rayleigh_p(x_BN), "Bingham": bingham_p(x_BN), "Kolmogorov-Smirnov": float(ks)}
        return [[test, sizes.samples, p] for test, p in tests.items()]

    units = [(source, dimension) for source in samplers for dimension in sizes.dimensions]
    return Work(("source", "dimension"), ("test", "samples", "p"), units, rows, {"version": 1})


def lemma6(config: TheoryConfig) -> Work:
    """Compare a coordinate of W x with sqrt(d) theta_1 and N(0, 1): by matrices (a W for each draw), and exactly."""
    sizes = config.sizes.lemma6
    inputs: dict[str, Sampler] = {
        "ones": lambda samples, width, _: torch.ones(samples, width, dtype=torch.float64),
        "cube": cube,
    }

    def rows(unit: Unit) -> list[Row]:
        route, width = str(unit[0]), int(str(unit[1]))
        random = stream(config, Stream.LEMMA6, width, ["haar", "exact"].index(route))
        if route == "exact":
            radius_B = cube(1000, width, random).norm(dim=1) / math.sqrt(width)
            return [["cube", 0, None, None, normal_distance(width), float((radius_B - 1).square().mean().sqrt())]]
        made: list[Row] = []
        for name, sampler in inputs.items():
            x_BN = sampler(sizes.haar_draws, width, random)
            step = max(1, BLOCK // width**2)
            counts = [len(x) for x in x_BN.split(step)]
            weights = (haar_orthogonal(n, width, width, generator=random, dtype=torch.float64) for n in counts)
            first_BN = torch.cat([W_BNN[:, 0] for W_BNN in weights])
            h_B = (first_BN * x_BN).sum(1).numpy()
            test = stats.kstest(h_B, lambda t: sphere_coordinate_cdf(np.asarray(t), width))
            radius_B = x_BN.norm(dim=1) / math.sqrt(width)
            normal = float(stats.kstest(h_B, "norm").statistic)
            rms = float((radius_B - 1).square().mean().sqrt())
            made.append([name, sizes.haar_draws, float(test.statistic), float(test.pvalue), normal, rms])
        return made

    units = [("haar", width) for width in sizes.haar_widths] + [("exact", width) for width in sizes.widths]
    columns = ("input", "draws", "distance", "p", "normal_distance", "radius_rms")
    return Work(("route", "width"), columns, units, rows, {"version": 1})


TALK_A, TALK_B = 1.4674, 0.3885  # Tanh's constants in the talk's code


def talk(config: TheoryConfig) -> Work:
    """Compute ||z|| and ||f(z)|| as in the talk's code, but in float64."""
    sizes = config.sizes.talk

    def rows(unit: Unit) -> list[Row]:
        block = int(str(unit[0]))
        made: list[Row] = []
        for draw in range(block, sizes.draws, sizes.blocks):
            random = stream(config, Stream.TALK, draw)
            z_N = torch.randn(sizes.width, generator=random, dtype=torch.float64)
            made.append([draw, float(z_N.norm()), float((TALK_A * torch.tanh(z_N) + TALK_B).norm())])
        return made

    units = [(block,) for block in range(sizes.blocks)]
    return Work(("block",), ("draw", "z_norm", "f_norm"), units, rows, {"version": 2})


def histogram(config: TheoryConfig) -> Work:
    """Compute the coordinates of W x, x = (1, ..., 1), for one W by our route, and one by the talk's code.

    The talk takes the polar factor of a Gaussian matrix whose columns are scaled to norm 1. Its law does not change if
    the matrix is rotated from the left, so that it is Haar-uniform as well.
    """
    width = config.sizes.histogram.width

    def rows(unit: Unit) -> list[Row]:
        source = str(unit[0])
        random = stream(config, Stream.HISTOGRAM, list(SOURCES).index(source))
        W_NN = SOURCES[source](width, random)
        return [[index, value] for index, value in enumerate(W_NN.sum(1).tolist())]

    return Work(("source",), ("index", "value"), [(source,) for source in SOURCES], rows, {"version": 1})


def polar(width: int, random: torch.Generator) -> Tensor:
    Z_NN = torch.randn(width, width, generator=random)
    U_NN, _, Vh_NN = torch.linalg.svd(Z_NN / Z_NN.norm(dim=0))
    W_NN: Tensor = U_NN @ Vh_NN
    return W_NN.double()


SOURCES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "reflections": lambda width, random: haar_orthogonal(width, width, generator=random).double(),
    "polar factor": polar,
}
