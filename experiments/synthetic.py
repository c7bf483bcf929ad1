"""Figures 1-3: a 200-layer random network keeps its signal and its gradient if phi is GPN, and stays nonlinear.

    python -m experiments.synthetic +experiment=fig1      # then: python -m scripts.fig1 results/quick
    python -m experiments.synthetic +experiment=fig2      # one draw
    python -m experiments.synthetic +experiment=fig3      # budget=paper: 10 draws instead of 3, as for fig1

Claim     Fig. 1: plain functions lose signal or gradient exponentially with depth, or (Tanh) go linear; GPN ones don't.
          Fig. 2: under GPN phi'(h) does not pile up at 1 (in SELU-GPN half of it does: its slope for h > 0 is 1.015).
          Fig. 3: gradient norms even out with width.
Cost      budget=quick: 66 s, 13 s, 3.7 min on two cores of an Intel Xeon; 6 GB of memory at width 1500.
Output    results/<budget>/fig<k>.csv, the numbers (dimensionless), and fig<k>.json, their provenance

Columns   All: draw, width, function, gpn (true or false), and then
          fig1  layer (l = 1..L), the norms of bsnn.propagation.Profile
          fig2  bin_left, bin_right, count, share (count / all): bins [left, right); the first, from -inf, and the last,
                to inf, hold what lies outside of the others
          fig3  ratio (max_l / min_l of gradient_mean), batch_ratio (of batch_gradient)

Same settings, same numbers: a finished figure is skipped. A killed one goes on after the last whole unit of work (one
draw at one width). With other settings than the budget's own (seed=1) the two files go to results/<budget>/
other_settings/, named after what differs: the results of a sweep (-m seed=0,1,2) lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from bsnn.config import CONF, SyntheticConfig, checked, register
from bsnn.errors import UserError
from bsnn.gpn import GPN
from bsnn.launch import entry
from bsnn.modules import build
from bsnn.propagation import Draw, draw, each, propagate, ratio, slope_histogram
from bsnn.quadrature import Phi, float64_phi
from bsnn.results import provenance
from experiments import constants, places
from experiments.units import Row, Work, compute, threads_for

PROTOCOL_VERSION = 1  # raise it when the code begins to compute other numbers from the same settings

# Bins of Fig. 2, centred on multiples of 0.02: the atoms of phi' at 0 and 1 lie inside a bin, not on an edge.
BIN_WIDTH, FIRST_CENTRE, BINS = 0.02, -0.5, 126


@dataclass(frozen=True)
class Figure:
    columns: tuple[str, ...]  # after draw, width, function, gpn
    versions: tuple[bool, ...]  # False: phi, True: its GPN version
    dtype: torch.dtype
    measure: Callable[[Phi, Draw], list[Row]]  # the rows of one function on one draw


def fig1(phi: Phi, drawn: Draw) -> list[Row]:
    profile = propagate(phi, drawn)
    norms = zip(*(getattr(profile, name).tolist() for name in NORMS), strict=True)
    return [[layer, *values] for layer, values in enumerate(norms, start=1)]


def fig2(phi: Phi, drawn: Draw) -> list[Row]:
    histogram = slope_histogram(phi, drawn, FIRST_CENTRE - BIN_WIDTH / 2, BIN_WIDTH, BINS)
    edges = [round(FIRST_CENTRE + (k - 0.5) * BIN_WIDTH, 6) for k in range(BINS + 1)]
    counts = [histogram.below, *histogram.counts, histogram.above]
    bins = zip([-math.inf, *edges], [*edges, math.inf], counts, strict=True)
    return [[left, right, count, count / sum(counts)] for left, right, count in bins]


def fig3(phi: Phi, drawn: Draw) -> list[Row]:
    profile = propagate(phi, drawn)
    return [[ratio(profile.gradient_mean), ratio(profile.batch_gradient)]]


NORMS = ("signal_mean", "signal_std", "gradient_mean", "gradient_std", "batch_gradient")
FIGURES = {
    # float64: norms of plain functions span tens of decades, more than float32 has
    "fig1": Figure(("layer", *NORMS), (False, True), torch.float64, fig1),
    "fig2": Figure(("bin_left", "bin_right", "count", "share"), (False, True), torch.float64, fig2),
    # float32: norms of GPN functions stay near 1; at width 500 the ratios agree with float64 to 7e-4 or better
    "fig3": Figure(("ratio", "batch_ratio"), (True,), torch.float32, fig3),
}


class Experiment:
    """The settings of one figure: its units of work, their rows, and the identity of the result."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.figure = FIGURES[config.figure]
        sweep = config.figure == "fig3"
        self.widths = list(config.widths) if sweep else [config.width]
        self.draws = 1 if config.figure == "fig2" else config.draws
        self.device = provenance.choose_device(config.device)
        self.workers = threads_for(self.device, config.threads)

    @property
    def work(self) -> Work:
        functions = self.functions()
        columns = ("function", "gpn", *self.figure.columns)
        return Work(("draw", "width"), columns, self.units, lambda unit: self.rows(unit, functions), self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings and constants that change the numbers."""
        config = self.config
        changed = constants.changed(constants.found(self.figure.measure, Experiment.rows))
        return {
            "protocol": PROTOCOL_VERSION,
            "figure": config.figure,
            "dtype": str(self.figure.dtype),
            "activations": {
                name: {"module": activation.module, "gpn_root": activation.gpn_root}
                for name, activation in config.activations.items()
            },
            "depth": config.depth,
            "samples": config.samples,
            "seed": config.seed,
            "widths": self.widths,
            "draws": self.draws,
            **({"constants": changed} if changed else {}),
        }

    @property
    def units(self) -> list[tuple[int, int]]:
        """List the units, draws outermost: an interrupted figure has whole curves of the first draws."""
        return [(index, width) for index in range(self.draws) for width in self.widths]

    def functions(self) -> dict[tuple[str, bool], Phi]:
        return {
            (name, gpn): self._activation(name, gpn) for gpn in self.figure.versions for name in self.config.activations
        }

    def rows(self, unit: tuple[Any, ...], functions: dict[tuple[str, bool], Phi]) -> list[Row]:
        """Compute the rows of one unit, (draw, width). All functions see the same input, error and weights."""
        index, width = unit
        config, figure = self.config, self.figure
        drawn = draw(config.depth, width, config.samples, config.seed, index, figure.dtype, self.device, self.workers)
        measured = each(lambda phi: figure.measure(phi, drawn), functions.values(), self.workers)
        return [[name, gpn, *row] for (name, gpn), rows in zip(functions, measured, strict=True) for row in rows]

    def _activation(self, name: str, gpn: bool) -> Phi:
        settings = self.config.activations[name]
        try:
            phi = build(settings.module, trusted=True)
            if gpn:
                return GPN(phi, root=settings.gpn_root)
            float64_phi(phi)
            return phi
        except ValueError as error:
            raise UserError(f"activations.{name}: {error}") from error


def run(config: DictConfig) -> dict[str, Any]:
    """Compute what is missing of the figure's CSV and its record; return the record.

    A figure with other settings than the budget's own goes to other_settings/ (experiments.places).
    """
    experiment = Experiment(checked(config, SyntheticConfig))
    settings = experiment.config
    own = places.own_settings("synthetic", f"+experiment={settings.figure}", config)
    folder = Path(settings.results_dir) / settings.budget.name
    own_identity = Experiment(checked(own, SyntheticConfig)).identity
    path = places.place(folder, settings.figure, experiment.identity, own_identity)
    about = {"figure": settings.figure, "config": OmegaConf.to_container(config, resolve=True)}
    return compute(experiment.work, path, about, experiment.device, experiment.workers)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="synthetic")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    run(config)


register()

if __name__ == "__main__":
    entry.run(main)
