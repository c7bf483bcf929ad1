"""From records to Table 2's entries, for a whole grid in which something of everything went wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bsnn import paper
from bsnn.errors import UserError
from bsnn.results import grid as results
from bsnn.results.budgets import Key
from bsnn.results.grid import Results, initial_gradients, load, rank_correlation, worst
from tests.factories import (
    CRASHED,
    DIVERGED,
    MISSING,
    PARTLY_DIVERGED,
    TWO_SEEDS,
    cell_of,
    make_record,
    table_keys,
    write_smoke_grid,
)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_smoke_grid(tmp_path_factory.mktemp("results")))


def entry(grid: Results, key: Key) -> dict[str, object]:
    return dict(zip(grid.table.columns, grid.table.iloc[list(grid.expected).index(key)], strict=True))


def test_table_has_the_papers_cells_in_the_papers_order(grid: Results) -> None:
    assert set(grid.expected) == set(table_keys())
    assert tuple(grid.activations) == paper.ACTIVATIONS
    assert [key.dataset for key in grid.expected] == ["mnist"] * 24 + ["cifar10"] * 24
    assert list(grid.table[list(Key._fields)].itertuples(index=False, name=None)) == [
        tuple(key) for key in grid.expected
    ]


def test_accuracies_are_those_of_the_last_row(grid: Results) -> None:
    printed = paper.table2().set_index(list(Key._fields))
    for key in set(table_keys()) - {DIVERGED, CRASHED, MISSING, PARTLY_DIVERGED, TWO_SEEDS}:
        found = entry(grid, key)
        assert (found["status"], found["n"]) == ("ok", 1)
        assert [found["train_mean"], found["test_mean"]] == printed.loc[tuple(key)].tolist()
        assert [found["paper_train"], found["paper_test"]] == printed.loc[tuple(key)].tolist()
        assert np.isnan([found["train_sd"], found["test_sd"]]).all()


def test_seeds_are_averaged(grid: Results) -> None:
    found = entry(grid, TWO_SEEDS)
    records = [record for record in grid.records if Key(*(record["cell"][f] for f in Key._fields)) == TWO_SEEDS]
    accuracies = [record["rows"][-1]["test_accuracy"] for record in records]
    assert [record["cell"]["seed"] for record in records] == [0, 3]
    assert found["n"] == 2
    assert found["test_mean"] == pytest.approx(sum(accuracies) / 2, rel=1e-15)
    assert found["test_sd"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / math.sqrt(2), rel=1e-12)
    assert found["seconds"] == 120.0


@pytest.mark.parametrize(
    ("key", "status"),
    [(DIVERGED, "diverged"), (CRASHED, "crashed"), (MISSING, "missing"), (PARTLY_DIVERGED, "partly diverged")],
)
def test_status(grid: Results, key: Key, status: str) -> None:
    found = entry(grid, key)
    assert found["status"] == status
    assert found["n"] == (1 if status == "partly diverged" else 0)
    assert math.isnan(float(str(found["test_mean"]))) == (status != "partly diverged")


def test_records_of_other_settings_are_counted_not_used(grid: Results) -> None:
    assert len(grid.others) == 3  # another depth, another dataset, another version of the protocol
    assert len(grid.records) == 49
    assert not any(record["cell"]["depth"] != 8 for record in grid.records)


def test_further_activation_appears_once_it_has_records() -> None:
    key = Key("mnist", "gelu", False, False)
    cell = cell_of("smoke", key)
    foreign = replace(cell, activation="swish", activation_module={"_target_": "torch.nn.SiLU"})
    loaded = results.from_records("smoke", [make_record(cell, "smoke"), make_record(foreign, "smoke")])
    assert tuple(loaded.activations) == paper.ACTIVATIONS  # no conf/activation/swish.yaml
    assert loaded.others == [make_record(foreign, "smoke")]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected records .* found none; make them with `python -m experiments.train"):
        load(tmp_path / "smoke")
    with pytest.raises(UserError, match=r"nonesuch: expected a folder named after a budget \(results/paper, "):
        load(tmp_path / "nonesuch")


def test_initial_gradients() -> None:
    assert initial_gradients([8.0, 4.0, 2.0]) == (4.0, pytest.approx(-1.0))
    assert initial_gradients([0.0, 1.0, 2.0]) == (math.inf, pytest.approx(1.0))
    for undefined in (None, [0.0, 0.0], [1.0, math.nan]):
        assert all(math.isnan(value) for value in initial_gradients(undefined))


def test_rank_correlation_sees_order_alone() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1e9]) == pytest.approx(1.0)
    # by the textbook formula without ties: 1 - 6 sum d^2 / (n (n^2 - 1)), d = (0, 1, -1, 0)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_worst_ranks_nan_above_inf() -> None:
    assert worst([1.0, 3.0, 2.0]) == 3.0
    assert worst([1.0, math.inf]) == math.inf
    assert math.isnan(worst([math.nan, math.inf, 1.0]))


def test_train_images_are_those_seen_in_the_last_epoch() -> None:
    key = Key("mnist", "tanh", False, False)
    record = make_record(cell_of("quick", key), "quick")
    assert results.run_row(key, record)["train_images"] == 60_000
    record["rows"][-1]["epoch"] = 1.25
    assert results.run_row(key, record)["train_images"] == 15_000
