"""GPN networks as the shrinkage and the collapse paper look at networks: what critical gradients cost.

    python -m experiments.bridge +experiment=bridge_meanfield    # likewise decay, correlation, trained, narrow, fitted,
    python -m experiments.bridge -m '+experiment=glob(bridge_*)' # table2

Claim     Every GPN function is critical, P'(1) = 1: its gradients are safe, so by Theorem 1 of the shrinkage paper its
          representations must shrink with depth, and do. What a plain function does instead, what training undoes, what
          is left in narrow networks, and which of this ranks the functions as Table 2 does.
Cost      budget=quick: about 8 CPU minutes of an AMD EPYC, half of them in fitted; 4 to 5 minutes on two cores
Output    results/<budget>/bridge/<part>.csv, the numbers, and .json, where they come from

Columns, after those that name the unit; gap is 1 - rho, rho the cosine of two inputs' pre-activations, not centred
  meanfield    (function, gpn) layer: functions passed; rho_0, gap; length: q; jacobian: (P_l o ... o P_1)'(1); error:
               sum of Theorem 1's terms so far; all of infinite width (bsnn.meanfield)
  decay        (function) layer, gap of a GPN network for rho_0 = 0, infinite width; constant, power: of its asymptote
               constant layer^-power
  correlation  (law) function, gpn, layer, rho_0; gap, its standard deviation over the draws, and the median; length
  trained      (function, seed) gpn, trained, layer; same, different: mean gap of pairs of MNIST test images of one
               class and of two; same_std, different_std over the pairs; length; train_accuracy, test_accuracy: in
               %, at that time
  narrow       (law, width) function, gpn, layer; dead: share of networks whose units are all 0 for every input; flat,
               flatter: share whose variation (bsnn.survival) is below FLAT, FLATTER; low, median, high: quartiles of it
  fitted       (width, function) variant, member; outcome, at_mean, error: bsnn.collapse_fate; halfway: the outcome
               after half of the steps; variation_before, _after: of what the last hidden layer gives. variant: plain,
               gpn, or rows (gpn, rows of W held at norm one)
  table2       (function) of the GPN function: mean_square: a_0^2, what all inputs have in common; error: Theorem 1's
               term; curvature: P''(1) / 2; jump: of phi' at 0; fourth: E phi'^4; gap: 1 - rho after `depth` layers from
               rho_0 = 0, infinite width; gradient_ratio: max / min over layers at random weights, mean over draws;
               paper_*, ours_*: accuracy without batch norm, %, ours the mean over this budget's seeds where there are
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from torch import Tensor

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.config import CONF
from bsnn.correlation import CorrelationMap
from bsnn.meanfield import asymptote, passage
from bsnn.propagation import each
from bsnn.randomness import Purpose, generator
from bsnn.survival import LAWS, correlated_inputs, gap, pre_activations, random_weights
from experiments import entry, study
from experiments.bridge_config import KINKS, BridgeConfig, Stream, both, function, shown
from experiments.bridge_narrow import fitted, narrow
from experiments.bridge_table2 import table2
from experiments.bridge_training import trained
from experiments.units import Row, Work, threads_for


def meanfield(config: BridgeConfig) -> Work:
    sizes = config.sizes.meanfield
    gaps = 1 - torch.tensor(sizes.rho, dtype=torch.float64)

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        found = passage(function(*unit), gaps, sizes.depth, kinks=KINKS)
        return [
            [layer, rho, *(float(one) for one in (found.gap[layer, r], *(values[layer] for values in columns)))]
            for columns in [(found.length, found.jacobian, found.total_error)]
            for layer in shown(sizes.depth)
            for r, rho in enumerate(sizes.rho)
        ]

    columns = ("layer", "rho_0", "gap", "length", "jacobian", "error")
    return Work(("function", "gpn"), columns, both(), rows, {"version": 1})


def decay(config: BridgeConfig) -> Work:
    depth = config.sizes.decay.depth

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        phi = function(unit[0], gpn=True)
        gaps = CorrelationMap(phi, kinks=KINKS).iterate_distance(1.0, depth).tolist()
        return [[layer, gaps[layer], *asymptote(phi)] for layer in shown(depth)]

    units = [(name,) for name in PAPER_ACTIVATIONS]
    return Work(("function",), ("layer", "gap", "constant", "power"), units, rows, {"version": 1})


def correlation(config: BridgeConfig) -> Work:
    """All functions see the same inputs and weights."""
    sizes, workers = config.sizes.correlation, threads_for(torch.device("cpu"), config.threads)
    layers, rhos = shown(sizes.depth), list(sizes.rho)

    def one_draw(law: str, index: int) -> Tensor:
        """(functions, layers, pairs, 2): gap, and the mean square entry of h."""
        code = Stream.CORRELATION, LAWS.index(law), index
        inputs = correlated_inputs(sizes.width, rhos, generator(config.seed, Purpose.BRIDGE, *code, 0))
        shape = sizes.width, sizes.width
        weights = (
            random_weights(law, *shape, generator=generator(config.seed, Purpose.BRIDGE, *code, layer))
            for layer in range(1, sizes.depth + 2)
        )
        functions = [function(*key) for key in both()]

        def apply(h: Tensor) -> Tensor:
            return torch.stack([phi(part) for phi, part in zip(functions, h, strict=True)])

        found = []
        with torch.no_grad():
            signals = pre_activations(apply, inputs.expand(len(functions), -1, -1), weights)
            for layer, h_FBN in enumerate(signals):
                if layer in layers:
                    gaps = gap(h_FBN[:, :1], h_FBN[:, 1:])
                    found.append(torch.stack([gaps, h_FBN[:, 1:].square().mean(-1)], dim=-1))
        return torch.stack(found, dim=1)

    def rows(unit: tuple[Any, ...]) -> list[Row]:
        drawn = torch.stack(each(lambda index: one_draw(unit[0], index), range(sizes.draws), workers))
        spread = drawn[..., 0].std(0) if sizes.draws > 1 else torch.zeros_like(drawn[0, ..., 0])
        columns = drawn[..., 0].mean(0), spread, drawn[..., 0].median(0).values, drawn[..., 1].mean(0)
        return [
            [*key, layer, rho, *(float(column[f, i, r]) for column in columns)]
            for f, key in enumerate(both())
            for i, layer in enumerate(layers)
            for r, rho in enumerate(rhos)
        ]

    columns = ("function", "gpn", "layer", "rho_0", "gap", "gap_std", "gap_median", "length")
    return Work(("law",), columns, [(law,) for law in LAWS], rows, {"version": 1})


PARTS: dict[str, Callable[[BridgeConfig], Work]] = {
    "meanfield": meanfield,
    "decay": decay,
    "correlation": correlation,
    "trained": trained,
    "narrow": narrow,
    "fitted": fitted,
    "table2": table2,
}
study.register("bridge", BridgeConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="bridge")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("bridge", config, BridgeConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
