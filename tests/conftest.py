"""Fixtures shared by all tests. One torch thread each: two test processes share two cores."""

from __future__ import annotations

import os

os.environ["WANDB_MODE"] = "offline"  # no test may reach the network
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, as torchvision does

from bsnn.config import register

torch.set_num_threads(1)
register()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT
