"""Every rule of every study decides: made-up tables exist for which it says yes, and others for which it says no.

The published quick tables are one side. The other is looked for among tables in which one column is changed: scaled,
negated, put into another order, made constant. A rule that no such table turns has a condition that can't fail, or
doesn't read what it says it judges.
"""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from bsnn import paper
from bsnn.config import CONF
from bsnn.results.budgets import PAPER
from bsnn.results.rules import Parts, Rule
from bsnn.results.section import Section, load
from bsnn.results.tables import Table

QUICK = Path(__file__).parents[2] / "results" / "quick"
STUDIES = ("theory", "vanishing", "shrinkage", "collapse", "bridge", "beyond")


NO_TABLE = (
    ValueError, IndexError, KeyError, ZeroDivisionError, TypeError, AttributeError, np.linalg.LinAlgError,
)  # fmt: skip
"""What a judge raises for a change after which a table has no rows that it needs, say."""


def section_of(study: str) -> Section:
    module = importlib.import_module(f"experiments.{study}.report.section")
    found: Section = module.SECTION
    return found


@cache
def parts_of(study: str) -> Parts:
    return load(section_of(study), QUICK)


def rules_of(study: str) -> Iterator[Rule]:
    return itertools.chain(*section_of(study).rules)


RULES = [
    pytest.param(study, rule, id=f"{study}: {rule.source}: {rule.says}"[:110])
    for study in STUDIES
    for rule in rules_of(study)
]


def changed(column: pd.Series) -> Iterator[Any]:
    """Yield other values of a column."""
    values = column.to_numpy()
    if column.dtype == bool:
        yield from (~values, True, False)
    elif pd.api.types.is_numeric_dtype(column):
        numbers = values.astype(np.float64)
        yield from (numbers * 1e4, numbers * 1e-4, -numbers, numbers[::-1], 0.0, 1.0, 1e3, numbers + 1)
        yield numbers * np.exp(np.random.default_rng(0).normal(size=len(numbers)))
        yield np.random.default_rng(1).permutation(numbers)
        yield np.where(np.arange(len(numbers)) % 2, numbers, np.nanmax(numbers, initial=0.0))
        yield np.sort(numbers)
    else:
        yield values[::-1]
        kinds = list(dict.fromkeys(column.dropna()))
        if len(kinds) <= 12:
            yield from kinds


def in_full(study: str, parts: Parts) -> Parts:
    """The same numbers, said to be of the full size and of five seeds: where smaller sizes leave a rule undecided."""
    full: Any = OmegaConf.to_container(OmegaConf.load(CONF / study / f"{PAPER}.yaml"))
    found: dict[str, Table | None] = {}
    for name, table in parts.items():
        if table is None:
            continue
        frame = table.frame
        if "seed" in frame and frame.seed.nunique() == 1:
            frame = pd.concat([frame.assign(seed=seed) for seed in range(5)], ignore_index=True)
        sizes = {**table.config["sizes"], name: full[name]}
        found[name] = replace(table, frame=frame, config={**table.config, "sizes": sizes})
    return found


