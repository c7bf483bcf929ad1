"""Where a number comes from: commit, versions, device, command. Part of every record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bsnn.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "triton", "hydra-core", "wandb", "numpy", "scipy", "pandas", "matplotlib")


def collect(device: torch.device, command: str | None = None) -> dict[str, Any]:
    """What this process runs on and from. `command` is what makes the result again; default: this process's own.

    `commit` is None outside a git checkout. `dirty` is whether a file that makes results differs from the commit;
    changed files under results/ don't count, since they are what runs produce.
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!results")),
        "command": command or _command(),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
    }


def knows_commit(commit: str) -> bool:
    """Whether `commit` is the full name of one: in a git checkout, of one that it has."""
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        return False
    return _git("rev-parse", "HEAD") is None or _git("cat-file", "-e", f"{commit}^{{commit}}") is not None


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one, else the CPU. Raises UserError for cuda where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda: torch finds no CUDA device on this machine; use device=cpu or device=auto.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _command() -> str:
    """The command line without this machine's paths: `python -m experiments.train seed=1`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
