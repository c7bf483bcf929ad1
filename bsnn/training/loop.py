"""Training of a stack of cells: the paper's protocol as an iterator over its rows, checkpoints and ends.

Section 3.2 and Table 2: SGD with momentum, no weight decay, no schedule, mini-batches in a fresh random order each
epoch, the last short one kept. Training accuracy is the running mean over the epoch's mini-batches, each before its
update; test accuracy is that of the current weights on the whole test set (the authors' code evaluates with row norms
cached one step earlier).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import Dataset
from bsnn.engine.functions import function_of
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import Measured, Trainable, run_steps
from bsnn.engine.reference import ReferenceStack, needs_reference
from bsnn.engine.stack import SHARED, Stack, in_order
from bsnn.randomness import batch_order
from bsnn.results.metrics import Row, gradient_summary
from bsnn.training import checkpoints
from bsnn.training.checkpoints import Progress

# Samples in an evaluation's batches. A layer's signals of a stack then stay in a CPU's cache, and a GPU is busy enough.
# The number is the same for every stack, so that a cell's losses don't depend on the other cells in it.
EVALUATION_BATCH = {"cpu": 320, "cuda": 2000}
# Seconds of steps that a stack takes before it yields: a training can be stopped within this time.
TOOK_SECONDS = 0.5
# A checkpoint that takes long to write (a GPU's stack has gigabytes) is written less often: it takes at most this
# share of the time.
SAVE_SHARE = 0.1


@dataclass(frozen=True)
class Took:
    """All networks of the stack have taken so many steps; 0 stands for a part of an evaluation."""

    networks: int
    steps: int


@dataclass(frozen=True)
class NewRow:
    """A cell was evaluated, or its checkpoint held this row."""

    index: int
    row: Row


@dataclass(frozen=True)
class Stored:
    """A cell's checkpoint was written, in so many seconds."""

    index: int
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A cell's training is over: it has taken all of its steps, or its loss became nan or inf."""

    index: int
    progress: Progress


Event = Took | NewRow | Stored | Ended


def train(
    cells: Sequence[Cell],
    data: Dataset,
    paths: Sequence[Path],
    *,
    goal: int | None = None,
    checkpoint_seconds: float = 60.0,
    keep_checkpoint: bool = False,
    origins: Sequence[Mapping[str, Any]] | None = None,
) -> Generator[Event, None, None]:
    """Train cells with equal `stack_key`s as one stack and tell what happens, cell by cell.

    Closing the iterator (contextlib.closing) stops the training, also between rows, and writes checkpoints. The same
    call then goes on from there. On the same machine it gives the same numbers, to the bit, as a training that was
    never stopped. If the training itself raises an exception, the checkpoints stay as they were.

    Args:
        data: their dataset, on the device that trains.
        paths: the cells' checkpoints; the training resumes from those that exist, which must be equally far.
        goal: the step to stop at, with checkpoints; None: the last one.
        checkpoint_seconds: the least time between checkpoints; 0: one after every row.
        keep_checkpoint: write one at a cell's end, too.
        origins: for each cell, the provenance of this process for its segments (bsnn.results.records).

    Yields:
        The rows of the checkpoints first, then everything as it happens. Indices are those of `cells`.
    """
    training = _Training(cells, data, paths, goal, checkpoint_seconds, keep_checkpoint, origins)
    try:
        yield from training.run()
    except GeneratorExit:
        training.stop()
        raise


def completed(training: Generator[Event, None, None]) -> list[Progress]:
    """Run a training to its end; returns the final progress of each cell, in their order."""
    with closing(training) as events:
        ends = {event.index: event.progress for event in events if isinstance(event, Ended)}
    return [ends[index] for index in sorted(ends)]