def below_the_bound(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(below=0.0, above=0.0, first_exceeded=math.nan)


def as_printed(frame: pd.DataFrame) -> pd.DataFrame:
    printed = paper.table1().set_index("activation")
    frame = frame.copy()
    for name in printed.index:
        rows = (frame.family == "paper") & (frame.function == name)
        frame.loc[rows, ["a", "b_plus", "b_minus"]] = printed.loc[name, ["a", "b", "b"]].to_numpy(dtype=np.float64)
    return frame


def all_in_order(frame: pd.DataFrame) -> pd.DataFrame:
    order = frame.paper_mnist_train.rank()
    return frame.assign(paper_cifar10_train=order, error=-order, gap=order)


def width_is_all(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(test_accuracy=90 - frame.depth / frame.width)


def helpful(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(loss=frame.loss.where(frame.method == "nothing", frame.loss / 100))


def harmful(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(loss=frame.loss.where(frame.method == "nothing", frame.loss + 100))


def as_deep_as_the_papers(frame: pd.DataFrame) -> pd.DataFrame:
    layers = frame.network.map({"full": 82, "skimmed": 67})
    return frame.assign(value=frame.value.where(frame.quantity != "layers", layers))


def equal_improvement(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(value=frame.value.where(frame.quantity != "accuracy", 1 - 0.9 * np.exp(-frame["index"] / 100)))


def any_rate_will_do(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(loss=frame.loss.where(frame.rule != "gradient", 1.0))


def rows_learn_little(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(test_accuracy=frame.test_accuracy.where(frame.constraint != "row", frame.test_accuracy / 4))


def deeper_needs_fewer_steps(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(value=frame.value.where(frame.quantity != "steps", frame.value / frame.depth**2))


BY_HAND: Mapping[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], ...]] = {
    "lemma3": (below_the_bound,),
    "constants": (as_printed,),
    "table2": (all_in_order,),
    "convolution": (lambda frame: frame.assign(test_accuracy=frame.test_accuracy.where(frame.version != "GPN", 60.0)),),
    "deep": (any_rate_will_do, lambda frame: frame.assign(loss=frame.loss.where(frame.rule == "gradient", 1.0))),
    "deeper": (width_is_all,),
    "fig4": (as_deep_as_the_papers, equal_improvement),
    "tricks": (helpful, harmful),
    "orthogonal": (rows_learn_little,),
    "steps": (deeper_needs_fewer_steps,),
    "probability": (lambda frame: frame.assign(exact=frame.paper),),
}
"""Tables of a part that differ in several columns."""


def in_both(change: Callable[[pd.DataFrame], pd.Series]) -> Callable[[Parts], Parts]:
    """Change the outcomes of narrow networks and of wider ones. change: from a frame with a column remedy."""

    def changed_parts(parts: Parts) -> Parts:
        found = dict(parts)
        for name, label in (("remedies", "method"), ("widths", "remedy")):
            table = found[name]
            assert table is not None
            outcome = change(table.frame.assign(remedy=table.frame[label]))
            found[name] = replace(table, frame=table.frame.assign(outcome=outcome))
        return found

    return changed_parts


TOGETHER: Mapping[str, tuple[Callable[[Parts], Parts], ...]] = {
    "widths": (
        in_both(lambda frame: frame.outcome.where(frame.remedy == "", "other")),
        in_both(lambda frame: frame.outcome.where(frame.remedy == "", "constant").where(frame.remedy == "none", FITS)),
    ),
}
"""Changes of several tables at once, by one of the parts."""
FITS = "approximates"


def others(rule: Rule, parts: Parts) -> Iterator[Parts]:
    for name in rule.parts:
        for change_all in TOGETHER.get(name, ()):
            yield change_all(parts)
    for name in rule.parts:
        table = parts[name]
        assert table is not None
        for change in BY_HAND.get(name, ()):
            yield {**parts, name: replace(table, frame=change(table.frame))}
        for label in table.frame.columns:
            for values in changed(table.frame[label]):
                yield {**parts, name: replace(table, frame=table.frame.assign(**{str(label): values}))}


@pytest.mark.parametrize(("study", "rule"), RULES)
def test_both_verdicts_are_possible(study: str, rule: Rule) -> None:
    parts = parts_of(study)
    if any(parts[name] is None for name in rule.parts):
        pytest.skip("its part isn't published")
    first = rule.judged(parts).agrees
    seen = {first}
    if first is None:
        parts = in_full(study, parts)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for made_up in itertools.chain([parts], others(rule, parts)):
            if {True, False} <= seen:
                break
            try:
                seen.add(rule.judged(made_up).agrees)
            except NO_TABLE:
                continue
    assert {True, False} <= seen, f"only {seen}"


@pytest.mark.parametrize(("other", "verdict"), [(0, False), (60, None)])
def test_runs_that_may_still_collapse_leave_it_undecided(other: int, verdict: bool | None) -> None:
    """35 of 100 are constant, at the mean, and 5 partial; the rest approximates the target, or is none of these yet."""
    rule = next(rule for rule in rules_of("collapse") if rule.source == "Fig. 4")
    kinds = ["constant"] * 35 + ["partial"] * 5 + ["other"] * other + ["approximates"] * (60 - other)
    runs = pd.DataFrame({"target": "pair", "outcome": kinds, "at_mean": True})
    targets = parts_of("collapse")["targets"]
    assert targets is not None
    assert rule.judged({"targets": replace(targets, frame=runs)}).agrees is verdict
