"""A record replayed as a W&B run, read back by W&B's own reader, is the record; so is a run that was live."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsnn.cell import PROTOCOL_VERSION
from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.results.records import Record, read_record, write_record
from bsnn.tracking.review import PREFIX, make_runs
from bsnn.tracking.runs import known, of_cell, of_record, replay, status_of
from scripts.fig4 import VARIANTS
from tests.factories import DIVERGED, TWO_SEEDS, cell_of, make_record, table_keys, unfinished

WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def inspect(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def read_back(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What W&B reads in a run's folder: its summary (config, summary, name, tags), and its history."""
    [file] = folder.glob("*.wandb")
    lines = [json.loads(line) for line in inspect(file).splitlines()]
    items = [line["history"] for line in lines if line["type"] == "history"]
    assert all(item["step"]["num"] == item["item"]["step"] for item in items)
    rows = [{key: WORDS.get(v, v) for key, v in item["item"].items() if not key.startswith("_")} for item in items]
    [run] = [line["run"] for line in lines if line["type"] == "run"]
    return json.loads(inspect(file, "--summary")) | {"group": run["run_group"]}, rows


def assert_is_record(folder: Path, record: Record) -> None:
    run, rows = read_back(folder)
    assert_same(rows, [known(row) for row in record["rows"]])
    told = of_record(record)
    assert (run["run_id"], run["name"], run["group"]) == (told.id, told.name, told.group)
    assert sorted(run["tags"]) == sorted(told.tags)
    assert {key: value for key, value in run["config"].items() if not key.startswith("_")} == told.config
    assert run["summary"]["status"] == status_of(record)
    last = {key: WORDS.get(run["summary"][key], run["summary"][key]) for key in known(record["rows"][-1])}
    assert_same([last], [known(record["rows"][-1])])


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Equal to the last bit, nan being equal to nan."""
    assert [sorted(row) for row in ours] == [sorted(row) for row in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        for key, value in yours.items():
            assert mine[key] == value or (math.isnan(value) and math.isnan(mine[key])), (key, mine[key], value)


RECORDS = [
    make_record(cell_of("smoke", TWO_SEEDS, seed=3), "smoke", ratios=(0.1 + 0.2, math.inf, math.nan)),
    make_record(cell_of("smoke", DIVERGED), "smoke", status="diverged", test=math.nan),
    unfinished(make_record(cell_of("paper", DIVERGED), "paper", ratios=[2.0] * 50), 8),
]


def test_a_replay_is_the_record(tmp_path: Path) -> None:
    for record in RECORDS:
        replay(TrackingConfig(), record, "offline", tmp_path)
        [folder] = (tmp_path / "wandb").glob(f"offline-run-*-{record['budget']}-{record['id']}")
        assert_is_record(folder, record)


def test_the_runs_of_a_review_follow_the_records(tmp_path: Path) -> None:
    """A run is made anew where its record has changed, say because the network has gone on."""
    config, (first, second, going_on) = TrackingConfig(), RECORDS
    assert make_runs(config, RECORDS, tmp_path) == 3
    for record in RECORDS:
        [file] = (tmp_path / "wandb" / f"{PREFIX}{record['id']}").glob("*.wandb")
        assert file.name == f"run-{record['id']}.wandb"  # W&B's terminal dashboard opens no other
    assert make_runs(config, RECORDS, tmp_path) == 0
    (tmp_path / ".new" / "wandb").mkdir(parents=True)  # as a killed call leaves it
    again = first | {"seconds": 1.0}
    crashed = second | {"status": "crashed"}
    further = unfinished(make_record(cell_of("paper", DIVERGED), "paper", ratios=[2.0] * 50), 9)
    assert further["id"] == going_on["id"]
    assert make_runs(config, [again, crashed, further], tmp_path) == 2
    left = sorted((tmp_path / "wandb").glob("run-*"))
    for folder, record in zip(left, sorted((again, further), key=lambda one: one["id"]), strict=True):
        assert_is_record(folder, record)
    assert not (tmp_path / ".new").exists()


def test_a_crashed_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a record with results, found status crashed"):
        replay(TrackingConfig(), RECORDS[0] | {"status": "crashed"}, "offline", tmp_path)


def test_a_record_of_an_older_version_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    """A field that it lacks has the only value that it could have had; one that is unknown by now stays."""
    record = RECORDS[0]
    lacks = {key: value for key, value in record["cell"].items() if key != "initialisation"}
    write_record(tmp_path, record | {"cell": lacks})
    read = read_record(tmp_path)
    assert read is not None
    assert of_record(read) == of_record(record)
    other = of_record(record | {"cell": lacks | {"flavour": "sour"}}).config
    assert (other["flavour"], other["protocol"]) == ("sour", "other")
    assert of_record(record).config["protocol"] == PROTOCOL_VERSION
    assert of_record(record | {"hash": "0" * 64}).config["protocol"] == "other"


def test_variants_are_figure_4s() -> None:
    labels = {(variant.gpn, variant.batch_norm): variant.label for variant in VARIANTS}
    for (gpn, batch_norm), label in labels.items():
        record = RECORDS[0] | {"cell": RECORDS[0]["cell"] | {"gpn": gpn, "batch_norm": batch_norm}}
        assert of_record(record).config["variant"] == label


def test_a_group_is_one_cell_over_its_seeds() -> None:
    cell = cell_of("smoke", table_keys()[0])
    groups = [of_cell(c, "smoke").group for c in (cell, cell.with_seed(3), replace(cell, depth=9))]
    assert groups[0] == groups[1] != groups[2]


def test_an_unfinished_run_says_how_far_it_is() -> None:
    assert [status_of(record) for record in RECORDS] == ["ok", "diverged", "unfinished: 8 of 50 epochs"]
