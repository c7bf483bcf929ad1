"""The report of scripts.benchmark, as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from statistics import geometric_mean
from typing import Any

import pandas as pd

from bsnn.results.markdown import table
from scripts.benchmark.contestants import CEILINGS, work_of


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
    for width, batch_norm in itertools.product(sorted(set(table["width"])), (False, True)):
        group = table[(table["width"] == width) & (table["batch_norm"] == batch_norm)]
        yield f"## 200 x {width}, {'with' if batch_norm else 'without'} batch norm\n"
        yield from functions(group[group["function"] != "mixed"])
        mixed = group[group["function"] == "mixed"]
        if len(mixed):
            yield from stacks(width, mixed)
    if peaks:
        yield "## Memory\n"
        for width, networks, peak, expected in peaks:
            yield f"- {networks} networks of 200 x {width}: peak {peak / 2**20:.0f} MiB, {peak / expected:.2f} times"
            yield f"  their weights, velocities and kept activations ({expected / 2**20:.0f} MiB)"


def functions(single: pd.DataFrame) -> Iterator[str]:
    """Yield a row for every function: the engine's speed relative to the faster way of running bsnn.network.

    With another checkout's engine, it is relative to that engine.
    """
    ratios = {}
    for function, times in single.groupby("function", sort=False):
        network = times[times["contestant"].str.startswith("network")]
        if len(network):
            engine = times.loc[times["contestant"].str.startswith("engine"), "milliseconds"].min()
            ratios[function] = network["milliseconds"].min() / engine
        else:
            ratios[function] = times["first_is_times_as_fast"].iloc[-1]
    wide = single.pivot(index="function", columns="contestant", values="milliseconds")
    wide = wide.loc[list(ratios)].assign(**{"times as fast": list(ratios.values())})
    yield table(["function", *wide.columns], [[name, *map("{:.2f}".format, row)] for name, row in wide.iterrows()])
    if single["contestant"].str.startswith("network").any():
        mean = geometric_mean(ratios.values())
        yield f"\nGeometric mean over the functions: the engine is **{mean:.2f} times** as fast"
        yield "as bsnn.network with torch.optim.SGD on the number of threads that suits it better.\n"
    else:
        mean = geometric_mean(ratios.values())
        yield f"\nMedians of the rounds' ratios: **{mean:.3f} times** as fast in the geometric"
        yield f"mean over the functions, {min(ratios.values()):.3f} at the least.\n"


def stacks(width: int, mixed: pd.DataFrame) -> Iterator[str]:
    flop, traffic = work_of(width)
    speed = pd.DataFrame(
        {
            "stack": mixed["contestant"],
            "ms a network": mixed["milliseconds"].map("{:.2f}".format),
            "fastest, slowest": [f"{row.fastest:.2f}, {row.slowest:.2f}" for row in mixed.itertuples()],
            "GFLOP/s": (flop / mixed["milliseconds"] * 1e3).map("{:.0f}".format),
            "GB/s of weights": (traffic / mixed["milliseconds"] * 1e3).map("{:.1f}".format),
        }
    )
    for name in CEILINGS:
        if name in set(mixed["contestant"]):
            label = speed["stack"] == name
            speed.loc[label, "GB/s of weights" if "products" in name else "GFLOP/s"] = ""
    yield "Stacks of mixed functions on one thread, torch.func's vmap over networks of one function, and ceilings:\n"
    yield table(list(speed.columns), speed.itertuples(index=False)) + "\n"
    times = mixed.set_index("contestant")["milliseconds"]
    if CEILINGS[0] not in times.index:
        return
    engine = times[times.index.str.startswith("engine")]
    hot, cold, moved = (times[name] for name in CEILINGS)
    best, bound = engine.min(), max(hot, moved)
    yield f"A step is {flop:.2f} GFLOP and moves {traffic:.3f} GB: the forward pass reads V, the backward pass reads"
    yield f"and writes V and its velocity. Its products alone take torch {hot:.2f} ms with one layer in the cache,"
    yield f"{cold:.2f} ms with all layers' in memory; its traffic alone takes {moved:.2f} ms. One can hide behind"
    yield f"the other: a step takes {bound:.2f} ms at least. The engine's fastest stack takes {best:.2f} ms:"
    yield f"**{bound / best:.2f}** of that bound, and {cold / best:.2f} of the speed of torch's products alone with"
    yield "weights in memory.\n"
