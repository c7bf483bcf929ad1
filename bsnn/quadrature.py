"""Gaussian moments of phi and phi': the integrals behind Gaussian-Poincaré normalisation, for any differentiable phi.

Over the real line, in float64, by adaptive Gauss-Legendre quadrature: panels are bisected until a panel agrees with its
two halves, so a kink is closed in on wherever it is. phi' comes from autograd.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bsnn.activations import value_and_slope

Phi = Callable[[Tensor], Tensor]

# The density at 38 is 1e-314, where float64 ends.
_RANGE = 38.0
_PANELS_PER_UNIT = 8
_NODES = 16
# A panel has converged when bisecting it moves no integral by more than this share of that integral's natural scale.
_TOLERANCE = 1e-14
# Enough for |x|^0.6, whose phi'^2 ~ |x|^-0.8 is barely integrable at 0; what still moves after this is divergent.
_MAX_BISECTIONS = 250
_MAX_PANELS = 2**16
# What a continuous phi may leave of a quantity that is 0, or >= 0, in exact arithmetic. Rounding and quadrature leave
# about 1e-14, a jump of height J in a function of unit slope about J: jumps down to 1e-10 are told from rounding.
ROUNDING = 1e-10

_INTEGRALS = ("E phi", "E phi'", "E x phi", "E phi^2", "E phi'^2")


class GaussianMoments(NamedTuple):
    """Moments of phi(z) for z ~ N(0, 1)."""

    mean: float  # m = E phi
    second: float  # s = E phi^2
    derivative_second: float  # q = E phi'^2


def gaussian_moments(phi: Phi, kinks: Sequence[float] = ()) -> GaussianMoments:
    """m, s, q of an elementwise phi, each to about 1e-12 of its scale (sqrt(s), s, q).

    phi must keep shape and dtype of a float64 CPU vector. A module is evaluated as a float64 CPU copy in evaluation
    mode, so its own parameters, gradients and mode stay as they are. phi' is what autograd says, almost everywhere.
    Kinks need not be listed; `kinks` is for features narrower than about 0.01, which the first grid can step over.

    Raises ValueError, saying which, if phi is not an elementwise function, gives nan, or has an infinite moment.
    """
    return moments_and_discriminant(phi, kinks)[0]


def moments_and_discriminant(phi: Phi, kinks: Sequence[float]) -> tuple[GaussianMoments, float]:
    """The moments, and disc = 1 - Var phi / E phi'^2 without this form's cancellation (nan if E phi'^2 = 0).

    Near phi(x) = x the difference loses all digits of disc, and sqrt(disc) turns an error of 1e-16 into one of 1e-8. So
    take out a line first: phi = c0 + c1 x + r. By algebra alone, for any c0 and c1,

        E phi'^2 - Var phi = E r'^2 - Var r + 2 c1 gap,    gap = E r' - E x r = E phi' - E x phi.

    With c1 = E phi', r has no Hermite component of degree 1, so E r'^2 >= 2 Var r, and nothing cancels. gap is 0 for a
    continuous phi (Stein's lemma: integration by parts); each jump subtracts its height times the density there. So gap
    tells jumps from rounding, and is dropped if it is rounding.
    """
    # Neither an ambient inference mode, which would forbid phi', nor torch's default device has a say in what follows.
    with torch.inference_mode(False), torch.device("cpu"):
        phi = float64_phi(phi)
        edges = _edges(kinks)
        c0, c1 = _panel_integrals(phi, edges[:-1], edges[1:], 0.0, 0.0).sum(0)[:2].tolist()
        r, dr, xr, rr, drdr = _integrate(phi, edges, c0, c1)
    mean = c0 + r
    second = rr + 2 * (c0 * r + c1 * xr) + c0**2 + c1**2
    derivative_second = drdr + 2 * c1 * dr + c1**2
    gap = dr - xr
    if abs(gap) <= ROUNDING * math.sqrt(derivative_second):
        gap = 0.0
    deficit = drdr - (rr - r**2) + 2 * c1 * gap
    disc = deficit / derivative_second if derivative_second else math.nan
    return GaussianMoments(mean, second, derivative_second), disc


def _integrate(phi: Phi, edges: Tensor, c0: float, c1: float) -> list[float]:
    """E r, E r', E x r, E r^2, E r'^2 for r = phi - c0 - c1 x, by bisection of the panels between `edges`."""
    lo, hi = edges[:-1], edges[1:]
    whole = _panel_integrals(phi, lo, hi, c0, c1)
    done = torch.zeros(len(_INTEGRALS), dtype=torch.float64)
    for depth in range(_MAX_BISECTIONS):
        mid = (lo + hi) / 2
        halves = _panel_integrals(phi, torch.cat([lo, mid]), torch.cat([mid, hi]), c0, c1)
        left, right = halves.chunk(2)
        total = done + halves.sum(0)
        scale = _scales(total, c0, c1)
        heavy_tail = bool((whole[[0, -1], 3:].sum(0) > 1e-12 * total[3:]).any()) and depth == 0
        if heavy_tail or not bool(total.isfinite().all()):
            raise ValueError(
                f"{name_of(phi)} has an infinite moment: with the Gaussian weight, phi^2 or phi'^2 overflows or has "
                f"not died out at |x| = {_RANGE:g}; expected no pole, and growth slower than exp(x^2/4)"
            )
        change = (whole - left - right).abs()
        # Where float64 has no midpoint left, a panel agrees with its halves by default: there all of it is in doubt.
        no_midpoint = ((mid <= lo) | (mid >= hi)).unsqueeze(1)
        doubt = torch.where(no_midpoint, whole.abs(), change) / scale.clamp_min(torch.finfo(torch.float64).tiny)
        rough = (doubt > _TOLERANCE).any(1)
        done = done + (left + right)[~rough].sum(0)
        if not rough.any():
            return [float(value) for value in done]
        if bool((rough & no_midpoint.squeeze(1)).any()) or 2 * int(rough.sum()) > _MAX_PANELS:
            break
        lo, hi = torch.cat([lo[rough], mid[rough]]), torch.cat([mid[rough], hi[rough]])
        whole = torch.cat([left[rough], right[rough]])
    panel, integral = divmod(int(doubt.argmax()), len(_INTEGRALS))
    raise ValueError(
        f"{name_of(phi)}: {_INTEGRALS[integral]} is infinite, or phi too rough to integrate: it does not converge near "
        f"x = {float(lo[panel]):.6g}; expected a function with finite E phi^2 and E phi'^2"
    )


def _scales(total: Tensor, c0: float, c1: float) -> Tensor:
    """What each integral is measured against, (5,): the size of the terms whose rounding it inherits.

    For the integrals of r^2 and r'^2 this is |r| |phi| and |r'| |phi'| in the Gaussian L2 norm: r is a difference, so
    its rounding error scales with phi.
    """
    r, dr, xr, rr, drdr = total
    norm_phi = (rr + 2 * (c0 * r + c1 * xr) + c0**2 + c1**2).clamp_min(0).sqrt()
    norm_dphi = (drdr + 2 * c1 * dr + c1**2).clamp_min(0).sqrt()
    return torch.stack([norm_phi, norm_dphi, norm_phi, rr.sqrt() * norm_phi, drdr.sqrt() * norm_dphi])


def _panel_integrals(phi: Phi, lo: Tensor, hi: Tensor, c0: float, c1: float) -> Tensor:
    """Gauss-Legendre estimates of the five integrals over each panel: lo, hi (P,) -> (P, 5)."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_NODES))
    half = ((hi - lo) / 2).unsqueeze(1)
    x = lo.unsqueeze(1) + half * (1 + nodes)
    y, dy = (v.view_as(x) for v in _checked_value_and_slope(phi, x.flatten()))
    # Half of the density goes to each factor of a square, or phi = exp(x^2/5) would overflow where it has no weight.
    root_density = torch.exp(-(x**2) / 4) / (2 * math.pi) ** 0.25
    u, v = (y - c0 - c1 * x) * root_density, (dy - c1) * root_density
    integrands = torch.stack([u * root_density, v * root_density, x * u * root_density, u**2, v**2], dim=-1)
    return (integrands * (half * weights).unsqueeze(-1)).sum(1)


def _checked_value_and_slope(phi: Phi, x: Tensor) -> tuple[Tensor, Tensor]:
    """phi(x) and phi'(x), x (N,). Raises ValueError where either is not a finite number."""
    y, dy = value_and_slope(phi, x)
    for what, value in (("phi", y), ("phi'", dy)):
        bad = ~value.isfinite()
        if bool(bad.any()):
            at = int(torch.where(bad, x.abs(), torch.inf).argmin())
            found = float(value[at])
            cause = (
                "expected a number for every real x (a singularity, or nan from the branch torch.where does not take?)"
                if math.isnan(found)
                else "its moments are infinite, or it overflows float64 where it need not"
            )
            raise ValueError(f"{name_of(phi)}: {what}({float(x[at]):.6g}) = {found}: {cause}")
    return y, dy


def float64_phi(phi: Phi) -> Phi:
    """phi (of a module, a float64 CPU copy in evaluation mode), once it is known to be one elementwise function.

    The check compares phi and phi' of two calls, with points in another order, number and shape, a module's in training
    and in evaluation mode: noise, dropout, softmax and normalisation over the batch all show as a difference. Raises
    ValueError, and leaves torch's random state as it was.
    """
    if isinstance(phi, type) or not callable(phi):
        raise ValueError(f"expected a function of a tensor or a module instance such as torch.nn.Tanh(), found {phi!r}")
    state = torch.random.get_rng_state()
    try:
        with torch.inference_mode(False), torch.device("cpu"), torch.autocast("cpu", enabled=False):
            return _elementwise(phi)
    except ValueError:
        # Only then: the state is the whole process's, and another thread may use it.
        torch.random.set_rng_state(state)
        raise


def _elementwise(phi: Phi) -> Phi:
    training, evaluation = phi, phi
    x = torch.linspace(-3, 3, 64, dtype=torch.float64)
    shuffled = x.flip(0)[::2].reshape(2, 4, 4)
    try:
        if isinstance(phi, nn.Module):
            training, evaluation = _float64_copy(phi).train(), _float64_copy(phi).eval()
        with torch.no_grad():
            y, y_shuffled = training(x.clone()), evaluation(shuffled.clone())
    except Exception as error:  # somebody else's code can fail in any way
        raise ValueError(
            f"{name_of(phi)} could not be evaluated on a float64 CPU tensor of shape (64,): {_reason(error)}; expected "
            "an elementwise function (if it holds a module, pass the module itself: its parameters will be converted)"
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape or y_shuffled.shape != shuffled.shape:
        found = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(
            f"{name_of(phi)} is not elementwise: expected a tensor of shape (64,) from (64,), found {found}"
        )
    if y.dtype != torch.float64:
        raise ValueError(f"{name_of(phi)} must keep its input's dtype: expected float64 from float64, found {y.dtype}")
    try:
        slope, slope_shuffled = value_and_slope(training, x)[1], value_and_slope(evaluation, shuffled)[1]
    except Exception as error:
        raise ValueError(
            f"{name_of(phi)} has no derivative that autograd could compute: {_reason(error)}; expected a function made "
            "of torch's operations (not of NumPy's)"
        ) from error
    for one, other, tolerance in ((y, y_shuffled, 1e-9), (slope, slope_shuffled, 1e-6)):
        if not torch.allclose(one.flip(0)[::2], other.flatten(), rtol=tolerance, atol=1e-12, equal_nan=True):
            raise ValueError(
                f"{name_of(phi)} is not one elementwise function: phi(x)_i changes with other entries, between calls, "
                "or between training and evaluation mode; expected phi(x)_i to depend on x_i alone (no softmax, no "
                "dropout)"
            )
    return evaluation


def _float64_copy(phi: nn.Module) -> nn.Module:
    made = copy.deepcopy(phi).to("cpu", torch.float64)
    for parameter in made.parameters():  # a scripted module has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return made


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _edges(kinks: Sequence[float]) -> Tensor:
    """Ends of the first panels, sorted: a uniform grid that includes 0, and the listed kinks."""
    if not all(math.isfinite(kink) for kink in kinks):
        raise ValueError(f"expected kinks to be finite numbers, found {list(kinks)}")
    grid = torch.linspace(-_RANGE, _RANGE, int(2 * _RANGE * _PANELS_PER_UNIT) + 1, dtype=torch.float64)
    inside = [float(kink) for kink in kinks if abs(kink) < _RANGE]
    return torch.tensor(sorted({*grid.tolist(), *inside}), dtype=torch.float64)


def name_of(phi: object) -> str:
    """What error messages call phi."""
    return type(phi).__name__ if isinstance(phi, nn.Module) else str(getattr(phi, "__name__", repr(phi)))
