"""bsnn.files: whole or absent, and nothing lost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bsnn.errors import UserError
from bsnn.files import read_json, write_atomically, write_json, write_text


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
