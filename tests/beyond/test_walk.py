"""The law of Fig. 3 against simulated layers and networks, and Jacobians against autograd and free probability."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bsnn.activations import PAPER_ACTIVATIONS, value_and_slope
from bsnn.beyond.jacobian import jacobian, participation, predicted_participation
from bsnn.beyond.walk import LayerLaw, gradient_norms, predicted, ranges, simple_range
from bsnn.gpn import GPN
from bsnn.propagation import draw, propagate


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_the_noise_of_a_layer_is_the_laws(name: str) -> None:
    """Two samples on the sphere with correlation 0.6: d times the covariances of ||phi(h)||^2/d and of the error's."""
    phi, rho, trials = GPN(PAPER_ACTIVATIONS[name]()), 0.6, 4000
    law, random = LayerLaw.of(phi), torch.Generator().manual_seed(0)
    width = 200
    first, second = torch.randn(2, trials, width, generator=random, dtype=torch.float64)
    first = first / first.norm(dim=1, keepdim=True)
    second = second - (second * first).sum(1, keepdim=True) * first
    second = second / second.norm(dim=1, keepdim=True)
    found = []
    for h in (first, rho * first + math.sqrt(1 - rho**2) * second):
        value, slope = value_and_slope(phi, math.sqrt(width) * h)
        n = torch.randn(trials, width, generator=random, dtype=torch.float64)
        n = n * (math.sqrt(width) / n.norm(dim=1, keepdim=True))
        found += [value.square().mean(1), (slope * n).square().mean(1)]
    measured = width * torch.cov(torch.stack(found))
    expected = torch.cat([torch.cat([law.own, law.shared(rho)], 1), torch.cat([law.shared(rho), law.own], 1)])
    scale = measured.diag().sqrt()
    assert ((measured - expected) / scale.outer(scale)).abs().max() < 0.1


def test_alike_samples_share_a_third_less_what_the_radius_fixes() -> None:
    for make in PAPER_ACTIVATIONS.values():
        law = LayerLaw.of(GPN(make()))
        assert law.shared(1.0)[0, 0] == pytest.approx(float(law.own[0, 0]), abs=1e-9)
        own, shared, radial = float(law.own[1, 1]), float(law.shared(1.0)[1, 1]), law.radial[1] ** 2
        assert (shared + radial) / (own + radial) == pytest.approx(1 / 3, rel=1e-9)


def test_the_law_describes_networks() -> None:
    """100 layers of width 100; ReLU, whose signal's norm walks, too, and Tanh, whose signal is restored."""
    for name in ("relu", "tanh"):
        phi = GPN(PAPER_ACTIVATIONS[name]())
        norms = [gradient_norms(phi, draw(100, 100, 30, 0, index, torch.float32)) for index in range(12)]
        found = ranges(torch.stack(norms, 1))
        law = predicted(LayerLaw.of(phi), 100, 100, 30, 400, torch.Generator().manual_seed(1))
        for measured, expected in ((found.single.mean(1), law.single.mean()), (found.mean, law.mean.mean())):
            error = float(measured.std()) / math.sqrt(len(measured))
            assert float(measured.mean()) == pytest.approx(float(expected), abs=3 * error)
            assert error < 0.15 * expected


def test_the_short_formula_is_the_range_of_a_brownian_motion() -> None:
    law = LayerLaw.of(GPN(nn.ELU()))
    steps = torch.randn(2000, 2000, generator=torch.Generator().manual_seed(0)).cumsum(1) / math.sqrt(2000)
    walk_range = float((steps.amax(1) - steps.amin(1)).mean())
    variance = 3 * (law.fourth - 1) * 200 / 500
    assert simple_range(law, 200, 500) == pytest.approx(walk_range * math.sqrt(variance) / 2, rel=0.03)
    assert simple_range(law, 200, 500, 1 / 3) == pytest.approx(simple_range(law, 200, 500) / math.sqrt(3))


def test_norms_are_those_of_the_figures() -> None:
    drawn, phi = draw(5, 20, 7, 0), GPN(nn.GELU())
    torch.testing.assert_close(gradient_norms(phi, drawn).mean(1), propagate(phi, drawn).gradient_mean)


def test_a_function_that_is_not_gpn_has_no_law() -> None:
    with pytest.raises(ValueError, match=r"expected a GPN function, both moments 1, found E phi\^2 = 0.394"):
        LayerLaw.of(torch.tanh)


def test_the_jacobian_is_autograds_and_its_values_spread_as_free_probability_says() -> None:
    drawn, phi = draw(6, 12, 1, 0), GPN(nn.Tanh())

    def network(x: torch.Tensor) -> torch.Tensor:
        for W in drawn.weights:
            x = phi(W @ x)
        return x

    expected = torch.autograd.functional.jacobian(network, drawn.input[0])
    torch.testing.assert_close(jacobian(phi, drawn.weights, drawn.input[0]), expected)
    wide = draw(10, 300, 1, 0)
    values = torch.linalg.svdvals(jacobian(phi, wide.weights, wide.input[0]))
    law = predicted_participation(LayerLaw.of(phi).fourth, 1.0, 10)
    assert participation(values) == pytest.approx(law, rel=0.15)
    assert 0.5 < float(values.square().mean()) < 2
    assert participation(torch.ones(5)) == pytest.approx(1)
