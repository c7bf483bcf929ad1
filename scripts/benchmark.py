"""How fast a step of training is: bsnn.network, torch.func's vmap, and the engine, against this machine's ceilings.

    python -m scripts.benchmark                 writes results/bench/<device>.csv and .md; about 20 minutes on 2 cores
    python -m scripts.benchmark --quick         width 100 only, three functions: a minute or two

One process, all contestants interleaved: a round times each of them once, and the medians over rounds are compared, so
that a busy machine slows all of them. A network's step is a forward and backward pass over 64 random samples, SGD with
momentum, and the gradient norm of every layer, at depth 200. Numbers below 1e-38 are flushed to zero for all.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bsnn.budgets import Key, table_configs
from bsnn.cell import Cell
from bsnn.config import register
from bsnn.data import dataset_spec
from bsnn.engine.sizes import largest_stack, network_bytes
from bsnn.engine.stack import Stack, in_order
from bsnn.files import user_path, write_text
from bsnn.provenance import choose_device, collect
from bsnn.reference import initial_network, sgd_step
from scripts import account, cli

BATCH = 64
STACKS = (1, 2, 4, 8, 12, 24)
Step = Callable[[], None]


class Contestant(NamedTuple):
    name: str
    networks: int  # that a call of `step` advances
    step: Step


@dataclass(frozen=True)
class Case:
    """One shape and one function, or for the stacks the mix of all functions."""

    width: int
    batch_norm: bool
    function: str  # tanh, tanh-gpn, ..., or "mixed"


# --- what is timed ---------------------------------------------------------------------------------------


def cells_of(case: Case, networks: int) -> list[Cell]:
    """Cells of Table 2 at the paper's optimiser, depth 200: of one function, or the twelve in turn."""
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
    """bsnn.network with autograd and torch.optim.SGD."""
    network = initial_network(cell, device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=cell.learning_rate, momentum=cell.momentum)
    (x,), (y,) = samples(1, device)

    def step() -> None:
        sgd_step(network, optimizer, x, y)

    return step


def vmap_step(cells: Sequence[Cell], device: torch.device) -> Step:
    """The same modules stacked by torch.func: what K networks of one function cost without writing anything by hand."""
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
    """Each in a thread of its own, as training does with stacks on a CPU."""
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


def single_networks(case: Case, device: torch.device, cores: int) -> list[Contestant]:
    """bsnn.network, and the engine at the size that training chooses on this device, all cores at work."""
    (cell,) = cells_of(case, 1)
    step = network_step(cell, device)
    found = [Contestant(f"network, {threads(n)}", 1, on_threads(n, step)) for n in sorted({1, cores})]
    if device.type == "cuda":
        return [Contestant("network", 1, step), Contestant("engine", 24, engine_step(cells_of(case, 24), device))]
    size = largest_stack(cell, device)
    stacks = [engine_step(cells_of(case, size), device) for _ in range(cores)]
    return [*found, Contestant(f"engine, {cores} x {size}", cores * size, on_threads(1, side_by_side(stacks)))]


def stacks(case: Case, device: torch.device, cores: int, sizes: Sequence[int]) -> list[Contestant]:
    """The engine and vmap at several sizes, one thread; vmap's networks all have one function, Tanh-GPN."""
    found = []
    for size in sizes:
        found.append(Contestant(f"engine, {size}", size, on_threads(1, engine_step(cells_of(case, size), device))))
    for size in (1, 8) if case.width < 500 else (1, 2):
        same = [cell.with_seed(k) for k, cell in enumerate(cells_of(replace(case, function="tanh-gpn"), size))]
        for n in sorted({1, cores}) if device.type == "cpu" else (1,):
            name = f"vmap, {size}" + (f", {threads(n)}" if device.type == "cpu" else "")
            found.append(Contestant(name, size, on_threads(n, vmap_step(same, device))))
    return found


# --- measuring -------------------------------------------------------------------------------------------


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(contestants: Sequence[Contestant], rounds: int, device: torch.device, bar: tqdm[Any]) -> list[list[float]]:
    """Seconds of a network's step of each contestant, `rounds` times; a first round, not counted, warms up.

    A timing is of steps enough for 0.15 s. Where that is several, one that isn't counted comes first: the contestant
    before has emptied the caches.
    """
    times: list[list[float]] = [[] for _ in contestants]
    for contestant in contestants:
        contestant.step()
    repeats = [math.ceil(0.15 / max(seconds_of(contestant.step, device), 1e-4)) for contestant in contestants]
    for _ in range(rounds):
        for mine, contestant, repeat in zip(times, contestants, repeats, strict=True):
            if repeat > 1:
                contestant.step()

            def several(step: Step = contestant.step, repeat: int = repeat) -> None:
                for _ in range(repeat):
                    step()

            mine.append(seconds_of(several, device) / (repeat * contestant.networks))
            bar.set_postfix_str(f"{contestant.name}: {1e3 * mine[-1]:.1f} ms", refresh=False)
            bar.update()
    return times


