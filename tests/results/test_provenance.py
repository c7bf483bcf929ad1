"""bsnn.results.provenance: a record names the code that made it, or says that it isn't known; never somebody else's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bsnn.errors import UserError
from bsnn.results import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a commit and a folder `copy` in it."""
    folder = tmp_path / "repository"
    (folder / "copy").mkdir(parents=True)
    (folder / "copy" / "code.py").write_text("")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def source(monkeypatch: pytest.MonkeyPatch, root: Path) -> tuple[object, object]:
    """Commit and dirty flag of a record made by the code in `root`, in a process that has just started."""
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.setattr(provenance, "_running", {})
    found = provenance.collect(torch.device("cpu"))
    return found["commit"], found["dirty"]


def test_a_checkout_knows_its_commit_and_whether_files_differ(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert source(monkeypatch, repository) == (head, False)
    (repository / "results").mkdir()
    (repository / "results" / "record.json").write_text("")
    assert source(monkeypatch, repository) == (head, False)
    git(repository, "config", "status.showUntrackedFiles", "no")
    (repository / "new.py").write_text("")
    assert source(monkeypatch, repository) == (head, True)
    assert provenance.knows_commit(head)
    assert not provenance.knows_commit("0" * 40)


def test_a_commit_made_meanwhile_is_not_the_code_that_runs(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    before = source(monkeypatch, repository)
    (repository / "copy" / "code.py").write_text("changed")
    git(repository, "commit", "--quiet", "--all", "--message", "second")
    found = provenance.collect(torch.device("cpu"))
    assert (found["commit"], found["dirty"]) == before == (git(repository, "rev-parse", "HEAD~"), False)


def test_the_index_is_left_alone(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """To write what it found about a touched file git would lock the index against the user's own git."""
    os.utime(repository / "copy" / "code.py", (1, 1))
    before = (repository / ".git" / "index").read_bytes()
    assert source(monkeypatch, repository)[1] is False
    assert (repository / ".git" / "index").read_bytes() == before


@pytest.mark.parametrize("broken", [False, True])
def test_a_copy_in_another_repository_has_none_of_its_commits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, repository: Path, broken: bool
) -> None:
    if broken:
        (repository / "copy" / ".git").mkdir()
    (repository / "copy" / "code.py").write_text("changed")
    assert source(monkeypatch, repository / "copy") == (None, None)
    told = "won't say which code it comes from" if broken else "says bsnn's version, not which commit it comes from"
    assert caplog.text.count(f"the record {told}") == 1


def test_another_owner_is_no_reason_not_to_know(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test its refusal
    with pytest.raises(subprocess.CalledProcessError):
        git(repository, "rev-parse", "HEAD")
    assert source(monkeypatch, repository) == (head, False)


def test_a_git_hook_of_another_repository_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert source(monkeypatch, repository) == (head, False)


def test_a_git_that_fails_is_named_and_vouches_for_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho fatal: too old >&2\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source(monkeypatch, repository) == (None, None)
    assert f"git can't read {repository}" in caplog.text
    assert "(fatal: too old)" in caplog.text
    with pytest.raises(UserError, match="expected a checkout that git can read, found: fatal: too old"):
        provenance.knows_commit("0" * 40)


def test_a_git_that_a_signal_ended_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's preemption reaches all processes of a job."""
    real, calls = subprocess.run, []

    def run(command: list[str], **options: Any) -> Any:
        calls.append(command)
        return subprocess.CompletedProcess(command, -15, "", "") if len(calls) == 1 else real(command, **options)

    monkeypatch.setattr(provenance, "_running", {})  # another test's may be that of a commit made since
    expected = provenance.collect(torch.device("cpu"))["commit"]
    monkeypatch.setattr(provenance, "_running", {})
    monkeypatch.setattr(provenance.subprocess, "run", run)
    assert provenance.collect(torch.device("cpu"))["commit"] == expected
    assert calls[0] == calls[1]


@pytest.mark.parametrize("module", ["experiments.train", "experiments.theory.__main__"])
def test_a_command_is_what_a_reader_types(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name=module), raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "seed=1"])
    found = provenance.collect(torch.device("cpu"))["command"]
    assert found == f"python -m {module.removesuffix('.__main__')} seed=1"


OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found 11040). (Triggered internally at x)"


@pytest.mark.parametrize(
    ("pretend", "found"),
    [
        ({}, "no CUDA device"),
        ({"warning": OLD}, "one that it can't use: CUDA initialization: The NVIDIA driver on your system is too old"),
        ({"mps": True}, "Apple's GPU, which has no float64"),
        ({"nvidia": True, "cuda": None}, "NVIDIA's driver, but is itself built without CUDA"),
    ],
    ids=["none", "old driver", "Apple", "torch for CPUs"],
)
def test_a_gpu_that_is_not_used_is_explained_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pretend: dict[str, Any], found: str
) -> None:
    def available() -> bool:
        if "warning" in pretend:
            warnings.warn(pretend["warning"], stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: pretend.get("mps", False))
    monkeypatch.setattr(torch.version, "cuda", pretend.get("cuda", "12.8"))
    monkeypatch.setattr(provenance, "_nvidia", lambda: pretend.get("nvidia", False))
    with pytest.raises(UserError, match=re.escape(f"device=cuda: expected a GPU that torch can use, found {found}")):
        provenance.choose_device("cuda")
    for _ in range(2):
        assert provenance.choose_device("auto") == provenance.choose_device("cpu") == torch.device("cpu")
    assert [found in message for message in caplog.messages] == [True] * bool(pretend)
