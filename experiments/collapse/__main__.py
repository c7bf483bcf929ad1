"""Deep narrow ReLU networks collapse: "Collapse of deep and narrow neural nets" (ICLR 2019 submission), Figures 1-7.

    python -m experiments.collapse                          all parts; then:
    python -m experiments.collapse.report results/quick
    python -m experiments.collapse part=chain                one part

Claim     A deep narrow ReLU network is the zero function at initialisation with high probability (Theorems 8-10, Figs 6
          and 7), and trained it ends at the mean of its target, with absolute loss at the median (Figs 1-5); batch norm
          and SELU escape, weight normalisation and dropout don't (section 5).
Cost      budget=quick: 17 min on two cores of an AMD EPYC that three other studies shared: remedies 467 s, optimisers
          305 s, losses 104 s, targets 74 s, probability 43 s, theorems 23 s, orthogonal 21 s, the rest 21 s;
          widths 1011 s beside one other process. A training
          step of 64 networks of 10 layers and width 2 takes 1.5 ms on one core, twice to three times that with batch
          norm
Output    results/<budget>/collapse/<part>.csv, the numbers, and .json, their provenance

Columns, after those that name the unit
  chain        (law) layer, state, next (1-16 as the paper numbers them), count, total, probability. Law paper: the
               matrix of Theorem 10; drawn: its assumptions, simulated; others: networks, from `layer` to the next
  probability  (width, law) depth, dead (for x = 1 and x = -1) and dead_plus (for x = 1) of `members` networks, all
               layers with ReLU; exact, exact_error: of Gaussian weights (bsnn.collapse.exact; error 0: quadrature);
               paper: Theorem 10
  orthogonal   (width) depth, dead, dead_plus, members: orthogonal initialisation
  safe         (width) share, depth: the largest with P(dead) <= share; low, high: at 4 standard errors more and less;
               bound: equation 5
  biases       (widths, biases) law, activate_last, zero of `members` networks at one input; theory: Theorems 8 and 9
  length       (width, phi) layer, mean, error (its standard error), median, zero (share with q = 0) of q^l at He's
               variance; predicted: equation 2; relu_relative_variance: bsnn.collapse.probability.relative_variance
  theorems     (law, biases) statement, networks that it is about, holds: for how many of them; largest gradient that
               should be 0 (LSUV: share of dead networks)
  widths       (target, width, remedy) member; outcome, error: bsnn.collapse.fate
  targets, optimisers, losses, remedies: experiments.collapse.training
               (target, initialisation, optimiser, loss, method) member; dead_at_start: it is the zero function;
               outcome, at_mean, at_median, value, error, dead: bsnn.collapse.fate; curve: the first output of a few
               members on Target.grid, separated by spaces
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from bsnn.collapse.fate import OPTIMISERS, SECOND_ORDER
from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.collapse.config import CollapseConfig
from experiments.collapse.random import biases, chain, length, orthogonal, probability, safe, workers
from experiments.collapse.theorems import theorems
from experiments.collapse.training import METHODS, Run, TrainSizes, work
from experiments.collapse.widths import widths
from experiments.units import Work


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
    runs = [Run(target, method=name) for target in ("abs", "wave") for name in METHODS]
    return _trained(config, runs, config.sizes.remedies)


def _trained(config: CollapseConfig, runs: list[Run], sizes: TrainSizes) -> Work:
    return work(runs, sizes, config.seed, workers(config))


PARTS = {
    # Figures 1-4: trained networks, mean squared error.
    "targets": targets,
    # Section 2: three initialisations, eight optimisers, y = |x|.
    "optimisers": optimisers,
    # Figure 5: trained networks, mean absolute error.
    "losses": losses,
    # Section 3: the length of the pre-activations by layer.
    "length": length,
    # Theorems 8 and 9: the probability of a zero output at one input, without and with random biases.
    "biases": biases,
    # Theorem 10: the transition matrix from the paper's integrals, simulated under its assumptions, and in networks.
    "chain": chain,
    # Figure 6A: the probability of a zero function against depth, by simulation, exactly, and by Theorem 10.
    "probability": probability,
    # Figure 6B: the number of layers that a width can have.
    "safe": safe,
    # Figure 7: the same probability with orthogonal weights.
    "orthogonal": orthogonal,
    # Section 5.2: batch norm, SELU, weight normalisation, dropout.
    "remedies": remedies,
    # Theorems 1, 5 and 6, Corollary 2, Lemma 3: what holds of networks that are constant.
    "theorems": theorems,
    # Section 5.2 at other widths and for the other targets.
    "widths": widths,
}
study.register("collapse", CollapseConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="collapse")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("collapse", config, CollapseConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
