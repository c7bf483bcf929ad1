"""Gaussian moments of phi and phi': the integrals behind Gaussian-Poincaré normalisation, for any differentiable phi.

Over the real line, in float64, on the bisected panels of `bsnn.panels`, which close in on every kink and jump. phi'
comes from autograd.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bsnn.activations import value_and_slope
from bsnn.panels import RANGE, Level, NotResolvedError, first_edges, integrate, panel_integrals

Phi = Callable[[Tensor], Tensor]

# A panel may leave this share of an integral's natural scale in doubt.
_TOLERANCE = 1e-14
# Of phi in units of 2^exponent, so that phi sqrt(density) <= 1: smaller jumps are taken for rounding.
_NOISE = 1e-14
# Below this |phi|, float64 itself has fewer than 16 digits of phi in the tails.
_SMALLEST = 1e-290
# What a continuous phi may leave of a quantity that is 0, or >= 0, in exact arithmetic. Rounding and quadrature leave
# about 1e-14, a jump of height J in a function of unit slope about J: jumps down to 1e-10 are told from rounding.
ROUNDING = 1e-10

# disc of a function with jumps is known to about 1e-14: below this its root, and so b, is not known to 1e-10.
TELLABLE = 1e-8

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
    Kinks and jumps need not be listed; `kinks` is for features narrower than about 0.01, which the first grid can step
    over, and for slopes so steep that the last bit of x matters.

    Raises ValueError, saying which, if phi is not an elementwise function, gives nan, has an infinite moment, or one
    that float64 cannot hold.
    """
    return moments_and_discriminant(phi, kinks)[0]


def moments_and_discriminant(phi: Phi, kinks: Sequence[float]) -> tuple[GaussianMoments, float]:
    """The moments, and disc = 1 - Var phi / E phi'^2 without this form's cancellation (nan if E phi'^2 = 0)."""
    found = analyse(phi, kinks)
    return found.of(phi), found.disc


@dataclass(frozen=True)
class Analysis:
    """Integrals of phi / 2^exponent, a function of ordinary size whatever that of phi."""

    exponent: int
    moments: GaussianMoments
    mean_slope: float  # E phi'
    residual: float  # E r^2, r = phi less a line close to the best one
    residual_slope: float  # E r'^2
    disc: float  # 1 - Var phi / E phi'^2, nan if E phi'^2 = 0
    jumps: bool  # whether Stein's lemma fails, E phi' != E x phi

    def of(self, phi: Phi) -> GaussianMoments:
        """Compute the moments of phi itself."""
        names, powers = ("E phi", "E phi^2", "E phi'^2"), (self.exponent, 2 * self.exponent, 2 * self.exponent)
        return GaussianMoments(*(in_float64(phi, *part) for part in zip(names, self.moments, powers, strict=True)))


