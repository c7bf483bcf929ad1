"""Training of cells: the paper's protocol, with rows of metrics, checkpoints and exact resumption.

Section 3.2 and Table 2: SGD with momentum, no weight decay, no schedule, mini-batches in a fresh random order each
epoch, the last short one kept. Training accuracy is the running mean over the epoch's mini-batches, each before its
update; test accuracy is that of the current weights on the whole test set (the authors' code evaluates with row norms
cached one step earlier).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn import checkpoints
from bsnn.cell import Cell
from bsnn.checkpoints import Progress, checkpoint_step
from bsnn.data import Dataset
from bsnn.engine.functions import function_of
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import Interrupted, Measured, Trainable, run_steps
from bsnn.engine.stack import SHARED, Stack, in_order
from bsnn.metrics import Row, gradient_summary
from bsnn.randomness import batch_order
from bsnn.reference import ReferenceStack
from bsnn.timelimit import OutOfTime, Pace

__all__ = ["Interrupted", "Progress", "checkpoint_step", "evaluate", "make_stack", "stack_key", "train"]

# Samples in an evaluation's batches: a layer's signals of a stack then stay in a CPU's cache, and a GPU has enough to
# do. The same for every stack, so that a cell's losses don't depend on its company.
EVALUATION_BATCH = {"cpu": 320, "cuda": 2000}
# Checkpoints that take long to write (a GPU's stack has gigabytes) are written less often: in a tenth of the time.
SAVE_SHARE = 0.1


def stack_key(cell: Cell) -> Hashable:
    """Cells with equal keys can share a stack: same data, shape and optimiser, and same way of being computed."""
    activation = cell.make_activation()
    if any(True for _ in activation.parameters()):
        way = "reference"
    else:
        way = "plain" if function_of(activation) is None else "compiled"
    return (*(getattr(cell, name) for name in SHARED), way)


def make_stack(cells: Sequence[Cell], device: torch.device) -> Trainable:
    """The cells at their initial weights: a stack of the engine, or of bsnn.network for functions with parameters."""
    if any(True for cell in cells for _ in cell.make_activation().parameters()):
        return ReferenceStack(cells, device)
    return Stack(cells, device)


def train(
    cells: Sequence[Cell],
    data: Dataset,
    paths: Sequence[Path],
    *,
    on_row: Callable[[int, Row], None] = lambda index, row: None,
    on_end: Callable[[int, Progress], None] = lambda index, progress: None,
    on_step: Callable[[int], None] = lambda networks: None,
    stop: threading.Event | None = None,
    checkpoint_seconds: float = 60.0,
    keep_checkpoint: bool = False,
    deadline: float | None = None,
) -> list[Progress]:
    """Train cells with equal `stack_key`s as one stack, each to its end or until its loss is nan or inf.

    Args:
        data: their dataset, on the device that trains.
        paths: the cells' checkpoints; those that exist are resumed from, and must be equally far.
        on_row: called with a cell's index and each of its rows, those restored from the checkpoint included.
        on_end: called once for each cell, as soon as it has ended, also where the others go on.
        on_step: called with the number of networks after each step.
        stop: when set, training ends with Interrupted; the checkpoints are kept.
        checkpoint_seconds: the least time between checkpoints, which are written after rows only; 0: after each row.
        keep_checkpoint: write the last one too.
        deadline: of time.monotonic(); training ends before it with checkpoints of where it is, between rows too, and
            with OutOfTime.

    The numbers of a resumed training equal those of an uninterrupted one to the bit, on the same machine.
    """
    training = _Training(cells, data, paths, on_row, on_end, on_step, stop, deadline)
    return training.run(checkpoint_seconds, keep_checkpoint)


class _Training:
    def __init__(
        self,
        cells: Sequence[Cell],
        data: Dataset,
        paths: Sequence[Path],
        on_row: Callable[[int, Row], None],
        on_end: Callable[[int, Progress], None],
        on_step: Callable[[int], None],
        stop: threading.Event | None,
        deadline: float | None,
    ) -> None:
        self.index = sorted(range(len(cells)), key=lambda i: in_order(cells[i]))  # of the k-th member
        self.cells, self.paths = [cells[i] for i in self.index], [paths[i] for i in self.index]
        self.data, self.on_row, self.on_end, self.on_step, self.stop = data, on_row, on_end, on_step, stop
        self.device = data.train_x.device
        if self.device.type == "cpu":
            # A dead network's signals are subnormal numbers, with which a CPU multiplies a hundred times more slowly;
            # what would be below 1e-38 is 0. This thread only.
            torch.set_flush_denormal(True)
        else:
            # the products outside the engine's own kernels; one stack at a time trains on a GPU
            torch.set_float32_matmul_precision("high" if cells[0].dtype == "tf32" else "highest")
        self.stack = make_stack(self.cells, self.device)
        on_gpu = self.device.type == "cuda" and isinstance(self.stack, Stack)
        self.run_steps = GraphSteps() if on_gpu else run_steps
        self.states = [self._restored(k) for k in range(len(self.cells))]
        steps = {state.step for state in self.states}
        if len(steps) != 1:
            raise ValueError(f"expected members that are equally far, found steps {sorted(steps)}")
        self.step = self.saved_step = steps.pop()
        self.pace = Pace(deadline, self.cells, len(data.test_x) / self.cells[0].batch_size)
        self.active = set(range(len(self.cells)))

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

    def run(self, checkpoint_seconds: float, keep_checkpoint: bool) -> list[Progress]:
        cell, n = self.cells[0], len(self.data.train_x)
        per_epoch = math.ceil(n / cell.batch_size)
        last = cell.epochs * per_epoch
        if cell.max_steps is not None:
            last = min(last, cell.max_steps)
        evaluations = _evaluation_steps(per_epoch, cell.evaluations_per_epoch, last)
        for k, state in enumerate(self.states):
            for row in state.rows:
                self.on_row(self.index[k], Row(**row))
        self.clock, self.saved = time.monotonic(), time.monotonic()
        if not self.states[0].rows:
            self._finish_rows(per_epoch)
        self._end_members(last)
        order_KN: Tensor | None = None
        while self.active:
            epoch, first = divmod(self.step, per_epoch)
            if first == 0 or order_KN is None:
                order_KN = self._orders(epoch, n)
            row_step = min(step for step in evaluations if step > self.step)
            steps = self.pace.steps(row_step - self.step, len(self.active))
            if steps == 0:
                self._stop_in_time()
            samples = slice(first * cell.batch_size, (first + steps) * cell.batch_size)
            before = time.monotonic()
            measured = self.run_steps(
                self.stack,
                self.data,
                order_KN[:, samples],
                cell.batch_size,
                cell.depth,
                self.on_step,
                self.stop,
            )
            self._note(measured)
            self.step += steps
            self.pace.took(steps, time.monotonic() - before)
            if self.step < row_step:
                continue
            self._finish_rows(per_epoch)
            self._save_checkpoints(last, checkpoint_seconds, keep_checkpoint)
            self._end_members(last)
        return [self.states[self.index.index(i)] for i in range(len(self.index))]

    def _orders(self, epoch: int, n: int) -> Tensor:
        """The epoch's order of every member (K, n); members with one seed share it."""
        orders = {seed: batch_order(seed, epoch, n) for seed in {cell.seed for cell in self.cells}}
        return torch.stack([orders[cell.seed] for cell in self.cells]).to(self.device)

    def _note(self, measured: Measured) -> None:
        """Keep what a row, or a checkpoint before it, needs of the steps."""
        largest_SK, smallest_SK = measured.norms_SLK.max(axis=1), measured.norms_SLK.min(axis=1)
        for k in self.active:
            state = self.states[k]
            columns = measured.loss_SK, measured.correct_SK, largest_SK, smallest_SK
            state.interval += zip(*(column[:, k].tolist() for column in columns), strict=True)
            if state.first_gradient_norms is None:
                state.first_gradient_norms = measured.norms_SLK[0, :, k].tolist()
            state.last_gradient_norms = measured.norms_SLK[-1, :, k].tolist()
            state.step += len(measured.loss_SK)

    def _add_up(self, k: int, per_epoch: int) -> None:
        """Add the interval since the last row to a member's sums: all of it at once, so that it rounds in one way."""
        state, batch = self.states[k], self.cells[k].batch_size
        steps = len(state.interval)
        losses, correct, _, _ = zip(*state.interval, strict=True)
        first = (self.step - steps) % per_epoch
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

    def _finish_rows(self, per_epoch: int) -> None:
        """Evaluate, and give every active member its row."""
        before = time.monotonic()
        accuracy_K, loss_K = evaluate(self.stack, self.data.test_x, self.data.test_y)
        self.pace.evaluated(time.monotonic() - before)
        self._count_seconds()
        for k in sorted(self.active):
            state = self.states[k]
            trained = self.step > 0
            if trained:
                self._add_up(k, per_epoch)
            row = Row(
                epoch=self.step / per_epoch,
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
            self.on_row(self.index[k], row)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        for k in self.active:
            self.states[k].seconds += (now - self.clock) / len(self.cells)
        self.clock = now

    def _save_checkpoints(self, last: int, seconds: float, keep: bool) -> None:
        wait = max(seconds, self.pace.save_seconds(len(self.active)) / SAVE_SHARE) if seconds else 0.0
        due = time.monotonic() - self.saved >= wait
        self._save([k for k in sorted(self.active) if (keep if self._ends(k, last) else due)])
        if due:
            self.saved, self.saved_step = time.monotonic(), self.step

    def _save(self, members: Sequence[int]) -> None:
        before = time.monotonic()
        for k in members:
            checkpoints.save(self.paths[k], self.cells[k], self.stack.member(k), self.states[k])
        if members:
            self.pace.saved(len(members), time.monotonic() - before)

    def _stop_in_time(self) -> NoReturn:
        if self.step > self.saved_step:
            self._count_seconds()
            self._save(sorted(self.active))
        raise OutOfTime(f"stopped by the time limit at step {self.step}")

    def _ends(self, k: int, last: int) -> bool:
        return self.step >= last or self.states[k].diverged_at_step is not None

    def _end_members(self, last: int) -> None:
        """Take out the members that have diverged, and at the last step all."""
        for k in sorted(self.active):
            if self._ends(k, last):
                self.active.remove(k)
                self.on_end(self.index[k], self.states[k])


@torch.no_grad()
def evaluate(stack: Trainable, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Every member's accuracy in percent and mean cross-entropy in nats on (x, y), in evaluation mode."""
    correct_K: Any = 0
    loss_K: Any = 0.0
    networks = len(stack.cells)
    batch = EVALUATION_BATCH[x.device.type]
    for x_BD, y_B in zip(x.split(batch), y.split(batch), strict=True):
        logits_KBC = stack.logits(x_BD)
        correct_K = correct_K + (logits_KBC.argmax(dim=2) == y_B).sum(dim=1)
        target = y_B.expand(networks, -1)
        losses_KB = F.cross_entropy(logits_KBC.transpose(1, 2), target, reduction="none")
        loss_K = loss_K + losses_KB.sum(dim=1, dtype=torch.float64)
    return (100 * correct_K.double() / len(y)).tolist(), (loss_K / len(y)).tolist()


def _evaluation_steps(steps_per_epoch: int, evaluations_per_epoch: int, last_step: int) -> list[int]:
    """The steps after which a row is due: evenly spaced in each epoch, always at its end, and at the last step."""
    within = {math.ceil(steps_per_epoch * k / evaluations_per_epoch) for k in range(1, evaluations_per_epoch + 1)}
    epochs = range(math.ceil(last_step / steps_per_epoch))
    steps = {epoch * steps_per_epoch + step for epoch in epochs for step in within}
    return sorted({step for step in steps if step < last_step} | {last_step})