def evaluate(stack: Trainable, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Compute every member's accuracy in percent and mean cross-entropy in nats on (x, y), in evaluation mode."""
    batches = _evaluation(stack, x, y)
    while True:
        try:
            next(batches)
        except StopIteration as done:
            accuracy_K, loss_K = done.value
            return accuracy_K, loss_K


def stack_key(cell: Cell) -> Hashable:
    """Return a key that is equal for cells that can share a stack: same data, shape, optimiser and way of computing."""
    if needs_reference(cell):
        way = "reference"
    else:
        way = "plain" if function_of(cell.make_activation()) is None else "compiled"
    return (*(getattr(cell, name) for name in SHARED), way)


def make_stack(cells: Sequence[Cell], device: torch.device) -> Trainable:
    """Make the cells' networks at their initial weights, with the engine, or bsnn.network where it can't."""
    if any(map(needs_reference, cells)):
        return ReferenceStack(cells, device)
    return Stack(cells, device)


class _Training:
    def __init__(
        self,
        cells: Sequence[Cell],
        data: Dataset,
        paths: Sequence[Path],
        goal: int | None,
        checkpoint_seconds: float,
        keep_checkpoint: bool,
        origins: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        self.index = sorted(range(len(cells)), key=lambda i: in_order(cells[i]))  # of the k-th member
        self.cells, self.paths = [cells[i] for i in self.index], [paths[i] for i in self.index]
        self.data, self.device = data, data.train_x.device
        self.checkpoint_seconds, self.keep_checkpoint = checkpoint_seconds, keep_checkpoint
        if self.device.type == "cpu":
            # A dead network's signals are subnormal numbers, with which a CPU multiplies a hundred times more slowly;
            # what would be below 1e-38 is 0. This thread only.
            torch.set_flush_denormal(True)
        else:
            # For products outside the engine's own kernels. Only one stack at a time trains on a GPU.
            torch.set_float32_matmul_precision("high" if cells[0].dtype == "tf32" else "highest")
        self.stack = make_stack(self.cells, self.device)
        self.origins = [{**({} if origins is None else origins[i]), "way": self.stack.way} for i in self.index]
        on_gpu = self.device.type == "cuda" and isinstance(self.stack, Stack)
        self.run_steps = GraphSteps() if on_gpu else run_steps

        self.states = [self._restored(k) for k in range(len(self.cells))]
        steps = {state.step for state in self.states}
        if len(steps) != 1:
            raise ValueError(f"expected members that are equally far, found steps {sorted(steps)}")
        self.step = steps.pop()
        self.unsaved = False  # True if the checkpoints lack steps, or a row
        self.active = set(range(len(self.cells)))

        cell, images = self.cells[0], len(data.train_x)
        self.per_epoch = math.ceil(images / cell.batch_size)
        self.last = cell.epochs * self.per_epoch
        if cell.max_steps is not None:
            self.last = min(self.last, cell.max_steps)
        self.goal = self.last if goal is None else min(self.last, goal)
        self.evaluations = _evaluation_steps(self.per_epoch, cell.evaluations_per_epoch, self.last)
        self.order_KN: Tensor | None = None  # of the epoch
        self.chunk = 1  # steps to take at once
        self.save_seconds = 0.0  # for one network, the last time
        self.started = _now()
        self.clock = self.saved = time.monotonic()

    def _restored(self, k: int) -> Progress:
        cell, path = self.cells[k], self.paths[k]
        if not path.exists():
            return Progress()
        member, progress = checkpoints.load(path, cell)
        try:
            self.stack.load_member(k, member)
        except Exception as error:
            raise checkpoints.damaged(path, cell, error) from error
        return progress

    def run(self) -> Iterator[Event]:
        for k, state in enumerate(self.states):
            for row in state.rows:
                yield NewRow(self.index[k], Row(**row))
        if not self._due():
            yield from self._ends()
        while self.active:
            if self._due():
                yield from self._rows()
                yield from self._ends()
            elif self.step < self.goal:
                yield self._take_steps()
            else:
                if self.unsaved:
                    yield from self._save(sorted(self.active))
                return
            if self._checkpoint_is_due():
                yield from self._save(sorted(self.active))

    def stop(self) -> None:
        """Write checkpoints of the present state."""
        if self.unsaved:
            for _ in self._save(sorted(self.active)):
                pass

    def _due(self) -> list[int]:
        """List the members that lack the row of this step: after some steps all, after a stop perhaps only a few."""
        here = self.step == 0 or self.step in self.evaluations
        return [k for k in sorted(self.active) if here and self.states[k].rows_step_or(-1) < self.step]

    def _take_steps(self) -> Took:
        epoch, first = divmod(self.step, self.per_epoch)
        if first == 0 or self.order_KN is None:
            self.order_KN = self._orders(epoch)
        batch = self.cells[0].batch_size
        row_step = min(step for step in self.evaluations if step > self.step)
        steps = min(self.chunk, row_step - self.step)
        samples = slice(first * batch, (first + steps) * batch)
        before = time.monotonic()
        measured = self.run_steps(self.stack, self.data, self.order_KN[:, samples], batch, self.cells[0].depth)
        # The first step compiles kernels: the chunk grows by what the next ones take.
        each = (time.monotonic() - before) / steps
        self.chunk = max(1, min(4 * self.chunk, int(TOOK_SECONDS / max(each, 1e-9))))
        self._note(measured)
        self.step += steps
        self.unsaved = True
        return Took(len(self.cells), steps)

    def _orders(self, epoch: int) -> Tensor:
        """Return the epoch's order of every member (K, n); members with one seed share it."""
        images = len(self.data.train_x)
        orders = {seed: batch_order(seed, epoch, images) for seed in {cell.seed for cell in self.cells}}
        return torch.stack([orders[cell.seed] for cell in self.cells]).to(self.device)

    def _note(self, measured: Measured) -> None:
        """Keep what the next row, or a checkpoint before it, needs of the steps."""
        largest_SK, smallest_SK = measured.norms_SLK.max(axis=1), measured.norms_SLK.min(axis=1)
        for k in self.active:
            state = self.states[k]
            columns = measured.loss_SK, measured.correct_SK, largest_SK, smallest_SK
            state.interval += zip(*(column[:, k].tolist() for column in columns), strict=True)
            if state.first_gradient_norms is None:
                state.first_gradient_norms = measured.norms_SLK[0, :, k].tolist()
            state.last_gradient_norms = measured.norms_SLK[-1, :, k].tolist()
            state.step += len(measured.loss_SK)

    def _rows(self) -> Iterator[Event]:
        """Evaluate, and give a row to every member that lacks it."""
        accuracy_K, loss_K = yield from _evaluation(self.stack, self.data.test_x, self.data.test_y)
        self._count_seconds()
        rows = []
        trained = self.step > 0
        for k in self._due():
            state = self.states[k]
            if trained:
                self._add_up(k)
            row = Row(
                epoch=self.step / self.per_epoch,
                step=self.step,
                seconds=state.seconds,
                train_accuracy=100 * state.correct / state.seen if trained else None,
                train_loss=state.loss_sum / state.seen if trained else None,
                test_accuracy=accuracy_K[k],
                test_loss=loss_K[k],
                **gradient_summary(np.array([(largest, smallest) for _, _, largest, smallest in state.interval])),
            )
            state.interval = []
            state.rows.append(row.as_dict())
            rows.append(NewRow(self.index[k], row))
        self.unsaved = self.unsaved or trained
        yield from rows  # after all members have theirs: if the training is stopped here, they are equally far

    def _add_up(self, k: int) -> None:
        """Add the interval since the last row to a member's sums: all of it at once, so that it rounds in one way."""
        state, batch = self.states[k], self.cells[k].batch_size
        steps = len(state.interval)
        losses, correct, _, _ = zip(*state.interval, strict=True)
        first = (self.step - steps) % self.per_epoch
        sizes = np.full(steps, batch)
        sizes[-1] = min(batch, len(self.data.train_x) - (first + steps - 1) * batch)  # an epoch's last one may be short
        if first == 0:
            state.seen, state.correct, state.loss_sum = 0, 0, 0.0
        state.seen += int(sizes.sum())
        state.correct += sum(correct)
        state.loss_sum += float((np.array(losses) * sizes).sum())
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            state.diverged_at_step = self.step - steps + int(bad[0]) + 1

    def _ends(self) -> Iterator[Event]:
        """Take out the members that have diverged, and at the last step all of them."""
        for k in sorted(self.active):
            state = self.states[k]
            if self.step >= self.last or state.diverged_at_step is not None:
                if self.keep_checkpoint and self.unsaved:
                    yield from self._save([k])
                self._sign(k)
                self.active.remove(k)
                yield Ended(self.index[k], state)

    def _checkpoint_is_due(self) -> bool:
        if not self.active or not self.unsaved or self._due():
            return False
        if not self.checkpoint_seconds:
            return self.step in self.evaluations
        wait = max(self.checkpoint_seconds, self.save_seconds * len(self.active) / SAVE_SHARE)
        return time.monotonic() - self.saved >= wait

    def _save(self, members: Sequence[int]) -> Iterator[Event]:
        self._count_seconds()
        stored = []
        for k in members:
            before = time.monotonic()
            self._sign(k)
            checkpoints.save(self.paths[k], self.cells[k], self.stack.member(k), self.states[k])
            self.save_seconds = time.monotonic() - before
            stored.append(Stored(self.index[k], self.save_seconds))
        if set(members) == self.active:
            self.saved, self.unsaved = time.monotonic(), False
        yield from stored

    def _sign(self, k: int) -> None:
        """Add this process's part of the training to a member's segments."""
        segments, origin = self.states[k].segments, self.origins[k]
        done = segments[-1]["last_step"] if segments else 0
        if self.step == done:
            return
        if not segments or segments[-1]["provenance"] != origin:
            segments.append({"first_step": done, "started": self.started, "provenance": origin})
        segments[-1] |= {"last_step": self.step, "finished": _now()}

    def _count_seconds(self) -> None:
        now = time.monotonic()
        for k in self.active:
            self.states[k].seconds += (now - self.clock) / len(self.cells)
        self.clock = now


def _evaluation(stack: Trainable, x: Tensor, y: Tensor) -> Generator[Took, None, tuple[list[float], list[float]]]:
    """Run `evaluate` in parts, between which a training can be stopped."""
    correct_K: Any = 0
    loss_K: Any = 0.0
    networks = len(stack.cells)
    batch = EVALUATION_BATCH[x.device.type]
    for x_BD, y_B in zip(x.split(batch), y.split(batch), strict=True):
        with torch.no_grad():
            logits_KBC = stack.logits(x_BD)
            correct_K = correct_K + (logits_KBC.argmax(dim=2) == y_B).sum(dim=1)
            target = y_B.expand(networks, -1)
            losses_KB = F.cross_entropy(logits_KBC.transpose(1, 2), target, reduction="none")
            loss_K = loss_K + losses_KB.sum(dim=1, dtype=torch.float64)
        yield Took(networks, 0)
    return (100 * correct_K.double() / len(y)).tolist(), (loss_K / len(y)).tolist()


def _evaluation_steps(steps_per_epoch: int, evaluations_per_epoch: int, last_step: int) -> list[int]:
    """List the steps after which a row is due: evenly spaced in each epoch, at its end, and at the last step."""
    within = {math.ceil(steps_per_epoch * k / evaluations_per_epoch) for k in range(1, evaluations_per_epoch + 1)}
    epochs = range(math.ceil(last_step / steps_per_epoch))
    steps = {epoch * steps_per_epoch + step for epoch in epochs for step in within}
    return sorted({step for step in steps if step < last_step} | {last_step})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
