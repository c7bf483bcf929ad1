"""Merges archives of records (scripts.pack) into results/<budget>/: all of them or, if anything is wrong, none.

    python -m scripts.collect paper.tar.xz more.tar.xz --results results

Each refusal has a sentence. Refused are a record that disagrees with its own cell, config or place; one with a segment
trained by an unknown commit or changed files; and one that contradicts a finished record there. Records of several
devices and commits may share a folder, since each names its own.

Where a cell has a record already, the one that is further stays, whole: rows of two trainings are never mixed. A
finished record is further than an unfinished one, and an unfinished one further than that of a crash. Of two unfinished
ones, the new one replaces the old one if it has at least as many updates behind its last row, and is skipped otherwise.
Of two crashes the later one stays.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bsnn.cell import Cell
from bsnn.config import NAME, TrainConfig, checked
from bsnn.errors import UserError
from bsnn.files import try_lock, user_path, write_atomically
from bsnn.results import cli
from bsnn.results.provenance import knows_commit
from bsnn.results.records import FINISHED, SCHEMA, UNFINISHED, Record, how_far, run_dir

MEMBER = re.compile(rf"(?P<budget>{NAME.pattern})/runs/(?P<id>[\w.-]+)/record\.json", re.ASCII)
MOST_BYTES = 16 * 10**6  # of one record
MOST_BYTES_UNPACKED = 10**9  # of an archive
SHOWN = 20  # problems
RANKS = {"crashed": 0, UNFINISHED: 1, **dict.fromkeys(FINISHED, 2)}
ELSEWHERE = {"results_dir": ".", "tracking": {"dir": "."}}
"""Replacements for folders of the machine that trained, such as another user's ~, which may not exist here."""


