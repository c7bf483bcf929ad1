"""The cost of a training on this machine, told before it starts: time from measured steps, disk from sizes.

    cost = estimate(cells, until=1, device=device, folder=Path("results/paper"))
    print(cost.sentence())  # round to epoch 1: about 77 min on 2 cores (48 cells); ...
    print(cost.shortage())  # None, or the sentence of a disk that lacks room

The time of a step comes from the records in the folder, as far as this device trained them. For a kind of network that
this device has not trained yet, a few steps on random data are timed, with as many stacks side by side as the training
would run. Networks that diverge end earlier and cost less.
"""

from __future__ import annotations

import heapq
import math
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from bsnn.cell import Cell
from bsnn.data import Dataset, dataset_spec
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import Trainable, run_steps
from bsnn.engine.reference import ORTHOGONAL
from bsnn.engine.stack import Stack, in_order
from bsnn.results.provenance import device_name
from bsnn.results.records import RESULTS, Record, cell_of, read_records
from bsnn.training.cellrun import CHECKPOINT
from bsnn.training.loop import EVALUATION_BATCH, evaluate, make_stack, stack_key
from bsnn.training.planning import cores, plan, steps, steps_per_epoch

MEASURING_SECONDS = 10.0
"""No measurement of a kind starts later; kinds that are not measured are taken to be as fast for their size."""
TIMED_SECONDS = 0.7  # of each kind
FEWEST_STEPS = 10  # a record with fewer says too little
MEASURED_WEIGHTS = 15 * 10**6
"""Most weights of a network that is measured; a deeper one loses layers, but still exceeds a CPU's cache."""
BATCHES = 16  # of random data


@dataclass(frozen=True, eq=False)
class Planned:
    """A cell in the form that bsnn.training.planning needs."""

    cell: Cell
    step: int
    device: torch.device
    key: Hashable
    max_stack: int | None


@dataclass(frozen=True)
class Cost:
    """The cost of training some cells, up to a round's epoch and up to their ends."""

    folder: Path
    where: str
    until: int | None
    cells: int
    """Number of cells that have steps left before the round's end."""
    seconds: float
    """Duration of the round; without a round, of the whole training."""
    whole_seconds: float
    epochs: tuple[float, ...]
    """Lengths of the cells' trainings in epochs, each once, in ascending order."""
    checkpoints: int
    disk_bytes: int
    """Size of all checkpoints that exist at the same time."""
    new_bytes: int
    """The part of `disk_bytes` that needs free space: checkpoints that exist already are replaced one by one."""
    free_bytes: int

    def sentence(self) -> str:
        """Say it in one line; durations are rounded to two digits."""
        if not self.cells:
            return f"{self.folder}: nothing left to train" + (f" to epoch {self.until}" if self.until else "")
        cells = f"{self.cells} cell{'s' * (self.cells != 1)}"
        everything = (
            f"all {'/'.join(f'{epochs:.4g}' for epochs in self.epochs)} epochs: about {roughly(self.whole_seconds)}"
        )
        if self.until is None:
            parts = [f"{everything} on {self.where} ({cells})"]
        else:
            parts = [
                f"round to epoch {self.until}: about {roughly(self.seconds)} on {self.where} ({cells})",
                everything,
            ]
        return "; ".join([*parts, f"checkpoints: {_size(self.disk_bytes)}, {_size(self.free_bytes)} free"])

    def shortage(self) -> str | None:
        """Say that the disk lacks room for the checkpoints; None if they fit."""
        if self.new_bytes <= self.free_bytes:
            return None
        return (
            f"{self.folder}: expected {_size(self.new_bytes)} for {self.checkpoints} checkpoints, found "
            f"{_size(self.free_bytes)} free; free some space, or choose another folder with RESULTS=FOLDER."
        )


