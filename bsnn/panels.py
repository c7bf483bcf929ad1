"""Bisected Gauss-Legendre panels: adaptive integration of a function of a real number, and a search for its breaks.

A panel is bisected until 16 Gauss nodes resolve the function on it. The test compares values, not integrals: the
polynomial through the nodes is read at the 32 nodes of the two halves and just inside both ends, and has to be the
function there. A kink or jump anywhere in the panel lies between two of these 50 points, so that those on one of its
sides miss. Comparing integrals would be blind in two ways: a kink between an end and the first node changes none of
them, and elsewhere errors of either sign may cancel.

No sample can show a feature between two neighbouring points that leaves both sides as they are. First panels of
width 1/8 show everything wider than 0.01; for narrower features the ends of panels can be given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# f: x (N,) -> (N, I): I integrands, or components of a function, at N points.
Sampled = Callable[[Tensor], Tensor]

RANGE = 38.0
"""The density of N(0, 1) at 38 is 1e-314, where float64 ends."""

_NODES = 16
# Enough for |x|^0.6, whose phi'^2 ~ |x|^-0.8 is barely integrable at 0; an integral that still changes is divergent.
_MAX_BISECTIONS = 400
_MAX_PANELS = 2**16
# An integral's part between two neighbouring floats may be in doubt by this much: breaks are known to the last bit.
_LAST_BIT = 1e-12
# Ends are approached to this share of a panel, but not nearer than two floats: an end is often itself a break.
_INSET = 2.0**-48
_TWO_FLOATS = 2.0**-51  # of |x|
# Breaks are sought down to panels of 2^-64 of the first ones: near 0 float64 would go on to 1e-308.
_BREAK_LEVELS = 64
# A place that is rough on panels of 2^-12 of the first ones, and smooth on smaller ones, has a bend, not a jump.
_BENT_LEVEL = 12
# Narrower panels, between two breaks, are not cut: too few floats are left in them.
_NARROWEST = 2.0**-40
_TINY = torch.finfo(torch.float64).tiny


class NotResolvedError(ValueError):
    """Bisection failed. at: x; component: which of f's failed, or -1 if some integral became infinite."""

    def __init__(self, at: float, component: int) -> None:
        super().__init__(f"component {component} does not converge near x = {at:.6g}")
        self.at, self.component = at, component


class Integrals(NamedTuple):
    """Integrals of f, (I,), and the ends lo and hi, (P,), of the panels whose `gauss` nodes they come from."""

    total: Tensor
    lo: Tensor
    hi: Tensor


def first_edges(kinks: Sequence[float], per_unit: int = 8, reach: float = RANGE) -> Tensor:
    """Return the ends of the first panels, sorted: a uniform grid over [-reach, reach] with 0 in it, and the kinks.

    Raises ValueError unless the kinks are finite.
    """
    if not all(math.isfinite(kink) for kink in kinks):
        raise ValueError(f"expected kinks to be finite numbers, found {list(kinks)}")
    grid = torch.linspace(-reach, reach, int(2 * reach * per_unit) + 1, dtype=torch.float64, device="cpu")
    inside = [float(kink) for kink in kinks if abs(kink) < reach]
    return torch.tensor(sorted({*grid.tolist(), *inside}), dtype=torch.float64, device="cpu")


