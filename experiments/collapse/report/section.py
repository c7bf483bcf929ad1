"""Deep narrow networks collapse: the section of the report.

    python -m experiments.collapse.report results/quick

"Collapse of deep and narrow neural nets" (ICLR 2019 submission), from the tables of experiments.collapse: here are the
paper's claims, each with its rule; experiments.collapse.report.rules measures them,
experiments.collapse.report.figures draws Figures 1-7, experiments.collapse.report.findings says what we found beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from bsnn.collapse.fate import CLOSE, EXCESS, FLAT, NEAR, PART
from bsnn.results.section import Drawing, Parts, Section, publish
from bsnn.results.statements import Statement
from experiments.collapse import training
from experiments.collapse.report import figures, rules
from experiments.collapse.report.findings import findings
from experiments.collapse.report.rules import MANY_SIGMAS, ROUNDING, SIGMAS, Judged


class Claim(NamedTuple):
    """What the paper says, where, the rule of agreement, the tables that tell, and what is given them."""

    source: str
    says: str
    rule: str
    parts: tuple[str, ...]
    judge: Callable[..., Judged]


MEAN_RULE = (
    "constant in more than half of the runs, at the mean in 90 % of these; partial in some runs, fewer than constant"
)
CHANCE = f"every share within {SIGMAS} standard errors"
MOST = "more than half of the runs for every target"

CLAIMS = (
    Claim(
        "section 2",
        "y = |x|, 10 layers of width 2: collapse with high probability (about 90 %), no matter which initialiser (3) "
        "or optimiser (8)",
        "80 to 97 % of the runs constant in each of the 24 settings",
        ("optimisers",),
        rules.about_ninety,
    ),
    *(
        Claim(
            f"Fig. {number}",
            f"{figures.LABELS[target]}: the mean with very high probability, a partial mean with low probability",
            MEAN_RULE,
            ("targets",),
            partial(rules.mean_or_part, target=target),
        )
        for number, target in enumerate(("abs", "wave", "step", "pair"), start=1)
    ),
    Claim(
        "section 2",
        "when this happens, in most cases all layers but the last are together a zero function",
        "a layer is dead on the whole domain in more than half of the constant runs",
        ("targets",),
        rules.dead_inside,
    ),
    Claim(
        "Fig. 5, Theorem 4",
        "mean absolute error: the constant is the median",
        "at the median in 90 % of the constant runs of every target",
        ("losses",),
        rules.medians,
    ),
    Claim(
        "Fig. 5",
        "the collapse is independent of the loss function",
        "shares of constant runs differ by less than 10 points, for every target",
        ("targets", "losses"),
        rules.either_loss,
    ),
    Claim(
        "Theorem 4",
        "a network that starts as a zero function is optimised to a constant",
        "all of them, with any optimiser",
        ("targets", "optimisers"),
        rules.stays_dead,
    ),
    Claim(
        "section 3, equation 3",
        "He normal and ReLU keep E q^l, at any width",
        f"the mean within {SIGMAS} standard errors of E q^1, in every layer where such an error is below 5 % of it",
        ("length",),
        rules.keeps_length,
    ),
    Claim(
        "Lemma 7, Theorem 8",
        "without biases the output for a given input is 0 with probability 1 - prod(1 - 2^-N^l) over the ReLU layers",
        CHANCE,
        ("biases",),
        partial(rules.for_an_input, biases=False),
    ),
    Claim(
        "Lemma 7, Theorem 9",
        "with random biases it is 0 (or b^L) with probability 2^-N, N the width of the last ReLU layer",
        CHANCE,
        ("biases",),
        partial(rules.for_an_input, biases=True),
    ),
    Claim(
        "Theorem 8",
        "its probability is an upper bound of that of a zero function",
        f"no share more than {SIGMAS} standard errors above it",
        ("probability", "orthogonal"),
        rules.below_bound,
    ),
    Claim(
        "Theorem 10",
        "the transition matrix: 17/96, 1/32, 1/96; 7/48, 1/24, 1/48; 1/4; 1/16; each state's probabilities sum to 1",
        f"all of them, derived by quadrature, within {ROUNDING:g}",
        ("chain",),
        rules.the_matrix,
    ),
    Claim(
        "appendix J",
        "directions that are uniform and independent have these transition probabilities",
        f"256 simulated shares within {MANY_SIGMAS} standard errors",
        ("chain",),
        rules.as_drawn,
    ),
    Claim(
        "Theorem 10",
        "the probability of a zero function, width 2, is the last component of pi^L",
        "equal to the exact probability for Gaussian weights (bsnn.collapse.exact) within 1e-6 at every depth",
        ("probability",),
        rules.theorem_10,
    ),
    Claim(
        "Fig. 6A",
        "simulated networks lie on Theorem 10's line",
        "within 1 point at every depth",
        ("probability",),
        rules.near_theorem_10,
    ),
    Claim(
        "Fig. 6A",
        "the deeper and the narrower, the higher the probability",
        f"the simulated share rises with depth and falls with width, up to {SIGMAS} standard errors",
        ("probability",),
        rules.deeper_narrower,
    ),
    *(
        Claim(
            "section 4",
            f"10 layers of width {width} collapse with a probability {says}",
            f"simulated share {bounds}, 10 layers with ReLU as in Fig. 6",
            ("probability",),
            partial(rules.ten_layers, width=width, low=low, high=high),
        )
        for width, says, bounds, low, high in (
            (10, "of only 1 %", "rounds to 1 %", 0.005, 0.015),
            (5, "greater than 10 %", "above 10 %", 0.1, 1.0),
            (3, "greater than 60 %", "above 60 %", 0.6, 1.0),
        )
    ),
    Claim(
        "equation 5, Fig. 6B",
        "up to this depth the probability is below 1 % (10 %)",
        "no width that reaches it with fewer layers",
        ("safe",),
        rules.safe_indeed,
    ),
    Claim(
        "Fig. 6B",
        "the wider, the closer is the bound to the simulation",
        "measured depth / bound within 5 % of 1 at the widest, and closer to 1 than at the narrowest that has a bound",
        ("safe",),
        rules.bound_tightens,
    ),
    Claim(
        "Fig. 7",
        "orthogonal initialisation: very close to symmetric",
        "shares differ by less than 5 points at every width and depth",
        ("probability", "orthogonal"),
        rules.very_close,
    ),
    Claim(
        "Fig. 7",
        "and a little lower",
        f"nowhere higher by {SIGMAS} standard errors of the difference, somewhere lower by as much",
        ("probability", "orthogonal"),
        rules.little_lower,
    ),
    *(
        Claim("section 5.2", f"{name} {says}", rule, ("remedies",), partial(judge, method=method))
        for method, name in (("batch norm", "batch norm"), ("SELU", "SELU (LeCun normal)"))
        for says, rule, judge in (
            ("escapes from the collapse", "fewer than 10 % of the runs constant, for every target", rules.escapes),
            (
                "approximates the target with a small error",
                f"root mean square error below {CLOSE:g} standard deviations of the target in {MOST}",
                rules.approximates,
            ),
        )
    ),
    *(
        Claim(
            "section 5.2",
            f"{name} does not help",
            f"constant in {MOST}",
            ("remedies",),
            partial(rules.stays_collapsed, method=method),
        )
        for method, name in (("weight norm", "weight normalisation"), ("dropout", "dropout"))
    ),
)


def statements(parts: Parts) -> Sequence[Statement]:
    made = []
    for claim in CLAIMS:
        frames = [table.frame for table in (parts[part] for part in claim.parts) if table is not None]
        measured, agrees = "", None
        if len(frames) == len(claim.parts):
            measured, agrees = claim.judge(*frames)
        made.append(Statement(claim.source, claim.says, measured, claim.rule, agrees))
    return made


SECTION = Section(
    study="collapse",
    title="Deep narrow networks collapse",
    opening='"Collapse of deep and narrow neural nets" (ICLR 2019 submission): with symmetric initial weights and '
    "biases of 0 a deep narrow ReLU network is the zero function with high probability. Its gradient is 0 then, but "
    "for the last bias, and training gives a constant. How likely is it, is the paper's theory exact, and what helps? "
    f"The trained networks have {training.DEPTH} layers, the last of them linear; in Figures 6 and 7, as in "
    "the paper, every layer has ReLU.",
    parts=(
        "targets",
        "optimisers",
        "losses",
        "length",
        "biases",
        "chain",
        "probability",
        "safe",
        "orthogonal",
        "remedies",
    ),
    drawings={
        "fig1to3": Drawing(
            ("targets",),
            "Figures 1-3: trained networks by outcome, up to three of each, with its share of the runs.",
            figures.outcomes,
        ),
        "fig4": Drawing(("targets",), "Figure 4: the two-dimensional pair, one run of each outcome.", figures.pair),
        "optimisers": Drawing(
            ("optimisers",),
            "Section 2: what becomes of networks for y = |x|, by initialisation and optimiser.",
            figures.by_optimiser,
        ),
        "fig5": Drawing(
            ("targets", "losses"), "Figure 5: the constants that runs collapsed to, by loss.", figures.constants
        ),
        "length": Drawing(("length",), "Section 3: mean and median of q^l by layer, He normal, ReLU.", figures.lengths),
        "fig6": Drawing(
            ("probability", "safe"),
            "Figure 6: (A) the probability of a zero function; (B) the largest number of layers that keeps it below "
            "1 % and 10 %; (C) what Theorem 10 leaves out at width 2.",
            figures.probability,
        ),
        "fig7": Drawing(
            ("probability", "orthogonal"),
            "Figure 7: symmetric (He normal) and orthogonal initialisation.",
            figures.orthogonal,
        ),
        "remedies": Drawing(("remedies",), "Section 5.2: what becomes of networks, by remedy.", figures.by_remedy),
    },
    statements=statements,
    findings=findings,
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
        "Dropout has rate 0.1. Weight normalisation starts as the same function as without; its authors' start from "
        "data is our addition.",
        "Rules were written before the numbers, but for two: simulated networks within 1 point of Theorem 10's line "
        "(0.68 was known), and orthogonal initialisation lower by less than 5 points (3 were known at width 2). The "
        "remedies' number of steps was doubled after a trial in which batch norm's error still fell.",
        "Figure 6B is measured on the angle chain (`bsnn.collapse.exact`), equal in law to Gaussian networks.",
    ),
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)
