"""Deep narrow ReLU networks collapse: "Collapse of deep and narrow neural nets" (ICLR 2019 submission), Figures 1-7.

    python -m experiments.collapse +experiment=collapse_chain      # likewise probability, safe, orthogonal, biases,
    python -m experiments.collapse +experiment=collapse_targets    # length; optimisers, losses, remedies
    python -m experiments.collapse -m '+experiment=glob(collapse_*)'

Claim     A deep narrow ReLU network is the zero function at initialisation with high probability (Theorems 8-10, Figs 6
          and 7), and trained it ends at the mean of its target, with absolute loss at the median (Figs 1-5); batch norm
          and SELU escape, weight normalisation and dropout don't (section 5).
Cost      budget=quick: 17 min on two cores of an AMD EPYC that three other studies shared: remedies 467 s, optimisers
          305 s, losses 104 s, targets 74 s, probability 43 s, orthogonal 21 s, the rest 21 s. A training step of 64
          networks of 10 layers and width 2 takes 1.5 ms on one core, twice to three times that with batch norm
Output    results/<budget>/collapse/<part>.csv, the numbers, and .json, where they come from

Columns, after those that name the unit
  chain        (law) layer, state, next (1-16 as the paper numbers them), count, total, probability. Law paper: the
               matrix of Theorem 10; drawn: its assumptions, simulated; others: networks, from `layer` to the next
  probability  (width, law) depth, dead (for x = 1 and x = -1) and dead_plus (for x = 1) of `members` networks, all
               layers with ReLU; exact, exact_error: of Gaussian weights (bsnn.collapse_exact; error 0: quadrature);
               paper: Theorem 10
  orthogonal   (width) depth, dead, dead_plus, members: orthogonal initialisation
  safe         (width) share, depth: the largest with P(dead) <= share; low, high: at 4 standard errors more and less;
               bound: equation 5
  biases       (widths, biases) law, activate_last, zero of `members` networks at one input; theory: Theorems 8 and 9
  length       (width, phi) layer, mean, error (its standard error), median, zero (share with q = 0) of q^l at He's
               variance; predicted: equation 2; relu_relative_variance: bsnn.collapse.relative_variance
  targets, optimisers, losses, remedies: experiments.collapse_training
               (target, initialisation, optimiser, loss, method) member; dead_at_start: it is the zero function;
               outcome, at_mean, at_median, value, error, dead: bsnn.collapse_fate; curve: the first output of a few
               members on Target.grid, separated by spaces
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import hydra
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING, DictConfig

from bsnn import collapse, collapse_exact
from bsnn.collapse_fate import OPTIMISERS, SECOND_ORDER
from bsnn.config import CONF, StudyConfig
from bsnn.narrow import NarrowStack, draw_weights
from bsnn.propagation import each
from bsnn.provenance import choose_device
from bsnn.randomness import Purpose, generator
from experiments import collapse_training, entry, study
from experiments.collapse_training import OptimiserSizes, Run, TrainSizes
from experiments.units import Row, Work, threads_for

CHUNK = 10_000  # networks drawn at a time
LAWS = ("he", "he_uniform")
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh}
SHARES = (0.01, 0.1)  # Fig. 6B
INPUT = 0.7  # Theorems 8 and 9 speak of any
STREAMS = {"chain": 0, "probability": 1, "orthogonal": 2, "safe": 3, "biases": 4, "length": 5}  # 6: collapse_training


@dataclass
class ChainSizes:
    draws: int = MISSING
    members: int = MISSING
    layers: list[int] = MISSING


@dataclass
class SweepSizes:
    members: int = MISSING
    depth: int = MISSING
    widths: list[int] = MISSING


@dataclass
class SafeSizes:
    members: int = MISSING
    widths: list[int] = MISSING


@dataclass
class BiasSizes:
    members: int = MISSING
    depths: list[int] = MISSING


@dataclass
class Sizes:
    """conf/collapse/<budget>.yaml."""

    chain: ChainSizes = field(default_factory=ChainSizes)
    probability: SweepSizes = field(default_factory=SweepSizes)
    orthogonal: SweepSizes = field(default_factory=SweepSizes)
    safe: SafeSizes = field(default_factory=SafeSizes)
    biases: BiasSizes = field(default_factory=BiasSizes)
    length: SweepSizes = field(default_factory=SweepSizes)
    targets: TrainSizes = field(default_factory=TrainSizes)
    optimisers: OptimiserSizes = field(default_factory=OptimiserSizes)
    losses: TrainSizes = field(default_factory=TrainSizes)
    remedies: TrainSizes = field(default_factory=TrainSizes)


@dataclass
class CollapseConfig(StudyConfig):
    sizes: Sizes = field(default_factory=Sizes)


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
                rest_KBN = 0 if activated else stack.biases[-1].mT  # without random biases that is 0 too
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
    """bsnn.collapse.simulate, a stream for every CHUNK of networks."""
    sizes: SweepSizes = getattr(config.sizes, part)
    code = STREAMS[part], width, ("orthogonal", *LAWS).index(law)

    def dead(chunk: int) -> collapse.Dead:
        members = min(CHUNK, sizes.members - chunk * CHUNK)
        stream = generator(config.seed, Purpose.COLLAPSE, *code, chunk)
        return collapse.simulate(width, sizes.depth, members, law, stream)

    chunks = each(dead, range(-(-sizes.members // CHUNK)), _workers(config))
    return collapse.Dead(*np.sum(chunks, axis=0))


def _workers(config: CollapseConfig) -> int:
    return threads_for(choose_device(config.device), config.threads)


def targets(config: CollapseConfig) -> Work:
    return _trained(config, [Run(target) for target in ("abs", "wave", "step", "pair")], config.sizes.targets)


def losses(config: CollapseConfig) -> Work:
    return _trained(config, [Run(target, loss="mae") for target in ("abs", "wave", "step")], config.sizes.losses)


def optimisers(config: CollapseConfig) -> Work:
    names = [*OPTIMISERS, *SECOND_ORDER]
    starts = ("he", "lecun", "glorot_uniform")
    runs = [Run("abs", initialisation=start, optimiser=name) for start in starts for name in names]
    return _trained(config, runs, config.sizes.optimisers)


def remedies(config: CollapseConfig) -> Work:
    runs = [Run(target, method=name) for target in ("abs", "wave") for name in collapse_training.METHODS]
    return _trained(config, runs, config.sizes.remedies)


def _trained(config: CollapseConfig, runs: list[Run], sizes: TrainSizes) -> Work:
    return collapse_training.work(runs, sizes, config.seed, _workers(config))


PARTS = {
    part.__name__: part
    for part in (chain, probability, safe, orthogonal, biases, length, targets, optimisers, losses, remedies)
}
study.register("collapse", CollapseConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="collapse")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("collapse", config, CollapseConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