@dataclass(frozen=True)
class Found:
    """A record in an archive."""

    where: str
    budget: str
    id: str
    content: bytes
    record: Record  # with JSON's types: inf and nan are strings

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The provenance of every process that trained it."""
        segments = self.record.get("segments", [])  # records from before there were segments have none
        return [self.record["provenance"], *(segment["provenance"] for segment in segments)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archives", nargs="+", type=user_path, metavar="ARCHIVE")
    parser.add_argument("--results", type=user_path, default=Path("results"), metavar="FOLDER", help="default results")
    arguments = parser.parse_args(argv)
    for line in collect(arguments.archives, arguments.results):
        print(line)


def collect(archives: Sequence[Path], results: Path) -> list[str]:
    """Merge the archives.

    Returns lines: one for each cell with two different records, of which one was chosen, then one for each budget with
    what was done. Raises UserError with a line for each problem; then nothing has been changed.
    """
    problems: list[str] = []
    told: list[str] = []
    new: dict[Path, Found] = {}
    there: dict[Path, Record | None] = {}
    counts: dict[str, Counter[str]] = {}
    for found in (found for archive in archives for found in _records(archive)):
        folder = run_dir(results, found.budget, found.id)
        try:
            if folder not in there:
                there[folder] = _read(folder)
            known = new[folder].record if folder in new else there[folder]
            if known != found.record:  # a record that is there already stays, whoever put it there
                _check(found)
            what = _decide(found, known)
        except UserError as error:
            problems.append(str(error))
            continue
        counts.setdefault(found.budget, Counter())[what] += 1
        if known is not None and known != found.record:
            than = "instead of" if what == "replaced" else "is less far than what is there:"
            told.append(f"{found.id}: {what}, {_standing(found.record)} {than} {_standing(known)}")
        if what != "skipped":
            new[folder] = found
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        last = f"{len(problems)} records were refused, and none was merged."
        raise UserError("\n".join([*problems[:SHOWN], *more, last]))
    _write(new, there)
    order = ("added", "replaced", "skipped")
    return told + [
        f"{results / budget}: " + ", ".join(f"{count[what]} {what}" for what in order if count[what])
        for budget, count in counts.items()
    ]


def _records(archive: Path) -> Iterator[Found]:
    """Yield the records in an archive; anything else is an error, above all a path that leads elsewhere."""
    try:
        unpacker = lzma.LZMADecompressor()
        content = unpacker.decompress(archive.read_bytes(), MOST_BYTES_UNPACKED)
        if not unpacker.eof:  # tarfile alone would accept the beginning of a truncated one
            raise EOFError("it is truncated, or too large")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                match = MEMBER.fullmatch(member.name)
                stream = tar.extractfile(member) if match and member.isfile() and member.size <= MOST_BYTES else None
                if match is None or stream is None:
                    raise UserError(
                        f"{archive}: expected files BUDGET/runs/CELL/record.json, found {member.name!r}; make it with "
                        "`python -m scripts.pack`."
                    )
                content = stream.read()
                record = json.loads(content)
                where = f"{archive}: {match['id']}"
                if not isinstance(record, dict) or record.get("schema") != SCHEMA:
                    raise UserError(f"{where}: expected a record of schema {SCHEMA}, found something else.")
                yield Found(where, match["budget"], match["id"], content, record)
    except UserError:
        raise
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{archive}: expected an archive of `python -m scripts.pack`, found none ({error}).") from error


def _check(found: Found) -> None:
    """Check that a record agrees with itself and says where it comes from. Raises UserError otherwise."""
    record, where = found.record, found.where
    try:
        cell = Cell.from_dict(record["cell"])
        if "${" in json.dumps(record["config"]):
            raise ValueError("its config has interpolations, which a record never has")
        config = OmegaConf.merge(OmegaConf.structured(TrainConfig), record["config"], ELSEWHERE)
        configured = Cell.from_config(checked(config, TrainConfig))  # type: ignore[arg-type]
        sources = {(facts["commit"], facts["dirty"]) for facts in found.sources}
        _ = _further(record), _standing(record)
    except Exception as error:  # a record made by other code can fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: expected a record of this version's cells, found another ({reason}).") from error
    for what, value in (("its config's", configured.hash), ("the record's", record["hash"])):
        if value != cell.hash:
            raise UserError(
                f"{where}: expected one hash, found {cell.hash[:8]} as its cell's and {value[:8]} as {what}."
            )
    if not cell.id == record["id"] == found.id:
        raise UserError(f"{where}: expected the record of that folder's cell, found that of {cell.id}.")
    if record["budget"] != found.budget:
        raise UserError(f"{where}: expected a record of budget {found.budget}, found one of {record['budget']}.")
    for commit, dirty in sources:
        if not isinstance(commit, str) or not knows_commit(commit):
            raise UserError(
                f"{where}: expected a commit of this repository, found {commit}; train it from a checkout that git "
                "can read: the run's log says if it can't."
            )
        if dirty is not False:
            raise UserError(
                f"{where}: expected the files of commit {commit[:8]}, found that some had been changed; commit them "
                "and train it again."
            )


def _decide(found: Found, known: Record | None) -> str:
    """Decide if a record is added, replaced or skipped."""
    if known is None:
        return "added"
    if known == found.record:
        return "skipped"
    if {found.record["status"], known["status"]} <= set(FINISHED):
        raise UserError(
            f"{found.where}: expected the finished record that is there already (of {known['finished']}), found "
            f"another (of {found.record['finished']}); move one of them away."
        )
    return "replaced" if _further(found.record) >= _further(known) else "skipped"


def _further(record: Record) -> tuple[int, int, str]:
    """Order a cell's records by their worth: the rank, the updates of an unfinished one, a crash's date."""
    status = record["status"]
    steps = int(record["rows"][-1]["step"]) if status == UNFINISHED and record["rows"] else 0
    return RANKS[status], steps, str(record["finished"]) if status == "crashed" else ""


def _standing(record: Record) -> str:
    return how_far(record) if record["status"] == UNFINISHED else f"{record['status']} ({record['finished']})"


def _write(new: dict[Path, Found], there: dict[Path, Record | None]) -> None:
    with ExitStack() as held:
        for folder in new:
            lock = try_lock(folder)
            if lock is None:
                raise UserError(f"{folder}: expected a cell at rest, found that a process trains it; wait for its end.")
            held.callback(lock.release)
            if _read(folder) != there[folder]:
                raise UserError(f"{folder}: its record has just changed; run this again.")
        for folder, found in new.items():
            write_atomically(folder / "record.json", lambda stream, found=found: stream.write(found.content))  # type: ignore[misc]


def _read(folder: Path) -> Record | None:
    path = folder / "record.json"
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_text())
        _ = _further(record), _standing(record)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a record, found a damaged file ({error!r}); move it away.") from error
    return record


if __name__ == "__main__":
    cli.run(main)
