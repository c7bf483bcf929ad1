"""The section of the report about what the paper's theory leaves open."""

from __future__ import annotations

from bsnn.results.section import Drawing, Section, publish
from experiments.beyond.config import Sizes
from experiments.beyond.report import (
    figures,
    findings,
    rules,
    rules_convolution,
    rules_during,
    rules_orthogonal,
    rules_rivals,
)

OPENING = """
The BSNN paper's theory is about infinite width and one layer. This study asks what happens in networks of finite width
and many layers, and what else the paper leaves open. Most statements below are expectations of ours, derived in
`bsnn/beyond/`; they are counted by themselves.
"""

SECTION = Section(
    study="beyond",
    title="What the theory leaves open",
    opening=OPENING.strip(),
    sizes=Sizes,
    drawings={
        "walk": Drawing(
            "ln max/min of the gradient norms over the layers of random GPN networks against depth / width. Markers: "
            "measured, mean and standard error of the draws; lines: the law, from phi alone.",
            figures.walk,
        ),
        "jacobian": Drawing(
            "Singular values of the input-output Jacobian of random networks: GPN (full) and plain (dotted). Grey: "
            "predicted for GPN, 1 / (1 + L (E phi'^4 - 1)).",
            figures.jacobian,
        ),
        "convolution": Drawing(
            "Gradient norms in the first update of deep plain convolutional networks on CIFAR-10.",
            figures.convolution,
        ),
        "during": Drawing(
            "The theory's assumptions while networks of Table 2's kind train. Lines: the median over the layers shown, "
            "bands: from the smallest to the largest.",
            figures.during,
        ),
        "orthogonal": Drawing(
            "Test accuracy of GPN networks under each constraint on W. Marks: one draw each; bars: their mean.",
            figures.orthogonal,
        ),
        "orthogonal_cost": Drawing(
            "Time of an update under each constraint over that with rows of norm one. Black: not orthogonal; dashed: "
            "what the matrix products alone would take.",
            figures.orthogonal_cost,
        ),
        "rivals": Drawing(
            "Deep plain networks under GPN (blue) and its rivals, each at its own best rate. Circles: seeds; bars: "
            "their mean.",
            figures.rivals,
        ),
    },
    rules=(rules.rules, rules_during.rules, rules_convolution.rules, rules_orthogonal.rules, rules_rivals.rules),
    findings=(
        findings.meaning_of_the_law,
        findings.depth_and_width,
        findings.isometry,
        findings.in_training,
        findings.convolutions,
        findings.constraints,
        findings.rivals,
    ),
    differences=(
        "Not fixed blind: trial numbers of all parts were known when the rules were written, and some rules were "
        "changed after the quick budget's: means are compared by Bonferroni's t quantile instead of two standard "
        "errors, and the rules on slopes and on the mean square are about L small beside d only, as the laws are. The "
        "cost of the relaxation first counted as shown against rows of norm one at their rate of lowest training loss, "
        "five seeds; with other rounding ReLU's verdict was another, so there are ten now, and every rate counts.",
        "Rivals stand on this paper's network: its inputs, bottom layer and recipe. The authors of shaped and tailored "
        "functions normalise each input and train with other optimisers, too.",
    ),
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)
