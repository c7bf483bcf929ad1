"""Training of one cell: the paper's protocol, with rows of metrics, checkpoints and exact resumption.

Section 3.2 and Table 2: SGD with momentum, no weight decay, no schedule, mini-batches in a fresh random order each
epoch, the last short one kept. Training accuracy is the running mean over the epoch's mini-batches, each before its
update; test accuracy is that of the current weights on the whole test set (the authors' code evaluates with row norms
cached one step earlier).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bsnn.cell import Cell
from bsnn.data import Dataset, dataset_spec
from bsnn.errors import UserError
from bsnn.files import write_atomically
from bsnn.metrics import Row, gradient_summary
from bsnn.network import BSNN
from bsnn.randomness import Purpose, batch_order, generator

log = logging.getLogger(__name__)
EVALUATION_BATCH = 1000


@dataclass
class Progress:
    """How far a training is: with the weights, everything that a checkpoint must hold."""

    step: int = 0
    seconds: float = 0.0
    seen: int = 0  # samples of the current epoch, with the two sums over them
    correct: float = 0.0
    loss_sum: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    first_gradient_norms: list[float] | None = None
    last_gradient_norms: list[float] | None = None
    diverged_at_step: int | None = None


def make_network(cell: Cell, device: torch.device) -> BSNN:
    """The cell's network at its initial weights, which depend on seed and shape alone, not on the activation."""
    spec = dataset_spec(cell.dataset)
    return BSNN(
        in_features=spec.features,
        out_features=spec.classes,
        width=cell.width,
        depth=cell.depth,
        activation=cell.make_activation(),
        batch_norm=cell.batch_norm,
        generator=generator(cell.seed, Purpose.INITIAL_WEIGHTS),
        device=device,
        dtype=getattr(torch, cell.dtype),
    )


def train(
    cell: Cell,
    data: Dataset,
    checkpoint: Path,
    on_row: Callable[[Row], None] = lambda row: None,
    progress_bar: bool = False,
) -> Progress:
    """Train `cell` to its end, or until its loss is nan or inf, from `checkpoint` if that exists.

    `on_row` is called with every row, those restored from the checkpoint included. The checkpoint is written after
    every row and left in place; the numbers of a resumed training equal those of an uninterrupted one to the bit on the
    same machine with the same number of threads.
    """
    device = data.train_x.device
    network = make_network(cell, device)
    optimizer = torch.optim.SGD(network.parameters(), lr=cell.learning_rate, momentum=cell.momentum)
    state = _restore(checkpoint, cell, network, optimizer)
    for row in state.rows:
        on_row(Row(**row))

    n = len(data.train_x)
    steps_per_epoch = math.ceil(n / cell.batch_size)
    last_step = cell.epochs * steps_per_epoch
    if cell.max_steps is not None:
        last_step = min(last_step, cell.max_steps)
    evaluations = _evaluation_steps(steps_per_epoch, cell.evaluations_per_epoch, last_step)
    started = time.monotonic() - state.seconds

    def finish_row(norms: list[Tensor], trained: bool) -> None:
        test_accuracy, test_loss = evaluate(network, data.test_x, data.test_y)
        row = Row(
            epoch=state.step / steps_per_epoch,
            step=state.step,
            seconds=time.monotonic() - started,
            train_accuracy=100 * state.correct / state.seen if trained else None,
            train_loss=state.loss_sum / state.seen if trained else None,
            test_accuracy=test_accuracy,
            test_loss=test_loss,
            **gradient_summary(torch.stack(norms).cpu().numpy() if norms else np.empty((0, cell.depth))),
        )
        state.seconds = row.seconds
        state.rows.append(row.as_dict())
        on_row(row)
        _save(checkpoint, cell, network, optimizer, state)

    if not state.rows:
        finish_row([], trained=False)
    bar = tqdm(total=last_step, initial=state.step, desc=cell.name, unit="step", disable=not progress_bar, leave=False)
    with bar:
        while state.step < last_step and state.diverged_at_step is None:
            epoch, first = divmod(state.step, steps_per_epoch)
            order = batch_order(cell.seed, epoch, n).to(device)
            if first == 0:
                state.seen, state.correct, state.loss_sum = 0, 0.0, 0.0
            stop = min(s for s in evaluations if s > state.step)
            losses, hits, norms = [], [], []
            network.train()
            for step in range(first, first + stop - state.step):
                batch = order[step * cell.batch_size : (step + 1) * cell.batch_size]
                loss, correct, gradient_norms = _update(network, optimizer, data.train_x[batch], data.train_y[batch])
                losses.append(loss * len(batch))
                hits.append(correct)
                norms.append(gradient_norms)
                state.seen += len(batch)
                bar.update()
            # Read once an interval, so that a GPU never waits for the host.
            interval_losses = torch.stack(losses).double().cpu()
            state.loss_sum += interval_losses.sum().item()
            state.correct += torch.stack(hits).sum().item()
            if state.first_gradient_norms is None:
                state.first_gradient_norms = norms[0].tolist()
            state.last_gradient_norms = norms[-1].tolist()
            bad = torch.nonzero(~torch.isfinite(interval_losses))
            if len(bad):
                state.diverged_at_step = state.step + int(bad[0]) + 1
            state.step = stop
            finish_row(norms, trained=True)
            bar.set_postfix_str(f"test {state.rows[-1]['test_accuracy']:.1f} %")
    return state