def ceilings(device: torch.device, cores: int) -> dict[str, float]:
    """GFLOP/s of a large product and GB/s of a large copy (read and written), on one thread and on all."""

    def rate(step: Callable[[], object], amount: float) -> float:
        step()
        return amount / median(seconds_of(step, device) for _ in range(7))

    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device)
    product = torch.empty_like(a)
    source = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device).fill_(1.0)
    target = torch.empty_like(source)
    found = {}
    for n in sorted({1, cores}) if device.type == "cpu" else [1]:
        torch.set_num_threads(n)
        label = f" ({threads(n)})" if device.type == "cpu" else ""
        found[f"product, GFLOP/s{label}"] = rate(lambda: torch.mm(a, b, out=product), 2 * size**3 / 1e9)
        found[f"copy, GB/s{label}"] = rate(lambda: target.copy_(source), 2 * source.numel() * 4 / 1e9)
    torch.set_num_threads(1)
    return found


def work_of(width: int) -> tuple[float, float]:
    """GFLOP of a network's step, and GB of weights and velocity that it reads and writes at least."""
    spec = dataset_spec("mnist")
    flop = 6 * BATCH * width**2 * 200 + BATCH * width * (4 * spec.features + 6 * spec.classes)
    return flop / 1e9, 5 * 4 * 200 * width**2 / 1e9


def memory(width: int, networks: int) -> tuple[float, float]:
    """Peak memory of two steps of a stack and the sum it is held against, bytes; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark", "--memory", str(width), str(networks)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    peak, expected = map(float, done.stdout.split())
    return peak, expected


def print_memory(width: int, networks: int) -> None:
    cells = cells_of(Case(width, False, "mixed"), networks)
    engine_step(cells_of(Case(8, False, "mixed"), 2), torch.device("cpu"))()  # libraries in, kernels built
    before = resident("VmRSS")
    step = engine_step(cells, torch.device("cpu"))
    step()
    step()
    print(resident("VmHWM") - before, networks * network_bytes(cells[0]))


def resident(what: str) -> int:
    """Bytes of this process's memory now (VmRSS) or at its peak (VmHWM), as Linux counts them."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


