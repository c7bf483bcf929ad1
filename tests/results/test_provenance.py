"""bsnn.results.provenance: a record names the code that made it, or says that it isn't known; never somebody else's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
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
    """Commit and dirty flag of a record made by the code in `root`."""
    monkeypatch.setattr(provenance, "ROOT", root)
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
    assert caplog.text.count("the record won't say which code it comes from") == 1


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

    expected = provenance.collect(torch.device("cpu"))["commit"]
    monkeypatch.setattr(provenance.subprocess, "run", run)
    assert provenance.collect(torch.device("cpu"))["commit"] == expected
    assert calls[0] == calls[1]
