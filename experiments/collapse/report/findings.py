"""Findings of experiments.collapse.report beyond the paper's claims, from the same tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn.collapse import probability as collapse
from bsnn.collapse.fate import TARGETS
from bsnn.results.markdown import table as markdown_table
from experiments.collapse.report.rules import percent, share
from experiments.collapse.report.rules_random import off
from experiments.collapse.training import DEPTH, METHODS


def theorem_10(probability: pd.DataFrame, chain: pd.DataFrame) -> str:
    two = probability[probability.width == 2]
    he, uniform = two[two.law == "he"], two[two.law == "he_uniform"]
    gap = 100 * (he.exact - he.paper).to_numpy()
    gaps = ", ".join(f"L = {depth} {gap[depth - 1]:.2f}" for depth in (4, 5, 7, 10, 20) if depth <= len(gap))
    worst = [float(abs(off(rows, "dead", "members", rows.exact.to_numpy())).max()) for rows in (he, uniform)]
    stays = chain[(chain.law == "he") & (chain.state == 1) & (chain.next == 16)]
    layers = ", ".join(
        f"from layer {row['layer']} {percent(row['probability'], int(row['total']))}"
        for row in stays.to_dict("records")
    )
    return (
        "**Theorem 10 is exact for L <= 3 and an approximation from L = 4 on.** Appendix J draws the two directions "
        "anew in every layer, uniform and independent. That is their law when they come from the first layer's two "
        "disjoint outputs; afterwards they are closer than independent ones, the two outputs die together more "
        f"often, and the theorem gives too little, by {gaps} points. Keeping the angle between the outputs in the "
        "state makes the chain exact for Gaussian weights (`bsnn.collapse.exact`); simulated networks agree with it "
        f"within {worst[0]:.2g} standard errors at every depth, those with uniform weights, whose law is not "
        f"invariant under rotations, within {worst[1]:.2g} (n = {he.members.iloc[0]} each). In networks the paper's "
        f"step from state 1 to state 16, 17/96 = 17.7 %, depends on the layer: {layers}; it tends to 1/4."
    )


def bounds(probability: pd.DataFrame) -> str:
    depth = min(DEPTH, int(probability.depth.max()))
    rows = []
    for width in probability.width.unique():
        row = probability[(probability.width == width) & (probability.law == "he") & (probability.depth == depth)].iloc[
            0
        ]
        low, high = collapse.collapse_bounds(width, depth)
        exact = f"{100 * row.exact:.4g}" + (f" ± {100 * row.exact_error:.1g}" if row.exact_error else "")
        eight = 100 * collapse.zero_for_an_input([width] * depth)
        simulated = percent(row.dead / row.members, int(row.members))
        rows.append([width, simulated, exact, f"{100 * low:.3g} to {100 * high:.3g}", f"{eight:.3g}"])
    head = ["width", "simulated", "exact, %", "our bounds, %", "Theorem 8, %"]
    return (
        f"**What the paper calls the probability for wide networks is its bound.** {depth} layers with ReLU, He "
        "normal. Exact: by quadrature for width 2, by the angle chain for others. Our bounds "
        "(`bsnn.collapse.probability.collapse_bounds`): from above Theorem 8's for one layer less, as the first layer "
        "cannot be dead for both signs of the input; from below what two independent inputs would give. Theorem 8 is "
        "exact for one input, and close for networks so deep that both signs have the same direction; at 10 layers of "
        "width 10 they have not.\n\n" + markdown_table(head, rows)
    )


def two_dimensions(targets: pd.DataFrame) -> str:
    runs = targets[targets.target == "pair"]
    bound = collapse.zero_for_an_input([TARGETS["pair"].width] * DEPTH, activate_last=False)
    return (
        f"**The two-dimensional pair.** At the start {share(runs.dead_at_start)} of the networks of width 4 are zero "
        f"functions (n = {len(runs)}), and Theorem 8 bounds that probability by {100 * bound:.3g} %: a collapse with "
        "very high probability cannot come from the initialisation. At the end of training "
        f"{share(runs.outcome == 'constant')} are constant, {share(runs.outcome == 'partial')} partly so at the mean, "
        f"{share(runs.outcome == 'approximates')} approximate the target, and {share(runs.outcome == 'other')} are on "
        "the way or stuck elsewhere."
    )


def in_training(targets: pd.DataFrame) -> str:
    rows = []
    for name, target in TARGETS.items():
        runs = targets[targets.target == name]
        alive = runs[~runs.dead_at_start]
        lost = share(alive.outcome == "constant")
        rows.append(
            [target.label, share(runs.dead_at_start), f"{lost} of {len(alive)}", share(runs.outcome == "constant")]
        )
    head = ["target", "zero function at the start", "of the others, constant at the end", "constant at the end"]
    return (
        "**Collapse at the start and in training.** Training never revives a dead network (Theorem 4) and kills some "
        "that were alive.\n\n" + markdown_table(head, rows)
    )


def spread(length: pd.DataFrame) -> str:
    depth = min(DEPTH, int(length.layer.max()))
    rows = []
    for width in length.width.unique():
        row = length[(length.width == width) & (length.phi == "relu") & (length.layer == depth)].iloc[0]
        tanh = length[(length.width == width) & (length.phi == "tanh") & (length.layer == depth)].iloc[0]
        deviation = math.sqrt(row.relu_relative_variance)
        rows.append(
            [
                width,
                f"{row['mean']:.3g} ± {row.error:.1g}",
                f"{row['median']:.2g}",
                percent(row.zero, int(row.members)),
                f"{deviation:.3g}",
                f"{tanh['mean']:.4g} ± {tanh.error:.1g} ({tanh.predicted:.4g})",
            ]
        )
    head = ["width", "ReLU: mean of q", "median", "q = 0", "exact deviation / mean", "tanh: mean (equation 2)"]
    return (
        f"**Equation 3 keeps the mean, not the length of a typical network.** Layer {depth}, He's variance, E q = 2. "
        "The mean is kept by ever rarer and larger values: Var q / (E q)^2 = (1 + 2/N) (1 + 5/N)^(l-1) - 1, so that "
        "in narrow networks even a sample's mean is far too low, and the median falls to 0. Equation 2 is exact for "
        "ReLU "
        "alone: of tanh it takes the expectation inside.\n\n" + markdown_table(head, rows)
    )


def remedies(remedies: pd.DataFrame) -> str:
    rows = []
    for method in METHODS:
        for name in remedies.target.unique():
            runs = remedies[(remedies.method == method) & (remedies.target == name)]
            counts = [share(runs.outcome == kind) for kind in ("constant", "partial", "approximates")]
            error = np.quantile(runs.error, [0.1, 0.5, 0.9])
            quantiles = "/".join(f"{value:.2g}" for value in error)
            start = share(runs.dead_at_start)
            rows.append([method, TARGETS[name].label, start, *counts, quantiles, f"{100 * runs.dead.median():.3g} %"])
    head = ["remedy", "target", "dead at the start", "constant", "partial", "approximates"]
    head += ["error: 10/50/90 % quantile", "median dead share of the domain"]
    return (
        "**The remedies in numbers.** Batch norm centres every unit, so that no layer can be dead on a whole batch, "
        "and global collapse ends; but in layers of two units a part of the domain still has both of them off, in "
        "one layer or another, and there the output is a constant: collapse in part. SELU has no dead side. Weight "
        "normalisation starts as the same function as without, so it inherits every dead network; started from data "
        "as its authors "
        "propose, which centres units once as batch norm does, it does not.\n\n" + markdown_table(head, rows)
    )


def widths(widths: pd.DataFrame) -> str:
    rows = []
    for (target, width, remedy), runs in widths.groupby(["target", "width", "remedy"], sort=False):
        counts = [share(runs.outcome == kind) for kind in ("constant", "partial", "approximates")]
        rows.append([TARGETS[str(target)].label, width, remedy, *counts, f"{runs.error.median():.2g}"])
    head = ["target", "width", "remedy", "constant", "partial", "approximates", "median error"]
    chosen = widths[widths.target == "abs"]
    widest = chosen[chosen.width == chosen.width.max()]
    fit = {str(remedy): share(runs.outcome == "approximates") for remedy, runs in widest.groupby("remedy")}
    return (
        f"**The remedies at other widths and for the other targets** (n = {len(widths) // len(rows)} each). In layers "
        f"of {chosen.width.max()} units |x| needs no remedy: {fit['none']} of the runs approximate it without one, "
        f"{fit['batch norm']} with batch norm, {fit['SELU']} with SELU. With dropout of 0.1 "
        f"{fit['dropout 0.1']} do, constant or not.\n\n" + markdown_table(head, rows)
    )
