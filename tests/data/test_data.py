"""Real data against published facts: shapes, checksums, statistics, order of the values.

Real data comes from the user's cache and is fetched once if it is not there; where that is impossible those tests skip.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bsnn.data import DATASETS, DataError, Dataset, load, normalise
from bsnn.data.cache import array_path, dataset_folder, load_arrays
from bsnn.data.specs import ARRAYS, CIFAR10, Arrays
from scripts.data import main
from tests.data.tiny import (
    idx_bytes,
    put_by_hand,
    tiny_spec,
)

# One worker loads the real data, not two; the lock would keep two from fetching it twice.
real_data = pytest.mark.xdist_group("real_data")


@functools.cache
def real_arrays(name: str) -> Arrays:
    spec = DATASETS[name]
    folder = dataset_folder(spec)
    try:
        return load_arrays(spec, folder)
    except DataError as error:
        if all(array_path(folder, array).exists() for array in ARRAYS):
            raise  # damaged, which is not the same as unavailable
        pytest.skip(str(error))


@functools.cache
def real(name: str) -> Dataset:
    real_arrays(name)
    return load(name)


# --- the real data ---------------------------------------------------------------------------------------------------


@real_data
@pytest.mark.parametrize(("name", "d", "n"), [("mnist", 784, 60_000), ("cifar10", 3072, 50_000)])
def test_shapes_and_types(name: str, d: int, n: int) -> None:
    data = real(name)
    assert data.train_x.shape == (n, d)
    assert data.test_x.shape == (10_000, d)
    assert data.train_y.shape == (n,)
    assert data.test_y.shape == (10_000,)
    assert data.spec.features == d
    assert data.train_x.dtype == data.test_x.dtype == torch.float32
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert data.train_x.is_contiguous()


PUBLISHED_IDX_MD5 = {
    "mnist": {
        "train_images": "6bbc9ace898e44ae57da46a324031adb",
        "train_labels": "a25bea736e30d166cdddb491f175f624",
        "test_images": "2646ac647ad5339dbf082846283269ea",
        "test_labels": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train_images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train_labels": "9018921c3c673c538a1fc5bad174d6f9",
        "test_images": "8181f5470baa50b63fa0f6fddb340f0a",
        "test_labels": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


@real_data
@pytest.mark.parametrize("name", PUBLISHED_IDX_MD5)
def test_arrays_make_the_published_idx_files(name: str) -> None:
    if name == "fashion_mnist" and not dataset_folder(DATASETS[name]).exists():
        pytest.skip("Fashion-MNIST is not cached; the paper does not use it")
    arrays = real_arrays(name)
    found = {array: hashlib.md5(idx_bytes(arrays[array])).hexdigest() for array in ARRAYS}
    assert found == PUBLISHED_IDX_MD5[name]


@real_data
def test_cifar10_has_the_published_statistics() -> None:
    """Channel mean and standard deviation to 8 digits, from exact integer sums; labels of the first two batches."""
    arrays = real_arrays("cifar10")
    channels = np.ascontiguousarray(arrays["train_images"].reshape(-1, 3).T)
    n = channels.shape[1]
    mean = channels.sum(1, dtype=np.int64) / n / 255
    std = np.sqrt(np.square(channels, dtype=np.uint16).sum(1, dtype=np.int64) / n / 255**2 - mean**2)
    assert mean == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=5e-9)
    assert std == pytest.approx([0.24703223, 0.24348513, 0.26158784], abs=5e-9)
    labels = arrays["train_labels"]
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert arrays["test_labels"][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(labels[:10_000]).tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert np.bincount(labels[10_000:20_000]).tolist() == [984, 1007, 1010, 995, 1010, 988, 1008, 1026, 987, 985]


@real_data
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_normalised_statistics(name: str) -> None:
    """Mean 0 and standard deviation 1 but for the rounding of the constants to 4 digits, 0.5e-4 / std.

    For CIFAR-10 it is the mean of the images' own (n - 1) standard deviations that is 1: so the paper's constants were
    made. Float32 rounding of single values averages out far below the tolerance.
    """
    data = real(name)
    x_NCP = data.train_x.unflatten(1, (data.spec.image_shape[0], -1))  # images, channels, pixels
    std_NC, mean_NC = torch.std_mean(x_NCP, dim=2)
    mean_C = mean_NC.mean(dim=0, dtype=torch.float64)
    std_C = std_NC.mean(dim=0, dtype=torch.float64) if name == "cifar10" else data.train_x.std()[None]
    tolerance_C = 0.5e-4 / torch.tensor(data.spec.std)
    assert (mean_C.abs() < tolerance_C).all()
    assert ((std_C - 1).abs() < tolerance_C).all()


@real_data
def test_label_counts_and_majority_share() -> None:
    mnist, cifar10 = real("mnist"), real("cifar10")
    assert mnist.train_y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert cifar10.train_y.bincount().tolist() == [5000] * 10
    assert cifar10.test_y.bincount().tolist() == [1000] * 10
    assert mnist.majority_share("train") == 6742 / 60_000
    assert mnist.majority_share() == 1135 / 10_000
    assert cifar10.majority_share("train") == cifar10.majority_share("test") == 0.1


@real_data
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_rows_are_the_images_channels_in_turn(name: str) -> None:
    """PIL splits the image into its channels, numpy normalises each in float32: equal to the bit."""
    data, arrays = real(name), real_arrays(name)
    mean, std = np.float32(data.spec.mean), np.float32(data.spec.std)
    for split, rows in (("train", data.train_x), ("test", data.test_x)):
        for i in (0, 1, 4999, len(rows) - 1):
            bands = Image.fromarray(arrays[f"{split}_images"][i]).split()
            parts = [(np.float32(band) / np.float32(255) - m) / s for band, m, s in zip(bands, mean, std, strict=True)]
            np.testing.assert_array_equal(rows[i].numpy(), np.concatenate([part.ravel() for part in parts]))


def test_normalise_keeps_dtype_and_layout() -> None:
    spec = dataclasses.replace(CIFAR10, image_shape=(3, 2, 2), mean=(0.0, 0.5, 1.0), std=(1.0, 2.0, 0.5))
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    expected = [
        (images[0, i, j, c] / 255 - spec.mean[c]) / spec.std[c] for c in range(3) for i in (0, 1) for j in (0, 1)
    ]
    x = normalise(images, spec, "cpu", torch.float64)
    assert x.dtype == torch.float64
    assert x.tolist() == [pytest.approx(expected, abs=1e-15)]
    half = normalise(images, spec, "cpu", torch.bfloat16)
    assert torch.equal(half, normalise(images, spec, "cpu").bfloat16())  # computed in float32, rounded once


# --- the command and the configuration -------------------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(DATASETS, "mnist", tiny_spec())
    monkeypatch.setenv("BSNN_DATA_DIR", str(tmp_path))
    put_by_hand(tmp_path / "mnist")
    assert main(["nope", "mnist"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"MNIST: {tmp_path / 'mnist'}, 6 train, 4 test, SHA-256 ok, ")
    assert err.splitlines()[0] == "Unknown dataset 'nope': expected one of mnist, cifar10, fashion_mnist."
    assert main(["mnist"]) == 0


@pytest.mark.parametrize("name", DATASETS)
def test_configuration_matches_spec(name: str) -> None:
    path = Path(__file__).parents[2] / "conf" / "dataset" / f"{name}.yaml"
    epochs = {"mnist": 50, "cifar10": 100, "fashion_mnist": 50}[name]
    assert yaml.safe_load(path.read_text()) == {"name": name, "label": DATASETS[name].label, "epochs": epochs}
