"""Representations shrink with depth, or gradients explode: the shrinkage paper's theorems and its Figures 1-4.

    python -m experiments.shrinkage                          all parts; then:
    python -m experiments.shrinkage.report results/quick
    python -m experiments.shrinkage part=fig1                one part

Source    "Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission)
Claim     Wide layers that normalise lengths can't keep both different inputs apart and the Jacobian small (Theorems 1
          and 2); critical layers align all inputs, 1 - rho ~ depth^-2 (ReLU) or depth^-1 (erf); so a block in the
          middle of a deep network can be made one linear layer.
Cost      budget=quick: 5.6 min of one core's time (process time on a shared 2-core machine): maps 27 s, bounds 43 s,
          fig1 10 s, depth 70 s, slope 28 s, fig3 28 s, residual 25 s, fig4 1.9 min. Beside another process:
          block 3.1 min, steps 2.9 min, batch_norm and precision 35 s each
Output    results/<budget>/shrinkage/<part>.csv and .json

Columns   distance is 1 - rho, rho the correlation of two inputs' signals; `infinite` is the same quantity at infinite
          width, `bound` the theorem's bound. Signals are those after layer 0 (the inputs), 1, 2, ...
  maps      function, phase, sigma_w, sigma_b, slope (P'(1)), fixed_point, series_error and closed_error (of P on
            [-0.9, 0.9], against quadrature), layer, distance (from orthogonal inputs)
  bounds    theorem, function, setting (phase, or sigma), depth, farthest (1 - rho_max), floor (max_l P_l..P_1(0)),
            gain ((P_L..P_1)'(1)), bound (of gain), excess (convexity of the composition, cropped), excess_bound
  fig1      phase, draw, depth, rho_0, rho, infinite, bound (of rho)
  depth     Fig. 2a: function, kind (pairs: random inputs; farthest: by gradient ascent), index (draw, or depth),
            depth, rho_0, distance, infinite, bound (of distance, 4.1 or 4.2)
  slope     Fig. 2b: kind, draw, slope (leaky ReLU's), rho_0, distance, infinite, bound
  fig3      phase, quantity, draw, layer, series, value, infinite, bound
            correlation: series is rho_0, value 1 - rho. jacobian: series is a singular value of dz_l/dz_0 (no value:
            below float64's resolution) or their root mean square. gradient: norm of dE/dW_l, E linear in z_L
  residual  function, sigma, draw, layer, rho_0, distance, infinite, measured_gain (of a small difference, squared),
            gain (the same at infinite width), bound (of gain)
  batch_norm  function, batch, draw; log_growth: of the squared norm of gradients, by a layer, downwards
  block     function, size (depth and width), draw, layer (ceil(ln size), and size), distance, infinite
  precision function, phase, draw, dtype, layer, distance (computed in dtype), exact (in float64), gradient_error (of
            target . (z(x) - z(y)) with respect to the first layer's weights, relative)
  steps     network (from linear: with trainable shares of the function, 0 at first), depth, stage (tuning, test), rate,
            draw, quantity, layer, value. steps: until the mean loss is below a bar, none if it never is; accuracy: of
            the test images; distance before, after training: mean over pairs; half step: from which on the distance
            is half of that after training, none if it was before
  fig4      draw, quantity, network (full, skimmed), stage (before, after training), index, value. index is the layer;
            for loss and accuracy it is the step. farthest: by gradient ascent, at the block's input. skimming error:
            mean 1 - rho of the block's outputs in both networks, same input
"""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.shrinkage import limits, networks, skimming, steps, theory
from experiments.shrinkage.config import ShrinkageConfig
from experiments.units import Work


def of_sizes(make: Any, name: str) -> Any:
    """Call `make` with the part's sizes, the seed and the device."""

    def part(config: ShrinkageConfig) -> Work:
        work: Work = make(getattr(config.sizes, name), config.seed, config.device)
        return work

    return part


PARTS = {
    # The correlation map's phases, fixed points and rates, at infinite width.
    "maps": of_sizes(theory.maps, "maps"),
    # Theorems 1 and 2 and the excess convexity behind them, at infinite width.
    "bounds": of_sizes(theory.bounds, "bounds"),
    # Figure 1, output against input correlation of erf networks.
    "fig1": of_sizes(networks.fig1, "fig1"),
    # Figure 2a, 1 - rho against depth; also for erf.
    "depth": of_sizes(networks.depth, "depth"),
    # Figure 2b, 1 - rho against the slope of leaky ReLU.
    "slope": of_sizes(networks.slope, "slope"),
    # Figure 3, critical against chaotic erf networks.
    "fig3": of_sizes(networks.fig3, "fig3"),
    # Theorem 2 on residual networks.
    "residual": of_sizes(networks.residual, "residual"),
    # Figure 4, an 82-layer network against its skimmed version, trained.
    "fig4": of_sizes(skimming.fig4, "fig4"),
    # Section 5.2: the growth of gradients under batch norm.
    "batch_norm": of_sizes(limits.batch_norm, "batch_norm"),
    # Section 5.1: the first log L layers of networks as wide as deep.
    "block": of_sizes(limits.block, "block"),
    # Section 3, item 2: angles as small as the machine precision.
    "precision": of_sizes(limits.precision, "precision"),
    # Section 3, item 2, and section 5.2: steps of training by depth, from critical and from linear starts.
    "steps": of_sizes(steps.steps, "steps"),
}
study.register("shrinkage", ShrinkageConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="shrinkage")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("shrinkage", config, ShrinkageConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
