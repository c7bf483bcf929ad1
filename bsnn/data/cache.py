"""The data on disk: per dataset a folder with four plain `.npy` files, each whole and right or absent.

A file gets its name, by an atomic rename, only when all its bytes are on disk: a process killed at any moment leaves
either no file or a whole one, and a work folder `.fetch-*` that the next fetch removes. Fetching holds a lock, which
the system frees when its holder dies; reading needs none. Checksums are compared after fetching and at every reading.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsnn.data.bundle import find_parts, read_parts
from bsnn.data.sources import Source, sources
from bsnn.data.specs import ARRAYS, Arrays, DataError, DatasetSpec
from bsnn.files import locked, user_path

log = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "BSNN_DATA_DIR"
DEFAULT_DATA_DIR = Path("~/.cache/bsnn")
WORK_PREFIX = ".fetch-"


def dataset_folder(spec: DatasetSpec, data_dir: Path | str | None = None) -> Path:
    """Return `data_dir`, else $BSNN_DATA_DIR, else ~/.cache/bsnn, followed by the dataset's name."""
    return user_path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR) / spec.name


def array_path(folder: Path, array: str) -> Path:
    return folder / f"{array}.npy"


def load_arrays(spec: DatasetSpec, folder: Path, candidates: Sequence[Source] | None = None) -> Arrays:
    """Load the four verified arrays; if one is missing, fetch them first.

    They come from a bundle's parts in the data folder, if there are any (bsnn.data.bundle), otherwise from the sources
    of bsnn.data.sources. `candidates` replaces the usual sources.

    Raises DataError if a file is damaged, if no source can supply the data, or if the disk cannot hold it. A damaged
    file is neither deleted nor replaced: that is for its owner to decide.
    """
    if _missing(folder):
        try:
            _fetch(spec, folder, sources(spec, folder) if candidates is None else candidates)
        except OSError as error:
            raise DataError(f"{spec.label} cannot be stored in {folder}: {error.strerror or error}.") from error
    return {array: read_array(spec, array, array_path(folder, array)) for array in ARRAYS}


def read_array(spec: DatasetSpec, array: str, path: Path) -> NDArray[np.uint8]:
    """Read one cached array; raises DataError if its header, size or checksum differs from `spec`."""
    shape = spec.array_shape(array)
    try:
        with path.open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0(file)
            except Exception:  # the header is Python source text: if damaged, it can fail in any way
                header = None
            values = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if header != (shape, False, np.dtype(np.uint8)):
        raise _damaged(spec, path, f"an array of uint8 of shape {shape}", "another header")
    if values.nbytes != np.prod(shape):
        raise _damaged(spec, path, f"{np.prod(shape)} bytes of data", f"{values.nbytes}")
    if (found := array_sha256(values)) != spec.sha256[array]:
        raise _damaged(spec, path, f"SHA-256 {spec.sha256[array]}", found)
    return values.reshape(shape)


def array_sha256(array: NDArray[np.uint8]) -> str:
    """Compute the SHA-256 of the values alone, in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _damaged(spec: DatasetSpec, path: Path, expected: str, found: str) -> DataError:
    return DataError(f"{path} is damaged: expected {expected}, found {found}; delete it and run `{spec.command}`.")


def _missing(folder: Path) -> list[str]:
    return [array for array in ARRAYS if not array_path(folder, array).exists()]


def _fetch(spec: DatasetSpec, folder: Path, candidates: Sequence[Source]) -> None:
    with locked(folder, lambda: log.info("%s: waiting for the process that is fetching it", spec.label)):
        for leftover in folder.glob(f"{WORK_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if missing := _missing(folder):  # otherwise another process has fetched it in the meantime
            parts = find_parts(spec, folder.parent)
            arrays = _from_bundle(spec, parts) if parts else _first_that_works(spec, folder, candidates)
            for array in missing:
                _write_whole(arrays[array], array_path(folder, array))


def _from_bundle(spec: DatasetSpec, parts: list[Path]) -> Arrays:
    log.info("%s: unpacking %s", spec.label, ", ".join(part.name for part in parts))
    arrays = read_parts(spec, parts)
    try:
        for array in ARRAYS:
            _check_fetched(spec, array, arrays[array])
    except DataError as error:
        names = ", ".join(part.name for part in parts)
        raise DataError(f"{parts[0].parent}: {names} hold other data ({error}); make the bundle again.") from error
    return arrays


def _first_that_works(spec: DatasetSpec, folder: Path, candidates: Sequence[Source]) -> Arrays:
    failures = []
    for source in candidates:
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=folder))
        try:
            arrays = source.read(work)
            for array in ARRAYS:
                _check_fetched(spec, array, arrays[array])
            return arrays
        except Exception as error:  # the next source may work; the sentence below reports all
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(f"{source.name} ({reason})")
            log.info("%s: not from %s (%s)", spec.label, source.name, reason)
            log.debug("", exc_info=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise DataError(
        f"{spec.label} is not in {folder} and cannot be fetched, having tried {'; '.join(failures)}: "
        f"put {', '.join(spec.archives)} into {folder / 'downloads'} and run `{spec.command}`."
    )


def _check_fetched(spec: DatasetSpec, array: str, values: NDArray[np.uint8]) -> None:
    if values.dtype != np.uint8 or values.shape != spec.array_shape(array):
        raise DataError(f"{array}: expected uint8 {spec.array_shape(array)}, found {values.dtype} {values.shape}")
    if (found := array_sha256(values)) != spec.sha256[array]:
        raise DataError(f"{array}: expected SHA-256 {spec.sha256[array]}, found {found}")


def _write_whole(values: NDArray[np.uint8], path: Path) -> None:
    """Write into a work folder beside `path`, flush to disk, and only then give the file its name."""
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=path.parent) as work:
        part = Path(work) / path.name
        with part.open("wb") as file:
            np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)  # the name itself is on disk only after the folder is
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
