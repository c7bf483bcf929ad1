"""The origin of a number: commit, versions, device, command. It is part of every record."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from bsnn.errors import UserError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("bsnn", "torch", "torchvision", "triton", "hydra-core", "wandb", "numpy", "scipy", "pandas", "matplotlib")


def collect(device: torch.device, command: str | None = None) -> dict[str, Any]:
    """Describe this process for a record. `command` makes the result again; default: this process's own.

    `commit` is None if this isn't a git checkout of its own, or if git can't read it. `dirty` is true if a file that
    makes results differs from the commit, and None if that isn't known. Changed files under results/ don't count, since
    runs produce them.
    """
    commit, dirty = _source()
    return {
        "commit": commit,
        "dirty": dirty,
        "command": command or _command(),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
    }


def knows_commit(commit: str) -> bool:
    """True if `commit` is the full name of a commit and, in a git checkout, the checkout has it.

    Raises UserError for a checkout that git can't read.
    """
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        return False
    try:
        if not _is_checkout():
            return True
        _git("rev-parse", "--verify", "HEAD^{commit}")
    except GitError as error:
        raise UserError(f"{ROOT}: expected a checkout that git can read, found: {error}.") from error
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def choose_device(name: str) -> torch.device:
    """Return the GPU for `auto` where torch can use one, else the CPU. Raises UserError for `cuda` where it can't.

    One line in the log says why a GPU that may exist isn't used.
    """
    reason = None if name == "cpu" else _no_gpu()
    if name == "cuda" and reason is not None:
        raise UserError(f"device=cuda: expected a GPU that torch can use, found {reason}; use device=cpu or auto.")
    if reason not in (None, NO_GPU):
        _warn(f"device=auto: the CPU is used, for torch found {reason}")
    return torch.device("cuda" if name != "cpu" and reason is None else "cpu")


NO_GPU = "no CUDA device"


def _no_gpu() -> str | None:
    """Say what torch found instead of a GPU of NVIDIA's or AMD's; None if it found one."""
    with warnings.catch_warnings(record=True) as said:  # torch warns of a driver that is too old, and continues
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if said:
        return "one that it can't use: " + " ".join(str(said[0].message).split("(Triggered internally")[0].split())
    if torch.backends.mps.is_available():
        return "Apple's GPU, which has no float64 and for which the engine has no kernels"
    if _nvidia() and torch.version.cuda is None and torch.version.hip is None:
        return "NVIDIA's driver, but is itself built without CUDA: install a torch that has it"
    return NO_GPU


def _nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


class GitError(Exception):
    """git gave no answer; the message is its own reason."""


_running: dict[Path, tuple[str, bool]] = {}
"""The commit that this process runs, and whether files differed from it, by ROOT.

The first answer is kept: a commit made while a training goes on is not the code that trains.
"""


def _source() -> tuple[str | None, bool | None]:
    """Find the commit of the code and whether files differ from it; None for what is unknown, which is logged once."""
    if ROOT in _running:
        return _running[ROOT]
    try:
        if not _is_checkout():
            _warn(f"{ROOT} is no git checkout: the record says bsnn's version, not which commit it comes from")
            return None, None
        # Files count also if the user has told git not to show them.
        changed = _git("status", "--porcelain", "--untracked-files=normal", "--", ".", ":!results")
        _running[ROOT] = _git("rev-parse", "HEAD"), bool(changed)
        return _running[ROOT]
    except GitError as error:
        _warn(f"git can't read {ROOT}: the record won't say which code it comes from ({error})")
        return None, None


@functools.cache
def _warn(text: str) -> None:
    log.warning(text)


def _is_checkout() -> bool:
    """True if this folder is the root of a git checkout, and not a copy within another one."""
    return (ROOT / ".git").exists()


def _git(*arguments: str) -> str:
    # A lock on the index would make the user's own git fail meanwhile.
    # The code of this folder is running already, so a foreign owner is no reason to distrust it.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={ROOT}", *arguments]
    # In a git hook, variables such as GIT_DIR name another repository.
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATIONS}
    environment["GIT_CEILING_DIRECTORIES"] = str(ROOT.parent)  # a repository around this one isn't this one's
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
        if done.returncode < 0:  # a signal meant for this process, as at a cluster's preemption
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        raise GitError(" ".join(error.stderr.split()) or str(error)) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise GitError(str(error)) from error
    return done.stdout.strip()


_GIT_LOCATIONS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"}


def _command() -> str:
    """Return the command line without this machine's paths: `python -m experiments.train seed=1`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec is not None else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
