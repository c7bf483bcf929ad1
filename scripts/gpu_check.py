"""Is the engine right on this GPU, and how fast? Numbers, times and a search for the best tile sizes.

    python -m scripts.gpu_check FOLDER                  a GPU with 24 GB; by estimate under 10 minutes
    python -m scripts.gpu_check FOLDER --rehearse       half a minute on a CPU, at toy sizes: does it run?

24 networks of 200 x 500, the paper's functions with and without GPN and batch norm, B = 64. Stages, in order:

    correct    every kernel and every way through the layers against float64, for each precision
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
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import numpy as np
import torch
from torch import Tensor

from bsnn.budgets import table_configs
from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset
from bsnn.engine.functions import Function, function_of, value_and_slope
from bsnn.engine.graphs import GraphSteps
from bsnn.engine.interval import run_steps
from bsnn.engine.passes import ACTIVATIONS, BOTTOM, FusedPasses, LayerState, Optimiser, TorchPasses
from bsnn.engine.stack import Stack, in_order
from bsnn.engine.triton_passes import PRECISIONS, Fusion, Tile, TritonPasses, default_tile
from bsnn.errors import UserError
from bsnn.files import read_json, user_path, write_json, write_text
from bsnn.provenance import device_name
from scripts import cli

SGD = Optimiser(learning_rate=1e-6, momentum=0.5)  # small: thousands of updates by the same error
FUSIONS = (Fusion("pass", "pass"), Fusion("layer", "layer"))
FUSED = ("layer_forward", "layer_error", "update")
SWEPT = ("tf32x3", "ieee", "bf16x6")
# ‖found - float64‖ / ‖float64‖ after a way through the layers and back
TOLERANCES = {"ieee": 1e-5, "tf32x3": 1e-5, "bf16x6": 1e-5, "bf16x3": 1e-3, "tf32": 1e-2}


@dataclass(frozen=True)
class Sizes:
    """K networks, L layers, N width, B batch; `layers` of them where all would take too long."""

    K: int
    L: int
    N: int
    B: int
    layers: int
    device: str

    @property
    def weights(self) -> int:
        """Bytes of a layer's V."""
        return 4 * self.K * self.N * self.N

    @property
    def signals(self) -> int:
        return 4 * self.K * self.N * self.B


REAL = Sizes(24, 200, 500, 64, 40, "cuda")
TOY = Sizes(4, 2, 40, 8, 2, "cpu")


def cells_of(sizes: Sizes) -> list[Cell]:
    """Cells of Table 2, half of them with batch norm, in the order of a stack's members: at K = 24 all of MNIST's."""
    keys = sorted(((key, config) for key, config in table_configs("paper").items() if key.dataset == "mnist"), key=str)
    chosen = []
    for batch_norm in (False, True):
        half = [config for key, config in keys if key.batch_norm == batch_norm]
        chosen += half[:: 2 * len(half) // sizes.K][: sizes.K // 2]
    shape: dict[str, Any] = {"depth": sizes.L, "width": sizes.N, "batch_size": sizes.B}
    return sorted((replace(Cell.from_config(config), **shape) for config in chosen), key=in_order)


def functions_of(sizes: Sizes) -> list[Function]:
    return known(cells_of(sizes))


def known(cells: Sequence[Cell]) -> list[Function]:
    rows = [row for row in (function_of(cell.make_activation()) for cell in cells) if row is not None]
    assert len(rows) == len(cells)
    return rows


def state_of(sizes: Sizes, layers: int) -> LayerState:
    K, N, device = sizes.K, sizes.N, torch.device(sizes.device)
    g = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device)

    V = normal(layers, K, N, N)
    r = torch.empty(layers, K, N, device=device)
    for layer in range(layers):
        V[layer].mul_(N**-0.5)
        r[layer] = 1 / torch.linalg.vector_norm(V[layer], dim=-1)
    Kb = K // 2
    bn = {name: 0.1 * normal(layers, Kb, N) for name in ("beta", "gamma_velocity", "beta_velocity", "running_mean")}
    for name in ("gamma", "running_var", "mean", "rstd"):
        bn[name] = 1 + 0.1 * normal(layers, Kb, N).abs()
    return LayerState(V=V, V_velocity=1e-3 * normal(layers, K, N, N), r=r, radial=torch.zeros_like(r), **bn)


def cast(value: LayerState, dtype: torch.dtype) -> LayerState:
    return LayerState(**{name: part.to(dtype, copy=True) for name, part in vars(value).items()})


