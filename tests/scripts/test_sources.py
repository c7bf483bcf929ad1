"""The map of the sources: every statement of a study stands in a row, and every row is answered or says why not."""

from __future__ import annotations

import importlib
import itertools

import pandas as pd
import pytest

from bsnn.results import statements
from bsnn.results.statements import Statement
from bsnn.results.verdicts import Verdict
from experiments.study import STUDIES
from scripts.report import sources


@pytest.fixture(scope="module")
def said() -> dict[str, pd.DataFrame]:
    """All statements that the studies make, none of them measured."""
    frames = {}
    for study in STUDIES:
        rules = itertools.chain(*importlib.import_module(f"experiments.{study}.report.section").SECTION.rules)
        frames[study] = statements.frame([Statement(rule.source, rule.says, "", rule.rule, None) for rule in rules])
    return frames


def test_every_statement_has_a_row_and_every_row_an_answer(said: dict[str, pd.DataFrame]) -> None:
    assert sources.unmapped(said) == []
    for row in sources.ROWS:
        assert row.answers or row.claims or row.open, row.says
        for study, pattern in row.answers.items():
            assert len(sources.matching(pattern, said[study])), (row.says, study)


def test_a_statement_without_a_row_is_named(said: dict[str, pd.DataFrame]) -> None:
    lost = said["theory"].assign(source="section 99")
    assert sources.unmapped({"theory": lost.head(1)}) == ["theory: section 99"]


def test_a_row_says_how_many_agree(said: dict[str, pd.DataFrame]) -> None:
    told = {study: frame.assign(agrees="yes") for study, frame in said.items()}
    verdicts = [Verdict(number, "", "") for number in range(1, 7)]
    text = sources.section(told, verdicts)[-1]
    [tricks] = [line for line in text.splitlines() if "tricks" in line]
    number = len(sources.matching("talk, tricks", said["vanishing"]))
    assert f"[vanishing](vanishing/report.md): {number} of {number} statements agree" in tricks
    assert "claim 6](#the-papers-claims): not tested" in text
