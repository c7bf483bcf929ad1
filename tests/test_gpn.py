"""Gaussian-Poincaré normalisation: Table 1, the two equations it solves, any function, and the module.

The references are independent of the adaptive Gauss-Legendre rule under test: mpmath's quadrature at 30 digits, closed
forms, a fixed tanh-sinh rule split at known kinks, Monte Carlo.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bsnn.activations import PAPER_ACTIVATIONS, SigmoidGELU
from bsnn.gpn import GPN, gaussian_poincare_constants
from bsnn.quadrature import gaussian_moments

Scalar = Callable[[mp.mpf], mp.mpf]


# Table 1 as printed.
TABLE_1 = {
    "tanh": ("1.4674", "0.3885"),
    "relu": ("1.4142", "0.0000"),
    "leaky_relu": ("1.4141", "0.0000"),
    "elu": ("1.2234", "0.0742"),
    "selu": ("0.9660", "0.2585"),  # not 0.2584: see test_selu_in_table_1
    "gelu": ("1.4915", "-0.9097"),
}


# The same to 12 digits.
EXACT = {
    "tanh": (1.46741359163, 0.388541670067),
    "relu": (1.41421356237, 0.0),
    "leaky_relu": (1.41414285700, 0.0),
    "elu": (1.22342855755, 0.0742203456816),
    "selu": (0.966025776974, 0.258445735546),
    "gelu": (1.49145922675, -0.909652801901),
}


def expectation(f: Scalar, kinks: Sequence[mp.mpf] = (0,)) -> mp.mpf:
    """E f(z), 30 digits: the density at 13 is 1e-37."""
    return mp.quad(lambda x: f(x) * mp.npdf(x), [-13, *kinks, 13])


def constants(phi: Scalar, derivative: Scalar, sign: int = 1, kinks: Sequence[mp.mpf] = (0,)) -> tuple[float, float]:
    """(a, b) by the formula as the paper prints it."""
    with mp.workdps(30):
        q = expectation(lambda x: derivative(x) ** 2, kinks)
        m, s = expectation(phi, kinks), expectation(lambda x: phi(x) ** 2, kinks)
        a = 1 / mp.sqrt(q)
        return float(a), float(-a * m + sign * mp.sqrt(abs(a**2 * m**2 - a**2 * s + 1)))


def selu_formula(scale: float, alpha: float) -> tuple[Scalar, Scalar]:
    return (
        lambda x: scale * (x if x > 0 else alpha * mp.expm1(x)),
        lambda x: scale * (1 if x > 0 else alpha * mp.exp(x)),
    )


def sigmoid(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


# phi and phi' written for mpmath, without torch and without autograd.
FORMULAS: dict[str, tuple[Scalar, Scalar]] = {
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "relu": (lambda x: max(x, 0), lambda x: mp.mpf(x > 0)),
    "leaky_relu": (
        lambda x: x if x > 0 else mp.mpf(0.01) * x,
        lambda x: mp.mpf(1) if x > 0 else mp.mpf(0.01),
    ),
    "elu": selu_formula(1, 1),
    "selu": selu_formula(1.0507009873554805, 1.6732632423543772),
    "gelu": (
        lambda x: x * sigmoid(mp.mpf(1.702) * x),
        lambda x: sigmoid(1.702 * x) * (1 + 1.702 * x * sigmoid(-1.702 * x)),
    ),
}


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_table_1_to_every_printed_digit(name: str) -> None:
    a, b = gaussian_poincare_constants(PAPER_ACTIVATIONS[name]())
    printed = ("0.9660", "0.2584") if name == "selu" else TABLE_1[name]
    assert (f"{a:.4f}", f"{b:.4f}") == printed


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_table_1_to_12_digits(name: str) -> None:
    assert gaussian_poincare_constants(PAPER_ACTIVATIONS[name]()) == pytest.approx(EXACT[name], rel=0, abs=1e-11)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_against_30_digit_quadrature(name: str) -> None:
    expected = constants(*FORMULAS[name], sign=-1 if name == "gelu" else 1)
    assert gaussian_poincare_constants(PAPER_ACTIVATIONS[name]()) == pytest.approx(expected, rel=0, abs=1e-13)


def test_selu_in_table_1() -> None:
    """The paper's b, 0.2585, comes from SELU's own constants rounded to four decimals; the exact one is 0.25845."""

    def rounded_selu(x: Tensor) -> Tensor:
        return 1.0507 * torch.where(x > 0, x, 1.6733 * torch.expm1(x))

    a, b = gaussian_poincare_constants(rounded_selu)
    assert (f"{a:.4f}", f"{b:.4f}") == TABLE_1["selu"]
    assert 0.25840 < gaussian_poincare_constants(nn.SELU())[1] < 0.25845 < b


R2, RPI = math.sqrt(2), math.sqrt(math.pi)


# phi: (m, s, q) in closed form. Together they are smooth, kinked at 0 and elsewhere, oscillating, and fast-growing.
CLOSED_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float, float]]] = {
    "identity": (lambda x: x, (0, 1, 1)),
    "affine": (lambda x: 7 - 3 * x, (7, 58, 9)),
    "square": (lambda x: x**2, (1, 3, 4)),
    "cube": (lambda x: x**3, (0, 15, 27)),
    "relu": (torch.relu, (1 / (R2 * RPI), 1 / 2, 1 / 2)),
    "abs": (torch.abs, (R2 / RPI, 1, 1)),
    "sin": (torch.sin, (0, (1 - math.exp(-2)) / 2, (1 + math.exp(-2)) / 2)),
    "cos(5x)": (
        lambda x: torch.cos(5 * x),
        (math.exp(-12.5), (1 + math.exp(-50)) / 2, 25 * (1 - math.exp(-50)) / 2),
    ),
    "cos(200x)": (lambda x: torch.cos(200 * x), (0, 0.5, 20000)),
    "exp": (torch.exp, (math.exp(0.5), math.exp(2), math.exp(2))),
    # E erf(z)^2 = (2/pi) arcsin(2/3); erf'^2 = (4/pi) exp(-2 x^2).
    "erf": (torch.erf, (0, 2 / math.pi * math.asin(2 / 3), 4 / (math.pi * math.sqrt(5)))),
    # Grows until E phi^2 is almost infinite; at |x| = 38, phi' squared is 1e253.
    "exp(x^2/5)": (lambda x: torch.exp(x**2 / 5), (math.sqrt(5 / 3), math.sqrt(5), 0.16 * 5**1.5)),
    # phi' ~ |x|^(-1/4): infinite at 0, with a finite second moment. E |z|^p = 2^(p/2) Gamma((p+1)/2) / sqrt(pi).
    "|x|^0.75": (
        lambda x: x.abs() ** 0.75,
        (
            2**0.375 * math.gamma(0.875) / RPI,
            2**0.75 * math.gamma(1.25) / RPI,
            0.75**2 * 2**-0.25 * math.gamma(0.25) / RPI,
        ),
    ),
    "hardtanh": (
        functional.hardtanh,
        (0, 1 - 2 * math.exp(-0.5) / (R2 * RPI), math.erf(1 / R2)),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_moments_in_closed_form(name: str) -> None:
    phi, (m, s, q) = CLOSED_FORMS[name]
    moments = gaussian_moments(phi)
    assert moments.mean == pytest.approx(m, rel=1e-12, abs=1e-12 * math.sqrt(s))
    assert moments.second == pytest.approx(s, rel=1e-12)
    assert moments.derivative_second == pytest.approx(q, rel=1e-12)


def test_constants_in_closed_form() -> None:
    assert gaussian_poincare_constants(torch.relu) == pytest.approx((R2, 0.0), rel=0, abs=1e-14)
    assert gaussian_poincare_constants(lambda x: x) == pytest.approx((1.0, 0.0), rel=0, abs=1e-14)
    assert gaussian_poincare_constants(lambda x: 7 - 3 * x) == pytest.approx((1 / 3, -7 / 3), rel=0, abs=1e-14)
    # exp: a = 1/e, m = e^(1/2), disc = 1 - (e^2 - e) / e^2 = 1/e, so b = -e^(-1/2) +/- e^(-1/2).
    assert gaussian_poincare_constants(torch.exp) == pytest.approx((math.exp(-1), 0.0), rel=0, abs=1e-14)
    assert gaussian_poincare_constants(torch.exp, "-") == pytest.approx(
        (math.exp(-1), -2 * math.exp(-0.5)), rel=0, abs=1e-14
    )


def test_close_to_linear_keeps_its_digits() -> None:
    """tanh(x/1000): disc is 1.3e-12, so the formula as printed, in float64, would leave b about four digits."""
    expected = constants(lambda x: mp.tanh(x / 1000), lambda x: mp.sech(x / 1000) ** 2 / 1000)
    assert expected[1] == pytest.approx(1.1547e-6, rel=1e-4)
    a, b = gaussian_poincare_constants(lambda x: torch.tanh(x / 1000))
    assert a == pytest.approx(expected[0], rel=1e-14)
    assert b == pytest.approx(expected[1], rel=0, abs=1e-16)


KINKED: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "|x - 0.3|": (lambda x: (x - 0.3).abs(), [0.3]),
    "clamp at irrationals": (lambda x: x.clamp(-1 / R2, math.pi / 3), [-1 / R2, math.pi / 3]),
    "clamp in the tail": (lambda x: x.clamp(-6.1, -4.3), [-6.1, -4.3]),
    "steep ramp": (lambda x: (100 * (x - math.e / 5)).clamp(0, 1), [math.e / 5, math.e / 5 + 0.01]),
    "hardswish": (functional.hardswish, [-3, 3]),
    "softshrink": (functional.softshrink, [-0.5, 0.5]),
    "three pieces": (
        lambda x: torch.where(x < -R2 / 3, torch.sin(x + R2 / 3), torch.where(x < 1 / 3, 0 * x, (x - 1 / 3) ** 2)),
        [-R2 / 3, 1 / 3],
    ),
}


@pytest.mark.parametrize("name", KINKED)
def test_kinks_need_not_be_listed(name: str) -> None:
    phi, kinks = KINKED[name]
    assert gaussian_poincare_constants(phi) == pytest.approx(gaussian_poincare_constants(phi, kinks=kinks), rel=1e-11)


def test_listed_kinks_reach_what_the_grid_steps_over() -> None:
    """A bump of width 1e-4 between the first grid's nodes; its base is where the two results part."""

    def bump(x: Tensor) -> Tensor:
        return x + (1e-4 - (x - 0.0625).abs()).clamp(min=0) * 100

    q = gaussian_moments(bump, kinks=[0.0625 - 1e-4, 0.0625, 0.0625 + 1e-4]).derivative_second
    # Where the bump is, phi' is 101 and -99 instead of 1; the density there is 0.398 to four digits.
    assert q - 1 == pytest.approx((101**2 + 99**2 - 2) * 1e-4 * math.exp(-(0.0625**2) / 2) / (R2 * RPI), rel=1e-5)


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": functional.softplus,
    "silu": functional.silu,
    "exact gelu": functional.gelu,
    "mish": functional.mish,
    "softsign": functional.softsign,
    "erf": torch.erf,
    "celu": functional.celu,
    "sin": torch.sin,
    "x^2": torch.square,
}


