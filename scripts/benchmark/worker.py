"""Another checkout's engine as a contestant: the same code, importing that checkout's bsnn, in a process of its own.

scripts.benchmark starts it with that checkout first on the path. Each request is one line: a case, which makes a
contestant, or "step", which takes its step.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.benchmark.contestants import Case, Contestant


class Rival:
    """The engine of the checkout in `folder`."""

    def __init__(self, folder: Path) -> None:
        commit = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        self.name = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
        environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )

    def contestant(self, case: Case, like: Contestant, cores: int) -> Contestant:
        """Make the contestant `like` with the other engine. It replaces the one made before."""
        self._ask({"width": case.width, "batch_norm": case.batch_norm, "function": case.function, "cores": cores})
        return like._replace(name=f"{like.name} of {self.name}", step=lambda: self._ask("step"))

    def _ask(self, request: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise RuntimeError(f"the engine of {self.name} ended: {self.process.wait()}")


def serve() -> None:
    import torch

    from bsnn.config import register

    # imported by its bare name, since `scripts` is that checkout's
    contestants = importlib.import_module("contestants")
    register()
    torch.set_flush_denormal(True)
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        if request == "step":
            assert step is not None
            step()
        else:
            step = None  # free the memory first
            cores = request.pop("cores")
            step = contestants.all_cores(contestants.Case(**request), torch.device("cpu"), cores).step
        print("done", flush=True)


if __name__ == "__main__":
    serve()
