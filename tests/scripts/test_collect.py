"""Records carried in an archive: packed, merged where they are missing, refused where anything contradicts anything."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bsnn.cell import Cell
from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.budgets import Key, table_configs
from bsnn.results.provenance import knows_commit
from bsnn.results.records import Record, read_records, run_dir
from scripts import collect, pack
from tests.factories import PROVENANCE, make_record, segment, table_keys, unfinished, write

KEYS = table_keys()[:4]


@pytest.fixture(autouse=True)
def _the_commit_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "knows_commit", lambda commit: commit == PROVENANCE["commit"])


def record_of(key: Key = KEYS[0], seed: int = 0, settings: dict[str, Any] | None = None, **changes: Any) -> Record:
    """As training leaves it, with the config that makes its cell."""
    config = replace(table_configs("smoke")[key], gpn=key.gpn, batch_norm=key.batch_norm, seed=seed, **settings or {})
    return make_record(Cell.from_config(config), "smoke", **{"config": asdict(config)} | changes)


def changed(record: Record, **provenance: Any) -> Record:
    """The record of a process that had otherwise what `provenance` says."""
    facts = record["provenance"] | provenance
    return record | {"provenance": facts, "segments": [segment(record, 0, record["steps"], **provenance)]}


class Place:
    """Two folders of results and the way from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there, self.archive = folder / "here", folder / "there", folder / "a.tar.xz"

    def carry(self, *records: Record, place: str | None = None) -> str:
        """Pack these records there, merge them here; what is said."""
        for old in self.there.rglob("record.json"):
            old.unlink()
        for record in records:
            write(self.there, record | ({"id": place} if place else {}))
        if place:
            path = run_dir(self.there, "smoke", place) / "record.json"
            path.write_text(path.read_text().replace(place, records[0]["id"]))
            with tarfile.open(self.archive, "w:xz") as tar:
                tar.add(path, f"smoke/runs/{place}/record.json")
        else:
            pack.main([str(self.there / "smoke"), str(self.archive)])
        return "\n".join(collect.collect([self.archive], self.here))

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.here)): p.read_bytes() for p in self.here.rglob("record.json")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_records_arrive_as_they_were_and_only_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    records = [record_of(key, ratios=(float("inf"), float("nan"))) for key in KEYS]
    assert place.carry(*records).endswith("smoke: 4 added")
    assert "a.tar.xz: 4 records (4 ok), 0.0" in capsys.readouterr().out
    assert place.files() == {str(p.relative_to(place.there)): p.read_bytes() for p in place.there.rglob("record.json")}
    assert len(read_records(place.here / "smoke")) == 4
    before = {path: path.stat().st_mtime_ns for path in place.here.rglob("record.json")}
    elsewhere = record_of(KEYS[0], seed=1)
    elsewhere["config"]["results_dir"] = "~nobody-has-this-name/results"  # of the machine that trained it
    assert place.carry(*records, elsewhere).endswith("smoke: 1 added, 4 skipped")
    assert before.items() <= {path: path.stat().st_mtime_ns for path in place.here.rglob("record.json")}.items()


def test_the_same_records_give_the_same_bytes_and_patterns_choose(place: Place) -> None:
    place.carry(*map(record_of, KEYS))
    first = place.archive.read_bytes()
    place.carry(*map(record_of, reversed(KEYS)))
    assert place.archive.read_bytes() == first
    folder, some = place.there / "smoke", place.archive.with_name("b.tar.xz")
    pack.main([str(folder), str(some), "mnist-tanh-bn-*"])
    with tarfile.open(some) as tar:
        assert all("/mnist-tanh-bn-" in name for name in tar.getnames())
    with pytest.raises(UserError, match=r"expected records of fashion\* in its folder runs/, found none"):
        pack.main([str(folder), str(some), "fashion*"])


def test_an_archive_that_is_too_large_is_not_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"expected at most 0.001 MB, found .* MB for 1 records.*make several archives"):
        place.carry(record_of())
    assert not place.archive.exists()