def estimate(
    cells: Sequence[tuple[Cell, int]],
    until: int | None,
    device: torch.device,
    folder: Path,
    workers: int | None = None,
    max_stack: int | None = None,
    gpus: int = 1,
    answered: Collection[Cell] = (),
) -> Cost:
    """Estimate the cost of training `cells`.

    Args:
        cells: those that are not finished, each with the step it goes on from: 0, or that of its checkpoint.
        until: the epoch of a round, after which every cell keeps a checkpoint; None: each cell is trained to its end.
        folder: results/<budget>, where records are and checkpoints will be.
        workers: on a CPU, the number of stacks side by side; default: its cores.
        max_stack: at most so many cells in a stack.
        gpus: how many GPUs like `device` train side by side, one stack each.
        answered: cells that the round leaves alone, since their records reach its epoch. They may lack checkpoints: a
            later round then starts them over.
    """
    workers = (workers or cores()) if device.type == "cpu" else gpus
    # GPN's constants take a while to compute and don't decide which cells can share a stack
    planned = [Planned(cell, step, device, stack_key(replace(cell, gpn=False)), max_stack) for cell, step in cells]
    rates = step_seconds(planned, folder, workers)
    ends = {one: steps(one.cell) for one in planned}
    goals = ends if until is None else {one: min(ends[one], until * steps_per_epoch(one.cell)) for one in planned}
    due = [one for one in planned if one.cell not in answered and goals[one] > one.step]
    if device.type == "cpu":
        where = f"{workers} core{'s' * (workers != 1)}"
    else:
        where = f"{gpus} x {device_name(device)}" if gpus > 1 else device_name(device)
    kept = [one for one in planned if (goals[one] < ends[one] if one in due else one.step > 0)]
    ending = plan([one for one in due if goals[one] == ends[one]], workers)
    at_once = sorted(ending, key=lambda stack: -sum(checkpoint_bytes(one.cell) for one in stack))[:workers]
    held = [*kept, *(one for stack in at_once for one in stack)]
    largest = max((checkpoint_bytes(one.cell) for one in held), default=0)
    there = sum(_existing(folder, one.cell) for one in held)
    needed = sum(checkpoint_bytes(one.cell) for one in held)
    return Cost(
        folder=folder,
        where=where,
        until=until,
        cells=len(due),
        seconds=_wall_seconds(due, goals, rates, workers),
        whole_seconds=_wall_seconds(planned, ends, rates, workers),
        epochs=tuple(sorted({ends[one] / steps_per_epoch(one.cell) for one in planned})),
        checkpoints=len(held),
        disk_bytes=needed,
        new_bytes=max(0, needed - there) + (workers * largest if there else 0),  # written beside the old, then renamed
        free_bytes=shutil.disk_usage(_existing_parent(folder)).free,
    )


# --- time -------------------------------------------------------------------------------------------------------------


def kind_of(cell: Cell) -> Hashable:
    """Return the cell's kind: networks of one kind take about the same time for a step, evaluations included."""
    shape = cell.depth, cell.width, cell.batch_size, cell.dtype
    return cell.dataset, cell.batch_norm, *shape, cell.evaluations_per_epoch


def step_seconds(planned: Sequence[Planned], folder: Path, workers: int) -> dict[Hashable, float]:
    """Find the seconds per step and network of each kind, evaluations included: a stack's time / its networks."""
    if not planned:
        return {}
    rates = recorded(read_records(folder), device_name(planned[0].device))
    kinds: dict[Hashable, list[Planned]] = defaultdict(list)
    for one in planned:
        kinds[kind_of(one.cell)].append(one)
    began = time.monotonic()
    most_first = sorted(kinds, key=lambda kind: -sum(steps(one.cell) - one.step for one in kinds[kind]))
    for kind in most_first:
        if kind in rates:
            continue
        if not rates or time.monotonic() - began < MEASURING_SECONDS:
            rates[kind] = measure(kinds[kind], workers)
    speed = statistics.median(rates[kind] / _work(kinds[kind][0].cell) for kind in kinds if kind in rates)
    return {kind: rates.get(kind) or speed * _work(members[0].cell) for kind, members in kinds.items()}


def recorded(records: Iterable[Record], device: str) -> dict[Hashable, float]:
    """Find the seconds per step of each kind in what the device trained of the records: the median of the networks."""
    found: dict[Hashable, list[float]] = defaultdict(list)
    for record in records:
        cell = cell_of(record)
        if cell is None or record["status"] not in RESULTS:
            continue
        seconds, made = 0.0, 0
        for segment in record["segments"]:
            if segment["provenance"]["device"] != device:
                continue
            for before, after in pairwise(record["rows"]):
                if segment["first_step"] <= before["step"] and after["step"] <= segment["last_step"]:
                    seconds += after["seconds"] - before["seconds"]
                    made += after["step"] - before["step"]
        if made >= FEWEST_STEPS:
            found[kind_of(cell)].append(seconds / made)
    return {kind: statistics.median(values) for kind, values in found.items()}


def measure(members: Sequence[Planned], workers: int) -> float:
    """Time a step of networks of one kind on random data, evaluations included: seconds of a stack / its networks.

    A step's time hardly depends on the weights, so they are not drawn as orthogonal matrices, which would take longer.
    """
    cell, device = members[0].cell, members[0].device
    side_by_side = workers if device.type == "cpu" else 1  # GPUs don't share their processors
    stacks = [[_shortened(one.cell) for one in stack] for stack in plan(members, workers)[:side_by_side]]
    data = _random_data(stacks[0][0], device)
    with _as_in_training(cell, device), ThreadPoolExecutor(len(stacks)) as pool:
        made = list(pool.map(lambda stack: make_stack(sorted(stack, key=in_order), device), stacks))
        timed = list(pool.map(lambda stack: _time(stack, data), made))
    if device.type == "cuda":  # the next training counts the free memory
        del made
        torch.cuda.empty_cache()
    seconds = statistics.fmean(seconds / len(stack) for seconds, stack in zip(timed, stacks, strict=True))
    return seconds * _work(cell) / _work(stacks[0][0])


