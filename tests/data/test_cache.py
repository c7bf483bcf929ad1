"""The cache against damage, kill -9, full disks and races."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from bsnn.data import DataError
from bsnn.data.cache import array_path, array_sha256, load_arrays, read_array
from bsnn.data.sources import Source
from bsnn.data.specs import Arrays
from tests.data.tiny import (
    GOOD,
    assert_tiny,
    tiny_arrays,
    tiny_spec,
)


def raise_data_error(work: Path) -> Arrays:
    raise DataError("out of\nreach")


def test_fetches_once_then_reads(folder: Path) -> None:
    assert_tiny(load_arrays(tiny_spec(), folder, [GOOD]))
    assert_tiny(load_arrays(tiny_spec(), folder, []))  # no source left: it must come from the cache
    assert not list(folder.glob(".fetch-*"))


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
