"""bsnn.engine.library: a cached library that is no good is built anew, or the engine does without; nothing crashes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import pwd
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bsnn.engine import cpu, library
from bsnn.engine.passes import LayerState

COMPILER = shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

FLAGS = ("-fPIC",)


class Place:
    """A cache, a source, and a compiler that notes when it compiles."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.source, self.notes = folder / "cache", folder / "answer.cpp", folder / "notes"
        self.source.write_text('extern "C" int answer() { return 42; }')
        self.compiler = folder / "c++"
        self.version("1.0")

    def version(self, version: str) -> None:
        """Make it a compiler of that version."""
        script = f'''#!/bin/sh
if [ "$1" = --version ]; then echo {version}; exit; fi
echo built >> "{self.notes}"
exec "{COMPILER}" "$@"
'''
        self.compiler.write_text(script)
        self.compiler.chmod(0o755)

    def load(self, prepare: Callable[[ctypes.CDLL], object] = lambda made: None) -> ctypes.CDLL | None:
        made = library.load(self.source, FLAGS, prepare)
        assert made is None or made.answer() == 42
        return made

    @property
    def built(self) -> int:
        return len(self.notes.read_text().splitlines()) if self.notes.exists() else 0

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.cache))
    monkeypatch.setenv("CXX", str(made.compiler))
    return made


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_it_is_built_once_and_is_whole_when_it_has_its_name(place: Place) -> None:
    assert place.load()
    assert place.load()
    assert place.built == 1
    [path] = place.files
    content = path.read_bytes()
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize("damage", [lambda _: b"", lambda whole: whole[: len(whole) // 2], lambda _: signed(b"x" * 9)],
                         ids=["empty", "truncated", "no library"])  # fmt: skip
def test_a_damaged_one_is_built_anew(
    place: Place, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    """It lies there before the process starts: a file that is mapped already must not be changed."""
    compiler, temporary = [str(place.compiler)], place.source.with_suffix(".so")
    path = library._cached(compiler, place.source, FLAGS)
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(damage(library._built(compiler, place.source, FLAGS, temporary)))
    assert place.load()
    assert place.load()
    assert place.built == 2
    assert not warnings_of(caplog)


def test_its_name_knows_compiler_c_library_and_cpu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.load()
    place.version("1.1")
    assert place.load()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.0"))
    assert place.load()
    monkeypatch.setattr(library, "_cpu", lambda: "another")
    assert place.load()
    assert place.built == len(place.files) == 4


def test_where_the_cache_does_not_execute_each_process_builds(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = ctypes.CDLL

    def noexec(name: str) -> ctypes.CDLL:
        if name.startswith(str(place.cache)):
            raise OSError(f"{name}: failed to map segment from shared object")
        return opened(name)

    monkeypatch.setattr(ctypes, "CDLL", noexec)
    assert place.load()
    [warning] = warnings_of(caplog)
    assert "built anew in every process" in warning
    assert "failed to map segment" in warning


def unwritable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.cache.write_text("a file")


def homeless(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("trouble", [unwritable, homeless])
def test_without_a_cache_it_is_built_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Place, pytest.MonkeyPatch], None]
) -> None:
    trouble(place, monkeypatch)
    assert place.load()
    assert place.built == 1


def unloadable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def cdll(name: str) -> Any:
        raise OSError("version GLIBC_9.99 not found")

    monkeypatch.setattr(ctypes, "CDLL", cdll)


def failing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.source.write_text("no C++")


def missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler -O2")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [(unloadable, "GLIBC_9.99 not found"), (failing, "error"), (missing, "No such file or directory")],
)
def test_what_cannot_be_had_is_one_warning(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[Place, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    trouble(place, monkeypatch)
    assert place.load() is None
    [warning] = warnings_of(caplog)
    assert "it runs in plain torch" in warning
    assert message in warning
    assert place.built <= 1


def test_a_library_that_computes_wrongly_is_not_used(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def prove(made: ctypes.CDLL) -> None:
        raise RuntimeError("41 isn't 42")

    assert place.load(prove) is None
    [warning] = warnings_of(caplog)
    assert "41 isn't 42" in warning


def test_one_that_is_no_good_does_not_stand_in_for_the_one_built_after_it(place: Place) -> None:
    """The loader would return the first again if the second were opened under its name."""
    compiler, built = [str(place.compiler)], place.source.with_suffix(".so")
    path = library._cached(compiler, place.source, FLAGS)
    assert path is not None
    path.parent.mkdir(parents=True)
    right = place.source.read_text()
    place.source.write_text(right.replace("42", "41"))
    path.write_bytes(library._built(compiler, place.source, FLAGS, built))
    place.source.write_text(right)

    def prove(made: ctypes.CDLL) -> None:
        if made.answer() != 42:
            raise RuntimeError("not 42")

    assert place.load(prove)
    assert place.files == [path]
    assert place.built == 2  # the wrong one and the right one


def test_the_kernels_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cpu.kernels()
    assert made is not None
    cpu._prepare(made)
    right = cpu.value_and_slope
    monkeypatch.setattr(cpu, "value_and_slope", lambda *given: (right(*given)[0], 1.01 * right(*given)[1]))
    with pytest.raises(RuntimeError, match="the compiled tanh isn't right"):
        cpu._prepare(made)


def test_the_kernels_are_proved_on_the_cpu_whatever_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of another device's tensors, passed to C++, would end the process."""
    made = cpu.kernels()
    assert made is not None
    devices, passes = [], cpu.CompiledPasses

    def noting(state: LayerState, *given: Any) -> Any:
        devices.append(state.V.device.type)
        assert state.V.device.type == "cpu"
        return passes(state, *given)

    monkeypatch.setattr(cpu, "CompiledPasses", noting)
    with torch.device("meta"):
        cpu._prepare(made)
    assert set(devices) == {"cpu"}


def test_stacks_that_start_together_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(*_: object) -> None:
        calls.append(time.sleep(0.01))

    cpu._kernels.cache_clear()
    monkeypatch.setattr(cpu, "load", load)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cpu.kernels(), range(4)))
    cpu._kernels.cache_clear()
    assert len(calls) == 1
