"""GPN networks as the shrinkage and the collapse paper look at networks: the section of the report."""

from __future__ import annotations

from bsnn.results.section import Drawing, Section, publish
from experiments.bridge.config import Sizes
from experiments.bridge.report import figures, findings, rules, rules_width

OPENING = """
A GPN function has E phi^2 = E phi'^2 = 1, so the map of correlations P(rho) = C[phi|rho] has P(1) = P'(1) = 1: a GPN
network is exactly critical in every layer. (That alone keeps no gradient in bounds: GELU with the other root, b+, is
critical, too, and its gradients explode, since a small error of the signal's length grows.) "Gradient explosion and
representation shrinkage in infinite networks" (ICLR 2022 submission) shows what such a network pays: by its
Theorem 1, with terms e_l = |phi_l - phi_l~|^2 / |phi_l'|^2 and no gain of gradients to spare, 1 - rho_max <= sqrt(8 /
sum e_l). All inputs come to look alike. "Collapse of deep and narrow neural nets" (ICLR 2019 submission) asks when
nothing at all of the input is left. Neither speaks of GPN functions, nor does the BSNN paper speak of what its
networks do to two inputs. The statements below are what the three imply for each other.

rho is the cosine of two inputs' pre-activations, not centred; *gap* is 1 - rho. "Plain" is phi, "GPN" a phi + b.
"""


SECTION = Section(
    study="bridge",
    title="GPN networks under the other papers' lenses",
    opening=OPENING.strip(),
    sizes=Sizes,
    drawings={
        "correlation": Drawing(
            "1 - rho of two inputs that start orthogonal, against depth: GPN (full lines and symbols) and plain "
            "(dashed) in infinite width, GPN at finite width with three laws of the weights (mean of the draws; bars: "
            "one standard deviation, cut off below at a quarter of the mean), and Theorem 1's bound for the GPN "
            "function. Plain ReLU and LeakyReLU lie on their GPN curves.",
            figures.correlation,
        ),
        "tradeoff": Drawing(
            "What plain functions do instead of shrinking (infinite width): (a) 1 - rho from rho = 0, (b) the sum of "
            "Theorem 1's terms, how nonlinear the network is, (c) the squared gain of gradients. Grey: the GPN "
            "functions' range.",
            figures.tradeoff,
        ),
        "trained": Drawing(
            "1 - rho of pairs of MNIST test images by layer, before training (grey) and after (black): two classes "
            "(full) and one class (dotted); mean over pairs and seeds. Top: plain, bottom: GPN, both with the row-norm "
            "constraint as in Table 2. The number is the test accuracy after training.",
            figures.trained,
        ),
        "narrow": Drawing(
            "Narrow random GPN networks, Haar-uniform weights: median share of the signal that still depends on the "
            "input (variation), by depth and width.",
            figures.narrow,
        ),
        "fitted": Drawing(
            "Narrow networks trained on |x|: share that ends as a constant.",
            figures.fitted,
        ),
        "table2": Drawing(
            "Accuracy of the GPN functions (no batch norm) in the paper's Table 2 against four of their properties.",
            figures.table2,
        ),
    },
    rules=(rules_width.rules, rules.rules),
    findings=(
        findings.cost,
        findings.plain,
        findings.finite_width,
        findings.training,
        findings.narrow_networks,
        findings.collapse,
        findings.ranking,
    ),
    differences=(
        "This study has no source of its own: conf/bridge/paper.yaml holds sizes that we chose (trained: those of the "
        "BSNN paper's Table 2).",
        "Theorem 1 is about layer normalisation after every layer, which GPN networks don't have: in infinite width "
        "their lengths are constant and it changes nothing; plain functions are compared at the lengths they have, "
        "with psi(x) = phi(sqrt(q) x) in the place of phi.",
        "The trained networks, plain and GPN, all keep the row-norm constraint, as those of Table 2; GPN with and "
        "without it in training is compared on |x| only (fitted).",
        "Not fixed blind: trial numbers of meanfield, decay, table2 and of layer 200 in correlation were known when "
        "their rules were written; those of trained, narrow and fitted weren't. The steps of fitted were doubled to "
        "the collapse study's 3000 after a trial in which 11 % of the SELU-GPN runs were still constant at 1500.",
    ),
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)
