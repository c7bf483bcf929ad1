"""The findings of the bridge study: numbered statements with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.results.markdown import table as markdown_table
from bsnn.results.statistics import rank_test
from bsnn.results.tables import Table
from bsnn.shrinkage.bounds import shrinkage_bound
from experiments.bridge.report.figures import LAWS, VARIANTS, share_constant
from experiments.bridge.report.rules import LEARNS
from experiments.bridge.report.rules_width import at_end

QUANTITIES = {
    "mean_square": "(E phi)^2, what all inputs have in common after one layer",
    "error": "Theorem 1's term e_l",
    "fourth": "E phi'^4",
    "curvature": "P''(1) / 2",
    "gap": "1 - rho at the last layer",
    "gradient_ratio": "gradient ratio at random weights",
}
OUTCOMES = {
    "paper_mnist_train": "paper, MNIST train",
    "paper_mnist_test": "MNIST test",
    "paper_cifar10_train": "CIFAR-10 train",
    "paper_cifar10_test": "CIFAR-10 test",
    "ours_mnist_test": "ours, MNIST test",
    "ours_cifar10_test": "ours, CIFAR-10 test",
}


def cost(meanfield: Table, decay: Table, table2: Table | None = None) -> str:
    last = at_end(meanfield.frame, gpn=True)
    depth = int(last.layer.iloc[0])
    laws = decay.frame.drop_duplicates("function").set_index("function")
    shared = None if table2 is None else table2.frame.set_index("function").mean_square
    rows = []
    for name in paper.ACTIVATIONS:
        gap, error = float(last.gap[name]), float(last.error[name])
        rows.append(
            [
                paper.LABELS[name],
                "–" if shared is None else f"{shared[name]:.4f}",
                f"{error / depth:.4f}",
                f"{laws.constant[name]:.3g} l^-{laws.power[name]}",
                f"{gap:.2e}",
                f"{math.degrees(math.acos(1 - gap)):.1f}°",
                f"{shrinkage_bound(error):.2f}",
            ]
        )
    head = ["GPN function", "(E phi)^2", "e_l", "1 - rho_l, large l", f"1 - rho_{depth}", "angle", "Theorem 1: at most"]
    return (
        f"Critical gradients are paid for in angle. Two orthogonal inputs are {rows[1][5]} (ReLU) to {rows[3][5]} "
        f"(ELU) apart after {depth} GPN layers of infinite width. In the long run 1 - rho falls like l^-2 for a "
        "function with a jump in its slope, like 1 / l for a smooth one; SELU's jump is small, which delays it. "
        "Theorem 1 is far from tight: its bound exceeds the truth by a factor of "
        f"{min(float(row[6]) / float(row[4]) for row in rows):.0f} to "
        f"{max(float(row[6]) / float(row[4]) for row in rows):.0f}.\n\n" + markdown_table(head, rows)
    )


def plain(meanfield: Table) -> str:
    first, last = (at_end(meanfield.frame, gpn=value) for value in (False, True))
    depth = int(first.layer.iloc[0])
    rows = [
        [
            paper.LABELS[name],
            f"{first.error[name]:.3g}",
            f"{last.error[name]:.3g}",
            f"{first.gap[name]:.3g}",
            f"{last.gap[name]:.3g}",
            f"{first.jacobian[name]:.3g}",
            f"{first.length[name]:.2g}",
        ]
        for name in paper.ACTIVATIONS
    ]
    head = ["function", "sum e_l, plain", "GPN", "1 - rho, plain", "GPN", "squared gain, plain", "q, plain"]
    linear = [paper.LABELS[name] for name in paper.ACTIVATIONS if first.error[name] < 1]
    return (
        f"The three ways out that Theorem 1 leaves are all taken by plain functions. After {depth} layers "
        f"{', '.join(linear)} have gone linear (the sum of e_l stays below 1) and keep the inputs apart; SELU's "
        "gradients explode; ReLU and LeakyReLU shrink exactly as their GPN versions, since they are homogeneous: "
        'normalisation repairs their lengths and changes nothing about angles. "Nonlinear functionality is maintained" '
        "is true of "
        "each GPN layer (e_l does not fall) and is what makes the network shrink: it is the plain functions' "
        "pseudo-linearity that preserves angles.\n\n" + markdown_table(head, rows)
    )


def finite_width(meanfield: Table, correlation: Table) -> str:
    sizes = correlation.config["sizes"]["correlation"]
    frame = correlation.frame
    zero = float(frame.rho_0.iloc[(frame.rho_0).abs().argmin()])
    last = frame[(frame.layer == frame.layer.max()) & frame.gpn & (frame.rho_0 == zero)]
    expected = at_end(meanfield.frame, gpn=True).gap
    rows = []
    for name in paper.ACTIVATIONS:
        cells = []
        for law in LAWS:
            row = last[(last.function == name) & (last.law == law)].iloc[0]
            cells.append(f"{row.gap:.2e} ± {row.gap_std / math.sqrt(sizes['draws']):.1e}")
        rows.append([paper.LABELS[name], f"{expected[name]:.2e}", *cells])
    spread = {law: float((rows.gap_std / rows.gap).mean()) for law, rows in last.groupby("law")}
    below = int((last.gap_median < last.function.map(expected)).sum())
    head = ["GPN function", "infinite width", *LAWS]
    return (
        f"Width {sizes['width']}, depth {sizes['depth']}, beside infinite width. 1 - rho at the last layer, from "
        f"orthogonal inputs, mean of {sizes['draws']} draws ± standard error:\n\n{markdown_table(head, rows)}\n\n"
        "Standard deviation / mean, averaged over the functions: "
        + ", ".join(f"{law} {spread[law]:.2f}" for law in LAWS)
        + f". The draws are skewed, like products of many random factors: in {below} of the {len(last)} settings the "
        "median network shrinks more than infinite width says, and means of few draws come out low."
    )


def training(trained: Table) -> str:
    frame = trained.frame[trained.frame.layer == trained.frame.layer.max()]
    means = frame.groupby(["function", "gpn", "trained"]).mean(numeric_only=True)
    rows = []
    learnt: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for name in paper.ACTIVATIONS:
        for gpn in (False, True):
            before, after = means.loc[(name, gpn, False)], means.loc[(name, gpn, True)]
            factor, ratio = after.different / before.different, after.different / after.same
            if gpn:
                learnt[bool(after.test_accuracy - before.test_accuracy >= LEARNS)].append((factor, ratio))
            rows.append(
                [
                    paper.LABELS[name] + "-GPN" * gpn,
                    f"{before.test_accuracy:.1f} -> {after.test_accuracy:.1f}",
                    f"{before.different:.2e} -> {after.different:.2e}",
                    f"{factor:.3g}",
                    f"{before.different / before.same:.2f} -> {ratio:.2f}",
                ]
            )
    sizes = trained.config["sizes"]["trained"]
    told = [
        f"{len(found)} GPN networks gain {word} {LEARNS:g} points of test accuracy: 1 - rho between classes at the "
        f"last layer times {_range(factor for factor, _ in found)}, two classes / one class "
        f"{_range(ratio for _, ratio in found)}."
        for word, found in (("at least", learnt[True]), ("less than", learnt[False]))
        if found
    ]
    head = ["", "test accuracy, %", "1 - rho, two classes, last layer", "factor", "two classes / one class"]
    return (
        f"MNIST images in trained networks ({sizes['depth']} x {sizes['width']}, {sizes['seeds']} seed(s), "
        f"{'all' if sizes['max_steps'] is None else sizes['max_steps']} steps of {sizes['epochs']} epoch(s)): training "
        "undoes the shrinkage of random GPN networks. The last column is what a classifier needs: by how much images "
        "of two classes are further apart than images of one. Angles open also where that has hardly begun. "
        + " ".join(told)
        + "\n\n"
        + markdown_table(head, rows)
    )


def _range(values: Iterable[float]) -> str:
    """Format the least and the largest value."""
    known = sorted(values)
    return f"{known[0]:.3g}" if len(known) == 1 else f"{known[0]:.3g} to {known[-1]:.3g}"


def narrow_networks(narrow: Table) -> str:
    frame = narrow.frame
    widths, depth = sorted(frame.width.unique()), int(frame.layer.max())
    last = frame[(frame.layer == depth) & (frame.law == "haar")]
    rows = []
    for name in paper.ACTIVATIONS:
        for gpn in (False, True):
            chosen = last[(last.function == name) & (last.gpn == gpn)].sort_values("width")
            numbers = zip(chosen["median"], chosen.flat, strict=True)
            cells = [f"{median:.1e} ({100 * flat:.0f} %)" for median, flat in numbers]
            rows.append([paper.LABELS[name] + "-GPN" * gpn, *cells])
    head = ["", *(f"width {width}" for width in widths)]
    count = narrow.config["sizes"]["narrow"]["networks"]
    return (
        f"Narrow random networks after {depth} layers, Haar-uniform W, n = {count}: median variation, the share of the "
        "last pre-activations that depends on the input, and in parentheses the share of networks below 1 % (ReLU's: "
        "those that are exactly 0 included). ReLU alone is ever exactly constant; how flat the others are is "
        "another matter. A homogeneous function's output grows with |x|: there a large variation says only that "
        "lengths differ:\n\n" + markdown_table(head, rows)
    )


def collapse(fitted: Table) -> str:
    frame = fitted.frame
    rows = []
    for width in sorted(frame.width.unique()):
        for name in paper.ACTIVATIONS:
            cells = []
            for variant in VARIANTS:
                share, error = share_constant(frame, width, name, variant)
                chosen = frame[(frame.width == width) & (frame.function == name) & (frame.variant == variant)]
                halfway = float((chosen.halfway == "constant").mean())
                cells.append(f"{halfway:.2f} -> {share:.2f} ± {error:.2f} ({chosen.error.median():.2f})")
            rows.append([str(width), paper.LABELS[name], *cells])
    sizes = fitted.config["sizes"]["fitted"]
    return (
        f"|x| fitted by networks of {sizes['depth']} layers, {sizes['steps']} steps of Adam, n = {sizes['networks']}: "
        "share that is constant after half of the steps and at the end ± standard error, and in parentheses the median "
        "error relative to the best constant's (1 is collapse to the mean, 0 a perfect fit). Of the networks that are "
        f"constant halfway, {_stuck(frame, relu=True)} with ReLU are so at the end, {_stuck(frame, relu=False)} with "
        "another function. A dead ReLU layer has no gradient to leave by; the others' gradients are small, not 0.\n\n"
        + markdown_table(["width", "function", "plain", "GPN", "GPN, rows of norm one"], rows)
    )


def _stuck(frame: pd.DataFrame, relu: bool) -> str:
    """Say how many of the networks that are constant halfway are so at the end: 3 of 5."""
    flat = frame[((frame.function == "relu") == relu) & (frame.halfway == "constant")]
    return f"{int((flat.outcome == 'constant').sum())} of {len(flat)}"


def ranking(table2: Table) -> str:
    frame = table2.frame
    outcomes = [column for column in OUTCOMES if frame[column].notna().all()]
    rows = []
    best: tuple[float, str] = (0.0, "")
    for quantity, label in QUANTITIES.items():
        cells = []
        for column in outcomes:
            test = rank_test(list(frame[quantity]), list(frame[column]))
            cells.append(f"{test.correlation:+.2f} ({test.p:.3f})")
        rows.append([label, *cells])
        mean = float(
            np.nanmean([abs(rank_test(list(frame[quantity]), list(frame[column])).correlation) for column in outcomes])
        )
        best = max(best, (mean, label))
    count = len(QUANTITIES) * len(outcomes)
    return (
        "Which property ranks the six GPN functions as their accuracies without batch norm do? Spearman's rank "
        f"correlation, exact two-sided p in parentheses. Highest on average: {best[1]} ({best[0]:.2f}). Six points, of "
        "which ReLU and LeakyReLU are nearly one, prove little: the smallest p that six can have is 0.003, and of "
        f"{count} tests about {0.05 * count:.0f} would come out below 0.05 by chance; the properties are also "
        "correlated among themselves, as are the accuracies.\n\n"
        + markdown_table(["property", *(OUTCOMES[column] for column in outcomes)], rows)
    )