def gauss(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights of panels: lo, hi (P,) -> (P, 16) each."""
    points, weights, _, _ = _constants()
    half = ((hi - lo) / 2).unsqueeze(1)
    return lo.unsqueeze(1) + half * (1 + points), half * weights


def panel_integrals(f: Sampled, lo: Tensor, hi: Tensor) -> Tensor:
    """Integrate f over each panel with its 16 nodes, unchecked: lo, hi (P,) -> (P, I)."""
    x, weight = gauss(lo, hi)
    integrals: Tensor = (f(x.flatten()).unflatten(0, x.shape) * weight.unsqueeze(-1)).sum(1)
    return integrals


def integrate(
    f: Sampled,
    edges: Tensor,
    scale: Callable[[Tensor], Tensor],
    tolerance: float,
    exact: Sequence[float] = (),
    doubt: Callable[[Level], Tensor] | None = None,
) -> Integrals:
    """Integrate f over [edges[0], edges[-1]], bisecting the panels between `edges`.

    Args:
        scale: integrals (I,) -> the size that each error is measured against.
        tolerance: the share of that size that one panel may leave in doubt. A panel without a break leaves far less, so
            the error is `tolerance` times the number of breaks.
        exact: those of the edges that are breaks to the last bit.
        doubt: a bound on the error of a panel's integrals, (P, I); default: `Level.doubt`.

    Raises NotResolvedError if an integral is infinite, or if f has breaks that float64's x can't place well enough.
    """
    level = Level.first(f, edges)
    known = torch.tensor(exact, dtype=torch.float64, device="cpu")
    done = torch.zeros_like(level.integrals[0])
    finished: list[tuple[Tensor, Tensor]] = []
    for _ in range(_MAX_BISECTIONS):
        total = done + level.integrals.sum(0)
        if not bool(total.isfinite().all()):
            raise NotResolvedError(float(level.lo[0]), -1)
        left, right = level.integrals.chunk(2)
        atom = level.indivisible
        last_bit = torch.where(atom.unsqueeze(1), (left + right).abs(), level.last_bit(known))
        error = torch.where(atom.unsqueeze(1), 0, (doubt or Level.doubt)(level))
        # clamped last: where subnormal numbers are flushed to 0, as in training, 0 / 0 would be nan
        allowed, allowed_bit = ((part * scale(total)).clamp_min(_TINY) for part in (tolerance, _LAST_BIT))
        share = torch.maximum(error / allowed, last_bit / allowed_bit)
        rough = ~(share.amax(1) <= 1)  # nan, of two infinities, is rough
        done = done + (left + right)[~rough].sum(0)
        finished.append(_halves(level.lo[~rough], level.hi[~rough]))
        if not rough.any():
            lo, hi = (torch.cat(ends) for ends in zip(*finished, strict=True))
            return Integrals(done, lo, hi)
        if bool((rough & atom).any()) or 2 * int(rough.sum()) > _MAX_PANELS:
            break
        level = level.bisected(f, rough)
    panel, component = divmod(int(share.argmax()), len(done))
    raise NotResolvedError(float(level.lo[panel]), component)


def breaks(f: Sampled, edges: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Find the points where f jumps by more than `tolerance`, to the last bit of x, and where it bends, to about 2^-15.

    Both are sorted. A function whose components are phi and phi' jumps where phi jumps or has a kink, and bends where
    phi' has a kink.

    The search covers the space between the ends of the first panels, `edges`, of width 1/8; jumps are also found at
    these ends. Raises NotResolvedError if f is rough all over.
    """
    level, jumping, bent = Level.first(f, edges), [edges[:0]], set[float]()
    for number in range(_BREAK_LEVELS):
        # A jump shows in a panel that no bisection resolves. If an end of panels falls on it, it shows across that end.
        jumps = (level.across > tolerance).any(2)
        rough = level.rough(tolerance)
        last = rough & level.indivisible
        jumping += [level.lo[jumps[:, 0] | last], level.hi[jumps[:, 1]]]
        if number > _BENT_LEVEL:
            resolved = ~(rough | jumps.any(1)).view(2, -1).any(0)
            ends = (end[resolved].tolist() for end in (level.lo.chunk(2)[0], level.hi.chunk(2)[1]))
            bent |= {_roundest(*pair) for pair in zip(*ends, strict=True)}
        rough = rough & ~last
        if not rough.any():
            break
        level = level.bisected(f, rough)
    else:
        jumping.append(level.lo)
    found = torch.cat(jumping)
    reach = found.abs() * (2 * _TWO_FLOATS) + 2.0**-_BREAK_LEVELS
    return _largest_jumps(f, found - reach, found + reach), torch.tensor(
        sorted(bent), dtype=torch.float64, device="cpu"
    )


def _roundest(lo: float, hi: float) -> float:
    """Return the shortest decimal in [lo, hi], so that a break at 0.1 is reported at 0.1."""
    middle = (lo + hi) / 2
    return 0.0 + next((r for r in (round(middle, digits) for digits in range(15)) if lo <= r <= hi), middle)


def _largest_jumps(f: Sampled, lo: Tensor, hi: Tensor) -> Tensor:
    """Bisect each interval to the float next to which f changes most: lo, hi (P,) -> at most P, sorted.

    Of the two neighbouring floats the one with the shorter decimal is taken.
    """
    for _ in range(2 * _BREAK_LEVELS if len(lo) else 0):
        middle = (lo + hi) / 2
        at_lo, at_middle, at_hi = f(torch.cat([lo, middle, hi])).chunk(3)
        left = (at_middle - at_lo).abs().amax(1) >= (at_hi - at_middle).abs().amax(1)
        lo, hi = torch.where(left, lo, middle), torch.where(left, middle, hi)
    pairs = zip(lo.tolist(), hi.tolist(), strict=True)
    found = {0.0 if a <= 0 <= b else min(a, b, key=lambda end: len(repr(end))) for a, b in pairs}
    return torch.tensor(sorted(found), dtype=torch.float64, device="cpu")


def cuts(f: Sampled, edges: Tensor, tolerance: float) -> Tensor:
    """Find cuts of the panels between `edges` so that f is a polynomial of degree 15 on each piece, to `tolerance`.

    Returns the cuts and the ends of the panels that need them, sorted. Raises NotResolvedError if f is rough all over.
    """
    found = [edges[:0]]
    level = Level.first(f, edges)
    for _ in range(_BREAK_LEVELS):
        rough = level.rough(tolerance) & (level.hi - level.lo > _NARROWEST)
        if not rough.any():
            break
        found += [level.lo[rough], ((level.lo + level.hi) / 2)[rough], level.hi[rough]]
        level = level.bisected(f, rough)
    places: Tensor = torch.cat(found).unique()
    return places


@dataclass(frozen=True)
class Level:
    """P panels, sampled at the nodes of their halves and just inside their ends."""

    lo: Tensor  # (P,)
    hi: Tensor  # (P,)
    halves: Tensor  # (2P, 16, I), all left halves first
    across: Tensor  # (P, 2, I): |f just inside - f just outside| at lo and at hi
    inset: Tensor  # (P,): how far from the ends "just inside" and "just outside" are
    integrals: Tensor  # (2P, I), over the halves
    misfit: Tensor  # (P, 34, I): |f - p|, p the polynomial through the 16 nodes of the panel, at all these points

    @classmethod
    def first(cls, f: Sampled, edges: Tensor) -> Level:
        lo, hi = edges[:-1], edges[1:]
        x, _ = gauss(lo, hi)
        return cls._sampled(f, lo, hi, f(x.flatten()).unflatten(0, x.shape))

    @classmethod
    def _sampled(cls, f: Sampled, lo: Tensor, hi: Tensor, whole: Tensor) -> Level:
        """Sample panels; whole: f at their own nodes, (P, 16, I)."""
        inset = torch.maximum((hi - lo) * _INSET, torch.maximum(lo.abs(), hi.abs()) * _TWO_FLOATS)
        x, weight = gauss(*_halves(lo, hi))
        sampled = f(torch.cat([x.flatten(), lo + inset, hi - inset, lo - inset, hi + inset]))
        halves = sampled[: x.numel()].unflatten(0, x.shape)
        ends, outside = sampled[x.numel() :].unflatten(0, (4, -1)).transpose(0, 1).chunk(2, dim=1)
        # Not a torch product: on a busy machine its threads wait milliseconds for each other, with nothing to do.
        polynomial = torch.from_numpy(np.einsum("jn,pni->pji", _constants()[2].numpy(), whole.numpy()))
        misfit = (torch.cat([*halves.chunk(2), ends], dim=1) - polynomial).abs()
        return cls(lo, hi, halves, (ends - outside).abs(), inset, (halves * weight.unsqueeze(-1)).sum(1), misfit)

    def bisected(self, f: Sampled, rough: Tensor) -> Level:
        """Sample the halves of the panels chosen by `rough`, (P,) bool."""
        if 2 * int(rough.sum()) > _MAX_PANELS:
            raise NotResolvedError(float(self.lo[rough][0]), 0)
        return self._sampled(f, *_halves(self.lo[rough], self.hi[rough]), self.halves[rough.repeat(2)])

    def rough(self, tolerance: float) -> Tensor:
        """Tell which panels have a component that misses its polynomial by more than `tolerance`: (P,) bool."""
        return ~(self.misfit.amax((1, 2)) <= tolerance)

    def doubt(self) -> Tensor:
        """Integrate |f - p| over the panels, (P, I), taken to be constant between an end and the next node.

        The effect of rounding x in its last bit, where f is steep, is subtracted: no bisection would mend it.
        """
        width = self.hi - self.lo
        last_bit = torch.maximum(self.lo.abs(), self.hi.abs()) * _TWO_FLOATS / width
        left, right = (self.halves.amax(1) - self.halves.amin(1)).chunk(2)
        rounding = (torch.maximum(left, right) * last_bit.unsqueeze(1)).unsqueeze(1)
        misfit = (self.misfit - rounding).clamp_min(0)
        return (width / 2).unsqueeze(1) * (_constants()[3].unsqueeze(1) * misfit).sum(1)

    def last_bit(self, exact: Tensor) -> Tensor:
        """Bound the error of the integrals, (P, I), if a break seen at an end of a panel lies beside that end."""
        beside = torch.stack([torch.where(torch.isin(end, exact), 0, self.inset) for end in (self.lo, self.hi)], dim=1)
        return (beside.unsqueeze(2) * self.across).sum(1)

    @property
    def indivisible(self) -> Tensor:
        """True for panels without a float64 between their ends: (P,) bool."""
        middle = (self.lo + self.hi) / 2
        return (middle <= self.lo) | (middle >= self.hi)


def _halves(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    middle = (lo + hi) / 2
    return torch.cat([lo, middle]), torch.cat([middle, hi])


@cache
def _constants() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute constants on [-1, 1].

    Gauss nodes and weights, (16,) each; the matrix (34, 16) that evaluates the polynomial through the nodes at the 32
    nodes of the halves and at the ends; the weights of these 34 points in `doubt`.
    """
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    read = np.concatenate([(points - 1) / 2, (points + 1) / 2, [-1.0, 1.0]])
    others = ~np.eye(_NODES, dtype=bool)
    lagrange = [
        np.prod((read[:, None] - points[rest]) / (points[node] - points[rest]), axis=1)
        for node, rest in enumerate(others)
    ]
    gap = (1 + points[0]) / 2
    doubt = np.concatenate([weights / 2, weights / 2, [gap, gap]])
    with torch.inference_mode(False):
        return (
            torch.from_numpy(points),
            torch.from_numpy(weights),
            torch.from_numpy(np.stack(lagrange, axis=1)),
            torch.from_numpy(doubt),
        )