def analyse(phi: Phi, kinks: Sequence[float]) -> Analysis:
    """Moments and discriminant of phi, which may be as small as 1e-290 or as large as float64 can hold.

    Near phi(x) = x the difference 1 - Var phi / E phi'^2 loses all digits of disc, and sqrt(disc) turns an error of
    1e-16 into one of 1e-8. So take out a line first: phi = c0 + c1 x + r. By algebra alone, for any c0 and c1,

        E phi'^2 - Var phi = E r'^2 - Var r + 2 c1 gap,    gap = E r' - E x r = E phi' - E x phi.

    With c1 = E phi', r has no Hermite component of degree 1, so E r'^2 >= 2 Var r, and nothing cancels. gap is 0 for a
    continuous phi (Stein's lemma: integration by parts); each jump subtracts its height times the density there. So gap
    tells jumps from rounding, and is dropped if it is rounding: below 1e-14 of sqrt(E phi'^2), or where disc is so
    small that gap alone would decide it, below 1e-10.
    """
    with torch.inference_mode(False):  # an ambient inference mode would forbid phi'
        function, exponent = normalised_phi(phi)
        edges = first_edges(kinks)

        def integrands(x: Tensor, c0: float = 0.0, c1: float = 0.0) -> Tensor:
            """Evaluate the five integrands of r: (N,) -> (N, 5)."""
            y, dy = checked_value_and_slope(phi, function, x)
            # Half of the density goes to each factor of a square, or phi = exp(x^2/5) would overflow where it has no
            # weight.
            root = root_density(x)
            u, v = (y - c0 - c1 * x) * root, (dy - c1) * root
            return torch.stack([u * root, v * root, x * u * root, u**2, v**2], dim=-1)

        whole = panel_integrals(integrands, edges[:-1], edges[1:])
        total = whole.sum(0)
        if bool((whole[[0, -1], 3:].sum(0) > 1e-12 * total[3:]).any()):
            raise ValueError(infinite_moment(phi, "phi^2 or phi'^2"))
        c0, c1 = total[:2].tolist()
        try:
            found = integrate(
                lambda x: integrands(x, c0, c1), edges, lambda i: _scales(i, c0, c1), _TOLERANCE, kinks, _doubt
            )
        except NotResolvedError as error:
            raise ValueError(unresolved(phi, error, _INTEGRALS, "phi^2 or phi'^2")) from None
    r, dr, xr, rr, drdr = found.total.tolist()
    mean = c0 + r
    second = rr + 2 * (c0 * r + c1 * xr) + c0**2 + c1**2
    derivative_second = drdr + 2 * c1 * dr + c1**2
    gap = dr - xr
    deficit = drdr - (rr - r**2)
    jump = abs(gap) / math.sqrt(derivative_second) if derivative_second else 0.0
    jumps = jump > ROUNDING
    # Where b can be told at all, it needs jumps that are much smaller than what a user's formula may leave of rounding.
    if jumps or (jump > _NOISE and deficit > TELLABLE * derivative_second):
        deficit += 2 * c1 * gap
    disc = deficit / derivative_second if derivative_second else math.nan
    return Analysis(exponent, GaussianMoments(mean, second, derivative_second), c1 + dr, rr, drdr, disc, jumps)


def _scales(total: Tensor, c0: float, c1: float) -> Tensor:
    """Compute the scale of each integral's error, (5,): the size of the terms whose rounding it inherits.

    For the integrals of r^2 and r'^2 this is |r| |phi| and |r'| |phi'| in the Gaussian L2 norm: r is a difference, so
    its rounding error scales with phi.
    """
    r, dr, xr, rr, drdr = total.tolist()
    norm_phi = math.sqrt(max(rr + 2 * (c0 * r + c1 * xr) + c0**2 + c1**2, 0.0))
    norm_dphi = math.sqrt(max(drdr + 2 * c1 * dr + c1**2, 0.0))
    scales = [norm_phi, norm_dphi, norm_phi, math.sqrt(rr) * norm_phi, math.sqrt(drdr) * norm_dphi]
    return torch.tensor(scales, dtype=torch.float64, device="cpu")


def _doubt(level: Level) -> Tensor:
    """Bound the errors of the five integrals, (P, 5).

    A jump may turn out to be a steep ramp that no node has hit yet: a rise by J over a panel of width w is worth at
    least J^2 / w to E phi'^2. So jumps are followed to the last bit of x.
    """
    doubt = level.doubt()
    rounding = _NOISE * (1 + level.halves[:, :, 0].abs().amax(1).view(2, -1).amax(0))
    jump = (level.misfit[:, :, 0].amax(1) - rounding).clamp_min(0) / root_density((level.lo + level.hi) / 2)
    doubt[:, 4] += jump**2 / (level.hi - level.lo)
    return doubt


def root_density(x: Tensor) -> Tensor:
    """The square root of the density of N(0, 1)."""
    root: Tensor = torch.exp(-(x**2) / 4) / (2 * math.pi) ** 0.25
    return root


