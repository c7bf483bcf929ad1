"""Representations shrink with depth, or gradients explode: the section of the report.

python -m experiments.shrinkage.report results/quick
"""

from __future__ import annotations

from bsnn.results.section import Drawing, Section, publish
from experiments.shrinkage.config import Sizes
from experiments.shrinkage.report import (
    figures,
    findings,
    rules,
    rules_depth,
    rules_limits,
    rules_networks,
    rules_steps,
)

SECTION = Section(
    study="shrinkage",
    title="Representations shrink, or gradients explode",
    opening=(
        "Can a deep network keep different inputs apart and its gradients small at once? No, says "
        '"Gradient explosion and representation shrinkage in infinite networks" (ICLR 2022 submission), for wide '
        "layers that normalise lengths, whatever the activation function and the initialisation. GPN functions are "
        "critical without biases, by definition. Here are the theory's maps and bounds, and the source's four figures."
    ),
    sizes=Sizes,
    drawings={
        "phases": Drawing(
            "Infinite width: 1 - rho (ordered, critical) and |rho - rho_fp| (chaotic) of orthogonal inputs by layer.",
            figures.phases,
        ),
        "fig1": Drawing(
            "Output against input correlation, critical erf (the source's Figure 1): measured, infinite width, and "
            "remark 2's bound, which holds for |rho_0|.",
            figures.fig1,
        ),
        "fig2": Drawing(
            "1 - rho against depth and against leaky ReLU's slope (the source's Figure 2; erf is ours).",
            figures.fig2,
        ),
        "fig3": Drawing(
            "Critical against chaotic erf (the source's Figure 3). One line a draw.",
            figures.fig3,
        ),
        "residual": Drawing(
            "Residual networks: 1 - rho and the squared gain of a small difference by block, with Theorem 2's bound.",
            figures.residual,
        ),
        "fig4": Drawing(
            "The full network against its skimmed version on MNIST (the source's Figure 4). Grey: the block.",
            figures.fig4,
        ),
        "limits": Drawing(
            "Left: growth of squared gradients by a layer under batch norm. Middle: how far finite networks are from "
            "infinite width after the first ln L layers and after all L. Right: 1 - rho of the same networks in three "
            "floating-point formats.",
            figures.limits,
        ),
        "steps": Drawing(
            "Training on MNIST until the loss is 1 nat, each network and depth at its best rate. Left: steps, one "
            "point a draw, lines are medians. Middle: the deepest critical networks, step from which on a layer keeps "
            "inputs at least half as far apart as at the end, only for layers that didn't at the start. Right: mean "
            "distance of test images before and after training, deepest networks, medians.",
            figures.steps,
        ),
    },
    rules=(rules.rules, rules_depth.rules, rules_networks.rules, rules_limits.rules, rules_steps.rules),
    findings=(
        findings.constants,
        findings.looseness,
        findings.farthest_pairs,
        findings.fluctuations,
        findings.operator_norm,
        findings.theorem_2,
        findings.skimming,
        findings.linear_starts,
    ),
    differences=(
        "Depth counts the layers after the embedding, which is linear and adds nothing to the sums; the source counts "
        "it.",
        "The chaotic networks have half of the critical sigma_b^2 / sigma_w^2; the source doesn't say which it took.",
        "Sample pairs are random directions with correlations 0.9, 0.5, 0 and -1, the source's data are not named.",
        "The farthest pair: Adam on log(1 - rho), learning rate 0.05, from two random and two opposite pairs.",
        "Figure 4: SGD, learning rate 0.03, momentum 0.9, batches of 100, inputs normalised in length, no "
        "normalisation after the last layer; the block is layers 42 to 57, from the middle on. The source says none of "
        "this. Placed symmetrically (34 to 49) the block would be entered with correlation 0.953 at infinite width, "
        "from opposite inputs, as placed with 0.966: that is what decided.",
        "The skimmed network's layer is affine, value and Jacobian of the block at the mean representation, normalised "
        "like the block's output, and trains with the rest.",
        "Not fixed blind: after first trials the range of the ordered phase's fit was narrowed to 1 - rho < 1e-4 (it "
        "had missed by 2.3 %), Figure 3 got 6 draws instead of 3, and under quick Figure 4 got width 256 instead of "
        "128, at which Pearson's correlation was 0.59. The rules on batch norm, the first layers and precision were "
        "written after one trial of the parts, of one to three draws. Rules about Figure 4's trained networks were "
        "written after small runs of them. The rules on steps were written after one trial of each network at depths "
        "4, 16 and 64; the depth is 48 for the cost. The rule on layer by layer first said no to any ratio below 2; it "
        "now leaves undecided what is neither in order nor simultaneous.",
        "Steps: a linear start is (1 - t) x + t phi(x) with a trainable t for each layer, 0 at first; He et al. (2015) "
        "train the slopes of leaky ReLUs, which start at 0.25. SGD, momentum 0.9, batches of 100; rates are chosen by "
        "one draw of their own.",
    ),
    stated={
        "fig1.width": "Fig. 1",
        "depth.depths": "Fig. 2, to 512",
        "slope.depth": "Fig. 2",
        "slope.slopes": "Fig. 2",
        "fig4.depth": "section 4.2",
        "fig4.block_length": "section 4.2",
    },
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)
