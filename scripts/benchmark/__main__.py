"""Time a step of training: bsnn.network, torch.func's vmap, and the engine, against this machine's ceilings.

    python -m scripts.benchmark                 writes results/bench/<device>.csv and .md; about 20 minutes on 2 cores
    python -m scripts.benchmark --quick         width 100 only, three functions: a minute or two
    python -m scripts.benchmark --time-limit 80 stops in time, exits with 75; the same command goes on
    python -m scripts.benchmark --against DIR   the engine of another checkout in the same rounds

One process runs all contestants interleaved: a round times each of them once, and the medians over rounds are compared.
So a busy machine slows all of them. A network's step is a forward and backward pass over 64 random samples, SGD with
momentum, and the gradient norm of every layer, at depth 200. Numbers below 1e-38 are flushed to zero for all.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from bsnn.config import register
from bsnn.engine.sizes import network_bytes
from bsnn.errors import UserError
from bsnn.files import user_path, write_text
from bsnn.results import cli
from bsnn.results.budgets import table_configs
from bsnn.results.provenance import choose_device, collect
from scripts.benchmark.contestants import (
    Case,
    Contestant,
    Step,
    all_cores,
    ceilings,
    cells_of,
    engine_step,
    name_of,
    single_networks,
    stacks,
    threads,
)
from scripts.benchmark.report import report
from scripts.benchmark.worker import Rival

STACKS = (1, 2, 4, 8, 12, 24)
MORE_TO_DO = 75


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(contestants: Sequence[Contestant], rounds: int, device: torch.device, bar: tqdm[Any]) -> list[list[float]]:
    """Time a network's step of each contestant in seconds, `rounds` times; a first round warms up and isn't counted.

    A timing takes enough steps for 0.15 s. If that is several, one uncounted step comes first, since the contestant
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


def machine(device: torch.device, cores: int) -> dict[str, float]:
    """Measure GFLOP/s of a large product and GB/s of a large copy (read and written), on one thread and on all."""

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


def memory(width: int, networks: int) -> tuple[float, float]:
    """Measure, in a process of its own, two steps' peak memory and the sum it is compared with, in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark", "--memory", str(width), str(networks)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    peak, expected = map(float, done.stdout.split())
    return peak, expected


def print_memory(width: int, networks: int) -> None:
    cells = cells_of(Case(width, False, "mixed"), networks)
    engine_step(cells_of(Case(8, False, "mixed"), 2), torch.device("cpu"))()  # loads libraries and builds kernels
    before = resident("VmRSS")
    step = engine_step(cells, torch.device("cpu"))
    step()
    step()
    print(resident("VmHWM") - before, networks * network_bytes(cells[0]))


def resident(what: str) -> int:
    """Read the bytes of this process's memory now (VmRSS) or at its peak (VmHWM), as Linux counts them."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def contestants_of(case: Case, device: torch.device, cores: int, quick: bool, rival: Rival | None) -> list[Contestant]:
    if case.function != "mixed":
        if rival is None:
            return single_networks(case, device, cores)
        ours = all_cores(case, device, cores)
        return [ours, rival.contestant(case, ours, cores)]
    sizes = (1, 8) if quick else STACKS
    found = stacks(case, device, cores, [k for k in sizes if case.width < 500 or device.type == "cuda" or k <= 4])
    return [*found, *(ceilings(case.width) if device.type == "cpu" else [])]