EVERYTHING: dict[str, Callable[[Tensor], Tensor]] = (
    {name: make() for name, make in PAPER_ACTIVATIONS.items()}
    | SMOOTH
    | {name: phi for name, (phi, _) in KINKED.items()}
)


def tanh_sinh(f: Callable[[Tensor], Tensor], ends: Sequence[float]) -> Tensor:
    """E f(z) over the intervals between `ends`: f (N,) -> (N, k). Exact to rounding if f is smooth inside each."""
    t = torch.arange(-4, 4, 1 / 64, dtype=torch.float64)
    u = torch.tanh(math.pi / 2 * torch.sinh(t))
    weight = math.pi / 2 * torch.cosh(t) / torch.cosh(math.pi / 2 * torch.sinh(t)) ** 2 / 64
    total = torch.zeros(())
    for lo, hi in itertools.pairwise(ends):
        x = (lo + hi) / 2 + (hi - lo) / 2 * u
        density = torch.exp(-(x**2) / 2) / (R2 * RPI)
        total = total + (hi - lo) / 2 * ((weight * density).unsqueeze(1) * f(x)).sum(0)
    return total


@pytest.mark.parametrize("root", ["+", "-"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_the_module_satisfies_both_equations(name: str, root: str) -> None:
    """Equations 10 and 11, on the shipped module: E gpn^2 = E gpn'^2 = 1, for either root."""
    gpn = GPN(EVERYTHING[name], root=root)
    kinks = KINKED[name][1] if name in KINKED else []

    def squares(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        y = gpn(x)
        (dy,) = torch.autograd.grad(y.sum(), x)
        return torch.stack([y.detach() ** 2, dy**2], dim=1)

    found = tanh_sinh(squares, sorted({-13.0, 0.0, 13.0, *kinks}))
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_the_module_satisfies_both_equations_on_samples(name: str) -> None:
    gpn = GPN(PAPER_ACTIVATIONS[name]())
    x = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = gpn(x)
    (dy,) = torch.autograd.grad(y.sum(), x)
    for square in (y.detach() ** 2, dy**2):
        assert abs(float(square.mean()) - 1) < 4 * float(square.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_scale_and_shift_of_phi_do_not_matter(name: str) -> None:
    """c phi + d has the GPN function of phi if c > 0, and its mirror image, with the roots swapped, if c < 0."""
    phi = PAPER_ACTIVATIONS[name]()
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    for root, mirrored in (("+", "-"), ("-", "+")):
        expected = GPN(phi, root=root)(x)
        torch.testing.assert_close(GPN(lambda t: 250 * phi(t) - 8, root=root)(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(GPN(lambda t: 3 - phi(t) / 90, root=mirrored)(x), -expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PAPER_ACTIVATIONS)
def test_normalising_twice_changes_nothing(name: str) -> None:
    phi = PAPER_ACTIVATIONS[name]()
    once = GPN(phi)
    a, b = gaussian_poincare_constants(once, root="-" if name == "gelu" else "+")
    assert (a, b) == pytest.approx((1, 0), rel=0, abs=1e-12)


# --- roots ---


def test_the_papers_root_is_plus_unless_phi_says_otherwise() -> None:
    for make in PAPER_ACTIVATIONS.values():
        phi = make()
        declared = "-" if isinstance(phi, SigmoidGELU) else "+"
        assert gaussian_poincare_constants(phi) == gaussian_poincare_constants(phi, declared)
    assert gaussian_poincare_constants(nn.GELU()) == gaussian_poincare_constants(nn.GELU(), "+")


def test_the_roots_share_a_and_are_symmetric_about_minus_a_times_the_mean() -> None:
    (a, plus), (same, minus) = (gaussian_poincare_constants(nn.ELU(), root) for root in "+-")
    assert a == same
    assert plus > minus
    assert (plus + minus) / 2 == pytest.approx(-a * gaussian_moments(nn.ELU()).mean, rel=1e-14)


# --- errors ---

NOT_NORMALISABLE: dict[str, tuple[object, str]] = {
    "sign": (torch.sign, "sign has zero derivative almost everywhere"),
    "round": (torch.round, "zero derivative almost everywhere"),
    "constant": (lambda x: torch.full_like(x, 3.0), "zero derivative almost everywhere"),
    "zero": (lambda x: 0 * x, "zero derivative almost everywhere"),
    "detached": (lambda x: x.detach(), "a slope that autograd sees"),
    "exp(x^2/4)": (lambda x: torch.exp(x**2 / 4), r"infinite moment: .* not died out at \|x\| = 38"),
    "exp(exp x)": (
        lambda x: torch.exp(torch.exp(x)),
        r"phi\(6\.\d+\) = inf: its moments are infinite, or it overflows",
    ),
    "|x|^0.5": (lambda x: x.abs() ** 0.5, r"E phi'\^2 is infinite, or phi too rough .* near x = "),
    "log|x|": (lambda x: x.abs().log(), r"E phi'\^2 is infinite"),
    "|x - 0.3|^0.5": (lambda x: (x - 0.3).abs() ** 0.5, r"(E phi'\^2 is infinite|phi'\(0\.3\) = )"),
    "1/x": (lambda x: 1 / x, "infinite moment"),
    "sqrt": (torch.sqrt, r"phi\(-0\.000\d+\) = nan: expected a number for every real x"),
    "nan gradient": (lambda x: torch.where(x > 0, x.sqrt(), 0.0), r"phi'\(-0\.000\d+\) = nan: .* torch.where"),
    "x + sign": (lambda x: x + torch.sign(x), r"jumps: 1 - Var phi / E phi'\^2 = -2\.6, which the Gaussian-Poincaré"),
    "hardshrink": (nn.Hardshrink(), "Hardshrink jumps"),
    "a tiny jump": (lambda x: x + 1e-9 * torch.sign(x), "jumps: .* = -1.6e-09"),
    "softmax": (lambda x: x.softmax(-1), "depend on x_i alone"),
    "cumsum": (lambda x: x.cumsum(0), "depend on x_i alone"),
    "sort": (lambda x: x.sort().values, "depend on x_i alone"),
    "dropout": (nn.Dropout(), "Dropout is not one elementwise function"),
    "dropout set to evaluation": (nn.Dropout().eval(), "between training and evaluation mode"),
    "random slope": (nn.RReLU(), "RReLU is not one elementwise function"),
    "noise": (lambda x: x + torch.randn_like(x), "between calls"),
    "batch norm": (nn.BatchNorm1d(1), r"BatchNorm1d could not be evaluated on a float64 CPU tensor of shape \(64,\)"),
    "halving": (
        functional.glu,
        r"glu is not elementwise: expected a tensor of shape \(64,\) from \(64,\), found shape \(32,\)",
    ),
    "no tensor": (lambda x: float(x.sum()), "found a float"),
    "float32 inside": (lambda x: torch.tanh(x.float()), "expected float64 from float64, found torch.float32"),
    "a module in a function": (lambda x: functional.prelu(x, torch.ones(1)), "pass the module itself"),
    "a class": (nn.Tanh, r"a module instance such as torch\.nn\.Tanh\(\), found <class"),
    "no function": (1.5, "found 1.5"),
    "NumPy's": (np.tanh, r"tanh has no derivative that autograd could compute: .*numpy\(\).*of torch's operations"),
    "what fails as it likes": (lambda x: {}[x.shape], r"could not be evaluated .*: torch.Size\(\[64\]\); expected"),
    "random slope of a value that isn't": (lambda x: x + (x - x.detach()) * torch.rand_like(x), "between calls"),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # what NumPy makes of a tensor
@pytest.mark.parametrize("name", NOT_NORMALISABLE)
def test_errors_say_what_is_wrong(name: str) -> None:
    phi, message = NOT_NORMALISABLE[name]
    with pytest.raises(ValueError, match=message):
        GPN(phi)  # type: ignore[arg-type]


def test_a_jump_that_leaves_a_solution_is_accepted() -> None:
    """Two jumps, the second undoing the first: disc > 0, so a and b exist, with phi' taken between the jumps."""

    def phi(x: Tensor) -> Tensor:
        return torch.sin(3 * x) + 0.1 * ((x > 1) & (x < 2))

    gpn = GPN(phi)
    second = tanh_sinh(lambda x: gpn(x).unsqueeze(1) ** 2, [-13.0, 0.0, 1.0, 2.0, 13.0])
    assert float(second) == pytest.approx(1, rel=0, abs=1e-10)


def test_bad_root() -> None:
    with pytest.raises(ValueError, match=r'expected root to be "paper", "\+" or "-", found .plus.'):
        GPN(nn.Tanh(), root="plus")

    class Declares(nn.Tanh):
        gpn_root = "minus"

    with pytest.raises(ValueError, match=r"expected gpn_root declared by phi to be .*, found .minus."):
        GPN(Declares())
    assert GPN(Declares(), root="-").b < 0


def test_bad_kinks() -> None:
    with pytest.raises(ValueError, match=r"expected kinks to be finite numbers, found \[0\.5, nan\]"):
        gaussian_moments(torch.tanh, kinks=[0.5, math.nan])
