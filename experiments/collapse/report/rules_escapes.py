"""The paper's statements on escapes by depth and width, and by orthogonal initialisation, and how they are judged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import share_error
from experiments.collapse.report.rules_random import SIGMAS

rules = Rules()


@rules.states(
    "equation 5, Fig. 6B",
    "up to this depth the probability is below 1 % (10 %)",
    rule="no width that reaches it with fewer layers",
)
def safe_indeed(safe: pd.DataFrame) -> Judged:
    ends = safe[safe.width.isin([4, int(safe.width.max())])].to_dict("records")
    texts = [
        f"width {row['width']}, {100 * row['share']:g} %: {row['depth']} layers, bound {row['bound']}" for row in ends
    ]
    return "; ".join(texts), bool((safe.high >= safe.bound).all())


@rules.states(
    "Fig. 6B",
    "the wider, the closer is the bound to the simulation",
    rule="measured depth / bound within 5 % of 1 at the widest, and closer to 1 than at the narrowest that has a bound",
)
def bound_tightens(safe: pd.DataFrame) -> Judged:
    texts, good = [], True
    for level in safe.share.unique():
        rows = safe[(safe.share == level) & (safe.bound > 0)].sort_values("width")
        if rows.empty:
            continue
        ratio = (rows.depth / rows.bound).to_numpy()
        first, last = int(rows.width.iloc[0]), int(rows.width.iloc[-1])
        texts.append(f"{100 * level:g} %: {ratio[0]:.3g} at width {first}, {ratio[-1]:.3g} at width {last}")
        good = good and abs(ratio[-1] - 1) < 0.05 and abs(ratio[-1] - 1) < abs(ratio[0] - 1)
    return "; ".join(texts) or "no width with a bound of one layer or more", bool(good and texts)


def difference(symmetric: pd.DataFrame, orthogonal: pd.DataFrame) -> pd.DataFrame:
    """Compute width, depth, gap (the share with orthogonal weights minus that with He normal), standard error."""
    both = symmetric[symmetric.law == "he"].merge(orthogonal, on=["width", "depth"], suffixes=("_he", ""))
    p, q = both.dead_he / both.members_he, both.dead / both.members
    error = np.hypot(share_error(p, both.members_he), share_error(q, both.members))
    return both[["width", "depth"]].assign(gap=q - p, error=error)


@rules.states(
    "Fig. 7",
    "orthogonal initialisation: very close to symmetric",
    rule="shares differ by less than 5 points at every width and depth",
)
def very_close(probability: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    gaps = difference(probability, orthogonal)
    worst = gaps.loc[[gaps.gap.abs().idxmax()]].to_dict("records")[0]
    text = (
        f"at most {100 * worst['gap']:.2g} ± {100 * worst['error']:.1g} points (width {worst['width']:g}, "
        f"{worst['depth']:g} layers)"
    )
    return text, bool(gaps.gap.abs().max() < 0.05)


@rules.states(
    "Fig. 7",
    "and a little lower",
    rule=f"nowhere higher by {SIGMAS} standard errors of the difference, somewhere lower by as much",
)
def little_lower(probability: pd.DataFrame, orthogonal: pd.DataFrame) -> Judged:
    gaps = difference(probability, orthogonal)
    sigmas = (gaps.gap / gaps.error.where(gaps.error > 0)).dropna()
    texts = []
    for width in gaps.width.unique():
        found = sigmas[gaps.width == width]
        if len(found):
            texts.append(f"width {width} {found.min():.2g} to {found.max():.2g}")
    text = "in standard errors of the difference: " + ", ".join(texts)
    return text, bool(sigmas.max() < SIGMAS and sigmas.min() < -SIGMAS)
