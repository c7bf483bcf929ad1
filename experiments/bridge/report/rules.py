"""Statements that the sources imply for trained and narrow GPN networks, and for Table 2, beside our measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.collapse.exact import exact_width_2
from bsnn.collapse.probability import zero_for_an_input
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import rank_correlation, rank_test, share_error
from bsnn.results.tables import Table
from experiments.bridge.report.figures import share_constant
from experiments.bridge.report.rules_width import BSNN, COLLAPSE, SHRINKAGE

rules = Rules()

LEARNS = 10.0  # points of test accuracy gained


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute for each trained GPN network the points of test accuracy gained, and a growth factor.

    The factor is that of the last layer's gap between classes. Indexed by function and seed.
    """
    gpn = frame[frame.gpn]
    last = gpn[gpn.layer == gpn.layer.max()].set_index(["function", "seed", "trained"])
    before, after = (last.xs(when, level="trained") for when in (False, True))
    return pd.DataFrame(
        {"gained": after.test_accuracy - before.test_accuracy, "grew": after.different / before.different}
    )


@rules.states(
    f"{SHRINKAGE}, section 3, item 2",
    "getting rid of the shrinkage may be a prerequisite for learning",
    rule=f"in every GPN network that gains {LEARNS:g} points of test accuracy, 1 - rho between classes at the last "
    "layer at least doubles; at least one does",
)
def undoes(trained: pd.DataFrame) -> Judged:
    found = growth(trained)
    learnt = found[found.gained >= LEARNS]
    measured = _factors(learnt) or "no network learns at this budget"
    agrees = bool(len(learnt) and (learnt.grew >= 2).all())
    return measured, agrees


@rules.states(
    f"ours, from {SHRINKAGE}, section 3, item 2",
    "the converse: where nothing is learnt, the shrinkage has stayed",
    rule=f"in every GPN network that gains less than {LEARNS:g} points, 1 - rho between classes at the last layer "
    "grows by less than 2",
)
def not_undone(trained: pd.DataFrame) -> Judged:
    found = growth(trained)
    others = found[found.gained < LEARNS]
    measured = _factors(others) or "every network learns"
    agrees = bool((others.grew < 2).all())
    return measured, agrees


def _factors(found: pd.DataFrame) -> str:
    names = found.index.get_level_values("function")
    numbers = zip(names, found.grew, found.gained, strict=True)
    return ", ".join(f"{paper.LABELS[name]} x {grew:.3g} ({gained:+.0f})" for name, grew, gained in numbers)


@rules.states(
    f"{SHRINKAGE}, section 3, item 2",
    "in training, alignment disappears layer by layer rather than at all layers simultaneously",
    rule="the factor by which 1 - rho has grown changes monotonically with the layer: rank correlation of at least 0.9 "
    "in size, in every GPN network that learns",
)
def layer_by_layer(trained: pd.DataFrame) -> Judged:
    found = growth(trained)
    learnt = found.index[found.gained >= LEARNS].tolist()
    values = {}
    for name, seed in learnt:
        rows = trained[(trained.function == name) & (trained.seed == seed) & trained.gpn]
        before, after = (rows[rows.trained == when].set_index("layer").different for when in (False, True))
        values[name, seed] = rank_correlation(before.index, after / before)
    measured = ", ".join(f"{paper.LABELS[name]} {value:.2f}" for (name, _), value in values.items())
    measured = measured or "no network learns at this budget"
    agrees = bool(values) and all(abs(value) >= 0.9 for value in values.values())
    return measured, agrees


def ranks(table2: pd.DataFrame, quantity: str, sign: int) -> Judged:
    tests = {data: rank_test(list(table2[quantity]), list(table2[f"paper_{data}_train"])) for data in paper.DATASETS}
    told = ", ".join(f"{data}: {test.correlation:+.2f} (p = {test.p:.3f})" for data, test in tests.items())
    return told, all(sign * test.correlation > 0 and test.p <= 0.05 for test in tests.values())


for quantity, sign, where, says in (
    ("error", -1, "Theorem 1", "the more linear a GPN function, the better it trains"),
    ("gap", 1, "section 3", "the less a GPN network shrinks, the better it trains"),
):
    rules.states(
        f"ours, from {SHRINKAGE}, {where}",
        f"{says} (the BSNN paper's Table 2, training accuracy)",
        rule="Spearman's rank correlation over the six GPN functions has that sign and an exact two-sided "
        "p <= 0.05, on both data sets",
        quantity=quantity,
        sign=sign,
    )(ranks)