class Check:
    """What was found, written after every row."""

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

    def correct(self) -> None:
        s = self.sizes
        self._correct((s.B,), PRECISIONS if s.device == "cuda" else PRECISIONS[:1])
        self._correct((s.B // 2, s.B // 4 + 1), PRECISIONS[:2] if s.device == "cuda" else PRECISIONS[:1])

    def _correct(self, batches: Sequence[int], precisions: Sequence[str]) -> None:
        s, L = self.sizes, min(3, self.sizes.L)
        given = state_of(s, L)
        torch_functions: list[tuple[slice, ACTIVATIONS]] = [
            (slice(k, k + 1), _in_torch(function)) for k, function in enumerate(self.functions)
        ]
        for batch in batches:
            g = torch.Generator(self.device).manual_seed(batch)
            h = [torch.randn(s.K, s.N, batch, generator=g, device=self.device) for _ in range(L + 1)]
            error = 1e-3 * torch.randn(s.K, s.N, batch, generator=g, device=self.device)
            exact = TorchPasses(cast(given, torch.float64), torch_functions, SGD)
            expected = _through(exact, [part.double() for part in h], error.double())
            plain = TorchPasses(cast(given, torch.float32), torch_functions, SGD)
            found = _through(plain, [part.clone() for part in h], error.clone())
            self.row("correct", batch=batch, precision="plain torch", error=max(_errors(found, expected).values()))
            for precision in precisions:
                for fusion in FUSIONS if precision == "ieee" else FUSIONS[1:]:
                    self._compare(given, h, error, expected, precision, fusion)

    def _compare(
        self, given: LayerState, h: Sequence[Tensor], error: Tensor, expected: dict[str, Tensor], precision: str,
        fusion: Fusion,
    ) -> None:  # fmt: skip
        way = {"batch": error.shape[2], "precision": precision, **asdict(fusion)}
        passes = TritonPasses(cast(given, torch.float32), self.functions, SGD, precision=precision, fusion=fusion,
                              tiles=self.tiles.get(precision))  # fmt: skip
        try:
            found = _through(passes, [part.clone() for part in h], error.clone())
        except Exception as failure:
            self.require(False, f"{way}: {type(failure).__name__}")
            self.row("correct", **way, failed=f"{type(failure).__name__}: {str(failure)[:200]}")
            return
        errors = _errors(found, expected)
        worst = max(errors, key=lambda name: errors[name])
        right = self.require(errors[worst] <= TOLERANCES[precision], f"{way}: {worst} off by {errors[worst]:.1e}")
        self.row("correct", **way, error=errors[worst], of=worst, right=right)

    def memory(self) -> None:
        s = self.sizes
        source = torch.randn(2**28 if s.device == "cuda" else 2**16, device=self.device)
        target = torch.empty_like(source)
        seconds = self._time(lambda: target.copy_(source))
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
                seconds = self._time(partial(_each, one, V)) / len(V)
                flops = 2 * s.K * s.N * s.N * s.B
                self.row("memory", what=f"bmm {what}", tf32=tf32, us=1e6 * seconds, tflop_per_s=flops / seconds / 1e12)
        torch.backends.cuda.matmul.allow_tf32 = False

    def kernels(self) -> None:
        s = self.sizes
        state = state_of(s, s.layers)
        bench = Bench(s, state, self.functions)
        for precision in SWEPT if s.device == "cuda" else ("ieee",):
            for kernel in bench.bytes if precision == "ieee" else FUSED:
                seconds = self._time(partial(bench.launch, kernel, precision)) / s.layers
                rate = bench.bytes[kernel] / seconds
                share = rate / self.bandwidth
                self.row("kernels", kernel=kernel, precision=precision, us=1e6 * seconds,
                         mb=bench.bytes[kernel] / 1e6, gb_per_s=rate / 1e9, share_of_copy=share)  # fmt: skip

    def sweep(self) -> None:
        s, gpu = self.sizes, self.sizes.device == "cuda"
        jobs = [(s, kernel, precision, t) for precision in (SWEPT if gpu else SWEPT[:1]) for kernel in FUSED
                for t in _tiles(kernel, s)]  # fmt: skip
        ready = _compiled(jobs, self.compile_seconds) if gpu else jobs
        self.row("sweep", tried=len(ready), of=len(jobs))
        bench = Bench(s, state_of(s, s.layers), self.functions)
        for (precision, kernel), group in itertools.groupby(ready, key=lambda job: (job[2], job[1])):
            limit, times = time.monotonic() + self.sweep_seconds, dict[Tile, float]()
            for *_, t in group:
                if time.monotonic() < limit:
                    times[t] = self._time(partial(bench.launch, kernel, precision, t), repeats=3) / s.layers
            best = sorted(times, key=lambda t: times[t])
            for place, t in enumerate(best[:4], start=1):
                self.row("sweep", kernel=kernel, precision=precision, place=place, **asdict(t), us=1e6 * times[t],
                         share_of_copy=bench.bytes[kernel] / times[t] / self.bandwidth)  # fmt: skip
            self.row("sweep", kernel=kernel, precision=precision, tried=len(times),
                     default_us=1e6 * times.get(default_tile(kernel, _power_of_two(s.B)), float("nan")))  # fmt: skip
            self.tiles.setdefault(precision, {})[kernel] = best[0]
        self._correct((s.B,), list(self.tiles))  # the fastest must be right as well

    def steps(self) -> None:
        s = self.sizes
        # a small rate: no network may diverge on random labels while it is timed
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
                seconds = self._time(lambda: stack.step(x, y, norms), repeats=5)
            except Exception as failure:
                self.require(False, f"step {way}: {type(failure).__name__}")
                self.row("steps", **way, failed=str(failure)[:200])
                continue
            launched = self._time(lambda: stack.step(x, y, norms), repeats=3, graph=False)
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

        cells, single, reports = cells_of(s), data(torch.float32), 0

        def on_step(networks: int) -> None:
            nonlocal reports
            reports += 1

        order = torch.stack([torch.randperm(samples, generator=g) for _ in cells]).to(self.device)
        results, graph_steps = [], GraphSteps()
        for name, run in (("run_steps", run_steps), ("GraphSteps", graph_steps)):
            stack = Stack(cells, self.device)
            for epoch in range(2):
                self._wait()
                start = time.perf_counter()
                measured = run(stack, single, order, batch, s.L, on_step, None)
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
        self.require(reports == 4 * (full + 1), f"on_step: expected {4 * (full + 1)} calls, found {reports}")
        self._against_float64(cells, data(torch.float64), single, order, batch)

    def _against_float64(self, cells: list[Cell], double: Dataset, single: Dataset, order: Tensor, batch: int) -> None:
        """Two GPN networks without batch norm, 20 steps: the only ones whose rounding errors don't explode."""
        s = self.sizes
        stable = sorted((cell for cell in cells if not cell.batch_norm), key=lambda cell: not cell.gpn)[:2]
        stable.sort(key=in_order)
        members = [replace(cell, dtype="float64") for cell in stable]
        samples = order[: len(stable), : min(20, len(double.train_x) // batch) * batch]
        exact = run_steps(Stack(members, self.device, compiled=False), double, samples, batch, s.L, _nothing, None)
        for precision in PRECISIONS if s.device == "cuda" else PRECISIONS[:1]:
            stack = Stack(stable, self.device, compiled=False)
            stack.passes = TritonPasses(stack.layers, known(stable), stack.optimiser, precision=precision,
                                        tiles=self.tiles.get(precision))  # fmt: skip
            found = run_steps(stack, single, samples, batch, s.L, _nothing, None)
            loss = abs(found.loss_SK / exact.loss_SK - 1)
            norms = abs(found.norms_SLK / exact.norms_SLK - 1)
            self.row("training", what=f"{s.L} x {s.N} against float64", precision=precision, steps=len(loss),
                     loss_first=loss[0].max(), loss_all=loss.max(), norms_first=norms[0].max(),
                     norms_all=norms.max())  # fmt: skip

    # --- time ---

    def _time(self, work: Callable[[], object], repeats: int = 7, graph: bool = True) -> float:
        """Median seconds of `work`, on a GPU as a captured graph unless told otherwise."""
        if self.device.type == "cpu":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.synchronize()
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured, stream=stream):
                work()
            work = captured.replay
        work()
        seconds = []
        for _ in range(repeats):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(float(begin.elapsed_time(end)) / 1e3)
        return statistics.median(seconds)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Bench:
    """Each kernel on all layers of a state in turn, so that none finds its weights in the cache."""

    def __init__(self, sizes: Sizes, state: LayerState, functions: list[Function]) -> None:
        self.sizes, self.state, self.functions = sizes, state, functions
        shape, device = (sizes.K, sizes.N, sizes.B), torch.device(sizes.device)
        self.h = [torch.randn(shape, device=device) for _ in range(sizes.layers + 1)]
        self.x, self.out, self.error, self.below = (1e-3 * torch.randn(shape, device=device) for _ in range(4))
        S, W = sizes.signals, sizes.weights
        self.bytes = {
            "forward": 3 * S,
            "evaluate": 2 * S,
            "backward": 4 * S,
            "layer_forward": W + 3 * S,
            "layer_error": W + 4 * S,
            "update": 4 * W + 2 * S,
        }
        self._passes: dict[tuple[str, str, Tile | None], TritonPasses] = {}

    def launch(self, kernel: str, precision: str, chosen: Tile | None = None) -> None:
        key = (kernel, precision, chosen)
        if key not in self._passes:
            self._passes[key] = TritonPasses(self.state, self.functions, SGD, precision=precision,
                                             tiles=None if chosen is None else {kernel: chosen})  # fmt: skip
        passes, h = self._passes[key], self.h
        for layer in range(self.sizes.layers):
            match kernel:
                case "forward":
                    passes.forward(layer, h[layer + 1], self.x)
                case "evaluate":
                    passes.evaluate(layer, h[layer + 1], self.x)
                case "backward":
                    passes.backward(layer, self.error, h[layer + 1], self.x)
                case "layer_forward":
                    passes.layer_forward(layer, self.x, h[layer + 1], self.out)
                case "layer_error":
                    passes.layer_error(layer, self.error, h[layer], self.below, self.out)
                case _:
                    passes.product_update(layer, self.error, self.x)


def _tiles(kernel: str, sizes: Sizes) -> Iterator[Tile]:
    """The default, then what else is worth a try."""
    first = default_tile(kernel, _power_of_two(sizes.B))
    yield first
    if sizes.device == "cpu":
        yield Tile(32, 16)
        return
    for own, step, warps, stages in itertools.product((32, 64, 128), (16, 32, 64), (4, 8), (1, 2, 3, 4)):
        chosen = Tile(own, step, warps, stages)
        if own * step <= 1024 * warps and chosen != first:
            yield chosen


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


Work = tuple[Sizes, str, str, Tile]  # kernel, precision


def _compiled(jobs: Sequence[Work], seconds: float) -> list[Work]:
    """The jobs whose kernels could be compiled in time, in as many processes as there are cores, into Triton's cache
    on disk. Missing are those that need more shared memory than there is."""
    with ProcessPoolExecutor(min(14, len(os.sched_getaffinity(0))), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_compiles, job): job for job in jobs}
        done, _ = wait(futures, timeout=seconds)
        pool.shutdown(wait=True, cancel_futures=True)
    fine = {
        futures[future] for future in done if not future.cancelled() and future.exception() is None and future.result()
    }
    return [job for job in jobs if job in fine]


_bench: Bench | None = None


def _compiles(job: Work) -> bool:
    global _bench
    sizes, kernel, precision, chosen = job
    if _bench is None:
        small = replace(sizes, layers=1)
        _bench = Bench(small, state_of(small, 1), functions_of(small))
    try:
        _bench.launch(kernel, precision, chosen)
        torch.cuda.synchronize()
    except Exception:
        return False
    return True


def _through(passes: TorchPasses | TritonPasses, h: list[Tensor], error: Tensor) -> dict[str, Tensor]:
    """Forward and back once, as a stack does it, into memory that starts as nan; all that comes out."""
    state = passes.state
    V, L = state.V, len(state.V)
    x, below = torch.full_like(error, float("nan")), torch.full_like(error, float("nan"))
    for part in h[1:]:
        part.fill_(float("nan"))
    norms = torch.full((L, V.shape[1]), float("nan"), dtype=torch.float64, device=V.device)
    evaluated = h[0].clone()
    passes.evaluate(BOTTOM, evaluated, evaluated)
    for layer in range(L):
        evaluated = torch.bmm(V[layer], evaluated)
        passes.evaluate(layer, evaluated, evaluated)
    passes.forward(BOTTOM, h[0], x)
    if isinstance(passes, TritonPasses):
        x, below = passes.forward_layers(h, x, below)
    else:
        for layer in range(L):
            torch.bmm(V[layer], x, out=h[layer + 1])
            passes.forward(layer, h[layer + 1], x)
    top = x.clone()
    passes.backward(L - 1, error, h[L], x)
    if isinstance(passes, TritonPasses):
        error = passes.backward_layers(h, error, below, x, norms)
    else:
        for layer in reversed(range(L)):
            torch.bmm(V[layer].mT, error, out=below)
            passes.backward(layer - 1, below, h[layer], x)
            passes.update(layer, torch.bmm(error, x.mT), norms[layer])
            error, below = below, error
    signals = {f"h{layer}": part for layer, part in enumerate(h)}
    changes = {name: part for name, part in vars(state).items() if name not in ("V", "radial")}
    return {"evaluated": evaluated, "x": top, "y": error, "norms": norms.T, **signals, **changes}


STATE = frozenset(LayerState.__dataclass_fields__)  # these have layers first, then members


def _errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """‖found - expected‖ / ‖expected‖ of each tensor, of the member that is worst off; nan counts as infinite."""
    errors = {}
    for name, exact in expected.items():
        axis = 1 if name in STATE else 0
        exact, value = exact.movedim(axis, 0).flatten(1), found[name].double().movedim(axis, 0).flatten(1)
        relative = (value - exact).norm(dim=1) / exact.norm(dim=1)
        errors[name] = float(relative.nan_to_num(nan=float("inf")).max())
    return errors


def _each(work: Callable[[Tensor], object], parts: Tensor) -> None:
    for part in parts:
        work(part)


def _in_torch(function: Function) -> ACTIVATIONS:
    return lambda u: value_and_slope(function, u)


def _nothing(networks: int) -> None:
    pass


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
