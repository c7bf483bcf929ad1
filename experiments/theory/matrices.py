"""Parts of the theory study on what the assumptions leave out: Gaussian matrices, and errors that aren't bounded."""

from __future__ import annotations

import math

import torch

from bsnn.haar import haar_orthogonal
from bsnn.propagation import draw, forward
from experiments.theory.config import Stream, TheoryConfig, functions, stream
from experiments.units import Row, Unit, Work

LAWS = ("gaussian", "rows", "haar")
"""N(0, 1/N) entries; the same with rows of norm one; Haar-uniform."""


def spectra(config: TheoryConfig) -> Work:
    """Compute extreme singular values of square random matrices against their width."""
    sizes = config.sizes.spectra

    def rows(unit: Unit) -> list[Row]:
        width, index = int(str(unit[0])), int(str(unit[1]))
        Z_NN = torch.randn(width, width, generator=stream(config, Stream.SPECTRA, width, index), dtype=torch.float64)
        haar = stream(config, Stream.SPECTRA, width, index, 1)
        drawn = {
            "gaussian": Z_NN / math.sqrt(width),
            "rows": Z_NN / Z_NN.norm(dim=1, keepdim=True),
            "haar": haar_orthogonal(width, width, generator=haar, dtype=torch.float64),
        }
        found: list[Row] = []
        for law in LAWS:
            values = torch.linalg.svdvals(drawn[law])
            largest, smallest = float(values.max()), float(values.min())
            found.append([law, smallest, largest, largest / smallest])
        return found

    units = [(width, index) for width in sizes.widths for index in range(sizes.draws)]
    return Work(("width", "draw"), ("law", "smallest", "largest", "condition"), units, rows, {"version": 1})


def peaks(config: TheoryConfig) -> Work:
    """Compute max_i |y_i| / (||y|| / sqrt(d)) of the errors of random GPN networks, as Fig. 1 draws them."""
    sizes = config.sizes.peaks
    phis = {name: phi for (name, gpn), phi in functions().items() if gpn}

    def rows(unit: Unit) -> list[Row]:
        width = int(str(unit[0]))
        drawn = draw(sizes.depth, width, sizes.samples, config.seed)
        found: list[Row] = []
        for name, phi in phis.items():
            slopes = [slope_BN for _, slope_BN in forward(phi, drawn)]
            error_BN = drawn.error
            for layer in range(sizes.depth, 0, -1):
                y_BN = slopes[layer - 1] * error_BN
                peak_B = y_BN.abs().amax(dim=1) / y_BN.square().mean(dim=1).sqrt()
                found.append([name, layer, float(peak_B.mean()), float(peak_B.std())])
                error_BN = y_BN @ drawn.weights[layer - 1]
        return found

    units = [(width,) for width in sizes.widths]
    return Work(("width",), ("function", "layer", "peak", "peak_std"), units, rows, {"version": 1})
