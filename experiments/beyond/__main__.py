"""Measure what the paper's theory leaves open: finite width, Jacobians, training, orthogonality, rivals.

    python -m experiments.beyond                          all parts; then:
    python -m experiments.beyond.report results/quick
    python -m experiments.beyond part=walk                 one part

Claim     The range of gradient norms over the layers of a GPN network (Fig. 3) is that of a random walk, whose variance
          follows from phi, depth and width; a GPN network keeps the mean square of its Jacobian's singular values, not
          each of them. Exactly orthogonal W bears larger learning rates than rows of norm one; functions that are
          nearly linear learn faster at first than GPN functions as they are.
Cost      budget=quick: 38 minutes on two quiet cores (Intel Xeon, AVX-512), parts side by side, with orthogonal at five
          seeds; one core's time: deeper 1143 s, convolution 887 s, rivals 670 s, orthogonal 328 s,
          during 585 s, walk 120 s, law 63 s, jacobian and orthogonal_cost 23 s each.
          Ten seeds of orthogonal: 806 s beside other work
Output    results/<budget>/beyond/<part>.csv, the numbers, and <part>.json, their provenance

Columns   by part; all numbers without unit
law        function, depth, width: predicted ln(max / min) of the gradient norms over the layers; single: mean over
           samples and draws; mean, mean_std: of the norms' mean over the samples, mean and standard deviation over
           draws; simple_single, simple_mean: by the short formula; gain, slope_gain, fourth: E phi'^4
           (bsnn.beyond.walk)
walk       draw, width, function, depth: the same, measured: single (mean over the samples) and mean
jacobian   draw, width, function, gpn, depth: rms, largest: of the singular values; participation: (sum s^2)^2 /
           (N sum s^4); near: the share within half of the rms; law: predicted participation, GPN only
deeper     depth, width, function, step; initial_ratio: max / min of ||dE/dV||_F over the layers in the first update;
           train_loss (nats), train_accuracy, test_accuracy (%): after the last update
convolution
           version, function, rate; layer, gradient: ||dE/dV_l||_F in the first update; loss: training loss in nats
           over the last tenth of the updates; test_accuracy (%)
orthogonal function, rate, draw, constraint; loss: training loss in nats over the last updates; test_accuracy (%);
           entry, frobenius: the largest |entry| of W W^T - I over all layers, and its largest Frobenius norm;
           seconds: median time of an update
orthogonal_cost
           width, constraint; batch: samples; seconds: as above
rivals     method; stage: tuning (accuracy on held-back training images) or test; rate, seed; loss: as for orthogonal;
           accuracy (%); ratio: max / min of ||dE/dV||_F over the layers in the first update
during     version (plain, GPN, batch norm), function, step, layer and experiments.beyond.during.looked_at
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.beyond.config import BeyondConfig
from experiments.beyond.convolution import convolution
from experiments.beyond.deeper import deeper
from experiments.beyond.during import during
from experiments.beyond.orthogonal import orthogonal, orthogonal_cost
from experiments.beyond.random import jacobian, law, walk
from experiments.beyond.rivals import rivals

PARTS = {
    # Predicted ratios of gradient norms, from phi alone.
    "law": law,
    # The same, measured in random GPN networks.
    "walk": walk,
    # Singular values of the input-output Jacobian, plain and GPN.
    "jacobian": jacobian,
    # GPN networks of up to 1000 layers, trained, at a fixed width and at one that grows with depth.
    "deeper": deeper,
    # What the theory assumes at the start, measured while plain, GPN and batch-normalised networks train.
    "during": during,
    # Deep plain convolutional networks on CIFAR-10.
    "convolution": convolution,
    # W kept orthogonal while a GPN network trains, against rows of norm one; and what that costs.
    "orthogonal": orthogonal,
    "orthogonal_cost": orthogonal_cost,
    # GPN beside other ways to train deep plain networks.
    "rivals": rivals,
}
study.register("beyond", BeyondConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="beyond")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("beyond", config, BeyondConfig, PARTS, alone=("orthogonal_cost",))


if __name__ == "__main__":
    entry.run(main)