def _time(stack: Trainable, data: Dataset) -> float:
    """Time a step of a stack in seconds, plus the step's share of an evaluation."""
    cell, device = stack.cells[0], data.train_x.device
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # as in training, in each thread
    on_gpu = device.type == "cuda" and isinstance(stack, Stack)
    run = GraphSteps() if on_gpu else run_steps
    samples = torch.arange(len(data.train_x), device=device).expand(len(stack.cells), -1)
    count, taken, began = (5 if on_gpu else 1), 0, 0.0  # the first ones compile kernels, and capture a graph
    while not taken or time.monotonic() - began < TIMED_SECONDS:
        run(stack, data, samples[:, : count * cell.batch_size], cell.batch_size, cell.depth)
        if began:
            taken += count
            count = min(2 * count, BATCHES)
        else:
            began = time.monotonic()
    step = (time.monotonic() - began) / taken
    began = time.monotonic()
    evaluate(stack, data.test_x, data.test_y)
    evaluation = (time.monotonic() - began) * dataset_spec(cell.dataset).test_size / len(data.test_x)
    return step + evaluation * cell.evaluations_per_epoch / steps_per_epoch(cell)


def _shortened(cell: Cell) -> Cell:
    depth = min(cell.depth, max(1, MEASURED_WEIGHTS // cell.width**2))
    if cell.constraint not in ORTHOGONAL:
        cell = replace(cell, initialisation="gaussian")  # cheaper to draw
    return replace(cell, depth=depth, seed=0)


def _random_data(cell: Cell, device: torch.device) -> Dataset:
    spec = dataset_spec(cell.dataset)

    def split(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(size, spec.features, dtype=cell.torch_dtype, device=device)
        return x, torch.randint(spec.classes, (size,), device=device)

    train, test = split(BATCHES * cell.batch_size), split(EVALUATION_BATCH[device.type])
    return Dataset(spec, *train, *test)


@contextmanager
def _as_in_training(cell: Cell, device: torch.device) -> Iterator[None]:
    """Give each stack on a CPU one thread, and a GPU's products the precision that training has."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high" if cell.dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _work(cell: Cell) -> float:
    """Count the weights that a step multiplies with: L N^2 + N (D + C)."""
    spec = dataset_spec(cell.dataset)
    return float(cell.depth * cell.width**2 + cell.width * (spec.features + spec.classes))


def _wall_seconds(
    planned: Sequence[Planned], goals: Mapping[Planned, int], rates: Mapping[Hashable, float], workers: int
) -> float:
    """Estimate when the last stack reaches its goal; each worker takes the next stack as soon as it is free."""
    free_at = [0.0] * workers
    for stack in plan(planned, workers):
        seconds = sum((goals[one] - one.step) * rates[kind_of(one.cell)] for one in stack)
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def roughly(seconds: float) -> str:
    """Format a duration with two digits: 45 s, 77 min, 4.1 days."""
    for unit, length, largest in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < largest * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds / 86400)} days"


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if 1 <= value < 9.95 else f"{float(f'{value:.2g}'):.10g}"


# --- disk -------------------------------------------------------------------------------------------------------------


def checkpoint_bytes(cell: Cell) -> int:
    """Compute a checkpoint's size: weights and velocities, r, with batch norm running means and variances."""
    spec = dataset_spec(cell.dataset)
    L, N = cell.depth, cell.width
    parameters = L * N * N + N * (spec.features + 1) + spec.classes * (N + 1) + 2 * L * N * cell.batch_norm
    return (2 * parameters + L * N + 2 * L * N * cell.batch_norm) * cell.torch_dtype.itemsize


def _existing(folder: Path, cell: Cell) -> int:
    """Return the size of the cell's checkpoint, 0 if there is none yet."""
    path = folder / "runs" / cell.id / CHECKPOINT
    return path.stat().st_size if path.exists() else 0


def _existing_parent(folder: Path) -> Path:
    folder = folder.absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _size(size: int) -> str:
    """Format a size: 1.5 MB, 19.6 GB, 120 GB."""
    unit, length = ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)
    value = size / length
    return f"{value:.1f} {unit}" if value < 100 else f"{math.floor(value)} {unit}"
