"""A grid of toy cells, its jobs, and what was trained together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from bsnn.config import CONF, TrainConfig, checked
from bsnn.data import DATASETS, Dataset
from bsnn.results.records import Record
from bsnn.training import runner
from bsnn.training.runner import Job
from tests.factories import CLOCK_AND_ORIGIN

GRID = [
    f"activation={name} gpn={gpn} batch_norm={bn}" for name in ("relu", "selu") for gpn, bn in ((0, 0), (1, 0), (1, 1))
]


class Plain(nn.Module):
    """Not one of the engine's functions: computed by torch, with others of this file in one stack."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Nan(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


class Fuse(Plain):
    """Blows after some calls in training; what is only tried out is smaller."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= x.numel() > 100
        if self.calls < 0:
            raise RuntimeError("boom")
        return super().forward(x)


def module(name: str, **arguments: int) -> str:
    """Overrides for an activation of this file."""
    extra = "".join(f" +activation.module.{key}={value}" for key, value in arguments.items())
    return f"activation=gelu activation.name={name.lower()} activation.module._target_={__name__}.{name}{extra}"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Noise instead of images, and not much of it; the names of what is loaded. Results land in the test's folder."""
    loaded = []

    def load(name: str, device: torch.device, dtype: torch.dtype, _: str | None) -> Dataset:
        loaded.append(name)
        g = torch.Generator().manual_seed(0)
        x = torch.randn(600, DATASETS[name].features, generator=g, dtype=dtype)
        y = torch.randint(10, (600,), generator=g)
        return Dataset(DATASETS[name], x[:500], y[:500], x[500:], y[500:])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "load", load)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    runner._loaded.cache_clear()
    yield loaded
    runner._loaded.cache_clear()


def config(overrides: str) -> TrainConfig:
    shared = "budget=smoke tracking=none depth=5 max_steps=null evaluations_per_epoch=4 learning_rate=0.01"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("train", f"{shared} {overrides}".split()), TrainConfig)


def jobs(*overrides: str, shared: str = "") -> list[Job]:
    return [Job(config(f"{line} {shared}"), {}) for line in overrides]


def comparable(record: Record | BaseException | None) -> Record:
    """A record without the clock and where it comes from. All else is the same to the bit, in whatever stack."""
    assert isinstance(record, dict), record
    kept = {key: value for key, value in record.items() if key not in CLOCK_AND_ORIGIN}
    rows = [row | {"seconds": 0} for row in record["rows"]]
    return kept | {"rows": repr(rows), "gradient_norms": repr(kept["gradient_norms"])}  # nan equals itself there


def statuses(outcomes: list[Any]) -> list[str]:
    return [outcome["status"] if isinstance(outcome, dict) else type(outcome).__name__ for outcome in outcomes]
