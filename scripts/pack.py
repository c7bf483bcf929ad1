"""Packs the records of a budget into one archive, to be carried elsewhere; scripts.collect merges it there.

    python -m scripts.pack results/paper paper.tar.xz
    python -m scripts.pack results/paper mnist.tar.xz 'mnist-*'      only cells with such names

Holds every record.json, also of unfinished networks, whose rows have all that tables and figures need. It holds no
checkpoints: unfinished trainings go on where they were begun. At most 16 MB, of which 48 networks of 100 epochs take
less than 1. The same records give the same bytes.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import tarfile
from collections import Counter
from pathlib import Path

from bsnn.errors import UserError
from bsnn.files import user_path, write_atomically
from bsnn.results import cli
from bsnn.results.records import read_records

MOST_BYTES = 16 * 10**6


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("budget_dir", type=user_path, metavar="results/BUDGET")
    parser.add_argument("archive", type=user_path, metavar="ARCHIVE")
    parser.add_argument("patterns", nargs="*", metavar="CELL", help="names with wildcards; default: all")
    arguments = parser.parse_args(argv)
    print(pack(arguments.budget_dir.absolute(), arguments.archive, arguments.patterns or ["*"]))


def pack(folder: Path, archive: Path, patterns: list[str]) -> str:
    """Write the archive; return a description of its contents."""
    chosen = [
        record
        for record in read_records(folder)
        if any(fnmatch.fnmatchcase(record["id"], pattern) for pattern in patterns)
    ]
    if not chosen:
        raise UserError(f"{folder}: expected records of {' '.join(patterns)} in its folder runs/, found none.")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for record in chosen:
            content = (folder / "runs" / record["id"] / "record.json").read_bytes()
            member = tarfile.TarInfo(f"{folder.name}/runs/{record['id']}/record.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    size = len(buffer.getvalue())
    if size > MOST_BYTES:
        raise UserError(
            f"{archive}: expected at most {MOST_BYTES / 1e6:g} MB, found {size / 1e6:.1f} MB for {len(chosen)} "
            "records, so that nothing was written; make several archives, each of some cells, say 'mnist-*'."
        )
    write_atomically(archive, lambda stream: stream.write(buffer.getvalue()))
    counts = Counter(record["status"] for record in chosen)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{archive}: {len(chosen)} records ({told}), {size / 1e6:.2f} MB"


if __name__ == "__main__":
    cli.run(main)
