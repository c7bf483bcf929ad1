"""Fills a folder with all that a machine without a network needs to train the paper's budget on its GPU.

    python -m scripts.offline FOLDER                            for a machine with this Python's version
    python -m scripts.offline FOLDER --python 3.12 --has torch torchvision numpy

FOLDER/part-1, part-2, ... hold at most 60 MB each, so that they can be carried one by one: the commit's files with
their git history of one commit, MNIST and CIFAR-10, and wheels of the packages that the machine lacks. There, with the
parts side by side again: `python run.py` (scripts/offline/run.py explains it).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from bsnn.data import dataset_spec
from bsnn.data.bundle import write_bundle
from bsnn.data.cache import dataset_folder, load_arrays
from bsnn.errors import UserError
from bsnn.files import user_path
from bsnn.results import cli
from bsnn.results.provenance import ROOT
from scripts.data import DEFAULT

PART_BYTES = 60 * 10**6
SOURCE = "source.tar.gz"
NOT_NEEDED = {"wandb", "wandb-workspaces"}  # records become W&B runs where there is a network
ALSO = ("submitit",)  # for several GPUs
UPLOAD_PACK = "git -c uploadpack.allowFilter=true -c uploadpack.allowAnySHA1InWant=true upload-pack"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.offline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=user_path)
    parser.add_argument(
        "--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="the machine's version"
    )
    parser.add_argument("--has", nargs="*", default=["torch", "torchvision"], help="packages that the machine has")
    parser.add_argument("--data", nargs="*", default=list(DEFAULT), help="datasets; none if the machine has them")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: expected a new or an empty folder, found files in it; choose another.")
    with tempfile.TemporaryDirectory(prefix="bsnn-") as temporary:
        made = Path(temporary)
        pack_source(made / SOURCE)
        specs = [dataset_spec(name) for name in arguments.data]
        if specs:
            write_bundle({spec: load_arrays(spec, dataset_folder(spec)) for spec in specs}, made / "data")
        wheels(needed(arguments.has), arguments.python, made / "wheels")
        for number, files in enumerate(parts([path for path in made.rglob("*") if path.is_file()]), start=1):
            part = folder / f"part-{number}"
            part.mkdir(parents=True)
            for file in files:
                shutil.move(file, part / file.name)
            size = sum(path.stat().st_size for path in part.iterdir())
            print(f"{part}: {len(files)} files, {size / 1e6:.1f} MB")
    shutil.copy(Path(__file__).with_name("run.py"), folder / "run.py")
    print(f"Carry {folder} to the machine; there: python run.py")


def pack_source(path: Path) -> None:
    """Write a checkout of the commit as a tar file: without results, with what git needs to name the commit.

    Raises UserError if tracked files differ from the commit: their records would say so, and could not be collected.
    """
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    if changed:
        raise UserError(f"{ROOT}: expected a commit without changes, found changed files; commit them first.")
    with tempfile.TemporaryDirectory(prefix="bsnn-") as temporary:
        checkout = Path(temporary) / "bsnn"
        # Only the files that are checked out: those of results/ would be nine tenths of the archive.
        partial = ["--depth=1", "--no-checkout", "--filter=blob:none", f"--upload-pack={UPLOAD_PACK}"]
        _git("clone", "--quiet", *partial, f"file://{ROOT}", str(checkout))
        _git("-C", str(checkout), "config", "remote.origin.uploadpack", UPLOAD_PACK)
        _git("-C", str(checkout), "sparse-checkout", "set", "--no-cone", "/*", "!/results/")
        _git("-C", str(checkout), "checkout", "--quiet", "--detach", _git("rev-parse", "HEAD"))
        _git("-C", str(checkout), "remote", "remove", "origin")  # there it can't be asked
        with tarfile.open(path, "w:gz") as tar:
            tar.add(checkout, "bsnn")


def needed(has: Iterable[str]) -> list[str]:
    """Pin what training and publishing need, at this environment's versions: NAME==VERSION, sorted."""
    skipped = {_name(package) for package in has} | NOT_NEEDED
    found: dict[str, str] = {}
    waiting = [*_requires("bsnn", "reports"), *ALSO]
    while waiting:
        package = _name(waiting.pop())
        if package in found or package in skipped:
            continue
        found[package] = importlib.metadata.version(package)
        waiting += _requires(package)
    return sorted(f"{package}=={version}" for package, version in found.items())


def _requires(package: str, extra: str = "") -> Iterator[str]:
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name


def wheels(pins: Sequence[str], python: str, folder: Path) -> None:
    """Fetch the wheels for Linux on x86-64; packages that exist only as source, in pure Python, are built."""
    for pin in pins:
        target = [word for platform in PLATFORMS for word in ("--platform", platform)]
        choice = ["--only-binary=:all:", "--python-version", python, *target]
        if not _pip("download", *choice, "--dest", str(folder), pin) and not _pip("wheel", "-w", str(folder), pin):
            raise UserError(
                f"{pin}: expected a wheel for Python {python} on Linux from the package index, found none; "
                f"install it on the machine and add --has {pin.partition('==')[0]}."
            )
    strange = [path.name for path in folder.glob("*.whl") if not _fits(path.name, python)]
    if strange:
        raise UserError(f"expected wheels for Python {python}, found {', '.join(strange)}; use that Python here.")


def _fits(wheel: str, python: str) -> bool:
    """Tell if a wheel fits that Python on another machine; wheels that were built here must be for any Python 3."""
    tag = wheel.removesuffix(".whl").split("-")[-3]
    version = python.replace(".", "")
    return tag.startswith("py") or tag == f"cp{version}" or "abi3" in wheel


def _pip(command: str, *arguments: str) -> bool:
    run = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--disable-pip-version-check", *arguments]
    return subprocess.run(run, capture_output=True).returncode == 0


def parts(files: Iterable[Path]) -> list[list[Path]]:
    """Divide the files into folders of at most 60 MB, the largest files first. Raises UserError for a larger file."""
    found: list[list[Path]] = []
    room: list[int] = []
    for file in sorted(files, key=lambda path: (-path.stat().st_size, path.name)):
        size = file.stat().st_size
        if size > PART_BYTES:
            raise UserError(f"{file.name}: expected at most {PART_BYTES / 1e6:g} MB, found {size / 1e6:.1f} MB.")
        number = next((k for k, left in enumerate(room) if left >= size), len(room))
        if number == len(room):
            found.append([])
            room.append(PART_BYTES)
        found[number].append(file)
        room[number] -= size
    return found


def _name(package: str) -> str:
    return package.lower().replace("_", "-").replace(".", "-")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{ROOT}: expected a git checkout, found: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


if __name__ == "__main__":
    cli.run(main)
