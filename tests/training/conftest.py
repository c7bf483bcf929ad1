"""Fixtures that several tests of bsnn.training ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from bsnn.training import loop as training
from bsnn.training import runner
from bsnn.training.loop import Event, Took


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every `Took` a single step."""
    monkeypatch.setattr(training, "TOOK_SECONDS", 0.0)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of each stack's cells, as `train` is called."""
    called: list[list[str]] = []
    real = runner.train

    def train(cells: Any, *arguments: Any, **options: Any) -> Any:
        called.append([cell.name for cell in cells])
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", train)
    return called


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with a number of steps: each stack under a limit stops when it has made so many; 0: no limit any more."""
    allowed = taken = 0
    real = runner.train

    class Steps:
        def __init__(self, deadline: float | None, _: object) -> None:
            nonlocal taken
            self.limited, taken = deadline is not None and allowed > 0, 0

        def stored(self, seconds: float) -> None: ...

        def is_up(self, networks: int) -> bool:
            return self.limited and taken >= allowed

    def counted(*arguments: Any, **options: Any) -> Iterator[Event]:
        nonlocal taken
        with closing(real(*arguments, **options)) as events:
            for event in events:
                taken += event.steps if isinstance(event, Took) else 0
                yield event

    def allow(steps: int) -> None:
        nonlocal allowed
        allowed = steps

    monkeypatch.setattr(runner, "Countdown", Steps)
    monkeypatch.setattr(runner, "train", counted)
    monkeypatch.setattr(training, "TOOK_SECONDS", 0.0)
    return allow
