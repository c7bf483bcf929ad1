"""Datasets carried as parts: lossless, small enough, read wherever they lie, or a clear sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bsnn.data import DATASETS, DataError, bundle, cache, load
from bsnn.data.bundle import find_parts, read_parts, write_bundle
from bsnn.data.cache import array_sha256, load_arrays
from bsnn.data.sources import Source
from bsnn.data.specs import ARRAYS, CIFAR10, MNIST, Arrays, DatasetSpec
from scripts import bundle as script
from tests.data.test_data import real_arrays, real_data

G = np.random.default_rng(0)


def small(spec: DatasetSpec, train: int = 70, test: int = 30) -> tuple[DatasetSpec, Arrays]:
    """A dataset of few images, noise beside smooth ones, with right checksums."""
    spec = dataclasses.replace(spec, train_size=train, test_size=test)
    arrays = {}
    for array in ARRAYS:
        shape = spec.array_shape(array)
        values = G.integers(0, 256, shape, np.uint8)
        if len(shape) > 1:
            values[::2] = np.add.outer(np.arange(shape[1]), np.arange(shape[2])).reshape(
                1, *shape[1:3], *[1] * (len(shape) - 3)
            )
        arrays[array] = values
    sums = {array: array_sha256(values) for array, values in arrays.items()}
    return dataclasses.replace(spec, sha256=sums), arrays


def never() -> list[Source]:
    def read(_: Path) -> Arrays:
        pytest.fail("there is a bundle: nothing else may be asked")

    return [Source("nowhere", read)]


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "PART_BYTES", 70_000)
    monkeypatch.setattr(bundle, "PIECE_BYTES", 20_000)


@pytest.fixture
def carried(tmp_path: Path, tiny_parts: None) -> tuple[DatasetSpec, Arrays, Path, list[Path]]:
    """A small CIFAR-10, the folder that it was carried to, and its three or more parts there."""
    spec, arrays = small(CIFAR10)
    folder = tmp_path / "carried"
    parts = write_bundle({spec: arrays}, folder)
    assert len(parts) >= 3
    return spec, arrays, folder, parts


@pytest.mark.usefixtures("tiny_parts")
@pytest.mark.parametrize("spec", [MNIST, CIFAR10])
def test_parts_give_the_data_back(tmp_path: Path, spec: DatasetSpec) -> None:
    spec, arrays = small(spec)
    other, others = small(DATASETS["fashion_mnist"], train=3, test=2)
    paths = write_bundle({spec: arrays, other: others}, tmp_path)
    assert [path.stat().st_size <= bundle.PART_BYTES for path in paths] == [True] * len(paths)
    mine = find_parts(spec, tmp_path)
    assert [*mine, *find_parts(other, tmp_path)] == paths
    found = read_parts(spec, mine)
    assert all(np.array_equal(found[array], arrays[array]) for array in ARRAYS)
    for line in (tmp_path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_bundle({spec: arrays, other: others}, tmp_path)] == before


def test_a_run_reads_parts_that_arrive_one_by_one(carried: tuple[DatasetSpec, Arrays, Path, list[Path]]) -> None:
    """In folders of their own, as three transfers leave them; unpacked once, into the cache."""
    spec, arrays, folder, parts = carried
    aside = [path.rename(folder.parent / path.name) for path in parts]
    for number, path in enumerate(aside):
        if number:
            with pytest.raises(DataError, match=rf"found {number}: .*{aside[number].name}.* missing; copy it there"):
                load_arrays(spec, folder / "cifar10", never())
        transfer = folder / f"transfer-{number % 3}" if number % 2 else folder
        transfer.mkdir(exist_ok=True)
        path.rename(transfer / path.name)
    found = load_arrays(spec, folder / "cifar10", never())
    assert all(np.array_equal(found[array], arrays[array]) for array in ARRAYS)
    assert sorted(path.name for path in (folder / "cifar10").glob("*.npy")) == sorted(f"{a}.npy" for a in ARRAYS)
    for path in folder.rglob("*.part"):
        path.unlink()  # the arrays are in the cache now
    assert load_arrays(spec, folder / "cifar10", never()).keys() == arrays.keys()


def test_damaged_parts_are_named(carried: tuple[DatasetSpec, Arrays, Path, list[Path]]) -> None:
    spec, _, folder, parts = carried
    good = parts[1].read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (good[:-100], bytes(flipped), b""):
        parts[1].write_bytes(bad)
        with pytest.raises(DataError, match=rf"{parts[1].name} is damaged \(.+\): copy it again\.$"):
            load_arrays(spec, folder / "cifar10", never())
    assert not list((folder / "cifar10").glob("*.npy"))


def test_parts_of_other_data_are_refused(carried: tuple[DatasetSpec, Arrays, Path, list[Path]]) -> None:
    """Whole, but not what the checksums say; and parts of two bundles mixed."""
    spec, _, folder, parts = carried
    other = dataclasses.replace(spec, sha256=dict.fromkeys(ARRAYS, "0" * 64))
    with pytest.raises(DataError, match=r"hold other data \(train_images: expected SHA-256 00.*make the bundle again"):
        load_arrays(other, folder / "cifar10", never())
    (folder / "cifar10-1-of-9.part").write_bytes(parts[0].read_bytes())
    with pytest.raises(DataError, match="parts of one bundle of CIFAR-10, found those of several"):
        load_arrays(spec, folder / "cifar10", never())


def test_a_piece_that_is_not_there_is_noticed(carried: tuple[DatasetSpec, Arrays, Path, list[Path]]) -> None:
    spec, _, _, parts = carried
    with zipfile.ZipFile(parts[0]) as part:
        pieces = [(name, part.read(name)) for name in part.namelist()[1:]]
    with parts[0].open("wb") as stream:
        bundle._write_part(stream, pieces)
    with pytest.raises(DataError, match=r"expected 70 items of train_images, found \d+"):
        read_parts(spec, parts)


def test_without_parts_everything_is_as_ever(tmp_path: Path) -> None:
    asked: list[str] = []

    def read(_: Path) -> Arrays:
        asked.append("source")
        raise DataError("no network")

    (tmp_path / "mnist-1-of-1.part").write_bytes(b"")  # another dataset's
    with pytest.raises(DataError, match="no network"):
        load_arrays(CIFAR10, tmp_path / "cifar10", [Source("a source", read)])
    assert asked == ["source"]


@real_data
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_real_data_fits_and_comes_back(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_arrays(name)
    script.main([str(tmp_path), name])
    parts = find_parts(DATASETS[name], tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == len(parts) == {"mnist": 1, "cifar10": 3}[name]
    assert max(path.stat().st_size for path in parts) <= 48e6
    assert sum(path.stat().st_size for path in parts) <= 110e6
    monkeypatch.setattr(cache, "sources", lambda *_: never())
    monkeypatch.setenv("BSNN_DATA_DIR", str(tmp_path))
    assert len(load(name).train_y) == DATASETS[name].train_size


def test_the_command(tmp_path: Path, root: Path) -> None:
    command: Callable[..., subprocess.CompletedProcess[str]] = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "scripts.bundle", *arguments], cwd=root, capture_output=True, text=True, timeout=120
    )
    done = command(str(tmp_path), "nope")
    assert done.returncode == 1
    assert done.stderr == "error: Unknown dataset 'nope': expected one of mnist, cifar10, fashion_mnist.\n"
