"""bsnn.files: whole or absent, and nothing lost."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bsnn.errors import UserError
from bsnn.files import locked, read_json, try_lock, user_path, write_atomically, write_json, write_text


def test_json_round_trip_with_infinity_and_nan(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, math.inf, -math.inf, None, True, "text"], "b": {"c": 0.1 + 0.2}}
    write_json(tmp_path / "x" / "v.json", value)
    assert read_json(tmp_path / "x" / "v.json") == value
    write_json(tmp_path / "n.json", [math.nan])
    assert math.isnan(read_json(tmp_path / "n.json")[0])
    assert '"nan"' in (tmp_path / "n.json").read_text()  # strict JSON, which any tool reads


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def fail(stream: object) -> None:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"record\.json: could not be written .*choose another place"):
        write_text(tmp_path / "file" / "record.json", "x")


def test_a_full_disk_is_a_users_mistake(tmp_path: Path) -> None:
    def no_space(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        write_atomically(tmp_path / "record.json", no_space)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_torch_save_is_a_users_mistake(tmp_path: Path) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

    with pytest.raises(UserError, match="No space left on device"):
        write_atomically(tmp_path / "checkpoint.pt", lambda _: torch.save(torch.ones(1000), Full()))
    assert not list(tmp_path.iterdir())


def test_an_error_of_something_else_is_not_blamed_on_the_place(tmp_path: Path) -> None:
    """matplotlib looks for LaTeX while it writes; the sentence sent users to the folder's permissions."""

    def without_latex(stream: object) -> None:
        try:
            raise FileNotFoundError(2, "No such file or directory", "latex")
        except FileNotFoundError as error:
            raise RuntimeError("latex could not be found") from error

    with pytest.raises(RuntimeError, match="latex could not be found"):
        write_atomically(tmp_path / "fig1.png", without_latex)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "fig1.png", lambda _: (_ for _ in ()).throw(PermissionError(13, "no", "/a/font")))
    assert not list(tmp_path.iterdir())


def test_damaged_json_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"a": 1')
    with pytest.raises(UserError, match=r"r\.json: expected JSON, found a damaged file"):
        read_json(tmp_path / "r.json")


def test_files_written_from_many_threads_have_the_mode_that_the_umask_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the process keeps its umask. It is process-wide: reading it by changing it is a race, which a pause shows."""
    umask = os.umask

    def slow_umask(mask: int) -> int:
        before = umask(mask)
        time.sleep(0.001)
        return before

    before = umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", slow_umask)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda k: write_text(tmp_path / f"{k}.json", "x"), range(20)))
        kept = umask(0o027)
    finally:
        umask(before)
    assert kept == 0o027
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No lock file takes flock's place: it would outlive a killed run, which then waited for itself for ever."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"{tmp_path}: expected a file system with file locks, found .*{os.strerror(number)}.*another one"
    with pytest.raises(UserError, match=message):
        try_lock(tmp_path)
    with pytest.raises(UserError, match=message), locked(tmp_path, lambda: pytest.fail("nobody holds it")):
        pass
    monkeypatch.undo()
    lock = try_lock(tmp_path)  # what was refused leaves nothing behind that holds the folder
    assert lock is not None
    lock.release()


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/x") == Path("/home/somebody/x")
    assert user_path("x/~") == Path("x/~")
    with pytest.raises(UserError, match=r"~nobody-has-this-name/x: expected a home directory for ~, found none"):
        user_path("~nobody-has-this-name/x")