SELF = record_of()
OTHER = record_of(KEYS[1])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (SELF | {"hash": "0" * 64}, r"expected one hash, found \w{8} as its cell's and 00000000 as the record's"),
        (SELF | {"config": OTHER["config"]}, r"expected one hash, found \w{8} as its cell's and \w{8} as its config's"),
        (SELF | {"cell": OTHER["cell"]}, "expected one hash"),
        (SELF | {"config": SELF["config"] | {"learning_rat": 1}}, "expected a record of this version's cells, found"),
        (SELF | {"config": SELF["config"] | {"device": "${oc.env:HOME}"}}, "config has interpolations"),
        (SELF | {"cell": {"dataset": "mnist"}}, "expected a record of this version's cells, found"),
        (changed(SELF, commit=None), "expected a commit of this repository, found None"),
        (changed(SELF, commit="f" * 40), "expected a commit of this repository, found ffff"),
        (changed(SELF, dirty=True), "found that some had been changed"),
        (changed(SELF, dirty=None), "found that some had been changed"),
    ],
)
def test_what_contradicts_itself_or_comes_from_nowhere_is_refused(place: Place, record: Record, message: str) -> None:
    """And with it what is right: all or nothing."""
    with pytest.raises(UserError, match=message) as refused:
        place.carry(record, record_of(KEYS[2]))
    assert str(refused.value).splitlines()[-1] == "1 records were refused, and none was merged."
    assert record["id"] in str(refused.value)
    assert not place.files()


def test_a_record_in_another_cells_folder_is_refused(place: Place) -> None:
    with pytest.raises(UserError, match="expected the record of that folder's cell, found that of mnist-"):
        place.carry(SELF, place=OTHER["id"])
    assert not place.files()


GPU = {"device": "Some GPU", "device_type": "cuda"}


def test_records_of_several_devices_share_a_folder(place: Place) -> None:
    place.carry(SELF)
    assert "1 added" in place.carry(changed(OTHER, **GPU))
    assert len(place.files()) == 2


LONG = record_of(settings={"max_steps": None, "epochs": 50}, ratios=[2.0] * 50)