@torch.no_grad()
def evaluate(network: BSNN, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy in percent and mean cross-entropy in nats on (x, y), in evaluation mode."""
    network.eval()
    correct, loss = torch.zeros((), device=x.device), torch.zeros((), device=x.device, dtype=torch.float64)
    for x_BD, y_B in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
        logits = network(x_BD)
        correct += (logits.argmax(dim=1) == y_B).sum()
        loss += F.cross_entropy(logits, y_B, reduction="sum")
    return 100 * correct.item() / len(y), loss.item() / len(y)


def _update(network: BSNN, optimizer: torch.optim.SGD, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of SGD: mean loss and number of right answers before it, and the layers' gradient norms (L,)."""
    optimizer.zero_grad()
    logits = network(x_BD)
    loss = F.cross_entropy(logits, y_B)
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == y_B).sum(), network.gradient_norms()


def _evaluation_steps(steps_per_epoch: int, evaluations_per_epoch: int, last_step: int) -> list[int]:
    """The steps after which a row is due: evenly spaced in each epoch, always at its end, and at the last step."""
    within = {math.ceil(steps_per_epoch * k / evaluations_per_epoch) for k in range(1, evaluations_per_epoch + 1)}
    epochs = range(math.ceil(last_step / steps_per_epoch))
    steps = {epoch * steps_per_epoch + step for epoch in epochs for step in within}
    return sorted({step for step in steps if step < last_step} | {last_step})


def _save(path: Path, cell: Cell, network: BSNN, optimizer: torch.optim.SGD, state: Progress) -> None:
    content = {
        "hash": cell.hash,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(state),
    }
    write_atomically(path, lambda stream: torch.save(content, stream))


def load_weights(path: Path, cell: Cell) -> BSNN:
    """The network in a checkpoint of `cell`, on the CPU, in evaluation mode. Raises UserError for another file."""
    network = make_network(cell, torch.device("cpu"))
    _load(path, cell, network, None)
    return network.eval()


def _restore(path: Path, cell: Cell, network: BSNN, optimizer: torch.optim.SGD) -> Progress:
    """Load a checkpoint into network and optimiser; without one, the start of training."""
    if not path.exists():
        return Progress()
    state = _load(path, cell, network, optimizer)
    log.info("%s: resuming at step %d", cell.name, state.step)
    return state


def _load(path: Path, cell: Cell, network: BSNN, optimizer: torch.optim.SGD | None) -> Progress:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["hash"] != cell.hash:
            raise ValueError("it belongs to another cell")
        network.load_state_dict(content["network"])
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"])
        return Progress(**content["progress"])
    except Exception as error:
        raise UserError(
            f"{path}: expected a checkpoint of {cell.id}, found one that can't be read ({error}); "
            "delete it and this cell starts anew."
        ) from error
