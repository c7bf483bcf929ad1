"""The measuring tools of scripts.gpu.check: states of random numbers, kernels launched layer by layer, seconds."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from bsnn.cell import Cell
from bsnn.engine.functions import Function, function_of
from bsnn.engine.passes import LayerState, Optimiser
from bsnn.engine.stack import in_order
from bsnn.engine.triton_passes import Tile, TritonPasses, default_tile
from bsnn.results.budgets import table_configs
from scripts.gpu.kernels import LAYER, memory

SGD = Optimiser(learning_rate=1e-6, momentum=0.5)  # small: the same error is used for thousands of updates


@dataclass(frozen=True)
class Sizes:
    """K networks, L layers, N width, B batch; `layers` of the layers are used if all would take too long."""

    K: int
    L: int
    N: int
    B: int
    layers: int
    device: str

    @property
    def weights(self) -> int:
        """The number of bytes of a layer's V."""
        return 4 * self.K * self.N * self.N

    @property
    def signals(self) -> int:
        return 4 * self.K * self.N * self.B


REAL = Sizes(24, 200, 500, 64, 40, "cuda")
TOY = Sizes(4, 2, 40, 8, 2, "cpu")


def cells_of(sizes: Sizes) -> list[Cell]:
    """Make cells of Table 2, half with batch norm, in the order of a stack's members: at K = 24 all of MNIST's."""
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


class Bench:
    """A bench that runs each kernel on all layers of a state in turn, so that none finds its weights in the cache."""

    def __init__(self, sizes: Sizes, state: LayerState, functions: list[Function]) -> None:
        self.sizes, self.state, self.functions = sizes, state, functions
        shape, device = (sizes.K, sizes.N, sizes.B), torch.device(sizes.device)
        self.h = [torch.randn(shape, device=device) for _ in range(sizes.layers + 1)]
        self.x, self.out, self.error, self.below = (1e-3 * torch.randn(shape, device=device) for _ in range(4))
        self.bytes = {kernel: memory(kernel, sizes.N, sizes.B, sizes.K) for kernel in ("forward", "backward", *LAYER)}
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
                case "backward":
                    passes.backward(layer, self.error, h[layer + 1], self.x)
                case "layer_forward":
                    passes.layer_forward(layer, self.x, h[layer + 1], self.out)
                case "layer_error":
                    passes.layer_error(layer, self.error, h[layer], self.below, self.out)
                case _:
                    passes.product_update(layer, self.error, self.x)


def tiles(kernel: str, sizes: Sizes) -> Iterator[Tile]:
    """Yield the default, then other sizes worth a try."""
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


def compiled(jobs: Sequence[Work], seconds: float) -> list[Work]:
    """Compile the jobs' kernels in as many processes as there are cores, into Triton's cache on disk.

    Returns the jobs that were compiled in time. Kernels that need more shared memory than there is are missing.
    """
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


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 7, graph: bool = True) -> float:
    """Measure the median seconds of `work`; on a GPU it is captured as a graph unless told otherwise."""
    if device.type == "cpu":
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