def rows_of(case: Case, contestants: Sequence[Contestant], times: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Make a row for each contestant. `times as fast`: the first one's speed by its, median of the rounds' ratios."""
    return [
        {
            "width": case.width,
            "batch_norm": case.batch_norm,
            "function": case.function,
            "contestant": contestant.name,
            "networks": contestant.networks,
            "milliseconds": 1e3 * median(mine),
            "fastest": 1e3 * min(mine),
            "slowest": 1e3 * max(mine),
            "rounds": len(mine),
            "first_is_times_as_fast": median(b / a for a, b in zip(times[0], mine, strict=True)),
        }
        for contestant, mine in zip(contestants, times, strict=True)
    ]


def run(arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    register()
    device = choose_device(arguments.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_flush_denormal(True)
    rival = Rival(arguments.against) if arguments.against else None
    names = [name_of(key) for key in table_configs("paper") if key.dataset == "mnist" and not key.batch_norm]
    widths, functions = [100, 500], [*names, "mixed"]
    if arguments.quick:
        widths, functions = [100], ["tanh-gpn", "relu-gpn", "selu-gpn", "mixed"]
    if arguments.functions:
        functions = arguments.functions.split(",")
        if unknown := set(functions) - {*names, "mixed"}:
            raise UserError(f"expected functions among {', '.join(names)}, mixed; found {', '.join(sorted(unknown))}")
    if rival and "mixed" in functions:
        functions.remove("mixed")
    provenance = collect(device)
    stem = re.sub(r"[^a-z0-9]+", "-", provenance["device"].lower()).strip("-") + ("-against" if rival else "")
    partial = (
        Path("outputs/bench") / f"{stem}-{(provenance['commit'] or 'unknown')[:12]}{'-quick' * arguments.quick}.csv"
    )
    rows: list[Any] = pd.read_csv(partial).to_dict("records") if partial.exists() else []
    measured = {(row["width"], row["batch_norm"], row["function"]) for row in rows}
    plan = [Case(width, bn, function) for width in widths for bn in (False, True) for function in functions]
    found = machine(device, cores)
    longest = 0.0
    with tqdm(total=None, unit="timing", disable=not sys.stderr.isatty()) as bar:
        for case in plan:
            if (case.width, case.batch_norm, case.function) in measured:
                continue
            begun = time.monotonic()
            if arguments.time_limit and begun - start + 1.2 * longest > arguments.time_limit:
                print(f"measured so far: {partial}; the same command goes on")
                sys.exit(MORE_TO_DO)
            bar.set_description(f"200 x {case.width} {case.function}{' bn' * case.batch_norm}")
            contestants = contestants_of(case, device, cores, arguments.quick, rival)
            rows += rows_of(case, contestants, measure(contestants, arguments.rounds, device, bar))
            if arguments.time_limit:
                write_text(partial, pd.DataFrame(rows).to_csv(index=False))
            if bar.disable:
                newest = ", ".join(f"{r['contestant']} {r['milliseconds']:.2f} ms" for r in rows[-len(contestants) :])
                print(f"200 x {case.width} {case.function}{' bn' * case.batch_norm}: {newest}", flush=True)
            else:
                bar.refresh()
            del contestants
            gc.collect()
            longest = max(longest, time.monotonic() - begun)
    table = pd.DataFrame(rows)
    countable = device.type == "cpu" and Path("/proc/self/status").exists() and not rival
    peaks = [] if not countable else [(w, k, *memory(w, k)) for w, k in ((100, 12), (500, 4)) if w in widths]
    folder: Path = arguments.out
    write_text(folder / f"{stem}.csv", table.to_csv(index=False, float_format="%.4g"))
    write_text(folder / f"{stem}.md", "\n".join(report(table, found, peaks, provenance)) + "\n")
    partial.unlink(missing_ok=True)
    print(f"wrote {folder / stem}.md and .csv")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=user_path, default=Path("results/bench"), help="folder of the two files")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant is timed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="width 100, three functions, two stack sizes")
    parser.add_argument("--functions", metavar="NAMES", help="only these, with commas: tanh,relu-gpn,mixed")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop before, keep what is measured")
    parser.add_argument(
        "--against", type=user_path, metavar="DIR", help="another checkout: its engine against this one's"
    )
    parser.add_argument("--memory", nargs=2, type=int, metavar=("WIDTH", "K"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory:
        register()
        print_memory(*arguments.memory)
    else:
        run(arguments)


if __name__ == "__main__":
    cli.run(main)
