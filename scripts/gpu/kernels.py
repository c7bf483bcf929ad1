"""List the compiler's code for the GPU kernels, and bounds on their speed. Needs no GPU.

    python -m scripts.gpu.kernels              every shape, card and precision: 354 kernels, 1.5 seconds each
    python -m scripts.gpu.kernels --widths 500 --batches 64      the paper's shape only: 59

Writes results/bench/kernels.md and kernels.csv. All times in it are bounds from counted instructions and bytes and from
the cards' data sheets; no kernel has been run for them.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from bsnn.data import DATASETS
from bsnn.engine.machine_code import Code, Launch, compiled, count, launches
from bsnn.files import write_text
from bsnn.results import cli

FOLDER = Path("results/bench")
K, L = 24, 200  # networks of a stack, layers
WIDTHS, BATCHES = (500, 100), (64, 32, 16)  # N; B and the last mini-batches of MNIST and CIFAR-10
PAPER = 500, 64  # N, B
MOST_STACK = 64  # most bytes of spilled registers in a thread of a kernel
COPY = 0.9  # share of a data sheet's bandwidth that copies reach: 3.0 of 3.35 TB/s on an H100, 4.3 of 4.8 on an H200


@dataclass(frozen=True)
class Card:
    """A GPU's data sheet. Rates are for one multiprocessor and one clock; a product and a sum count as one."""

    name: str
    capability: int
    multiprocessors: int
    ghz: float
    tb_per_s: float
    float32: int
    tf32: int  # tensor cores, dense
    float64: int
    shared_kb: int  # of a multiprocessor
    warps: int  # that a multiprocessor holds

    @property
    def precision(self) -> str:
        """The faster way for float32 cells, by the data sheet; tf32x3 is used on request, see bsnn.engine.gpu."""
        return "tf32x3" if divmod(self.capability, 10) in TENSOR_CORES else "ieee"


# compute capabilities whose tf32 products are more than three times as fast as float32's: A100, H100 and H200, B200
TENSOR_CORES = {(8, 0), (9, 0), (10, 0), (10, 3)}
CARDS = (
    Card("A100 80 GB", 80, 108, 1.41, 2.04, 64, 512, 32, 164, 64),
    Card("H100 SXM", 90, 132, 1.98, 3.35, 128, 1024, 64, 228, 64),
    Card("H200 SXM", 90, 132, 1.98, 4.8, 128, 1024, 64, 228, 64),
    Card("B200", 100, 148, 1.97, 8.0, 128, 2048, 64, 228, 64),
    Card("RTX 4090", 89, 128, 2.52, 1.01, 128, 128, 2, 100, 48),
    Card("RTX 5090", 120, 170, 2.41, 1.79, 128, 128, 2, 100, 48),
)
CAPABILITIES = tuple(sorted({card.capability for card in CARDS}))
MMA = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "UTCOMMA")  # tensor-core instructions, from Ampere's to Blackwell's
LAYER = ("layer_forward", "layer_error", "update")  # the kernels that a layer takes in a step


@dataclass(frozen=True)
class Compiled:
    """A kernel of a step of K networks of N units on batches of B, compiled for a capability."""

    N: int
    B: int
    precision: str
    capability: int
    launch: Launch
    code: Code


def memory(kernel: str, N: int, B: int, K: int = K) -> float:
    """Compute the least bytes that a launch for K networks moves: weights W, signals S."""
    W, S = 4 * K * N * N, 4 * K * N * B
    evaluated = 4 * K * N * 2000
    return {
        "forward": 3 * S,
        "evaluate": 2 * evaluated,
        "backward": 4 * S,
        "layer_forward": W + 3 * S,
        "layer_error": W + 4 * S,
        "update": 4 * W + 2 * S,
        "norms": 2 * L * 4 * K * N * math.ceil(N / 64),
    }[kernel]


def products(instructions: Counter[str], kernel: str, N: int, B: int, precision: str, programs: int) -> float:
    """Count the products of two numbers on a program's tensor cores; 0 without them."""
    if kernel not in LAYER or precision == "ieee":
        return 0.0
    assert count(instructions, *MMA) > 0, f"{kernel} {precision}: no tensor-core instructions"
    return K * N * N * B * (3 if precision == "tf32x3" else 1) / programs


def bounds(item: Compiled, card: Card) -> dict[str, float]:
    """Compute the microseconds of one launch by each bound, if there were no other.

    Programs are spread over multiprocessors as whole ones. Every branch counts, though a program takes only one of the
    functions' four.
    """
    launch, executed = item.launch, item.code.executed(item.launch.trips)
    programs = math.ceil(launch.programs / card.multiprocessors)  # on the busiest multiprocessor
    lanes = programs * launch.warps * 32
    double = count(executed, "DFMA", "DADD", "DMUL")
    single = count(executed, "FFMA", "FADD", "FMUL") + 2 * count(executed, "FFMA2", "FADD2", "FMUL2")
    tensor = programs * products(executed, launch.kernel, item.N, item.B, item.precision, launch.programs)
    clocks = {
        "instructions": programs * launch.warps * sum(executed.values()) / 4,
        "float32": lanes * single / card.float32,
        "float64": lanes * double / card.float64,
        "tensor cores": tensor / card.tf32,
    }
    found = {name: value / card.ghz / 1e3 for name, value in clocks.items()}
    return {"memory": memory(launch.kernel, item.N, item.B) / (COPY * card.tb_per_s) / 1e6} | found


