"""Findings of the theory section beyond the sources' statements."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.results.markdown import table
from bsnn.theory.concentration import LEMMA_3_CONSTANT
from experiments.theory.report.columns import PAPER_ROOTS, exponent, gaussian_functions, norm_ratios, outs, paper_root


def lemma_3(lemma3: pd.DataFrame) -> list[str]:
    first = lemma3.drop_duplicates("delta").set_index("delta").first_exceeded.dropna()
    largest = lemma3.width.max()
    never = sorted(set(lemma3.delta) - set(first.index))
    points = ", ".join(f"{delta:g} from d = {d:.0f}" for delta, d in first.items()) or "none"
    known = lemma3[lemma3.below + lemma3.above > 0]
    corrected = np.log(known.below + known.above) - math.log(2) + LEMMA_3_CONSTANT * known.width * known.delta**2
    return [
        "**Lemma 3 is false as printed.** The upper tail of ||z|| has Cramér rate delta + delta^2/2 - ln(1 + delta) = "
        "delta^2 - delta^3/3 + ..., less than delta^2, so for every delta the bound fails from some d on: delta = "
        f"{points}"
        + (f" (delta = {', '.join(f'{one:g}' for one in never)}: not up to {largest})" if never else "")
        + f". With 3/2 - ln 2 = {LEMMA_3_CONSTANT:.4f} in the exponent, 2 exp(-{LEMMA_3_CONSTANT:.3f} d delta^2), it "
        f"holds for every d and delta < 1 (Chernoff's bound for either tail; {int((corrected > 0).sum())} of "
        f"{len(known)} exact points exceed it). The paper uses the lemma only for delta = d^(-1/4), where either bound "
        "goes to 0: its theorems stand."
    ]


def lemma_5(lemma5: pd.DataFrame) -> list[str]:
    wild = lemma5[lemma5.function == "exp(x^2)"]
    tame = lemma5[lemma5.function == "exp(x^2/8)"]
    return [
        "**Lemma 5 needs a growth condition.** Its proof lets f(sqrt(d) z_i / ||z||) -> f(z_i) for each i and sums "
        "over d of them, which is not uniform in i. For the continuous f = exp(x^2) the median difference grows as "
        f"d^{exponent(wild.width, wild['median']):.2f}; for exp(x^2/8), with a finite mean, the mean falls as "
        f"d^{exponent(tame.width, tame['mean']):.2f}. The theorems apply it to phi^2 and phi'^2 of Lipschitz "
        "functions, which grow as x^2 at most: there it holds, at the rate d^(-1/2) that ||z|| / sqrt(d) - 1 has."
    ]


def shell_laws(shell: pd.DataFrame) -> list[str]:
    gpn = shell[shell.gpn & (shell.route == "sphere")]
    rows = []
    for name in paper.ACTIVATIONS:
        row: list[object] = [name]
        for case in ("forward", "backward"):
            one = gpn[(gpn.function == name) & (gpn.case == case)].sort_values("width")
            last = one.iloc[-1]
            error = last["std"] ** 2 * last.width * math.sqrt(2 / last.draws)
            row += [f"{last.limit_std**2 * last.width:.3f}", f"{last['std'] ** 2 * last.width:.3f} +/- {error:.3f}"]
            row += [f"{exponent(one.width, one['std']):.3f}", rates(one)]
        rows.append(row)
    head = ["GPN function"]
    for case in ("forward", "backward"):
        head += [
            f"{case}: d Var, limit",
            f"measured at d = {gpn.width.max()}",
            "exponent of std",
            "rate of P / limit law's",
        ]
    haar = shell[shell.route == "haar"]
    keys = ["function", "gpn", "case", "width"]
    both = haar.merge(shell[shell.route == "sphere"], on=keys, suffixes=("", "_sphere"))
    z = (both["mean"] - both.mean_sphere) / np.sqrt(
        both["std"] ** 2 / both.draws + both.std_sphere**2 / both.draws_sphere
    )
    return [
        "**How wide is wide enough.** To first order the squared norms are normal with variance c/d, c = m_4 Var g - "
        "c_2^2, g = phi^2 or phi'^2, c_2 its second Hermite coefficient, m_4 = mean of y^4 "
        "(`bsnn.theory.concentration`; not in the paper). So P{| . - 1| >= eps} ~ 2 (1 - Phi(eps sqrt(d / c))), "
        "sub-Gaussian in eps and exponentially small in d. The last column of each half: slope of ln P "
        "against d, measured / that of the "
        "limit law at the same widths, for the eps and widths with at least 20 draws outside and P <= 0.5 (n = "
        f"{gpn.draws.min()} draws).",
        table(head, rows),
        "ReLU, LeakyReLU and SELU have a phi' that jumps: Theorem 3's Lipschitz condition fails, its conclusion does "
        "not. What the law needs is E phi'^4 < inf.",
        f"The route without matrices is the same law: means of {len(both)} quantities (function, plain or GPN, case, "
        f"width {', '.join(map(str, sorted(haar.width.unique())))}) with {haar.draws.min()} Haar matrices each differ "
        f"from it by {z.abs().max():.2f} standard errors at most, {float((z.abs() > 2).mean()):.1%} by more than 2 "
        "(normal: 4.6 %; the quantities of one width share their matrices).",
    ]


def rates(one: pd.DataFrame) -> str:
    """Format the slope of ln P against d, measured / limit law, for each eps with enough widths."""
    ratios = []
    for column in outs(one):
        share = one[column] / one.draws
        usable = (one[column] >= 20) & (share <= 0.5)
        if usable.sum() >= 3:
            limit = one[column.replace("out", "limit")]
            weight = np.sqrt(one[column])[usable]
            slopes = [np.polyfit(one.width[usable], np.log(p[usable]), 1, w=weight)[0] for p in (share, limit)]
            ratios.append(slopes[0] / slopes[1])
    return ", ".join(f"{ratio:.2f}" for ratio in ratios) or "too few"


def roots(constants: pd.DataFrame, depth: pd.DataFrame, gradient: pd.DataFrame) -> list[str]:
    six = constants[constants.family == "paper"].set_index("function")
    last = depth[(depth.width == depth.width.max()) & (depth.layer == depth.layer.max())]
    stds = last.set_index(["function", "root"])["std"]
    gpn = gradient[gradient.root.notna()]
    ratios = norm_ratios(gpn).gradient.groupby([gpn.function, gpn.root]).agg(["median", "max"])
    rows = []
    for name, root in PAPER_ROOTS.items():
        row: list[object] = [name]
        for sign, suffix in (("+", "plus"), ("-", "minus")):
            mark = " (Table 1)" if sign == root else ""
            row += [f"{six[f'b_{suffix}'][name]:.4f}{mark}", f"{six[f'gain_{suffix}'][name]:.4f}"]
            row += [f"{stds[name, sign]:.3g}", f"{ratios['median'][name, sign]:.3g} ({ratios['max'][name, sign]:.3g})"]
        rows.append(row)
    columns = ["gain", f"std of ||x||^2/d, layer {depth.layer.max()}", "gradient max/min: median (largest)"]
    worst = str(six.gain_plus.idxmax())
    wild = gpn[(gpn.function == worst) & (gpn.root == "+")]
    shrunk = wild[wild.signal_last < wild.signal_first]
    of_shrunk = f"{norm_ratios(shrunk).gradient.min():.0e} at least" if len(shrunk) else "-"
    relu = last[(last.function == "relu") & paper_root(last)].iloc[0]
    return [
        "**Both roots b are GPN, but only one of GELU's gives a network that keeps its norms.** A layer multiplies a "
        "small error of ||x||^2/d by the gain E z phi(z) phi'(z) = d/dv E phi(sqrt(v) z)^2 at v = 1, which "
        "Definition 3 leaves free. Below 1 the norm is restored, at 1 (ReLU and LeakyReLU with Table 1's b) errors "
        f"add up, above 1 they grow exponentially with depth. The largest gain of the twelve is that of {worst} with "
        f"b+, {six.gain_plus[worst]:.4f}: over 200 layers a factor {six.gain_plus[worst] ** 200:.0e}. That function "
        "meets all four assumptions, and Theorems 2 and 3 hold for each of its layers; but for norms to last 200 "
        f"layers the width would have to exceed the square of that number. In {len(shrunk)} of {len(wild)} networks "
        f"||x|| shrank and the gradient vanished with it (max/min {of_shrunk}); in the others ||x|| grew and the "
        "gradient did not: a large signal sees a multiple of ReLU, for which what ||x|| gains ||y|| loses. The paper "
        "says that a and b are not unique, not how it chose; its choice for GELU is the stable one. Standard "
        f"deviations: d = {depth.width.max()}, n = {depth.draws.min()}; gradient ratios: width "
        f"{gradient_width(gradient)}, n = {gradient.draw.nunique()}.",
        table(["function", "b+", *columns, "b-", *columns], rows),
        "**Theorem 2 for one layer is not Theorem 2 for 200.** With gain 1 the variance of ||x||^2/d "
        f"grows as l c/d while it is small: for ReLU-GPN, c = 3, at d = {relu.width} and layer "
        f"{relu.layer} its standard deviation is {relu['std']:.3g} and the median of ||x||^2/d "
        f"{relu['median']:.3g}. To keep the norm within eps over L layers the width must grow as L / "
        "eps^2; for functions with gain below 1 it need not grow with L. " + trained(six),
    ]


def gradient_width(gradient: pd.DataFrame) -> int:
    """Compute the width from ||x^(1)|| = sqrt(d)."""
    return round(float(gradient.signal_first.iloc[0]) ** 2)


def trained(six: pd.DataFrame) -> str:
    """Quote the paper's Table 2 for GPN functions with gain 1 and below (training accuracy, no batch norm)."""
    table2 = paper.table2()
    gpn = table2[table2.gpn & ~table2.batch_norm]
    marginal = gpn.activation.isin([name for name, root in PAPER_ROOTS.items() if six[GAINS[root]][name] > 1 - 1e-6])
    ranges = {}
    for group, rows in (("marginal", gpn[marginal]), ("others", gpn[~marginal])):
        accuracy = rows.groupby("dataset").train_accuracy.agg(["min", "max"])
        ranges[group] = ", ".join(
            f"{accuracy['min'][dataset]:.1f} to {accuracy['max'][dataset]:.1f} % on {label}"
            for dataset, label in (("mnist", "MNIST"), ("cifar10", "CIFAR-10"))
        )
    return (
        "In the paper's Table 2 the two with gain 1 are also the GPN functions that train worst: "
        f"{ranges['marginal']}, the others {ranges['others']}. Two functions prove nothing; a test is to train them "
        "with b-, `python -m experiments.train activation=relu gpn=true activation.gpn_root=-`: the budget's report "
        'lists such runs under "What ran".'
    )


