"""Fixtures shared by all tests. One torch thread each: two test processes share two cores."""

from __future__ import annotations

import functools
import os
import signal
import tempfile

os.environ["WANDB_MODE"] = "offline"  # no test may reach the network
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a script's background; the commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # else every child process would compile all of torch anew
    os.environ["PYTHONPYCACHEPREFIX"] = os.path.join(tempfile.gettempdir(), f"bsnn-bytecode-{os.getuid()}")  # noqa: PTH118

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, as torchvision does

from bsnn import plotting
from bsnn.config import register

torch.set_num_threads(1)
register()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True, scope="session")
def _coarse_figures() -> None:
    """Figures made in a test's own process: fewer pixels, and fonts embedded without a search for unused glyphs."""
    plotting.STYLE.update({"savefig.dpi": 30, "pdf.fonttype": 3})
    save = Figure.savefig

    @functools.wraps(save)  # pyplot looks at its name
    def laid_out_once(made: Figure, *arguments: Any, format: str, **options: Any) -> None:
        """Save; a PDF keeps the layout of the PNG before it, since finding one costs as much as drawing."""
        engine = made.get_layout_engine()
        if format == "pdf":
            made.set_layout_engine("none")
        save(made, *arguments, format=format, **options)
        made.set_layout_engine(engine)

    Figure.savefig = laid_out_once  # type: ignore[assignment, method-assign]
