"""Vanishing and exploding gradients: the talk's examples and tricks, and the lecture's product formula, measured.

    python -m experiments.vanishing                          all parts; then:
    python -m experiments.vanishing.report results/quick
    python -m experiments.vanishing part=talk                one part

Claim     Gradients of a deep sigmoid network, and of a chain of scalars, shrink or grow by a factor a layer.
          Normalising them is a simple solution, but a fixed step then doesn't converge. Adam, batch norm, clipping and
          shortcuts are tricks; GPN equalises the gradients.
Cost      budget=quick: 5 min, without tricks, on two cores of an AMD EPYC that three other studies shared:
          deep 178 s, chain 48 s, talk 31 s, selu 16 s, the rest 11 s; 1.1 GB of memory. tricks 59 min beside another
          process
Output    results/<budget>/vanishing/<part>.csv and .json

Columns   talk        draw; weights (std of the entries, or gpn: orthogonal, and the GPN version of the sigmoid), layer,
                      signal (mean ||x^(l)|| / sqrt(d)), gradient (mean ||dE/dW^(l)||_F of one sample), predicted
                      (gradient / that of the last layer, at infinite width)
          selu        draw; gpn, layer, signal, gradient
          chain       function, law (fixed: every w_l = scale, b_l = 0; random: w_l ~ N(0, scale^2), b_l ~ N(0, 0.1^2)),
                      scale; depth, vanished (share of chains whose df/dw_1 is exactly 0), log10 |df/dw_1|: median,
                      low, high (10 and 90 %) of the others, slopes and weights (means of their log10 there),
                      slope_max, far_max (largest slope where |z| > 3), on_slope_min, on_slope_max (slopes where
                      z > 0), error (relative, formula against autograd, all weights)
          factors     function, law, scale; layer, w, z, slope, derivative (df/dw_l by the formula), autograd (the
                      same by autograd), of one chain; mean_log10 (mean over chains of log10 |df/dw_l|, of those not 0)
          quadratic   s (2: exact gradient, 1: the talk's), condition; eta, special (best, above the threshold or
                      nothing), rho, steps_bound (least k with rho^k <= tolerance), steps (found by running)
          paths       rule (gradient, normalised), eta, decades (of decay of eta); step, theta_1, theta_2
          deep        rule (normalised; constrained: normalised, rows of W kept at norm 1; gradient: plain), decades;
                      eta, step, loss (before that step), moved (||V_after - V_before||_F / sqrt(L))
          tricks      method, function; rate, seed, search (the rate is chosen on this seed), step and the other
                      entries of bsnn.vanishing.equal_steps.Point
          epsilon     eps, rate, and the same entries
          approximation  target, family, terms; largest |F - f| and root mean square on [0, 1]
          isometry    function (GPN versions), rho; ratio of squared distances after and before a wide layer
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.vanishing import approximation, descent
from experiments.vanishing import random as random_networks
from experiments.vanishing.config import VanishingConfig

PARTS = {
    # The talk's network of 20 x 500 sigmoid units: gradient norm by layer for Gaussian weights of several variances.
    "talk": random_networks.talk,
    # SELU against SELU-GPN in the talk's network of 200 x 500 units with orthogonal weights.
    "selu": random_networks.selu,
    # The lecture's equation (23): |df/dw_1| of scalar chains against their depth.
    "chain": random_networks.chain,
    # Equation (23) factor by factor, for one chain of each kind, and against autograd.
    "factors": random_networks.factors_of_one,
    # Gradient descent on theta^T Q theta: steps against step size and condition number.
    "quadratic": descent.steps_against_eta,
    # Iterates on the talk's theta^T Q theta, by the gradient and by the normalised gradient.
    "paths": descent.paths,
    # The talk's simple solution on a deep network: fixed and decaying steps along normalised gradients.
    "deep": descent.deep,
    # The talk's list of tricks against GPN: same network, data and number of steps.
    "tricks": descent.tricks,
    # Adam on a network whose gradients are far below its eps.
    "epsilon": descent.epsilon,
    # Sums of simple functions and compositions against a function on [0, 1].
    "approximation": approximation.approximation,
    # Distances that a layer keeps: only linear ones keep all of them.
    "isometry": approximation.isometry,
}
study.register("vanishing", VanishingConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="vanishing")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("vanishing", config, VanishingConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
