"""Tiny datasets in the shapes of the real ones, and the files that they come in."""

from __future__ import annotations

import dataclasses
import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bsnn.data.cache import array_sha256
from bsnn.data.formats import IDX_FILES
from bsnn.data.sources import Source
from bsnn.data.specs import ARRAYS, MNIST, Arrays, DatasetSpec

# --- a tiny dataset --------------------------------------------------------------------------------------------------


def tiny_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"train_images": (6, 28, 28), "train_labels": (6,), "test_images": (4, 28, 28), "test_labels": (4,)}
    return {array: rng.integers(0, 10, shape, np.uint8) for array, shape in shapes.items()}


def tiny_spec(base: DatasetSpec = MNIST, arrays: Arrays | None = None) -> DatasetSpec:
    arrays = arrays or tiny_arrays()
    return dataclasses.replace(
        base,
        train_size=len(arrays["train_labels"]),
        test_size=len(arrays["test_labels"]),
        sha256={array: array_sha256(values) for array, values in arrays.items()},
    )


GOOD = Source("good", lambda work: tiny_arrays())


def assert_tiny(arrays: Arrays) -> None:
    assert arrays.keys() == set(ARRAYS)
    for array, values in tiny_arrays().items():
        np.testing.assert_array_equal(arrays[array], values)


# --- readers ---------------------------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tgz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def cifar_tiny() -> Arrays:
    """Two images in each of the five training batches and in the test batch."""
    rng = np.random.default_rng(1)
    return {
        "train_images": rng.integers(0, 256, (10, 32, 32, 3), np.uint8),
        "train_labels": np.arange(10, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "test_labels": np.array([7, 3], np.uint8),
    }


def cifar_batches(arrays: Arrays) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        yield f"data_batch_{i + 1}", arrays["train_images"][part], arrays["train_labels"][part]
    yield "test_batch", arrays["test_images"], arrays["test_labels"]


def assert_same(found: Arrays, expected: Arrays) -> None:
    for array in ARRAYS:
        np.testing.assert_array_equal(found[array], expected[array])
        assert found[array].dtype == np.uint8


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- files put there by hand, torchvision, registries -----------------------------------------------------------------


def put_by_hand(folder: Path) -> Path:
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    for array, stem in IDX_FILES.items():
        (downloads / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(tiny_arrays()[array])))
    return downloads
