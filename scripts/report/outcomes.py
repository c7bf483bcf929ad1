"""The report's section on two outcomes that no claim's rule judges: SELU's acceleration, and the other root b."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from bsnn.data import DATASETS
from bsnn.results.claims import LEVEL
from bsnn.results.grid import Results
from bsnn.results.markdown import table
from bsnn.results.outcomes import accelerated, other_roots
from bsnn.results.statistics import holm

AREA = (
    "Accuracy here is the mean test accuracy over all evaluations up to the epoch, the area under a curve of Fig. 4; "
    "with one seed p knows the finite test set alone and is too small."
)


def section(loaded: Results) -> list[str]:
    """Write the section; nothing where neither outcome can be told."""
    texts = [*_selu(accelerated(loaded.history, "selu"), loaded), *_roots(other_roots(loaded), loaded)]
    return ["## Two more outcomes", AREA, *texts] if texts else []


def _selu(found: pd.DataFrame, loaded: Results) -> list[str]:
    if found.empty:
        return []
    judged = _judged(found)
    ahead = [row["in_se"] > 0 for row, _ in judged]
    clearly = [first and differs for first, (_, differs) in zip(ahead, judged, strict=True)]
    rows = [[*_row(row, loaded), "never" if math.isnan(row["sooner"]) else f"{row['sooner']:.2g}"] for row, _ in judged]
    head = [*_head("SELU", "SELU-GPN"), "SELU-GPN is where SELU ends after epoch"]
    return [
        "**Is training accelerated when SELU is GPN?** The paper says so of Fig. 4 (section 3.2). Here SELU-GPN is "
        f"ahead on {sum(ahead)} of {len(ahead)} datasets, significantly on {sum(clearly)} (Holm's procedure, "
        f"{LEVEL:.0%} for all).",
        table(head, rows),
    ]


def _roots(found: pd.DataFrame, loaded: Results) -> list[str]:
    if found.empty:
        return []
    differs = [(row, differs) for row, differs in _judged(found)]
    better = sum(row["in_se"] > 0 and significant for row, significant in differs)
    worse = sum(row["in_se"] < 0 and significant for row, significant in differs)
    return [
        "**The other root of b.** Networks that differ from Table 2's in the root alone (`gpn_root=-`: the b that "
        "Proposition 3 has beside Table 1's), both in training: the other root is significantly better in "
        f"{better} of {len(found)} pairs, worse in {worse} (Holm's procedure, {LEVEL:.0%} for all).",
        table(_head("b of Table 1", "the other b"), [_row(row, loaded) for row, _ in differs]),
    ]


def _judged(found: pd.DataFrame) -> list[tuple[dict[Hashable, Any], bool]]:
    return list(zip(found.to_dict("records"), holm(found["p"].tolist(), LEVEL), strict=True))


def _head(first: str, second: str) -> list[str]:
    return ["network", "to epoch", f"{first}, %", f"{second}, %", "difference, SE", "p", "seeds"]


def _row(row: Mapping[Hashable, Any], loaded: Results) -> list[object]:
    name = f"{DATASETS[row['dataset']].label} {loaded.activations[row['activation']].label}"
    numbers = [f"{row['epoch']:.4g}", f"{row['first']:.2f}", f"{row['second']:.2f}", f"{row['in_se']:+.1f}"]
    return [name, *numbers, "< 1e-9" if row["p"] < 1e-9 else f"{row['p']:.1g}", row["seeds"]]
