"""Datasets as a few files that can be carried to a machine without a network: each dataset in parts of at most 48 MB.

    data-bundle/mnist-1-of-1.part  cifar10-1-of-3.part  cifar10-2-of-3.part  cifar10-3-of-3.part  SHA256SUMS

With BSNN_DATA_DIR=data-bundle the parts are read there, or in folders below, once all of a dataset have arrived. A part
is a zip file: pieces of a dataset's arrays, each named after its array and its first item. Images are lossless WebP,
those of a piece below each other in one picture (CIFAR-10: 184 MB to 107 in 5 s; zlib leaves 179). Labels are the bytes
as they are.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsnn.data.specs import ARRAYS, Arrays, DataError, DatasetSpec
from bsnn.files import write_atomically, write_text

PART_BYTES = 48 * 10**6
PIECE_BYTES = 4 * 2**20  # of an array, before compression
WEBP_PIXELS = 16383  # of a side, at most
CHECKSUMS = "SHA256SUMS"
NAME = re.compile(r"(?P<dataset>\w+)-(?P<number>\d+)-of-(?P<count>\d+)\.part")
HEADER_BYTES = 400  # of a zip file, for each of its entries, at most
Items = NDArray[np.uint8]


def write_bundle(datasets: dict[DatasetSpec, Arrays], folder: Path) -> list[Path]:
    """The parts of the datasets and their checksums, as `sha256sum -c` reads them. Older parts are removed."""
    for old in folder.glob("*.part"):
        old.unlink()
    paths = []
    for spec, arrays in datasets.items():
        parts = _divide(list(_pieces(arrays)))
        for number, pieces in enumerate(parts, start=1):
            path = folder / f"{spec.name}-{number}-of-{len(parts)}.part"
            write_atomically(path, lambda stream, pieces=pieces: _write_part(stream, pieces))  # type: ignore[misc]
            paths.append(path)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    write_text(folder / CHECKSUMS, "".join(sums))
    return paths


def find_parts(spec: DatasetSpec, folder: Path) -> list[Path]:
    """The parts of a dataset in a folder and those right below it, in order; none if there is not any.

    Raises DataError if some are missing.
    """
    found: dict[int, Path] = {}
    counts = set()
    for path in sorted([*folder.glob("*/*.part"), *folder.glob("*.part")]):
        match = NAME.fullmatch(path.name)
        if match is not None and match["dataset"] == spec.name:
            found[int(match["number"])] = path
            counts.add(int(match["count"]))
    if len(counts) > 1:
        raise DataError(
            f"{folder}: expected the parts of one bundle of {spec.label}, found those of several "
            f"({', '.join(sorted(path.name for path in found.values()))}); remove the older ones."
        )
    count = max(counts, default=0)
    missing = [f"{spec.name}-{n}-of-{count}.part" for n in range(1, count + 1) if n not in found]
    if missing:
        raise DataError(
            f"{spec.label}: expected {count} parts in {folder}, found {len(found)}: {', '.join(missing)} is missing; "
            "copy it there from the folder that `make data-bundle` wrote."
        )
    return [found[number] for number in sorted(found)]


def read_parts(spec: DatasetSpec, paths: list[Path]) -> Arrays:
    """The four arrays, whose checksums are for the caller to compare. Raises DataError for a damaged part."""
    arrays: Arrays = {array: np.empty(spec.array_shape(array), np.uint8) for array in ARRAYS}
    covered = dict.fromkeys(ARRAYS, 0)
    for path in paths:
        try:
            with zipfile.ZipFile(path) as part:
                for name in part.namelist():
                    array, first = name.rsplit("-", 1)
                    values = _unpack(part.read(name), arrays[array].shape[1:])
                    arrays[array][int(first) : int(first) + len(values)] = values
                    covered[array] += len(values)
        except Exception as error:  # a damaged zip file can fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path} is damaged ({reason}): copy it again.") from error
    for array, items in covered.items():
        if items != len(arrays[array]):
            raise DataError(f"{paths[0].parent}: expected {len(arrays[array])} items of {array}, found {items}")
    return arrays


def _pieces(arrays: Arrays) -> Iterator[tuple[str, bytes]]:
    for array in ARRAYS:
        values = arrays[array]
        length = max(1, PIECE_BYTES // values[0].nbytes)
        if values.ndim > 1:
            length = min(length, WEBP_PIXELS // values.shape[1])
        for first in range(0, len(values), length):
            yield f"{array}-{first}", _pack(values[first : first + length])


def _divide(pieces: list[tuple[str, bytes]]) -> list[list[tuple[str, bytes]]]:
    """Into as few parts as possible, about equally large."""
    sizes = [len(content) + HEADER_BYTES for _, content in pieces]
    count = -(-sum(sizes) // PART_BYTES)
    while True:
        parts: list[list[tuple[str, bytes]]] = [[] for _ in range(count)]
        before = 0
        for piece, size in zip(pieces, sizes, strict=True):
            parts[before * count // sum(sizes)].append(piece)
            before += size
        largest = max(sum(len(content) + HEADER_BYTES for _, content in part) for part in parts)
        if largest <= PART_BYTES and all(parts):
            return parts
        count += 1


def _write_part(stream: object, pieces: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as part:  # type: ignore[call-overload]
        for name, content in pieces:
            part.writestr(zipfile.ZipInfo(name), content)  # without a date: the same data, the same bytes


def _pack(values: Items) -> bytes:
    """Labels (n,), or images (n, H, W) or (n, H, W, 3)."""
    if values.ndim == 1:
        return values.tobytes()
    column = Image.fromarray(values.reshape(-1, *values.shape[2:])).convert("RGB")
    stream = io.BytesIO()
    column.save(stream, "WEBP", lossless=True, quality=0, method=0)  # more effort: 7 % smaller, 9 times as long
    return stream.getvalue()


def _unpack(data: bytes, shape: tuple[int, ...]) -> Items:
    """Give back the items, of `shape` each, that `_pack` was given."""
    if not shape:
        return np.frombuffer(data, np.uint8)
    column = np.asarray(Image.open(io.BytesIO(data)))
    return (column if len(shape) == 3 else column[..., 0]).reshape(-1, *shape)
