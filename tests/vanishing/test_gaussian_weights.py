"""bsnn.vanishing.gaussian_weights against autograd, closed forms and the talk's network itself."""

import math

import pytest
import torch

from bsnn.propagation import propagate
from bsnn.vanishing.gaussian_weights import gaussian_draw, mean_field, predicted_gradients, with_squared_error


def test_the_error_is_autograds() -> None:
    drawn = gaussian_draw(3, 6, 2, 0.5, torch.Generator().manual_seed(0))
    weights = [W.clone().requires_grad_() for W in drawn.weights]
    norms = []
    for x, target in zip(drawn.input, drawn.error, strict=True):
        for W in weights:
            x = torch.sigmoid(W @ x)
        gradients = torch.autograd.grad((x - target).square().sum() / 2, weights)
        norms.append(torch.stack([gradient.norm() for gradient in gradients]))
    found = propagate(torch.sigmoid, with_squared_error(torch.sigmoid, drawn)).gradient_mean
    torch.testing.assert_close(found, torch.stack(norms).mean(0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("std", [0.1, 0.2])
def test_weights_have_their_standard_deviation(std: float) -> None:
    weights = gaussian_draw(2, 200, 1, std, torch.Generator().manual_seed(1)).weights
    assert abs(float(weights.std()) / std - 1) < 4 / math.sqrt(2 * weights.numel())


def test_relu_and_the_identity_in_closed_form() -> None:
    """ReLU: E phi(sqrt(q) z)^2 = q / 2 and E phi'^2 = 1/2; the identity: q and 1."""
    q, chi = mean_field(torch.relu, 3.0, 5)
    torch.testing.assert_close(q, 3 * 1.5 ** torch.arange(5, dtype=torch.float64), rtol=1e-11, atol=0.0)
    torch.testing.assert_close(chi, torch.full((5,), 1.5, dtype=torch.float64), rtol=1e-11, atol=0.0)
    q, chi = mean_field(lambda x: 1 * x, 0.7, 4)
    torch.testing.assert_close(q, 0.7 ** torch.arange(1, 5, dtype=torch.float64), rtol=1e-11, atol=0.0)
    torch.testing.assert_close(chi, torch.full((4,), 0.7, dtype=torch.float64), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize(("std", "explodes"), [(1.0, True), (0.1, False)])
def test_a_wide_network_follows_the_prediction(std: float, explodes: bool) -> None:
    """Eight draws of the talk's network at width 300: the mean log of first / last layer lies within 4 standard errors
    of the prediction, and 10 % for what is of order 1 / width in each of 20 layers."""
    depth, width = 20, 300
    logs = []
    for seed in range(8):
        drawn = gaussian_draw(depth, width, 10, std, torch.Generator().manual_seed(seed))
        norms = propagate(torch.sigmoid, with_squared_error(torch.sigmoid, drawn)).gradient_mean
        logs.append(float((norms[0] / norms[-1]).log()))
    values = torch.tensor(logs, dtype=torch.float64)
    predicted = float(predicted_gradients(torch.sigmoid, std**2 * width, depth)[0].log())
    assert (predicted > math.log(10)) if explodes else (predicted < -math.log(10))
    assert abs(float(values.mean()) - predicted) < 4 * float(values.std()) / math.sqrt(8) + 0.1
