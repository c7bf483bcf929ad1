"""torch's default device and dtype, which notebooks set, have no say in what is computed on the CPU.

The meta device holds no numbers: whatever were made there by mistake could not be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bsnn import quadrature
from bsnn.bridge import meanfield
from bsnn.bridge.survival import correlated_inputs, random_weights
from bsnn.collapse import exact, probability
from bsnn.collapse.fate import TARGETS, fates
from bsnn.collapse.networks import NarrowStack
from bsnn.gpn import GPN
from bsnn.haar import haar_orthogonal
from bsnn.network import BSNN
from bsnn.propagation import draw, propagate, slope_histogram
from bsnn.randomness import batch_order
from bsnn.shrinkage import bounds, covariance
from bsnn.shrinkage.correlation import CorrelationMap, critical, series_map
from bsnn.shrinkage.networks import NormalisedLayer, NormalisedResidualBlock, farthest_pair, pairs
from bsnn.theory import concentration, hermite
from bsnn.vanishing import gaussian_weights


def phi(x: Tensor) -> Tensor:
    """A function that makes a tensor itself, on the default device."""
    return torch.maximum(x, torch.tensor(0.3, dtype=x.dtype))


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def narrow(**options: Any) -> NarrowStack:
    return NarrowStack((1, 4, 1), 2, initialisation="orthogonal", generator=stream(), dtype=torch.float64, **options)


X = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
RHO = torch.tensor([0.1, 0.9], dtype=torch.float64)

COMPUTED: dict[str, Callable[[], Any]] = {
    "moments": lambda: quadrature.gaussian_moments(phi),
    "coefficients": lambda: hermite.hermite_coefficients(phi, 3),
    "linearisation": lambda: hermite.linearisation_error(phi),
    "covariance": lambda: covariance.gaussian_covariance(phi, 0.5),
    "slope gap": lambda: covariance.covariance_of(phi).slope_gap(0.5),  # type: ignore[arg-type]
    "passage": lambda: meanfield.passage(phi, 1 - RHO, 2).gap,
    "jumps": lambda: meanfield.slope_jumps(phi),
    "curvature": lambda: meanfield.asymptote(GPN(nn.Tanh())),
    "correlation map": lambda: CorrelationMap(phi).iterate(RHO, 2),
    "series": lambda: series_map(hermite.hermite_coefficients(torch.tanh, 5), RHO),
    "residual map": lambda: bounds.ResidualMap(phi, 0.5)(RHO),
    "cropped map": lambda: bounds.cropped(CorrelationMap(torch.erf, *critical(torch.erf)))(0.5),
    "law": lambda: concentration.backward_law(torch.relu),
    "mean field": lambda: gaussian_weights.predicted_gradients(torch.tanh, 1.5, 3),
    "Gaussian draw": lambda: gaussian_weights.gaussian_draw(2, 3, 2, 0.5, stream()).weights,
    "propagation": lambda: propagate(torch.tanh, draw(2, 3, 4, 0)).gradient_mean,
    "histogram": lambda: slope_histogram(torch.tanh, draw(2, 3, 4, 0), 0.0, 0.1, 10).counts,
    "batch order": lambda: batch_order(0, 0, 7),
    "network": lambda: list(BSNN(3, 2, 4, 2, device="cpu", dtype=torch.float64, generator=stream()).parameters()),
    "random weights": lambda: [random_weights(law, 3, 3, generator=stream()) for law in ("haar", "rows", "gaussian")],
    "correlated inputs": lambda: correlated_inputs(4, [0.3], stream()),
    "normalised layer": lambda: NormalisedLayer(3, 4, torch.tanh, 1.0, 0.5, stream(), torch.float64).weight,
    "residual block": lambda: NormalisedResidualBlock(3, 4, torch.tanh, 0.5, stream(), torch.float64).outer,
    "farthest pair": lambda: farthest_pair(lambda z: z, *pairs([0.5], 4, stream(), torch.float64), 1, 0.1),
    "narrow, batch norm": lambda: narrow(normalisation="batch")(X),
    "narrow, dropout": lambda: narrow(dropout=0.5)(X),
    "uniform weights": lambda: NarrowStack((1, 2, 1), 2, initialisation="he_uniform", generator=stream()).weights[0],
    "fates": lambda: fates(narrow(), TARGETS["abs"], 20),
    "mini-batches": lambda: next(TARGETS["abs"].batches(1, 2, 3, stream(), torch.float64)),
    "collapse": lambda: probability.simulate(2, 3, 20, "he", stream()),
    "transitions": lambda: probability.drawn_transitions(1, 5, stream()),
    "lengths": lambda: probability.lengths(torch.relu, 3, 2, 4, stream()),
    "angles": lambda: exact.angle_chain(3, 4, 10, stream()),
}  # fmt: skip


def plain(value: Any) -> Any:
    """Numbers, and where tensors are."""
    if isinstance(value, Tensor):
        assert value.device.type == "cpu"
        return value.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


@pytest.mark.parametrize("name", COMPUTED)
def test_numbers_are_computed_on_the_cpu(name: str) -> None:
    compute = COMPUTED[name]
    expected = plain(compute())
    with torch.device("meta"):
        found = plain(compute())
    np.testing.assert_equal(found, expected)


def test_the_default_dtype_does_not_matter() -> None:
    names = ("moments", "coefficients", "covariance", "passage", "jumps", "mean field", "network")
    expected = [plain(COMPUTED[name]()) for name in names]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        found = [plain(COMPUTED[name]()) for name in names]
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_equal(found, expected)


def test_new_networks_without_a_generator_are_made_on_the_default_device() -> None:
    """As torch's own modules are: to be filled later, from a checkpoint."""
    with torch.device("meta"):
        assert haar_orthogonal(3, 3).device.type == "meta"
        assert {one.device.type for one in BSNN(3, 2, 4, 2).parameters()} == {"meta"}
        assert {one.device.type for one in NarrowStack((1, 2, 1), 2).parameters()} == {"meta"}