def test_an_unfinished_record_stays_until_one_is_at_least_as_far(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever trained that one; and it is taken whole."""
    early, late = unfinished(LONG, 3), unfinished(LONG, 8)
    another = unfinished(LONG | {"rows": [row | {"test_loss": 1.5} for row in LONG["rows"]]}, 8)
    another["segments"] = [segment(LONG, 0, 300), segment(LONG, 300, 800, **GPU)]
    crashed = LONG | {"status": "crashed", "rows": [], "error": "RuntimeError"}
    assert "1 added" in place.carry(crashed)
    said = place.carry(early)
    assert "a.tar.xz: 1 records (1 unfinished)" in capsys.readouterr().out
    assert f"{LONG['id']}: replaced, 3 of 50 epochs instead of crashed (" in said
    assert place.carry(late).splitlines()[0] == f"{LONG['id']}: replaced, 8 of 50 epochs instead of 3 of 50 epochs"
    before = place.files()
    for less, standing in ((early, "3 of 50 epochs"), (crashed, f"crashed ({LONG['finished']})")):
        told, counted = place.carry(less).splitlines()
        assert told == f"{LONG['id']}: skipped, {standing} is less far than what is there: 8 of 50 epochs"
        assert "1 skipped" in counted
        assert before.items() <= place.files().items()
    assert place.carry(late).endswith("smoke: 1 skipped")
    assert f"{LONG['id']}: replaced, 8 of 50 epochs instead of 8 of 50 epochs" in place.carry(another)
    [whole] = [record for record in read_records(place.here / "smoke") if record["id"] == LONG["id"]]
    assert whole == another
    assert f"{LONG['id']}: replaced, ok (" in place.carry(LONG)
    assert f"{LONG['id']}: skipped, 8 of 50 epochs is less far than what is there: ok (" in place.carry(another)
    [whole] = [record for record in read_records(place.here / "smoke") if record["id"] == LONG["id"]]
    assert whole == LONG


def test_every_segment_says_where_it_comes_from(place: Place) -> None:
    good = unfinished(LONG, 8)
    for bad, message in (
        ({"commit": "f" * 40}, "expected a commit of this repository, found ffff"),
        ({"dirty": True}, "found that some had been changed"),
    ):
        segments = [segment(LONG, 0, 300, **bad), segment(LONG, 300, 800)]
        with pytest.raises(UserError, match=message):
            place.carry(good | {"segments": segments})
    assert not place.files()


def test_what_is_finished_stays(place: Place) -> None:
    crashed = record_of(status="crashed", finished="2025-01-01T00:02:00+00:00")
    assert "1 added" in place.carry(crashed)
    older = record_of(status="crashed", finished="2024-01-01T00:00:00+00:00")
    assert "1 skipped" in place.carry(older)
    assert "1 replaced" in place.carry(SELF)
    finished = place.files()
    assert "1 skipped" in place.carry(crashed)
    assert "1 skipped" in place.carry(SELF)
    assert place.files() == finished
    for other in (record_of(test=20.0), record_of(status="diverged")):
        with pytest.raises(UserError, match=r"expected the finished record that is there already .* move one of them"):
            place.carry(other, OTHER)
    assert place.files() == finished


def test_several_archives_may_overlap_but_not_contradict(place: Place, tmp_path: Path) -> None:
    place.carry(SELF, OTHER)
    first = place.archive.rename(tmp_path / "first.tar.xz")
    place.carry(OTHER, record_of(KEYS[2]))
    both = [first, place.archive]
    assert collect.collect(both, tmp_path / "new")[0].endswith("smoke: 3 added, 1 skipped")
    write(place.there, record_of(KEYS[1], test=20.0))
    pack.main([str(place.there / "smoke"), str(place.archive)])
    with pytest.raises(UserError, match=OTHER["id"]):
        collect.collect(both, tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


def test_a_cell_in_training_is_left_alone(place: Place) -> None:
    lock = try_lock(run_dir(place.here, "smoke", OTHER["id"]))
    assert lock is not None
    with pytest.raises(UserError, match=rf"{OTHER['id']}: expected a cell at rest"):
        place.carry(SELF, OTHER)
    lock.release()
    assert not place.files()


@pytest.mark.parametrize("name", ["../../evil/record.json", "/etc/x", "smoke/runs/../../x/record.json", "smoke/notes"])
def test_other_archives_are_refused(place: Place, name: str) -> None:
    with tarfile.open(place.archive, "w:xz") as tar:
        content = json.dumps(SELF).encode()
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"expected files BUDGET/runs/CELL/record.json, found '"):
        collect.collect([place.archive], place.here)
    whole = place.archive.read_bytes()
    for broken in (b"nothing", whole[: len(whole) // 2]):
        place.archive.write_bytes(broken)
        with pytest.raises(UserError, match=r"expected an archive of `python -m scripts.pack`"):
            collect.collect([place.archive], place.here)


def test_commits(root: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False).stdout
    if not head:
        pytest.skip("not a git checkout")
    assert knows_commit(head.strip())
    assert not knows_commit("0" * 40)
    assert not knows_commit(head[:8])
    assert not knows_commit("HEAD")


def test_the_commands(tmp_path: Path, root: Path, place: Place) -> None:
    """With the repository's real history, in which the factories' commit is unknown."""
    write(place.there, SELF)
    run: Callable[..., Any] = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-m", *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=120
    )
    packed = run("scripts.pack", place.there / "smoke", place.archive)
    assert packed.returncode == 0
    assert "1 records (1 ok)" in packed.stdout
    merged = run("scripts.collect", place.archive, "--results", place.here)
    assert merged.returncode == 1
    assert merged.stderr.startswith(f"error: {place.archive}: {SELF['id']}: expected a commit of this repository")
    assert "Traceback" not in merged.stderr