GAINS = {"+": "gain_plus", "-": "gain_minus"}


def stability(constants: pd.DataFrame, gradient: pd.DataFrame) -> list[str]:
    six = constants[constants.family == "paper"].set_index("function")
    rounded = constants[constants.family == "rounded"].iloc[0]
    jumps = constants[constants.family == "jumps"]
    nonlinearity = six.nonlinearity * six.a**2
    numbers = ", ".join(f"{name} {six.discriminant[name]:.4f} >= {nonlinearity[name]:.4f}" for name in six.index)
    _, b = gaussian_functions(constants)["selu"]
    gpn = gradient[gradient.root.notna()]
    gpn = gpn[paper_root(gpn)]
    ratios = norm_ratios(gpn).groupby(gpn.function, sort=False).median()
    listed = ", ".join(f"{name} {' / '.join(f'{value:.2f}' for value in row)}" for name, row in ratios.iterrows())
    return [
        "**Proposition 2 with numbers.** For a GPN function (E phi)^2 = sum_(k >= 2) (k - 1) a_k^2 >= sum_(k >= 2) "
        "a_k^2 = min over lines of E (phi - line)^2: it can be nonlinear only as far as its mean is large. Squared "
        f"mean against nonlinearity: {numbers}.",
        "**Theorem 1 and Proposition 2 need continuity.** ReLU's kink does no harm: the paper leaves out the point "
        "0, and rightly. But not so for a jump at one point: phi(x) = x - 2 sqrt(2/pi) sign(x), differentiable at "
        f"every x but 0, has E phi = {jumps['mean'].iloc[0]:.0e}, E phi^2 = {jumps.second.iloc[0]:.6f} and E phi'^2 = "
        f"{jumps.derivative_second.iloc[0]:.6f} without being a line (E (phi - line)^2 = "
        f"{jumps.nonlinearity.iloc[0]:.3f}), and x + sign(x) has Var phi / E phi'^2 = "
        f"{1 - jumps.discriminant.iloc[1]:.3f}.",
        f"**Table 1's b for SELU.** {b:.6f} rounds to {b:.4f}, printed is 0.2585. With SELU's own constants rounded "
        f"to four decimals (1.0507, 1.6733) b = {rounded.b_plus:.6f}, which rounds to {rounded.b_plus:.4f}.",
        "**A gap between Theorem 3 and a network.** The theorem's y is fixed; in (3) y^(l+1) depends on W^(l+1), on "
        "x and on the layers above. That both norms are kept in a network is therefore measured, not proved. Max / "
        f"min over the layers of ||x|| / ||y|| / ||dE/dW||, GPN, b as in Table 1, width {gradient_width(gradient)}: "
        f"{listed} (medians, n = {gradient.draw.nunique()}). Where the gain is below 1 most of it is ||y||: a layer "
        "multiplies it by a random factor, and nothing restores it.",
    ]


def normal_vectors(lemma6: pd.DataFrame) -> list[str]:
    return [
        "**In what sense W x becomes normal.** One coordinate, or a fixed number of them, does, at rate 1/d. The "
        "vector does not: ||W x|| is sqrt(d) exactly, while ||z|| keeps a standard deviation of 0.71 for every d. The "
        "nearest normal vector, z = W x ||z|| / sqrt(d), is E (||z|| - sqrt(d))^2 = 1/2 away, not 0; only divided by "
        "d does this vanish. That costs the term c_2^2 of the variance above: with Gaussian x the norm varies more "
        "than with x on the shell."
    ]
