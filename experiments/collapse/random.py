"""Deep narrow networks with random weights: the probability of the zero function, and the length of signals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bsnn.collapse import exact as collapse_exact
from bsnn.collapse import probability as collapse
from bsnn.collapse.networks import NarrowStack, draw_weights
from bsnn.propagation import each
from bsnn.randomness import Purpose, generator
from bsnn.results.provenance import choose_device
from experiments.collapse.config import CollapseConfig, SweepSizes
from experiments.units import Row, Work, threads_for

CHUNK = 10_000  # networks drawn at a time
LAWS = ("he", "he_uniform")
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh}
SHARES = (0.01, 0.1)  # Fig. 6B
INPUT = 0.7  # Theorems 8 and 9 hold for any input
STREAMS = {
    "chain": 0,
    "probability": 1,
    "orthogonal": 2,
    "safe": 3,
    "biases": 4,
    "length": 5,
}  # 6: training.STREAM


def chain(config: CollapseConfig) -> Work:
    sizes = config.sizes.chain
    matrix = collapse.paper_matrix()

    def table(layer: int, counts: NDArray[np.int64]) -> list[Row]:
        totals = counts.sum(axis=1)
        return [
            [layer, i + 1, j + 1, int(counts[i, j]), int(totals[i]), float(counts[i, j] / totals[i])]
            for i in range(collapse.STATES)
            for j in range(collapse.STATES)
            if totals[i]
        ]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        (law,) = unit
        stream = generator(config.seed, Purpose.COLLAPSE, STREAMS["chain"], ("paper", "drawn", *LAWS).index(law))
        if law == "paper":
            return [[0, i + 1, j + 1, None, None, float(matrix[i, j])] for i, j in np.ndindex(matrix.shape)]
        if law == "drawn":
            drawn = [collapse.drawn_transitions(i, sizes.draws, stream) for i in range(collapse.STATES)]
            return table(0, np.stack([np.bincount(one.numpy(), minlength=collapse.STATES) for one in drawn]))
        counts = np.zeros((len(sizes.layers), collapse.STATES, collapse.STATES), dtype=np.int64)
        for first in range(0, sizes.members, CHUNK):
            members = min(CHUNK, sizes.members - first)
            signs = collapse.outputs(2, max(sizes.layers) + 1, members, law, stream)
            states = [collapse.state_of(plus, minus) for plus, minus in signs]
            for index, layer in enumerate(sizes.layers):
                pairs = collapse.STATES * states[layer - 1] + states[layer]
                counts[index] += np.bincount(pairs.numpy(), minlength=collapse.STATES**2).reshape(counts[index].shape)
        return [row for index, layer in enumerate(sizes.layers) for row in table(layer, counts[index])]

    columns = ("layer", "state", "next", "count", "total", "probability")
    return Work(("law",), columns, [(law,) for law in ("paper", "drawn", *LAWS)], rows, {"version": 1})


def probability(config: CollapseConfig) -> Work:
    sizes = config.sizes.probability

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        width, law = unit
        dead = _simulate(config, "probability", width, law)
        if width == 2:
            exact, error = collapse_exact.exact_width_2(sizes.depth), np.zeros(sizes.depth)
            paper = collapse.paper_collapse(sizes.depth).tolist()
        else:
            stream = generator(config.seed, Purpose.COLLAPSE, STREAMS["probability"], width)
            exact, error, _ = collapse_exact.angle_chain(width, sizes.depth, sizes.members, stream)
            paper = [None] * sizes.depth
        columns = zip(dead.both.tolist(), dead.plus.tolist(), exact.tolist(), error.tolist(), paper, strict=True)
        return [[depth, sizes.members, *values] for depth, values in enumerate(columns, start=1)]

    columns = ("depth", "members", "dead", "dead_plus", "exact", "exact_error", "paper")
    units = [(width, law) for width in sizes.widths for law in LAWS]
    return Work(("width", "law"), columns, units, rows, {"version": 1})


def orthogonal(config: CollapseConfig) -> Work:
    sizes = config.sizes.orthogonal

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        (width,) = unit
        dead = _simulate(config, "orthogonal", width, "orthogonal")
        pairs = zip(dead.both.tolist(), dead.plus.tolist(), strict=True)
        return [[depth, sizes.members, *pair] for depth, pair in enumerate(pairs, start=1)]

    units = [(width,) for width in sizes.widths]
    return Work(("width",), ("depth", "members", "dead", "dead_plus"), units, rows, {"version": 1})


def safe(config: CollapseConfig) -> Work:
    sizes = config.sizes.safe

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        (width,) = unit
        stream = generator(config.seed, Purpose.COLLAPSE, STREAMS["safe"], width)
        longest = 4 * collapse.safe_depth(width, max(SHARES)) + 10  # collapse_bounds: it ends well before
        dead, error, _ = collapse_exact.angle_chain(width, longest, sizes.members, stream, until=max(SHARES))
        found: list[Row] = []
        for share in SHARES:
            middle, low, high = (int(np.searchsorted(dead + k * error, share, side="right")) for k in (0, 4, -4))
            found.append([share, middle, low, high, collapse.safe_depth(width, share)])
        return found

    columns = ("share", "depth", "low", "high", "bound")
    return Work(("width",), columns, [(width,) for width in sizes.widths], rows, {"version": 1})


def biases(config: CollapseConfig) -> Work:
    sizes = config.sizes.biases
    networks = [[width] * depth for width in (2, 3) for depth in sizes.depths] + [[4, 3, 2], [2, 3, 4]]
    units = [("-".join(map(str, widths)), biased) for widths in networks for biased in (False, True)]

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        name, biased = unit
        widths = [int(width) for width in name.split("-")]
        found: list[Row] = []
        for code, law in enumerate(LAWS):
            stream = generator(config.seed, Purpose.COLLAPSE, STREAMS["biases"], units.index(unit), code)
            for activated in (False, True):
                stack = NarrowStack(
                    (1, *widths),
                    sizes.members,
                    initialisation=law,
                    activate_last=activated,
                    generator=stream,
                    dtype=torch.float64,
                )
                assert stack.biases is not None
                if biased:
                    with torch.no_grad():
                        for column_KN1 in stack.biases:
                            column_KN1.copy_(draw_weights(law, sizes.members, column_KN1.shape[1], 1, stream))
                output_KBN = stack.signals(torch.tensor([[INPUT]], dtype=torch.float64))[-1]
                rest_KBN = 0 if activated else stack.biases[-1].mT  # without random biases that is 0, too
                zero = int((output_KBN == rest_KBN).all(dim=2).sum())
                theory = collapse.zero_for_an_input(widths, biased, activated)
                found.append([law, activated, sizes.members, zero, theory])
        return found

    columns = ("law", "activate_last", "members", "zero", "theory")
    return Work(("widths", "biases"), columns, units, rows, {"version": 1})


def length(config: CollapseConfig) -> Work:
    sizes = config.sizes.length
    predicted = functools.cache(lambda name: collapse.expected_lengths(FUNCTIONS[name], sizes.depth))

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        width, name = unit
        phi = FUNCTIONS[name]
        stream = generator(config.seed, Purpose.COLLAPSE, STREAMS["length"], width, list(FUNCTIONS).index(name))
        q_LK = collapse.lengths(phi, width, sizes.depth, sizes.members, stream)
        error_L = q_LK.std(axis=1, ddof=1) / np.sqrt(sizes.members)
        columns = [q_LK.mean(axis=1), error_L, np.median(q_LK, axis=1), (q_LK == 0).mean(axis=1)]
        columns += [predicted(name), collapse.relative_variance(width, sizes.depth)]
        table = np.stack(columns, axis=1).tolist()
        return [[layer, sizes.members, *values] for layer, values in enumerate(table, start=1)]

    columns = ("layer", "members", "mean", "error", "median", "zero", "predicted", "relu_relative_variance")
    units = [(width, name) for width in sizes.widths for name in FUNCTIONS]
    return Work(("width", "phi"), columns, units, rows, {"version": 1})


def _simulate(config: CollapseConfig, part: str, width: int, law: str) -> collapse.Dead:
    """Run bsnn.collapse.probability.simulate with a stream for every CHUNK of networks."""
    sizes: SweepSizes = getattr(config.sizes, part)
    code = STREAMS[part], width, ("orthogonal", *LAWS).index(law)

    def dead(chunk: int) -> collapse.Dead:
        members = min(CHUNK, sizes.members - chunk * CHUNK)
        stream = generator(config.seed, Purpose.COLLAPSE, *code, chunk)
        return collapse.simulate(width, sizes.depth, members, law, stream)

    chunks = each(dead, range(-(-sizes.members // CHUNK)), workers(config))
    return collapse.Dead(*np.sum(chunks, axis=0))


def workers(config: CollapseConfig) -> int:
    return threads_for(choose_device(config.device), config.threads)