def unresolved(phi: Phi, error: NotResolvedError, integrals: Sequence[str], squares: str) -> str:
    """The message for a phi that `bsnn.panels` did not resolve."""
    if error.component < 0:
        return infinite_moment(phi, squares)
    return (
        f"{name_of(phi)}: {integrals[error.component]} is infinite, or phi too rough to integrate: it does not "
        f"converge near x = {error.at:.6g}; expected finite moments and, where the last bit of x "
        "matters to a steep phi, the places of its kinks in `kinks`"
    )


def infinite_moment(phi: Phi, squares: str) -> str:
    return (
        f"{name_of(phi)} has an infinite moment: with the Gaussian weight, {squares} overflows or has not died out at "
        f"|x| = {RANGE:g}; expected no pole, and growth slower than exp(x^2/4)"
    )


def checked_value_and_slope(phi: Phi, function: Phi, x: Tensor) -> tuple[Tensor, Tensor]:
    """phi(x) and phi'(x), x (N,), of phi's normalised form. Raises ValueError where either is not a finite number."""
    try:
        with torch.device("cpu"):  # also for what phi's own backward pass makes
            y, dy = value_and_slope(function, x)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name_of(phi)} could not be differentiated: {str(error).splitlines()[0]}; expected a function made of "
            "torch's operations (torch.tanh, not numpy.tanh)"
        ) from error
    return checked(phi, "phi", x, y), checked(phi, "phi'", x, dy)


def checked(phi: Phi, what: str, x: Tensor, value: Tensor) -> Tensor:
    """value (N,) of phi or phi' at x. Raises ValueError where it is not a finite number."""
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
    return value


def normalised_phi(phi: Phi) -> tuple[Phi, int]:
    """phi / 2^n of ordinary size, and n, so that no square over- or underflows. phi is checked as by `float64_phi`.

    A power of two, which changes no digit. 2^n is the size of phi times the square root of the density.
    """
    with torch.no_grad():
        function = float64_phi(phi)
        # 0, where phi may be singular, is left out
        x = torch.linspace(-RANGE, RANGE, 1218, dtype=torch.float64, device="cpu")
        size = float((function(x.clone()) * root_density(x)).abs().nan_to_num(0.0, 0.0, 0.0).max())
    if 0 < size < _SMALLEST:
        raise ValueError(
            f"{name_of(phi)} is {size:.2g} at most, where float64 loses digits: expected a larger multiple"
        )
    exponent = min(math.frexp(size)[1], 1023)
    factor = 2.0**-exponent
    return (lambda x: factor * function(x)), exponent


def in_float64(phi: Phi, name: str, value: float, exponent: int) -> float:
    """value 2^exponent. Raises ValueError where float64 has no room for it, or not for all of its digits."""
    size = math.frexp(value)[1] + exponent
    if value and not sys.float_info.min_exp < size < sys.float_info.max_exp:
        raise ValueError(
            f"{name_of(phi)}: {name} is about 2^{size}, which float64 cannot hold; expected a phi of ordinary size, "
            "such as a multiple of this one"
        )
    return math.ldexp(value, exponent)


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
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            return _elementwise(phi)
    except ValueError:
        # Only then: the state is the whole process's, and another thread may use it.
        torch.random.set_rng_state(state)
        raise


def on_cpu(phi: Phi) -> Phi:
    """phi, with the tensors that it makes itself on the CPU, whatever torch's default device is."""

    def evaluated(x: Tensor) -> Tensor:
        with torch.device("cpu"):
            return phi(x)

    return evaluated


def _elementwise(phi: Phi) -> Phi:
    training, evaluation = on_cpu(phi), on_cpu(phi)
    x = torch.linspace(-3, 3, 64, dtype=torch.float64, device="cpu")
    shuffled = x.flip(0)[::2].reshape(2, 4, 4)
    try:
        if isinstance(phi, nn.Module):
            training, evaluation = on_cpu(_float64_copy(phi).train()), on_cpu(_float64_copy(phi).eval())
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


def name_of(phi: object) -> str:
    """Name phi as error messages do."""
    return type(phi).__name__ if isinstance(phi, nn.Module) else str(getattr(phi, "__name__", repr(phi)))