# --- the report ------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    register()
    device = choose_device(arguments.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_flush_denormal(True)
    names = [name_of(key) for key in table_configs("paper") if key.dataset == "mnist" and not key.batch_norm]
    widths, functions, sizes = [100, 500], names, list(STACKS)
    if arguments.quick:
        widths, functions, sizes = [100], ["tanh-gpn", "relu-gpn", "selu-gpn"], [1, 8]
    found = ceilings(device, cores)
    plan = [
        (Case(width, batch_norm, function), single_networks if function != "mixed" else stacks)
        for width in widths
        for batch_norm in (False, True)
        for function in [*functions, "mixed"]
    ]
    rows: list[dict[str, Any]] = []
    with tqdm(total=None, unit="timing", disable=not sys.stderr.isatty()) as bar:
        for case, make in plan:
            bar.set_description(f"200 x {case.width} {case.function}{' bn' * case.batch_norm}")
            if make is single_networks:
                contestants = single_networks(case, device, cores)
            else:
                limit = sizes if case.width < 500 or device.type == "cuda" else [k for k in sizes if k <= 4]
                contestants = stacks(case, device, cores, limit)
            for contestant, times in zip(contestants, measure(contestants, arguments.rounds, device, bar), strict=True):
                rows.append(
                    {
                        "width": case.width,
                        "batch_norm": case.batch_norm,
                        "function": case.function,
                        "contestant": contestant.name,
                        "networks": contestant.networks,
                        "milliseconds": 1e3 * median(times),
                        "fastest": 1e3 * min(times),
                        "slowest": 1e3 * max(times),
                        "rounds": arguments.rounds,
                    }
                )
            if not bar.disable:
                bar.refresh()
            else:
                print(f"{bar.desc}: " + ", ".join(f"{r['contestant']} {r['milliseconds']:.2f} ms"
                                                   for r in rows[-len(contestants):]), flush=True)  # fmt: skip
            del contestants
            gc.collect()
    table = pd.DataFrame(rows)
    countable = device.type == "cpu" and Path("/proc/self/status").exists()
    peaks = [] if not countable else [(w, k, *memory(w, k)) for w, k in ((100, 12), (500, 4)) if w in widths]
    provenance = collect(device)
    stem = re.sub(r"[^a-z0-9]+", "-", provenance["device"].lower()).strip("-")
    folder: Path = arguments.out
    write_text(folder / f"{stem}.csv", table.to_csv(index=False, float_format="%.4g"))
    write_text(folder / f"{stem}.md", "\n".join(report(table, found, peaks, provenance)) + "\n")
    print(f"wrote {folder / stem}.md and .csv")


def speedups(table: pd.DataFrame) -> Iterator[tuple[int, bool, list[tuple[str, float]]]]:
    """For each shape: every function, and how much faster the engine is than the faster way of running the network."""
    single = table[table["function"] != "mixed"]
    for width, batch_norm in itertools.product(sorted(set(single["width"])), (False, True)):
        group = single[(single["width"] == width) & (single["batch_norm"] == batch_norm)]
        ratios = []
        for function, times in group.groupby("function", sort=False):
            by_name = times.set_index("contestant")["milliseconds"]
            network = by_name[by_name.index.str.startswith("network")].min()
            ratios.append((str(function), network / by_name[by_name.index.str.startswith("engine")].min()))
        yield width, batch_norm, ratios


def report(
    table: pd.DataFrame,
    found: dict[str, float],
    peaks: Sequence[tuple[int, int, float, float]],
    provenance: dict[str, Any],
) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items() if version)
    yield f"# A network's step of training on {provenance['device']}\n"
    yield f"`{provenance['command']}`, commit {provenance['commit']}{' with changes' * bool(provenance['dirty'])},"
    yield f"Python {provenance['python']}, {versions}.\n"
    yield "Depth 200, batches of 64, float32, MNIST's shape. Milliseconds for one step of one network (the time of a"
    yield f"stack's step divided by its networks): medians of {table['rounds'].iloc[0]} interleaved rounds.\n"
    yield "Ceilings measured in the same run: " + "; ".join(f"{name}: {value:.0f}" for name, value in found.items())
    yield ".\n"
    for width, batch_norm, ratios in speedups(table):
        group = table[(table["width"] == width) & (table["batch_norm"] == batch_norm)]
        yield f"## 200 x {width}, {'with' if batch_norm else 'without'} batch norm\n"
        single = group[group["function"] != "mixed"]
        wide = single.pivot(index="function", columns="contestant", values="milliseconds")
        wide = wide.loc[[function for function, _ in ratios]].assign(
            **{"times as fast": [ratio for _, ratio in ratios]}
        )
        yield account.table(
            ["function", *wide.columns], [[name, *map("{:.2f}".format, row)] for name, row in wide.iterrows()]
        )
        overall = geometric_mean([ratio for _, ratio in ratios])
        yield f"\nGeometric mean over the functions: the engine is **{overall:.2f} times** as fast as bsnn.network with"
        yield "torch.optim.SGD on the number of threads that suits it better.\n"
        flop, traffic = work_of(width)
        mixed = group[group["function"] == "mixed"]
        speed = pd.DataFrame(
            {
                "stack": mixed["contestant"],
                "ms a network": mixed["milliseconds"].map("{:.2f}".format),
                "fastest, slowest": [f"{row.fastest:.2f}, {row.slowest:.2f}" for row in mixed.itertuples()],
                "GFLOP/s": (flop / mixed["milliseconds"] * 1e3).map("{:.0f}".format),
                "GB/s of weights": (traffic / mixed["milliseconds"] * 1e3).map("{:.1f}".format),
            }
        )
        yield "Stacks of mixed functions on one thread, and torch.func's vmap over networks of one function:\n"
        yield account.table(list(speed.columns), speed.itertuples(index=False)) + "\n"
    if peaks:
        yield "## Memory\n"
        for width, networks, peak, expected in peaks:
            yield f"- {networks} networks of 200 x {width}: peak {peak / 2**20:.0f} MiB, {peak / expected:.2f} times"
            yield f"  their weights, velocities and kept activations ({expected / 2**20:.0f} MiB)"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=user_path, default=Path("results/bench"), help="folder of the two files")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant is timed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="width 100, three functions, two stack sizes")
    parser.add_argument("--memory", nargs=2, type=int, metavar=("WIDTH", "K"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory:
        register()
        print_memory(*arguments.memory)
    else:
        run(arguments)


if __name__ == "__main__":
    cli.run(main)
