"""Deep narrow networks collapse: the section of the report.

python -m experiments.collapse.report results/quick
"""

from __future__ import annotations

from bsnn.collapse.fate import CLOSE, EXCESS, FLAT, NEAR, PART
from bsnn.results.section import Drawing, Section, publish
from experiments.collapse import training
from experiments.collapse.config import Sizes
from experiments.collapse.report import (
    figures,
    findings,
    rules,
    rules_escapes,
    rules_random,
    rules_remedies,
    rules_theorems,
)

SECTION = Section(
    study="collapse",
    title="Deep narrow networks collapse",
    opening='"Collapse of deep and narrow neural nets" (ICLR 2019 submission): with symmetric initial weights and '
    "biases of 0 a deep narrow ReLU network is the zero function with high probability. Its gradient is 0 then, but "
    "for the last bias, and training gives a constant. How likely is it, is the paper's theory exact, and what helps? "
    f"The trained networks have {training.DEPTH} layers, the last of them linear; in Figures 6 and 7, as in "
    "the paper, every layer has ReLU.",
    sizes=Sizes,
    drawings={
        "fig1to3": Drawing(
            "Figures 1-3: trained networks by outcome, up to three of each, with its share of the runs.",
            figures.outcomes,
        ),
        "fig4": Drawing("Figure 4: the two-dimensional pair, one run of each outcome.", figures.pair),
        "optimisers": Drawing(
            "Section 2: what becomes of networks for y = |x|, by initialisation and optimiser.",
            figures.by_optimiser,
        ),
        "fig5": Drawing("Figure 5: the constants that runs collapsed to, by loss.", figures.constants),
        "length": Drawing("Section 3: mean and median of q^l by layer, He normal, ReLU.", figures.lengths),
        "fig6": Drawing(
            "Figure 6: (A) the probability of a zero function; (B) the largest number of layers that keeps it below "
            "1 % and 10 %; (C) what Theorem 10 leaves out at width 2.",
            figures.probability,
        ),
        "fig7": Drawing(
            "Figure 7: symmetric (He normal) and orthogonal initialisation.",
            figures.orthogonal,
        ),
        "remedies": Drawing("Section 5.2: what becomes of networks, by remedy.", figures.by_remedy),
        "widths": Drawing(
            "Section 5.2 at other widths, y = |x|: the share of the runs that approximate it, and of those that are "
            "constant; bars: 95 % (Wilson).",
            figures.by_width,
        ),
    },
    rules=(rules.rules, rules_random.rules, rules_escapes.rules, rules_remedies.rules, rules_theorems.rules),
    findings=(
        findings.theorem_10,
        findings.bounds,
        findings.two_dimensions,
        findings.in_training,
        findings.spread,
        findings.remedies,
        findings.widths,
    ),
    differences=(
        "The paper does not say how many runs, samples and steps its results stand on, nor which learning rates. Here "
        f"each step has {training.BATCH} fresh samples of each network's own, uniform on the domain; learning "
        "rates are Keras's defaults of 2018 (`bsnn.collapse.fate.OPTIMISERS`). Numbers of runs and steps are ours in "
        "every budget.",
        "BFGS and L-BFGS see a fixed grid of inputs, as a line search needs one loss; L-BFGS is scipy's L-BFGS-B.",
        "Domains as on the figures' axes: [-sqrt 3, sqrt 3] for |x|, [-1, 1] in each input for the others.",
        f"Outcomes (`bsnn.collapse.fate`): constant: range below {100 * FLAT:g} % of the target's; at the mean "
        f"(median): squared (absolute) error within {100 * EXCESS:g} % of the best constant's; approximates: root mean "
        f"square error below {CLOSE:g} standard deviations of the target; partial: a hidden layer is dead on at least "
        f"{100 * PART:g} % of the domain, the output there within {100 * NEAR:g} % of the range of the target's mean.",
        "Dropout has rate 0.1, at other widths also 0.3. Weight normalisation starts as the same function as without; "
        "its authors' start from "
        "data is our addition.",
        "Rules were written before the numbers, but for two: simulated networks within 1 point of Theorem 10's line "
        "(0.68 was known), and orthogonal initialisation lower by less than 5 points (3 were known at width 2). The "
        "remedies' number of steps was doubled after a trial in which batch norm's error still fell. Those on remedies "
        "were extended to other widths and targets afterwards, since the paper names no width, and those on weight "
        "normalisation and dropout then compared with networks without them.",
        "Figure 6B is measured on the angle chain (`bsnn.collapse.exact`), equal in law to Gaussian networks.",
    ),
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)
