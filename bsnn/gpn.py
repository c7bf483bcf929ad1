"""Gaussian-Poincaré normalisation (section 2.2 of the paper: Definition 3, Proposition 3, Table 1).

phi is Gaussian-Poincaré normalised (GPN) if E phi(z)^2 = E phi'(z)^2 = 1 for z ~ N(0, 1). Any phi becomes so by
a phi + b (equations 10 and 11). With m = E phi, s = E phi^2, q = E phi'^2:

    a = q^(-1/2),    b = -a m +/- sqrt(disc),    disc = 1 - a^2 (s - m^2)  >= 0 by the Gaussian-Poincaré inequality.

The moments are computed by bsnn.quadrature for any function torch can differentiate: Table 1 is an output here, not an
input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bsnn.quadrature import ROUNDING, TELLABLE, Phi, analyse, name_of

# Above this E phi^2 / E phi'^2, phi's rounding of 1e-16 is more than 1e-10 of its variation.
_NEARLY_CONSTANT = 1e11


def gaussian_poincare_constants(phi: Phi, root: str = "paper", kinks: Sequence[float] = ()) -> tuple[float, float]:
    """(a, b) such that a phi + b is GPN (equations 10 and 11): a to 1e-10 of itself, b to 1e-10 of 1 + |a E phi|.

    root: "+" or "-" is the sign of the square root in b; "paper" is the choice of Table 1, "+" unless phi has an
    attribute `gpn_root` (only `bsnn.activations.SigmoidGELU` does). -a would serve as well as a; a > 0 keeps phi's
    direction.
    phi, kinks: as for `bsnn.quadrature.gaussian_moments`.

    Raises ValueError also if phi' is zero almost everywhere (sign, round, a constant: no a exists), if phi jumps so
    that disc < 0 (no b exists) or so near to it that b can't be told, or if phi is nearly constant, so that float64
    has fewer than ten digits of phi - E phi. A phi with jumps but disc > 0 is accepted: its (a, b) do solve the two
    equations, with phi' taken between the jumps, but the paper's theory, which needs a Lipschitz phi, says nothing
    about it. Where disc < 1e-8, jumps that, times the density there,
    are below 1e-10 of sqrt(E phi'^2) are taken for rounding.

    >>> a, b = gaussian_poincare_constants(torch.tanh)
    >>> round(a, 6), round(b, 6)
    (1.467414, 0.388542)
    """
    sign = _root_sign(phi, root)
    found = analyse(phi, kinks)
    mean, second, derivative_second = found.moments
    if derivative_second == 0:
        raise ValueError(
            f"{name_of(phi)} has zero derivative almost everywhere, so E phi'^2 = 0 and no a makes E (a phi')^2 = 1; "
            "expected a slope that autograd sees (not sign, round, a constant, or a value detached from its input)"
        )
    if second > _NEARLY_CONSTANT * derivative_second:
        raise ValueError(
            f"{name_of(phi)} is nearly constant: E phi^2 / E phi'^2 = {second / derivative_second:.3g} leaves float64 "
            "fewer than ten digits of phi's variation; expected phi without its mean, which normalisation takes out"
        )
    if found.disc < (TELLABLE if found.jumps else -ROUNDING):
        raise ValueError(
            f"{name_of(phi)} jumps: 1 - Var phi / E phi'^2 = {found.disc:.3g}, which the Gaussian-Poincaré inequality "
            f"forbids for a continuous function if negative; below {TELLABLE:g} no b makes E (a phi + b)^2 = 1, "
            "or none that float64 can tell; expected a continuous function"
        )
    a = derivative_second**-0.5
    centre, distance = -a * mean, sign * math.sqrt(max(found.disc, 0.0))
    b = centre + distance
    # Where the two cancel (ReLU: E phi^2 = E phi'^2 already) what is left is rounding, of either sign.
    b = 0.0 if abs(b) <= 1e-14 * (abs(centre) + abs(distance)) else b
    return math.ldexp(a, -found.exponent), b  # the moments are those of phi / 2^exponent, which has the same b


class GPN(nn.Module):
    """x -> a phi(x) + b, elementwise, with (a, b) from `gaussian_poincare_constants(phi, root, kinks)`.

    a and b are Python floats: no cast or device move rounds them, and a compiler sees constants. They are saved in the
    state_dict, and loading restores the saved ones, whatever root this module was made with. If phi has parameters that
    train (nn.PReLU), a and b stay those of the parameters at construction.

    Shape: any, kept. Raises ValueError as `gaussian_poincare_constants` does.

    >>> GPN(torch.nn.ReLU())
    GPN(
      a=1.41421, b=0
      (phi): ReLU()
    )
    >>> kinked = GPN(lambda x: torch.where(x > 0.3, 2 * x - 0.3, x))  # the kink at 0.3 is found
    >>> z = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> round(kinked(z).square().mean().item(), 1)
    1.0
    """

    def __init__(self, phi: Phi, root: str = "paper", kinks: Sequence[float] = ()) -> None:
        super().__init__()
        self.a, self.b = gaussian_poincare_constants(phi, root, kinks)
        self.phi = phi

    @classmethod
    def with_constants(cls, phi: Phi, a: float, b: float) -> GPN:
        """x -> a phi(x) + b with constants that are known already, and not checked."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.a, made.b = float(a), float(b)
        made.phi = phi
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.phi(x) + self.b

    def get_extra_state(self) -> Tensor:
        # A tensor, so that torch.load(weights_only=True) and stores that hold only tensors can take it.
        return torch.tensor([self.a, self.b], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        if not isinstance(state, Tensor) or state.shape != (2,):
            raise ValueError(
                f"expected GPN's saved constants, a tensor [a, b], found {state!r}; load a state_dict that a GPN saved"
            )
        self.a, self.b = state.tolist()

    def extra_repr(self) -> str:
        phi = "" if isinstance(self.phi, nn.Module) else f"phi={name_of(self.phi)}, "
        return f"{phi}a={self.a:.6g}, b={self.b:.6g}"


def _root_sign(phi: Phi, root: str) -> int:
    chosen = getattr(phi, "gpn_root", "+") if root == "paper" else root
    if chosen not in ("+", "-"):
        where = "gpn_root declared by phi" if root == "paper" else "root"
        expected = '"+" or "-"' if root == "paper" else '"paper", "+" or "-"'
        raise ValueError(f"expected {where} to be {expected}, found {chosen!r}")
    return 1 if chosen == "+" else -1
