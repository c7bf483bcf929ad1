"""Cells of toy size, and the training of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset
from bsnn.results.metrics import Row
from bsnn.training.checkpoints import Progress
from bsnn.training.loop import (
    Event,
    NewRow,
    Took,
    completed,
    train,
)

CELL = Cell(
    dataset="mnist",
    activation="tanh",
    activation_module={"_target_": "torch.nn.Tanh"},
    gpn=True,
    gpn_root="paper",
    batch_norm=True,
    seed=3,
    depth=6,
    width=16,
    epochs=2,
    max_steps=None,
    evaluations_per_epoch=2,
    batch_size=64,
    learning_rate=0.01,
    momentum=0.5,
    dtype="float64",
)


def images(n_train: int = 200, n_test: int = 100) -> Dataset:
    """Noise with a learnable class signal, in the shape of MNIST."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n_train + n_test, 784, generator=g), torch.randint(10, (n_train + n_test,), generator=g)
    x[torch.arange(len(y)), y] += 5
    x = x.double()
    return Dataset(DATASETS["mnist"], x[:n_train], y[:n_train], x[n_train:], y[n_train:])


OTHERS = [
    dataclasses.replace(CELL, activation="relu", activation_module={"_target_": "torch.nn.ReLU"}, batch_norm=False),
    dataclasses.replace(CELL, seed=4, gpn=False),
    dataclasses.replace(CELL, activation="selu", activation_module={"_target_": "torch.nn.SELU"}),
]


def train_one(cell: Cell, data: Dataset, path: Path, on_row: Callable[[Row], None] = lambda row: None) -> Progress:
    """`cell` as a stack of one, with a checkpoint after every row."""
    events = train([cell], data, [path], checkpoint_seconds=0, keep_checkpoint=True)

    def seen() -> Iterator[Event]:
        with closing(events):
            for event in events:
                if isinstance(event, NewRow):
                    on_row(event.row)
                yield event

    (progress,) = completed(seen())
    return progress


def stop_after(took: int, events: Iterator[Event]) -> bool:
    """Take so many `Took`s of at least a step and close the iterator; whether it was stopped by that."""
    with closing(events):
        for event in events:
            took -= isinstance(event, Took) and event.steps > 0
            if took == 0:
                return True
    return False


def without_seconds(progress: Progress) -> dict:
    content = dataclasses.asdict(progress)
    del content["seconds"], content["segments"]
    for row in content["rows"]:
        del row["seconds"]
    return content
