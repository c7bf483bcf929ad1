"""The paper's statements on remedies (section 5.2), and how they are judged.

The paper names no width there. Part `remedies` has networks of width 2, part `widths` other widths and targets.
"""

from __future__ import annotations

import pandas as pd
from scipy import stats

from bsnn.collapse.fate import CLOSE, TARGETS
from bsnn.results.claims import LEVEL
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import holm
from experiments.collapse.report.rules import share

rules = Rules()

ESCAPED = 0.1
"""Share of constant runs below which networks have escaped from the collapse."""

KEYS = ["target", "width", "remedy"]


def by_width(remedies: pd.DataFrame, widths: pd.DataFrame) -> pd.DataFrame:
    """Join the runs of both parts: target, width, remedy, outcome, error. Dropout's rate 0.1 is in its name."""
    narrow = remedies.assign(width=remedies.target.map(lambda name: TARGETS[name].width), remedy=remedies.method)
    narrow = narrow.replace({"remedy": {"dropout": "dropout 0.1"}})
    columns = [*KEYS, "outcome", "error"]
    return pd.concat([narrow[columns], widths[columns]], ignore_index=True)


def shares(runs: pd.DataFrame, remedy: str, outcome: str) -> dict[str, pd.Series]:
    """Tell for each target and width which runs of a remedy have the outcome."""
    chosen = runs[runs.remedy == remedy].sort_values("width", kind="stable")
    return {
        f"{TARGETS[str(target)].label}, width {width}": one.outcome == outcome
        for (target, width), one in chosen.groupby(["target", "width"], sort=False)
    }


def told(found: dict[str, pd.Series]) -> str:
    return "; ".join(f"{name}: {share(hits)} of {len(hits)}" for name, hits in found.items())


def escapes(remedies: pd.DataFrame, widths: pd.DataFrame, remedy: str) -> Judged:
    found = shares(by_width(remedies, widths), remedy, "constant")
    return f"constant {told(found)}", max(hits.mean() for hits in found.values()) < ESCAPED


def approximates(remedies: pd.DataFrame, widths: pd.DataFrame, remedy: str) -> Judged:
    found = shares(by_width(remedies, widths), remedy, "approximates")
    most = [hits.mean() > 0.5 for hits in found.values()]
    return told(found), True if all(most) else None if any(most) else False


for remedy, name in (("batch norm", "batch norm"), ("SELU", "SELU (LeCun normal)")):
    rules.states(
        "section 5.2",
        f"{name} escapes from the collapse",
        rule=f"fewer than {100 * ESCAPED:g} % of the runs constant, for every target and width",
        remedy=remedy,
    )(escapes)
    rules.states(
        "section 5.2",
        f"{name} approximates the target with a small error",
        rule=f"root mean square error below {CLOSE:g} standard deviations of the target in more than half of the runs, "
        "for every target and width; refuted if for none (the paper names no width)",
        remedy=remedy,
    )(approximates)


def does_not_help(remedies: pd.DataFrame, widths: pd.DataFrame, remedy: str) -> Judged:
    """Ask whether more networks fit with the remedy than without, at any target and width."""
    runs = by_width(remedies, widths)
    mine, without = (shares(runs, one, "approximates") for one in (remedy, "none"))
    p = []
    for name, hits in mine.items():
        counts = [[int(of.sum()), int((~of).sum())] for of in (hits, without[name])]
        p.append(float(stats.fisher_exact(counts, alternative="greater").pvalue))
    better = [name for name, helps in zip(mine, holm(p, LEVEL), strict=True) if helps]
    text = f"approximates {told(mine)}; more than without it: {', '.join(better) or 'nowhere'}"
    return text, True if not better else False if len(better) == len(mine) else None


for remedy, name in (
    ("weight norm", "weight normalisation"),
    ("dropout 0.1", "dropout of 0.1"),
    ("dropout 0.3", "dropout of 0.3"),
):
    rules.states(
        "section 5.2",
        f"{name} does not help",
        rule="nowhere do more runs approximate the target than without it (Fisher's exact test, one-sided, Holm's "
        f"procedure at {100 * LEVEL:g} % over targets and widths); refuted if everywhere",
        remedy=remedy,
    )(does_not_help)


@rules.states(
    "ours, from section 5.2",
    "with batch norm it is the width that decides whether |x| is approximated",
    rule=f"more runs at the largest width than at the smallest (Fisher's exact test, one-sided, p < {LEVEL:g})",
)
def width_decides(remedies: pd.DataFrame, widths: pd.DataFrame) -> Judged:
    runs = by_width(remedies, widths)
    found = shares(runs[runs.target == "abs"], "batch norm", "approximates")
    first, *_, last = found.values()
    counts = [[int(of.sum()), int((~of).sum())] for of in (last, first)]
    p = float(stats.fisher_exact(counts, alternative="greater").pvalue)
    return f"{told(found)}; p = {p:.1g}", p < LEVEL
