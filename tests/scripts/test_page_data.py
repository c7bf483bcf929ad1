"""The review page's numbers, without a browser."""

from __future__ import annotations

import math

import numpy as np

from bsnn.results import grid
from bsnn.results.budgets import Key
from bsnn.results.records import Record, how_far
from scripts.page import data, runs
from scripts.page.style import PinnedAxis
from tests.factories import (
    paper_like_record,
    unfinished,
)  # fmt: skip

GOING_ON = Key("mnist", "tanh", True, True)


def test_ratios_within_a_decade_have_an_axis_too() -> None:
    axis = runs._ratios("ratio", [2.5, 1.5])
    assert axis["ticktext"] == [f"{10**place:.3g}" for place in axis["tickvals"]]
    low, high = axis["range"]
    assert low <= math.log10(1.5) < math.log10(2.5) <= high


def test_the_unfinished_seeds_that_are_furthest_stand_for_a_cell() -> None:
    """Until one has ended; equally far ones are one curve, and a diverged one isn't the cell's standing."""
    seeds = [paper_like_record("smoke", GOING_ON, seed=seed, evaluations=4) for seed in range(4)]
    going_on = [unfinished(seeds[0], 1), unfinished(seeds[1], 2), unfinished(seeds[2], 2)]
    lost = paper_like_record("smoke", GOING_ON, seed=3, evaluations=4, status="diverged")

    def furthest(*records: Record) -> data.Curve:
        found = data.furthest(data.accuracy_curves(grid.from_records("smoke", records), GOING_ON.dataset, "test"))
        assert found is not None
        return found

    so_far = furthest(*going_on, lost)
    assert (so_far.seeds, so_far.unfinished) == (2, how_far(going_on[1]))
    assert so_far.middle[-1] == np.mean([record["rows"][2]["test_accuracy"] for record in seeds[1:3]])
    ended = furthest(*going_on[:2], seeds[2], lost)
    assert (ended.seeds, ended.unfinished, len(ended.x)) == (1, "", 5)
    standings = {
        ("ok", "unfinished"): "ok",
        ("ok", "diverged", "unfinished"): "partly diverged",
        ("diverged", "unfinished", "crashed"): "unfinished",
        ("diverged", "crashed"): "diverged",
        ("crashed",): "crashed",
        (): "missing",
    }
    assert {statuses: data.standing(statuses) for statuses in standings} == standings


def test_an_axis_keeps_numbers_and_orders_the_rest() -> None:
    values = np.array([0.0, 1e-3, 1.0, 1e6, math.inf, math.nan])
    placed = PinnedAxis.over([values]).place(values)
    assert placed[1:4].tolist() == [1e-3, 1.0, 1e6]
    assert (np.diff(placed) > 0).all()
    assert np.isfinite(placed).all()
