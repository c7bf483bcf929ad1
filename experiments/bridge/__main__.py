"""GPN networks in the view of the shrinkage and the collapse paper: the price of critical gradients.

    python -m experiments.bridge                          all parts; then:
    python -m experiments.bridge.report results/quick
    python -m experiments.bridge part=meanfield                one part

Claim     Every GPN function is critical, P'(1) = 1: its gradients are safe, so by Theorem 1 of the shrinkage paper its
          representations must shrink with depth, and they do. The study also shows plain functions, the effect of
          training, narrow networks, and which of these quantities rank the functions as Table 2 does.
Cost      budget=quick: about 8 CPU minutes of an AMD EPYC, half of them in fitted; 4 to 5 minutes on two cores
Output    results/<budget>/bridge/<part>.csv, the numbers, and .json, their provenance

Columns, after those that name the unit; gap is 1 - rho, rho the cosine of two inputs' pre-activations, not centred
  meanfield    (function, gpn) layer: functions passed; rho_0, gap; length: q; jacobian: (P_l o ... o P_1)'(1); error:
               sum of Theorem 1's terms so far; all of infinite width (bsnn.bridge.meanfield)
  decay        (function) layer, gap of a GPN network for rho_0 = 0, infinite width; constant, power: of its asymptote
               constant layer^-power
  correlation  (law) function, gpn, layer, rho_0; gap, its standard deviation over the draws, and the median; length
  trained      (function, seed) gpn, trained, layer; same, different: mean gap of pairs of MNIST test images of one
               class and of two; same_std, different_std over the pairs; length; train_accuracy, test_accuracy: in
               %, at that time
  narrow       (law, width) function, gpn, layer; dead: share of networks whose units are all 0 for every input; flat,
               flatter: share whose variation (bsnn.bridge.survival) is below FLAT, FLATTER; low, median, high:
               quartiles of it
  fitted       (width, function) variant, member; outcome, at_mean, error: bsnn.collapse.fate; halfway: the outcome
               after half of the steps; variation_before, _after: of the last hidden layer's output. variant: plain,
               gpn, or rows (gpn, rows of W held at norm one)
  table2       (function) of the GPN function: mean_square: a_0^2, the part that all inputs have in common; error:
               Theorem 1's term; curvature: P''(1) / 2; jump: of phi' at 0; fourth: E phi'^4; gap: 1 - rho after `depth`
               layers from rho_0 = 0, infinite width; gradient_ratio: max / min over layers at random weights, mean over
               draws; paper_*, ours_*: accuracy without batch norm, %; ours is the mean over this budget's seeds, if
               there are any
"""

from __future__ import annotations

from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.bridge.config import BridgeConfig
from experiments.bridge.narrow import fitted, narrow
from experiments.bridge.table2 import table2
from experiments.bridge.training import trained
from experiments.bridge.wide import correlation, decay, meanfield
from experiments.units import Work

PARTS: dict[str, Callable[[BridgeConfig], Work]] = {
    # Length, correlation and Theorem 1's terms by layer in infinitely wide networks.
    "meanfield": meanfield,
    # The approach of correlations to 1 in GPN networks, far beyond 200 layers.
    "decay": decay,
    # Correlation of two inputs by layer in random networks of finite width, three laws of the weights.
    "correlation": correlation,
    # Correlation of pairs of MNIST images by layer, before and after training.
    "trained": trained,
    # Survival of an input in narrow random networks.
    "narrow": narrow,
    # Share of narrow networks, trained on |x|, that end as a constant.
    "fitted": fitted,
    # Quantities that could rank the functions as Table 2 does.
    "table2": table2,
}
study.register("bridge", BridgeConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="bridge")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("bridge", config, BridgeConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