@rules.states(
    f"{COLLAPSE}, Theorem 8; {BSNN}, Table 1",
    "ReLU-GPN = sqrt 2 ReLU collapses exactly as ReLU, network by network",
    rule="the same share of dead networks at every width, depth and law of W, same weights",
)
def same_as_relu(narrow: pd.DataFrame) -> Judged:
    relu = narrow[narrow.function == "relu"].set_index(["law", "width", "layer"])
    plain, gpn = (relu[relu.gpn == value].dead for value in (False, True))
    different = int((plain != gpn).sum())
    measured = f"{different} of {len(plain)} shares differ; up to {gpn.max():.3f} of the networks are dead"
    agrees = different == 0
    return measured, agrees


@rules.states(
    f"{COLLAPSE}, Theorem 10 (exact law: bsnn.collapse.exact)",
    "probability that a ReLU network of width 2 is the zero function, for ReLU-GPN",
    rule="within 4 binomial standard errors at every depth shown, Gaussian W",
)
def exact(narrow: Table) -> Judged:
    rows = narrow.frame.query("function == 'relu' and gpn and law == 'gaussian' and width == 2 and layer > 0")
    expected = exact_width_2(int(rows.layer.max()))[rows.layer.to_numpy() - 1]
    number = narrow.config["sizes"]["narrow"]["networks"]
    errors = share_error(expected, number).clip(1e-9)
    worst = float((np.abs(rows.dead - expected) / errors).max())
    measured = f"largest deviation {worst:.1f} SE over {len(rows)} depths (n = {number})"
    agrees = worst <= 4
    return measured, agrees


@rules.states(
    f"{COLLAPSE}, Theorem 8",
    "1 - (1 - 2^-N)^L bounds the collapse of ReLU, here ReLU-GPN, for each law of W",
    rule="the share of dead networks exceeds it nowhere by more than 4 binomial standard errors",
)
def upper(narrow: Table) -> Judged:
    rows = narrow.frame.query("function == 'relu' and gpn and layer > 0")
    number = narrow.config["sizes"]["narrow"]["networks"]
    bounds = np.array([zero_for_an_input([w] * depth) for w, depth in zip(rows.width, rows.layer, strict=True)])
    excess = (rows.dead - bounds) / share_error(bounds, number).clip(1e-9)
    measured = f"largest excess {max(float(excess.max()), 0):.1f} SE ({len(rows)} settings, n = {number})"
    agrees = bool(excess.max() <= 4)
    return measured, agrees


@rules.states(
    f"{COLLAPSE}, section 5.2",
    "functions whose negative values do not vanish (SELU) are never the zero function: nor are the GPN functions "
    "other than ReLU",
    rule="no network with all units 0, at every width, depth and law of W",
)
def never_dead(narrow: pd.DataFrame) -> Judged:
    rows = narrow[(narrow.function != "relu") & narrow.gpn]
    measured = f"{int((rows.dead > 0).sum())} of {len(rows)} settings have a dead network"
    agrees = bool((rows.dead == 0).all())
    return measured, agrees


def training_collapse(fitted: Table, name: str, variant: str, collapses: bool) -> Judged:
    width = int(fitted.frame.width.min())
    share, error = share_constant(fitted.frame, width, name, variant)
    plain, plain_error = share_constant(fitted.frame, width, name, "plain")
    count = fitted.config["sizes"]["fitted"]["networks"]
    told = f"{share:.2f} ± {error:.2f} constant; plain {plain:.2f} ± {plain_error:.2f} (n = {count})"
    return told, share >= 0.5 if collapses else share <= 0.05


for name, variant, where, says, collapses in (
    ("relu", "gpn", "section 2", "ReLU-GPN networks of width 2 trained on |x| end at a constant, as ReLU's do", True),
    ("relu", "rows", "section 5.2", "weight normalisation fails: the row-norm constraint doesn't save ReLU-GPN", True),
    ("selu", "gpn", "section 5.2", "SELU escapes from collapse: so does SELU-GPN", False),
    ("selu", "rows", "section 5.2", "and so does SELU-GPN with the row-norm constraint", False),
):
    rules.states(
        f"{COLLAPSE}, {where}",
        says,
        rule=f"{'at least half' if collapses else 'at most 5 %'} of the networks end constant, narrowest width",
        name=name,
        variant=variant,
        collapses=collapses,
    )(training_collapse)
