"""The contestants of scripts.benchmark: a step of bsnn.network, of torch.func's vmap and of the engine; and ceilings.

It imports nothing but bsnn, so that the same code can time another checkout's engine (scripts/benchmark/worker.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import dataset_spec
from bsnn.engine.reference import initial_network, sgd_step
from bsnn.engine.sizes import largest_stack
from bsnn.engine.stack import Stack, in_order
from bsnn.results.budgets import Key, table_configs

BATCH, DEPTH = 64, 200
Step = Callable[[], object]


class Contestant(NamedTuple):
    name: str
    networks: int  # advanced by a call of `step`
    step: Step


@dataclass(frozen=True)
class Case:
    """One shape and one function, or for the stacks the mix of all functions."""

    width: int
    batch_norm: bool
    function: str  # tanh, tanh-gpn, ..., or "mixed"


def cells_of(case: Case, networks: int) -> list[Cell]:
    """Make cells of Table 2 with the paper's optimiser, depth 200: of one function, or the twelve in turn."""
    keys = [
        Key("mnist", key.activation, key.gpn, case.batch_norm)
        for key in table_configs("paper")
        if key.dataset == "mnist" and not key.batch_norm and case.function in ("mixed", name_of(key))
    ]
    configs = table_configs("paper")
    chosen = [Cell.from_config(configs[key]) for key in itertools.islice(itertools.cycle(keys), networks)]
    return sorted((replace(cell, width=case.width) for cell in chosen), key=in_order)


def name_of(key: Key) -> str:
    return f"{key.activation}-gpn" if key.gpn else key.activation


def samples(networks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    spec = dataset_spec("mnist")
    x = torch.randn(networks, BATCH, spec.features, device=device)
    return x, torch.randint(spec.classes, (networks, BATCH), device=device)


def network_step(cell: Cell, device: torch.device) -> Step:
    """Make a step of bsnn.network with autograd and torch.optim.SGD."""
    network = initial_network(cell, device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=cell.learning_rate, momentum=cell.momentum)
    (x,), (y,) = samples(1, device)

    def step() -> None:
        sgd_step(network, [optimizer], x, y)

    return step


def vmap_step(cells: Sequence[Cell], device: torch.device) -> Step:
    """Make a step of the same modules stacked by torch.func: K networks of one function without handwritten code."""
    networks = [initial_network(cell, device).train() for cell in cells]
    parameters, buffers = stack_module_state(networks)
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    network, cell = networks[0], cells[0]
    del networks
    x, y = samples(len(cells), device)

    def loss(weights: dict[str, Tensor], statistics: dict[str, Tensor], x: Tensor, y: Tensor) -> Any:
        logits = functional_call(network, (weights, statistics), (x,))
        return F.cross_entropy(logits, y), (logits.argmax(dim=1) == y).sum()

    gradients = vmap(grad_and_value(loss, has_aux=True))

    @torch.no_grad()
    def step() -> None:
        gradient, _ = gradients(parameters, buffers, x, y)
        torch.linalg.vector_norm(gradient["V"], dim=(2, 3), dtype=torch.float64)
        for name, value in parameters.items():
            velocity[name].mul_(cell.momentum).add_(gradient[name])
            value.sub_(velocity[name], alpha=cell.learning_rate)

    return step


def engine_step(cells: Sequence[Cell], device: torch.device) -> Step:
    stack = Stack(cells, device)
    x, y = samples(len(cells), device)
    norms = torch.empty(cells[0].depth, len(cells), dtype=torch.float64, device=device)

    def step() -> None:
        stack.step(x, y, norms)

    return step


def side_by_side(steps: Sequence[Step]) -> Step:
    """Run each step in a thread of its own, as training does with stacks on a CPU."""
    pool = ThreadPoolExecutor(len(steps), initializer=prepare_thread)

    def step() -> None:
        for done in [pool.submit(one) for one in steps]:
            done.result()

    return step


def prepare_thread() -> None:
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def on_threads(n: int, step: Step) -> Step:
    def limited() -> None:
        torch.set_num_threads(n)
        step()

    return limited


def all_cores(case: Case, device: torch.device, cores: int) -> Contestant:
    """Make the engine's contestant at the size that training chooses on this CPU, one stack for each core."""
    size = largest_stack(cells_of(case, 1)[0], device)
    stacks = [engine_step(cells_of(case, size), device) for _ in range(cores)]
    return Contestant(f"engine, {cores} x {size}", cores * size, on_threads(1, side_by_side(stacks)))


def single_networks(case: Case, device: torch.device, cores: int) -> list[Contestant]:
    """Make contestants at the sizes of training on this device, all cores at work: bsnn.network, and the engine."""
    (cell,) = cells_of(case, 1)
    step = network_step(cell, device)
    found = [Contestant(f"network, {threads(n)}", 1, on_threads(n, step)) for n in sorted({1, cores})]
    if device.type == "cuda":
        return [Contestant("network", 1, step), Contestant("engine", 24, engine_step(cells_of(case, 24), device))]
    return [*found, all_cores(case, device, cores)]


def stacks(case: Case, device: torch.device, cores: int, sizes: Sequence[int]) -> list[Contestant]:
    """Make the engine's and vmap's contestants at several sizes, one thread; vmap's networks are all Tanh-GPN."""
    found = []
    for size in sizes:
        found.append(Contestant(f"engine, {size}", size, on_threads(1, engine_step(cells_of(case, size), device))))
    for size in (1, 8) if case.width < 500 else (1, 2):
        same = [cell.with_seed(k) for k, cell in enumerate(cells_of(replace(case, function="tanh-gpn"), size))]
        for n in sorted({1, cores}) if device.type == "cpu" else (1,):
            name = f"vmap, {size}" + (f", {threads(n)}" if device.type == "cpu" else "")
            found.append(Contestant(name, size, on_threads(n, vmap_step(same, device))))
    return found


# --- ceilings: times of a step's products and of its traffic alone, one thread ---


def work_of(width: int) -> tuple[float, float]:
    """Count the GFLOP of a network's step, and the least GB of weights and velocity that it reads and writes.

    There are three products a layer, 2 B N^2 each. The forward pass reads V; the backward pass reads and writes V and
    velocity.
    """
    spec = dataset_spec("mnist")
    flop = 6 * BATCH * width**2 * DEPTH + BATCH * width * (4 * spec.features + 6 * spec.classes)
    return flop / 1e9, 5 * 4 * DEPTH * width**2 / 1e9


CEILINGS = ("torch's products, weights in cache", "torch's products, weights in memory", "traffic alone")


def ceilings(width: int) -> list[Contestant]:
    """Make the ceilings' contestants on a CPU.

    A step's 3 DEPTH products by torch.mm, with one layer's weights and with all; and its traffic, 3 reads and 2 writes
    of DEPTH layers by torch's own passes over memory.
    """
    weights, velocity = torch.randn(2, DEPTH, width, width)
    x, y, h = torch.randn(3, width, BATCH)
    product = torch.empty(width, width)

    def products(layers: Sequence[Tensor]) -> Step:
        def step() -> None:
            for V in layers:
                torch.mm(V, x, out=h)
            for V in layers:
                torch.mm(V.mT, y, out=h)
                torch.mm(y, x.mT, out=product)

        return on_threads(1, step)

    def traffic() -> None:
        weights.sum()
        weights.mul_(1.0)
        velocity.mul_(1.0)

    steps = products([weights[0]] * DEPTH), products(weights.unbind()), on_threads(1, traffic)
    return [Contestant(name, 1, step) for name, step in zip(CEILINGS, steps, strict=True)]
