"""bsnn.results.rules: a judge is given the parts that its parameters name, and waits until they are there."""

from __future__ import annotations

import importlib
import itertools

import pandas as pd
import pytest
from omegaconf import OmegaConf

from bsnn.config import CONF
from bsnn.results import statements
from bsnn.results.rules import Judged, Rules, arguments, needed
from bsnn.results.section import Section
from bsnn.results.tables import Table
from experiments.study import STUDIES

NUMBERS = Table(pd.DataFrame({"x": [1.0, 3.0]}), {"sizes": {"draws": 2}}, {}, 0.0)


def test_statements_are_judged_by_the_parts_that_the_judge_names() -> None:
    rules = Rules()

    @rules.states("Theorem 1", "x is small", rule="x <= 2", bound=2)
    @rules.states("Theorem 2", "x is bounded", rule="x <= 3", bound=3)
    def bounded(one: pd.DataFrame, bound: float) -> Judged:
        return f"x <= {one.x.max():g}", one.x.max() <= bound

    @rules.states("section 3", "both are there", rule="2 draws")
    def both(one: Table, two: pd.DataFrame) -> Judged:
        draws = one.config["sizes"]["draws"]
        return f"{draws} draws, n = {len(two)}", draws == 2

    second, first, third = rules
    assert [rule.parts for rule in (first, third)] == [("one",), ("one", "two")]
    told = [rule.judged({"one": NUMBERS, "two": None}) for rule in (first, second, third)]
    assert [(one.source, one.measured, one.rule, one.agrees) for one in told] == [
        ("Theorem 1", "x <= 3", "x <= 2", False),
        ("Theorem 2", "x <= 3", "x <= 3", True),
        ("section 3", "", "2 draws", None),
    ]
    assert third.judged({"one": NUMBERS, "two": NUMBERS}).measured == "2 draws, n = 2"


def test_what_cannot_be_decided_and_what_no_source_says_count_by_themselves() -> None:
    rules = Rules()
    answers = {"Theorem 1": True, "Fig. 2": False, "section 3": None, "ours": False, "ours, 2": True}
    for source in answers:
        rules.states(source, "x is small", rule="x <= 2", of=source)(lambda one, of: ("x = 1", answers[of]))
    rules.states("section 4", "x is small", rule="x <= 2")(lambda two: ("x = 1", True))
    said = statements.frame([rule.judged({"one": NUMBERS, "two": None}) for rule in rules])
    assert list(said["agrees"]) == ["yes", "no", "undecided", "no", "yes", "not measured"]
    told = "1 of 2 statements agree, 1 undecided, 1 not measured; 1 of 2 expectations of ours hold"
    assert statements.counts(said) == told


def test_a_part_that_is_none_by_default_can_be_missing() -> None:
    def told(one: pd.DataFrame, two: Table | None = None, bound: float = 3) -> str:
        return f"{len(one)} {two is None} {bound}"

    assert needed(told) == ("one",)
    assert arguments(told, {"one": None, "two": NUMBERS}) is None
    given = arguments(told, {"one": NUMBERS, "two": None})
    assert given is not None
    assert told(**given) == "2 True 3"
    given = arguments(told, {"one": NUMBERS, "two": NUMBERS})
    assert given is not None
    assert given["two"] is NUMBERS


@pytest.mark.parametrize("study", STUDIES)
def test_what_a_study_tells_reads_parts_that_it_has(study: str) -> None:
    """A misspelt parameter would be a part that never comes."""
    section: Section = importlib.import_module(f"experiments.{study}.report.section").SECTION
    parts = importlib.import_module(f"experiments.{study}.__main__").PARTS
    assert set(section.parts) == set(parts)
    read = [rule.parts for rule in itertools.chain(*section.rules)]
    read += [drawing.parts for drawing in section.drawings.values()]
    read += [needed(tell) for tell in section.findings]
    assert {part for one in read for part in one} <= set(parts)
    full = OmegaConf.load(CONF / study / "paper.yaml")
    assert all(OmegaConf.select(full, name) is not None for name in section.stated)
    assert len(read) > len(parts)
