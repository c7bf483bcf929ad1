"""Outcomes told over whole training curves: SELU's acceleration by GPN, and the other root of b."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsnn.results.budgets import Key
from bsnn.results.grid import from_records
from bsnn.results.outcomes import accelerated, other_roots
from scripts.report import outcomes
from tests.factories import cell_of, make_record, unfinished_record

PLAIN, GPN = (Key("mnist", "selu", gpn, False) for gpn in (False, True))


def test_the_area_under_the_curve_up_to_the_epoch_that_both_have_reached() -> None:
    slow = unfinished_record(PLAIN, [20.0, 40.0, 60.0])
    fast = unfinished_record(GPN, [50.0, 70.0, 80.0, 90.0, 95.0])
    loaded = from_records("paper", [slow, fast])
    (row,) = accelerated(loaded.history, "selu").to_dict("records")
    assert (row["epoch"], row["first"], row["second"]) == (3, pytest.approx(40), pytest.approx(200 / 3))
    assert row["sooner"] == 2  # 70 is the first that is at least 60
    assert row["in_se"] > 5
    assert "ahead on 1 of 1 datasets, significantly on 1" in "\n".join(outcomes.section(loaded))


def test_a_slower_gpn_network_is_told_as_that() -> None:
    loaded = from_records("paper", [unfinished_record(PLAIN, [50.0, 70.0]), unfinished_record(GPN, [20.0, 40.0])])
    text = "\n".join(outcomes.section(loaded))
    assert "ahead on 0 of 1 datasets, significantly on 0" in text
    assert "| never |" in text


def test_only_seeds_that_both_have_count() -> None:
    records = [
        unfinished_record(key, [40.0 + 10 * key.gpn], seed=seed) for key, seed in ((PLAIN, 0), (GPN, 0), (GPN, 1))
    ]
    (row,) = accelerated(from_records("paper", records).history, "selu").to_dict("records")
    assert row["seeds"] == 1


def test_networks_that_differ_in_the_root_alone_are_compared() -> None:
    key = Key("mnist", "relu", True, False)
    cells = [cell_of("quick", key, seed) for seed in range(3)]
    papers = [make_record(cell, "quick", test=50.0 + cell.seed) for cell in cells]
    others = [make_record(replace(cell, gpn_root="-"), "quick", test=70.0 + cell.seed) for cell in cells]
    deeper = make_record(replace(cells[0], gpn_root="-", depth=51), "quick", test=90.0)
    loaded = from_records("quick", [*papers, *others, deeper])
    (row,) = other_roots(loaded).to_dict("records")
    assert (row["activation"], row["seeds"]) == ("relu", 3)
    assert row["second"] > row["first"]
    assert "significantly better in 1 of 1 pairs, worse in 0" in "\n".join(outcomes.section(loaded))


def test_nothing_is_written_of_what_was_not_trained() -> None:
    assert outcomes.section(from_records("paper", [unfinished_record(PLAIN, [20.0])])) == []
