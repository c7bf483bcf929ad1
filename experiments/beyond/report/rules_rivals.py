"""Statements about GPN beside its rivals, with their rules."""

from __future__ import annotations

import pandas as pd

from bsnn.results.claims import EXPLODED, LEVEL, STABLE
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import Estimate, difference, estimate, holm
from bsnn.results.tables import Table

rules = Rules()

GPN = ("Tanh-GPN", "SELU-GPN", "ReLU-GPN")
SHAPED = ("Tanh, deep kernel shaping", "Tanh, tailored")
EVEN = ("Tanh-GPN", "Tanh, edge of chaos", *SHAPED, "LeakyReLU, tailored", "ReLU, residual")


def accuracies(rivals: pd.DataFrame, images: int) -> dict[str, Estimate]:
    """Estimate each method's test accuracy at its chosen rate over the seeds that it wasn't tuned with."""
    test = rivals[rivals.stage == "test"].groupby("method", sort=False).accuracy
    return {str(method): estimate(of.tolist(), images) for method, of in test}


def images_of(rivals: Table) -> int:
    return int(rivals.config["sizes"]["rivals"]["images"])


def ratios(rivals: pd.DataFrame) -> pd.Series:
    """Take the median over the seeds of max / min of the first update's gradients, by method."""
    found: pd.Series = rivals[rivals.stage == "test"].groupby("method", sort=False).ratio.median()
    return found


def above(found: dict[str, Estimate], pairs: list[tuple[str, str]]) -> list[bool]:
    """Tell for each pair whether the first is above the second, significantly by Holm's procedure."""
    compared = [difference(found[second], found[first]) for first, second in pairs]
    significant = holm([one.p for one in compared], LEVEL)
    return [differs and one.in_se > 0 for differs, one in zip(significant, compared, strict=True)]


def _told(found: dict[str, Estimate], *methods: str) -> str:
    seeds = max(found[method].seeds for method in methods)
    return ", ".join(f"{m} {found[m].mean:.1f} +- {found[m].se:.1f} %" for m in methods) + f" (n = {seeds})"


BY_HOLM = f"significantly by Welch's test and Holm's procedure at {LEVEL:.0%}"


@rules.states(
    "ours, rivals, from BSNN paper, introduction",
    "tuned alike, Tanh-GPN learns more than plain Tanh in the first updates",
    rule=f"test accuracy of Tanh-GPN above plain Tanh's, {BY_HOLM}",
)
def gpn_against_plain(rivals: Table) -> Judged:
    found = accuracies(rivals.frame, images_of(rivals))
    return _told(found, "Tanh-GPN", "plain Tanh"), above(found, [("Tanh-GPN", "plain Tanh")])[0]


@rules.states(
    "ours, bsnn.beyond.rivals",
    "a Tanh shaped to be nearly linear, 1 / L away, learns more in the first updates than GPN functions as they are",
    rule=f"test accuracy of {' and '.join(SHAPED)} above that of the best of {', '.join(GPN)}, {BY_HOLM}",
)
def shaped_learn_faster(rivals: Table) -> Judged:
    found = accuracies(rivals.frame, images_of(rivals))
    best = max(GPN, key=lambda method: found[method].mean)
    return _told(found, best, *SHAPED), all(above(found, [(method, best) for method in SHAPED]))


@rules.states(
    "ours, rivals, from BSNN paper, introduction",
    "GPN, shaped and tailored functions, the edge of chaos and residual connections all start with even gradients",
    rule=f"median over seeds of max / min over the layers of ||dE/dV||_F in the first update at most {STABLE:g}, for "
    f"{', '.join(EVEN)}",
)
def even_gradients(rivals: pd.DataFrame) -> Judged:
    found = ratios(rivals)
    told = ", ".join(f"{method} {found[method]:.3g}" for method in EVEN)
    return told, bool((found[list(EVEN)] <= STABLE).all())


@rules.states(
    "ours, rivals, from BSNN paper, introduction",
    "batch norm, alone without residual connections, makes gradients explode and the network fail",
    rule=f"that median ratio above {EXPLODED:g}, and test accuracy below Tanh-GPN's, {BY_HOLM}",
)
def batch_norm_fails(rivals: Table) -> Judged:
    found, name = accuracies(rivals.frame, images_of(rivals)), "ReLU, batch norm"
    ratio = ratios(rivals.frame)[name]
    text = f"ratio {ratio:.2g}; {_told(found, name, 'Tanh-GPN')}"
    return text, bool(ratio > EXPLODED) and above(found, [("Tanh-GPN", name)])[0]


@rules.states(
    "ours, rivals, from BSNN paper, section 4",
    "what limits Tanh-GPN in the first updates is SGD: Adam and Muon learn more",
    rule=f"test accuracy of both above SGD's, {BY_HOLM}",
)
def optimisers(rivals: Table) -> Judged:
    found = accuracies(rivals.frame, images_of(rivals))
    others = ("Tanh-GPN, Adam", "Tanh-GPN, Muon")
    return _told(found, "Tanh-GPN", *others), all(above(found, [(name, "Tanh-GPN") for name in others]))