def resident(item: Compiled, card: Card) -> int:
    """Count the programs that a multiprocessor holds at once."""
    code, warps = item.code, item.launch.warps
    registers = 8 * math.ceil(code.registers / 8) * 32 * warps
    return min(65536 // registers, card.shared_kb * 1024 // (code.shared + 1024), card.warps // warps)


# --- compiling ---


def work(widths: Sequence[int], batches: Sequence[int]) -> list[tuple[int, int, str, int, str]]:
    jobs = []
    for N, B, capability in itertools.product(widths, batches, CAPABILITIES):
        precisions = ["ieee", "tf32", *(["tf32x3"] if divmod(capability, 10) in TENSOR_CORES else [])]
        for precision in precisions:
            names = launches(K, N, B, precision)
            jobs += [(N, B, precision, capability, name) for name in names if precision == "ieee" or name in LAYER]
    return jobs


def compile_one(job: tuple[int, int, str, int, str]) -> Compiled:
    N, B, precision, capability, name = job
    launch = launches(K, N, B, precision)[name]
    return Compiled(N, B, precision, capability, launch, compiled(launch, capability))


# --- writing ---


def table(heads: list[str], rows: Iterator[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(map(_text, row)) + " |" for row in rows), ""]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


COLUMNS: dict[str, Callable[[Compiled], Any]] = {
    "kernel": lambda item: item.launch.kernel,
    "sm": lambda item: item.capability,
    "products": lambda item: item.precision if item.launch.kernel in LAYER else "",
    "N": lambda item: item.N,
    "B": lambda item: item.B,
    "warps": lambda item: item.launch.warps,
    "programs": lambda item: item.launch.programs,
    "registers": lambda item: item.code.registers,
    "stack": lambda item: item.code.stack,
    "spills in loop": lambda item: item.code.spilled_in_loop,
    "shared": lambda item: item.code.shared,
    "resident": lambda item: resident(item, _card_of(item.capability)),
    "loop": lambda item: sum(item.code.loop.values()),
    "trips": lambda item: item.launch.trips,
    "rest": lambda item: sum(item.code.rest.values()),
    "FFMA": lambda item: count(item.code.loop, "FFMA") + 2 * count(item.code.loop, "FFMA2"),
    "MMA": lambda item: count(item.code.loop, *MMA),
    "of them wgmma": lambda item: count(item.code.loop, "HGMMA"),
    "shared loads": lambda item: count(item.code.loop, "LDS", "LDSM"),
    "async copies": lambda item: count(item.code.loop, "LDGSTS", "UBLKCP", "UTMALDG"),
    "ahead": lambda item: item.code.copies_ahead,
    "loads": lambda item: count(item.code.loop, "LDG"),
    "float64": lambda item: count(item.code.rest + item.code.loop, "DFMA", "DADD", "DMUL"),
    "MB": lambda item: memory(item.launch.kernel, item.N, item.B) / 1e6,
}
SHOWN = ("kernel", "sm", "products", "registers", "stack", "spills in loop", "shared", "resident", "loop", "trips",
         "FFMA", "MMA", "of them wgmma", "async copies", "ahead", "float64", "MB")  # fmt: skip


def _card_of(capability: int) -> Card:
    return next(card for card in CARDS if card.capability == capability)


def report(items: list[Compiled]) -> str:
    paper = [item for item in items if PAPER == (item.N, item.B)]
    widths = _list(item.N for item in items).replace(",", "")
    bad = [item for item in items if item.code.stack > MOST_STACK or item.code.spilled_in_loop]
    lines = [
        "# The GPU kernels as compiled, and bounds on their time",
        "",
        f"`python -m scripts.gpu.kernels --widths {widths}`, Triton {triton.__version__}. **Nothing here was "
        "measured on a GPU**: the numbers are what the compiler reports for each compute capability, and times follow "
        "from them and from data sheets.",
        "",
        f"{len(items)} kernels compiled, for widths {_list(item.N for item in items)}, batches of "
        f"{_list(item.B for item in items)} (the last mini-batch of MNIST has 32 samples, CIFAR-10's 16) and sm "
        f"{_list(item.capability for item in items)}. Stacks with and without batch norm run the same ones. "
        f"{len(bad)} of them have more than {MOST_STACK} bytes of stack a thread, or spilled registers in a loop"
        + "".join(f"; {i.launch.kernel} {i.precision} sm_{i.capability} N {i.N} B {i.B}" for i in bad) + ".",
        "",
        f"## A step of {K} networks, {L} x 500, batches of 64",
        "",
        f"Milliseconds for {L} layers. A kernel takes the longest of: its bytes at {COPY:.0%} of the data sheet's "
        "bandwidth (what copies reach); its instructions at four a clock; its float32, float64 and tensor-core "
        "operations at the data sheet's rates. That is optimistic: all latency hidden, perfect overlap. It is "
        "pessimistic in that layer_error's weights never come from the cache, where update finds them again, and that "
        "all branches of the functions count. 600 kernels follow one another in a graph: every microsecond between "
        "two adds 0.6 ms. *5 V* is the traffic that no way can avoid: V read forward and backward, V and velocity read "
        "and written, 5 K L N^2 numbers.",
        "",
        *table(
            ["card", "products", *LAYER, "step", "5 V", "step / 5 V", "bounded by"],
            (step_row(items, card, name) for card in CARDS for name in dict.fromkeys((card.precision, "ieee"))),
        ),
        "The grid of Table 2 under `budget=paper`, 24 networks on MNIST for 50 epochs and 24 on CIFAR-10 for 100, as "
        "two stacks, without evaluations, in hours:",
        "",
        *table(["card", "products", "hours at the bound"], (grid_row(items, card) for card in CARDS)),
        "## Kernels at the paper's shape",
        "",
        "Loop: instructions of the main loop, of which FFMA, tensor-core instructions (MMA) and asynchronous copies. "
        "Ahead: groups of copies that may be on their way while the loop goes on. An update's loop has no asynchronous "
        "copies: V and velocity are asked for before it. Resident: programs that a multiprocessor holds at once. "
        "Shared: bytes of a program. kernels.csv has all shapes and columns.",
        "",
        *table(
            list(SHOWN),
            ([COLUMNS[name](item) for name in SHOWN] for item in paper),
        ),
        "## Time of a launch at the paper's shape",
        "",
        "Microseconds by what bounds it.",
        "",
        *table(
            ["card", "kernel", "products", "memory", "instructions", "float32", "float64", "tensor cores"],
            (
                [card.name, item.launch.kernel, COLUMNS["products"](item), *bounds(item, card).values()]
                for card in CARDS
                for item in paper
                if item.capability == card.capability
                and (item.launch.kernel not in LAYER or item.precision == card.precision)
            ),
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _list(values: Iterator[int]) -> str:
    return ", ".join(map(str, sorted(set(values), reverse=True)))


def layer_times(items: list[Compiled], card: Card, precision: str) -> dict[str, tuple[float, str]]:
    """Compute milliseconds of each of a layer's kernels in a step at the paper's shape, and name its bound."""
    found = {}
    for item in items:
        key = item.N, item.B, item.precision, item.capability
        if key == (*PAPER, precision, card.capability) and item.launch.kernel in LAYER:
            limits = bounds(item, card)
            name = max(limits, key=lambda name: limits[name])
            found[item.launch.kernel] = L * limits[name] / 1e3, name
    return found


def step_row(items: list[Compiled], card: Card, precision: str) -> list[Any]:
    times = layer_times(items, card, precision)
    step = sum(milliseconds for milliseconds, _ in times.values())
    least = 1e3 * 5 * 4 * K * L * PAPER[0] ** 2 / (COPY * card.tb_per_s * 1e12)
    why = ", ".join(dict.fromkeys(times[name][1] for name in LAYER))
    return [card.name, precision, *(times[name][0] for name in LAYER), step, least, step / least, why]


def grid_row(items: list[Compiled], card: Card) -> list[Any]:
    step = sum(milliseconds for milliseconds, _ in layer_times(items, card, card.precision).values())
    epochs = {"mnist": 50, "cifar10": 100}
    steps = sum(number * math.ceil(DATASETS[name].train_size / PAPER[1]) for name, number in epochs.items())
    return [card.name, card.precision, steps * step / 3.6e6]


def as_csv(items: list[Compiled]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_text(column(item)) for column in COLUMNS.values()] for item in items)
    return text.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="N (default: 500 100); one must be 500")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="B (default: 64 32 16); one must be 64")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where they go (default: {FOLDER})")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile (default: 1)")
    arguments = parser.parse_args(argv)
    if PAPER[0] not in arguments.widths or PAPER[1] not in arguments.batches:
        parser.error(f"expected the paper's width {PAPER[0]} and batch {PAPER[1]} among --widths and --batches")
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        items = list(pool.map(compile_one, work(arguments.widths, arguments.batches)))
    write_text(arguments.folder / "kernels.csv", as_csv(items))
    write_text(arguments.folder / "kernels.md", report(items))
    print(f"wrote {arguments.folder / 'kernels.md'}: {len(items)} kernels")


if __name__ == "__main__":
    cli.run(main)
