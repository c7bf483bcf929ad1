"""experiments.units: a finished table stays until the next one is whole, and its record can't be of other numbers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results import provenance, tables
from bsnn.results.tables import load
from experiments.units import Unit, Work, compute

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking it takes longer than everything else here."""
    monkeypatch.setattr(provenance, "collect", lambda device: {})


def squares(version: int, units: int = 3) -> Work:
    """A unit k with one row: k^2 + version."""
    return Work(
        ("k",), ("value",), [(k,) for k in range(units)], lambda unit: [[unit[0] ** 2 + version]], {"v": version}
    )


def made(work: Work, path: Path) -> dict[str, Any]:
    return compute(work, path, {"config": {}}, CPU, 1)


def values(path: Path) -> list[int]:
    return load(path, "the command").frame["value"].tolist()


def refuse(unit: Unit) -> Any:
    raise AssertionError("a finished unit was computed again")


def failing_at(work: Work, failing: Unit, error: BaseException) -> Work:
    def rows(unit: Unit) -> Any:
        if unit == failing:
            raise error
        return work.rows(unit)

    return Work(work.keys, work.columns, work.units, rows, work.identity)


def test_a_run_that_fails_leaves_the_finished_table(tmp_path: Path) -> None:
    path = tmp_path / "table"
    made(squares(0), path)
    before = [file.read_bytes() for file in (tables.table_file(path), tables.record_file(path))]
    with pytest.raises(ZeroDivisionError):
        made(failing_at(squares(1), (1,), ZeroDivisionError()), path)
    assert [file.read_bytes() for file in (tables.table_file(path), tables.record_file(path))] == before
    # the unit that was done is kept, also while the old table is asked for in between
    assert made(squares(0), path)["hash"] == squares(0).hash
    made(failing_at(squares(1), (0,), AssertionError()), path)
    assert values(path) == [1, 2, 5]


def test_what_is_replaced_is_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "table"
    made(squares(0), path)
    made(squares(1), path)
    (kept,) = tables.others(path)
    assert kept == tmp_path / "other_settings" / f"table-{squares(0).hash[:8]}"
    assert (values(kept), values(path)) == ([0, 1, 4], [1, 2, 5])
    assert f"kept as {kept}.csv" in caplog.text
    made(squares(0), path)
    assert values(path) == [0, 1, 4]
    assert len(tables.others(path)) == 2


def test_damaged_numbers_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy with a digest of its own would pass for whole."""
    path = tmp_path / "table"
    made(squares(0), path)
    tables.table_file(path).write_text("k,value\n0,0\n1,1\n2,5\n")
    made(squares(1), path)
    assert values(path) == [1, 2, 5]
    assert not tables.others(path)
    assert "is replaced and not kept" in caplog.text
    made(squares(2), path)
    (kept,) = tables.others(path)
    tables.table_file(kept).write_text("k,value\n0,0\n1,1\n2,5\n")
    made(squares(1), path)
    made(squares(2), path)
    assert values(kept) == [1, 2, 5]


class Killed(BaseException):
    pass


def test_killed_at_any_file_nothing_finished_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed before each file operation of a run that replaces a finished table: from there on nothing is written."""
    operations: list[str] = []

    def mortal(name: str, survived: int) -> Any:
        real = getattr(Path, name)

        def operate(self: Path, *arguments: Any, **options: Any) -> Any:
            operations.append(name)
            if len(operations) > survived:
                raise Killed
            return real(self, *arguments, **options)

        return operate

    survived = 0
    while len(operations) >= survived:  # until one survives
        path = tmp_path / str(survived) / "table"
        made(squares(0), path)
        operations.clear()
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "replace", mortal("replace", survived))
            patch.setattr(Path, "unlink", mortal("unlink", survived))
            made(squares(1), path)
        found = [tables.read(one) for one in (path, *tables.others(path))]
        assert squares(0).hash in [one.record["hash"] for one in found if one is not None and one.intact]
        made(squares(1), path)
        assert values(path) == [1, 2, 5]
        assert [values(one) for one in tables.others(path)] == [[0, 1, 4]]
        survived += 1
    assert survived > 10


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "table"
    half = [tmp_path / ".table.csv.a1.tmp", tables.unfinished_folder(path) / f".{squares(0).hash[:8]}.json.b2.tmp"]
    others = [tmp_path / ".table2.csv.a1.tmp", tables.unfinished_folder(path) / ".checkpoint.pt.b2.tmp"]
    half[1].parent.mkdir(parents=True)
    for file in (*half, *others):
        file.write_text("half")
    made(squares(0), path)
    assert [file.exists() for file in (*half, *others)] == [False, False, True, True]


def test_numbers_that_are_not_the_records_are_refused_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As two processes without a lock left them: one's record beside the other's numbers, the same number of rows."""
    path, other = tmp_path / "table", tmp_path / "other"
    made(squares(0), path)
    made(squares(1), other)
    tables.table_file(path).write_bytes(tables.table_file(other).read_bytes())
    with pytest.raises(UserError, match=r"table\.csv: expected the numbers that table\.json was written for"):
        load(path, "the command")
    made(squares(0), path)
    assert values(path) == [0, 1, 4]
    assert "computing them again" in caplog.text


def test_a_record_from_before_there_were_digests_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "table"
    made(squares(0), path)
    record = json.loads(tables.record_file(path).read_text())
    del record["sha256"]
    tables.record_file(path).write_text(json.dumps(record))
    assert values(path) == [0, 1, 4]
    work = squares(0)
    made(Work(work.keys, work.columns, work.units, refuse, work.identity), path)


def test_more_units_or_other_columns_are_another_table(tmp_path: Path) -> None:
    path = tmp_path / "table"
    made(squares(0), path)
    made(squares(0, units=4), path)
    assert values(path) == [0, 1, 4, 9]
    work = squares(0, units=4)
    made(Work(work.keys, ("square",), work.units, work.rows, work.identity), path)
    assert load(path, "the command").frame["square"].tolist() == [0, 1, 4, 9]


def test_one_process_computes_and_the_other_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, work = tmp_path / "table", squares(0)
    caplog.set_level(logging.INFO)
    lock = try_lock(tables.unfinished_folder(path))
    assert lock is not None
    second = threading.Thread(target=made, args=(work, path))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert not tables.table_file(path).exists()
    assert "another process computes it; waiting" in caplog.text
    lock.release()
    second.join(10)
    assert values(path) == [0, 1, 4]


def test_a_unit_starts_with_the_processors_default_arithmetic(tmp_path: Path) -> None:
    """Training switches subnormal numbers off for its thread; the next unit, or part of a sweep, must not see that."""
    tiny = torch.tensor([1e-310], dtype=torch.float64)

    def rows(unit: Unit) -> Any:
        kept = bool((tiny * 0.5 > 0).item())
        torch.set_flush_denormal(True)
        return [[kept]]

    made(Work(("k",), ("kept",), [(0,), (1,)], rows, {}), tmp_path / "table")
    assert pd.read_csv(tmp_path / "table.csv")["kept"].tolist() == [True, True]
    assert (tiny * 0.5 > 0).item()


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"expected a folder that can be written to, .* results_dir=FOLDER"):
        made(squares(0), tmp_path / "file" / "table")
