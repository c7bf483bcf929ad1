"""Check that the engine is right on this GPU and measure how fast: numbers, times, a search for the best tile sizes.

    python -m scripts.gpu.check FOLDER                  a GPU with 24 GB; by estimate under 10 minutes
    python -m scripts.gpu.check FOLDER --rehearse       half a minute on a CPU, at toy sizes: does it run?

24 networks of 200 x 500, the paper's functions with and without GPN and batch norm, B = 64. Stages, in order:

    correct    every way through the layers against float64, for each precision, replayed graphs included
    memory     what copies and plain products reach here: the ceilings
    kernels    time of each kernel, bytes moved, share of the copy's bandwidth
    sweep      tile sizes of the fused kernels, as far as --sweep-seconds go
    steps      a whole step: plain torch and Triton, plain and fused products, precisions; launched and as a graph
    training   GraphSteps against run_steps to the bit, and 20 steps of 200 x 500 against float64

FOLDER/gpu_check.json and FOLDER/gpu_check.md are written anew after every row. Exit code 1 if a number is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import numpy as np
import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import run_steps
from bsnn.engine.passes import FusedPasses
from bsnn.engine.selfcheck import disagreement
from bsnn.engine.stack import Stack, in_order
from bsnn.engine.triton_passes import PRECISIONS, Fusion, Tile, TritonPasses, default_tile
from bsnn.errors import UserError
from bsnn.files import read_json, user_path, write_json, write_text
from bsnn.results import cli
from bsnn.results.provenance import device_name
from scripts.gpu.bench import (
    REAL,
    SGD,
    TOY,
    Bench,
    Sizes,
    cells_of,
    compiled,
    functions_of,
    known,
    seconds_of,
    state_of,
    tiles,
)  # fmt: skip
from scripts.gpu.kernels import LAYER

FUSIONS = (Fusion("pass", "pass"), Fusion("layer", "layer"))
SWEPT = ("tf32x3", "ieee", "bf16x6")


class Check:
    """The findings, written after every row."""

    def __init__(self, folder: Path, sizes: Sizes, compile_seconds: float, sweep_seconds: float) -> None:
        self.folder, self.sizes = folder, sizes
        self.compile_seconds, self.sweep_seconds = compile_seconds, sweep_seconds
        self.device = torch.device(sizes.device)
        self.functions = functions_of(sizes)
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.wrong: list[str] = []
        self.bandwidth = float("nan")
        self.tiles: dict[str, dict[str, Tile]] = {}  # precision -> kernel -> best
        self.started = time.monotonic()

    def row(self, stage: str, **values: Any) -> None:
        self.tables.setdefault(stage, []).append(values)
        seconds = time.monotonic() - self.started
        print(f"{seconds:6.1f} s  {stage:9s}", *(f"{k}={_text(v)}" for k, v in values.items()), flush=True)
        about = {"device": device_name(self.device), "torch": torch.__version__, "sizes": asdict(self.sizes)}
        tiles = {p: {kernel: asdict(best) for kernel, best in found.items()} for p, found in self.tiles.items()}
        content = {**about, "seconds": seconds, "wrong": self.wrong, "tiles": tiles, **self.tables}
        write_json(self.folder / "gpu_check.json", content)
        lines = [f"# gpu_check: {about['device']}, torch {about['torch']}", "", f"Wrong: {self.wrong or 'nothing'}."]
        for name, rows in self.tables.items():
            heads = list(dict.fromkeys(key for row in rows for key in row))
            lines += ["", f"## {name}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
            lines += ["| " + " | ".join(_text(row.get(head, "")) for head in heads) + " |" for row in rows]
        write_text(self.folder / "gpu_check.md", "\n".join(lines) + "\n")

    def require(self, right: bool, what: str) -> bool:
        if not right:
            self.wrong.append(what)
        return right

    # --- stages ---

    def correct(self, precisions: Sequence[str] = PRECISIONS) -> None:
        """Compare each precision and fusion with float64 by bsnn.engine.selfcheck, replayed graphs included."""
        s = self.sizes
        ways = itertools.product(precisions if s.device == "cuda" else PRECISIONS[:1], FUSIONS)
        for precision, fusion in ways:
            way = {"precision": precision, **asdict(fusion)}
            make = partial(TritonPasses, precision=precision, fusion=fusion, tiles=self.tiles.get(precision))
            try:
                wrong = disagreement(cells_of(s)[0], self.device, precision, make)
            except Exception as failure:
                wrong = f"{type(failure).__name__}: {str(failure)[:200]}"
            self.require(wrong is None, f"{way}: {wrong}")
            self.row("correct", **way, wrong=wrong or "nothing")

    def memory(self) -> None:
        s = self.sizes
        source = torch.randn(2**28 if s.device == "cuda" else 2**16, device=self.device)
        target = torch.empty_like(source)
        seconds = seconds_of(lambda: target.copy_(source), self.device)
        self.bandwidth = 2 * 4 * source.numel() / seconds
        self.row("memory", what="copy", ms=1e3 * seconds, gb_per_s=self.bandwidth / 1e9)
        V = torch.randn(8 if s.device == "cuda" else 1, s.K, s.N, s.N, device=self.device)
        x, y = (torch.randn(s.K, s.N, s.B, device=self.device) for _ in range(2))
        product = torch.empty_like(V[0])
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            for what, one in (
                ("V x", lambda V: torch.bmm(V, x, out=y)),
                ("V^T e", lambda V: torch.bmm(V.mT, x, out=y)),
                ("e x^T", lambda V: torch.bmm(y, x.mT, out=product)),
            ):
                seconds = seconds_of(partial(_each, one, V), self.device) / len(V)
                flops = 2 * s.K * s.N * s.N * s.B
                self.row("memory", what=f"bmm {what}", tf32=tf32, us=1e6 * seconds, tflop_per_s=flops / seconds / 1e12)
        torch.backends.cuda.matmul.allow_tf32 = False

    def kernels(self) -> None:
        s = self.sizes
        state = state_of(s, s.layers)
        bench = Bench(s, state, self.functions)
        for precision in SWEPT if s.device == "cuda" else ("ieee",):
            for kernel in bench.bytes if precision == "ieee" else LAYER:
                seconds = seconds_of(partial(bench.launch, kernel, precision), self.device) / s.layers
                rate = bench.bytes[kernel] / seconds
                share = rate / self.bandwidth
                self.row("kernels", kernel=kernel, precision=precision, us=1e6 * seconds,
                         mb=bench.bytes[kernel] / 1e6, gb_per_s=rate / 1e9, share_of_copy=share)  # fmt: skip

    def sweep(self) -> None:
        s, gpu = self.sizes, self.sizes.device == "cuda"
        jobs = [(s, kernel, precision, t) for precision in (SWEPT if gpu else SWEPT[:1]) for kernel in LAYER
                for t in tiles(kernel, s)]  # fmt: skip
        ready = compiled(jobs, self.compile_seconds) if gpu else jobs
        self.row("sweep", tried=len(ready), of=len(jobs))
        bench = Bench(s, state_of(s, s.layers), self.functions)
        for (precision, kernel), group in itertools.groupby(ready, key=lambda job: (job[2], job[1])):
            limit, times = time.monotonic() + self.sweep_seconds, dict[Tile, float]()
            for *_, t in group:
                if time.monotonic() < limit:
                    times[t] = (
                        seconds_of(partial(bench.launch, kernel, precision, t), self.device, repeats=3) / s.layers
                    )
            best = sorted(times, key=lambda t: times[t])
            for place, t in enumerate(best[:4], start=1):
                self.row("sweep", kernel=kernel, precision=precision, place=place, **asdict(t), us=1e6 * times[t],
                         share_of_copy=bench.bytes[kernel] / times[t] / self.bandwidth)  # fmt: skip
            self.row("sweep", kernel=kernel, precision=precision, tried=len(times),
                     default_us=1e6 * times.get(default_tile(kernel, s.B), float("nan")))  # fmt: skip
            self.tiles.setdefault(precision, {})[kernel] = best[0]
        self.correct(list(self.tiles))  # the fastest must be right as well

    def steps(self) -> None:
        s = self.sizes
        # A small rate: no network may diverge on random labels while it is timed.
        cells = [replace(cell, learning_rate=SGD.learning_rate * 1e-3) for cell in cells_of(s)]
        stack = Stack(cells, self.device, compiled=False)
        plain = stack.passes
        x = torch.randn(s.K, s.B, 784, device=self.device)
        y = torch.randint(10, (s.K, s.B), device=self.device)
        norms = torch.zeros(s.L, s.K, dtype=torch.float64, device=self.device)
        ways: list[tuple[str, Fusion | None]] = [("plain torch", None), *(("ieee", fusion) for fusion in FUSIONS)]
        ways += [(p, f) for p in (PRECISIONS[1:] if s.device == "cuda" else ()) for f in FUSIONS[1:]]
        for precision, fusion in ways:
            way = {"precision": precision, **({} if fusion is None else asdict(fusion))}
            if fusion is not None:
                passes = TritonPasses(stack.layers, self.functions, stack.optimiser, precision=precision,
                                      fusion=fusion, tiles=self.tiles.get(precision))  # fmt: skip
                assert isinstance(passes, FusedPasses)
                stack.passes = passes
            else:
                stack.passes = plain
            try:
                seconds = seconds_of(lambda: stack.step(x, y, norms), self.device, repeats=5)
            except Exception as failure:
                self.require(False, f"step {way}: {type(failure).__name__}")
                self.row("steps", **way, failed=str(failure)[:200])
                continue
            launched = seconds_of(lambda: stack.step(x, y, norms), self.device, repeats=3, graph=False)
            least = 5 * s.weights * s.L / self.bandwidth
            self.row("steps", **way, ms=1e3 * seconds, ms_without_graph=1e3 * launched,
                     network_steps_per_s=s.K / seconds, share_of_copy=least / seconds,
                     finite=bool(norms.isfinite().all()))  # fmt: skip

    def training(self) -> None:
        s = self.sizes
        full, batch = (40, s.B) if s.device == "cuda" else (5, s.B)
        g = torch.Generator().manual_seed(0)
        samples = full * batch + batch // 2
        x, y = torch.randn(samples, 784, generator=g), torch.randint(10, (samples,), generator=g)

        def data(dtype: torch.dtype) -> Dataset:
            inputs, labels = x.to(self.device, dtype), y.to(self.device)
            return Dataset(DATASETS["mnist"], inputs, labels, inputs[:100], labels[:100])

        cells, single = cells_of(s), data(torch.float32)
        order = torch.stack([torch.randperm(samples, generator=g) for _ in cells]).to(self.device)
        results, graph_steps = [], GraphSteps()
        for name, run in (("run_steps", run_steps), ("GraphSteps", graph_steps)):
            stack = Stack(cells, self.device)
            for epoch in range(2):
                self._wait()
                start = time.perf_counter()
                measured = run(stack, single, order, batch, s.L)
                seconds = time.perf_counter() - start
                self.row("training", what=name, epoch=epoch, passes=type(stack.passes).__name__,
                         ms_per_step=1e3 * seconds / len(measured.loss_SK))  # fmt: skip
            results.append((measured, [stack.member(k)["V"] for k in (0, s.K - 1)]))
            del stack
        (measured, weights), (expected, expected_weights) = results
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(measured, expected, strict=True))
        for a, b in zip(weights, expected_weights, strict=True):
            same = same and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        self.row("training", what="GraphSteps = run_steps to the bit", right=self.require(same, "GraphSteps differs"))
        self._against_float64(cells, data(torch.float64), single, order, batch)

    def _against_float64(self, cells: list[Cell], double: Dataset, single: Dataset, order: Tensor, batch: int) -> None:
        """Train two GPN networks without batch norm for 20 steps: only their rounding errors don't explode."""
        s = self.sizes
        stable = sorted((cell for cell in cells if not cell.batch_norm), key=lambda cell: not cell.gpn)[:2]
        stable.sort(key=in_order)
        members = [replace(cell, dtype="float64") for cell in stable]
        samples = order[: len(stable), : min(20, len(double.train_x) // batch) * batch]
        exact = run_steps(Stack(members, self.device, compiled=False), double, samples, batch, s.L)
        for precision in PRECISIONS if s.device == "cuda" else PRECISIONS[:1]:
            stack = Stack(stable, self.device, compiled=False)
            stack.passes = TritonPasses(stack.layers, known(stable), stack.optimiser, precision=precision,
                                        tiles=self.tiles.get(precision))  # fmt: skip
            found = run_steps(stack, single, samples, batch, s.L)
            loss = abs(found.loss_SK / exact.loss_SK - 1)
            norms = abs(found.norms_SLK / exact.norms_SLK - 1)
            self.row("training", what=f"{s.L} x {s.N} against float64", precision=precision, steps=len(loss),
                     loss_first=loss[0].max(), loss_all=loss.max(), norms_first=norms[0].max(),
                     norms_all=norms.max())  # fmt: skip

    # --- time ---

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _each(work: Callable[[Tensor], object], parts: Tensor) -> None:
    for part in parts:
        work(part)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


STAGES = ("correct", "memory", "kernels", "sweep", "steps", "training")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="where the numbers go")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on the CPU, in Triton's interpreter")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="only these")
    parser.add_argument("--networks", type=int, default=REAL.K, help="K, an even divisor of 24 (default: 24)")
    parser.add_argument("--compile-seconds", type=float, default=120.0, help="all the sweep's kernels (default: 120)")
    parser.add_argument("--sweep-seconds", type=float, default=6.0, help="timing of one kernel's tiles (default: 6)")
    parser.add_argument(
        "--tiles", type=user_path, metavar="JSON", help="start from the best tiles of an earlier run's file"
    )
    arguments = parser.parse_args(argv)
    sizes = TOY if arguments.rehearse else replace(REAL, K=arguments.networks)
    if sizes.device == "cuda" and not torch.cuda.is_available():
        raise UserError("gpu_check: expected a GPU that torch can use, found none; --rehearse runs without.")
    torch.manual_seed(0)
    if sizes.device == "cpu":
        torch.set_num_threads(1)  # toy sizes
        np.seterr(all="ignore")  # the interpreter computes with numpy
    check = Check(arguments.folder, sizes, arguments.compile_seconds, arguments.sweep_seconds)
    if arguments.tiles is not None:
        found = read_json(arguments.tiles)["tiles"]
        check.tiles = {p: {kernel: Tile(**best) for kernel, best in kernels.items()} for p, kernels in found.items()}
    with torch.no_grad():
        for stage in STAGES:
            if stage in arguments.stages:
                getattr(check, stage)()
                if sizes.device == "cuda":
                    torch.cuda.empty_cache()
    print(*check.wrong or ["nothing wrong"], sep="\n")
    if check.wrong:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
