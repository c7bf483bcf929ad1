"""Every claim and result of the sources, with the statements or claims that answer it, or the reason why none does.

A row names the statements of a study by a pattern of their source; the report fills in how many of them agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from bsnn.results.markdown import table
from bsnn.results.statements import counts
from bsnn.results.verdicts import Verdict

BSNN, TALK, LECTURE = "BSNN paper", "talk", "lecture"
SHRINKAGE, COLLAPSE = "shrinkage paper", "collapse paper"


class Row(NamedTuple):
    """A claim or result of a source.

    Args:
        source: the paper, talk or lecture.
        says: the claim.
        answers: patterns of the sources of the statements that answer it, by study.
        claims: numbers of the budget's claims that answer it.
        open: what isn't measured of it, and why.
    """

    source: str
    says: str
    answers: Mapping[str, str] = {}
    claims: tuple[int, ...] = ()
    open: str = ""


ROWS = (
    Row(
        BSNN,
        "Definitions 1 to 4, Propositions 1 to 3, Theorem 1, Table 1",
        {"theory": r"section 2\.1|(ours, from )?Proposition|after Proposition|Theorem 1$|Table 1|Assumption 4"},
    ),
    Row(
        BSNN,
        "Lemmas 1 to 6, Theorems 2 and 3: one layer keeps both norms",
        {"theory": r"Lemma|Theorem 2$|Theorem 3|after Theorem 2"},
    ),
    Row(
        BSNN,
        "GPN and wide layers solve vanishing and exploding gradients",
        {"theory": r"section 2\.2|section 2\.3", "vanishing": "talk and paper"},
        (1, 2, 4),
    ),
    Row(BSNN, "Figs 1 and 2: plain Tanh is stable because it goes linear, GPN functions are not", {}, (5,)),
    Row(
        BSNN,
        "Fig. 3: the wider, the more equal the gradients",
        {"beyond": r"BSNN paper, section 3\.1, Fig\. 3|ours, bsnn\.beyond\.walk"},
        (6,),
    ),
    Row(BSNN, "Table 2, Fig. 4: trainability, accuracy, batch norm", {}, (1, 2, 3, 4)),
    Row(
        BSNN,
        "section 3.2: training is accelerated when SELU is GPN",
        open="told, not judged: the section Two more outcomes, from this budget's records",
    ),
    Row(
        BSNN,
        "introduction: batch norm and residual connections don't solve the problem",
        {"vanishing": "paper, introduction"},
        (3,),
    ),
    Row(
        BSNN,
        "section 4: orthogonality is crucial, Gaussian W; SELU's fixed point; Theorem 3's bounded error",
        {"theory": r"(ours, from )?section 4|ours, from Theorem 3, condition", "bridge": r"BSNN paper, section 4"},
    ),
    Row(BSNN, "section 3.1: BSNNs stay nonlinear", {"bridge": r"BSNN paper, (section 3\.1|Definition 3)"}),
    Row(
        BSNN,
        "dynamical isometry: singular values of the input-output Jacobian",
        {"beyond": r"ours, (from BSNN paper, Definition 3|bsnn\.beyond\.jacobian)"},
    ),
    Row(
        BSNN,
        "section 4, the talk's limitation: assumptions during training; rows of norm one against orthogonality",
        {
            "beyond": r"BSNN paper, section 4, in training|"
            r"ours, from (talk, limitation|BSNN paper, (section (2\.3|3\.2)|introduction))|"
            r"BSNN paper, section 3\.2, cost"
        },
    ),
    Row(
        BSNN,
        "GPN beside its rivals, tuned alike: edge of chaos, SELU, shaped and tailored functions, batch norm, residual",
        {"beyond": r"ours, (rivals|bsnn\.beyond\.rivals)"},
    ),
    Row(
        BSNN,
        "future work: convolutions; generalisation",
        {"beyond": "ours, from BSNN paper, section 5"},
        open="generalisation: the section of that name, from this budget's records",
    ),
    Row(
        TALK,
        "the 20 x 500 sigmoid network, 200 x 500 SELU and SELU-GPN, both lemmas, printed norms",
        {"vanishing": r"talk, \d+ x 500", "theory": "the talk"},
    ),
    Row(
        TALK,
        "descent on a quadratic; the normalised gradient as a simple solution",
        {"vanishing": r"talk, (gradient|theta|a simple)"},
    ),
    Row(TALK, "tricks: Adam, batch norm, clipping, shortcuts", {"vanishing": "(ours, from )?talk, tricks"}),
    Row(
        TALK,
        "function approximation; Mazur and Ulam",
        {"vanishing": "talk, (function approximation|Mazur-Ulam)"},
    ),
    Row(LECTURE, "section 8: approximation in sup norm and L2", {"vanishing": "lecture, section 8"}),
    Row(
        LECTURE,
        "equation (23), slopes, small and large weights, fewer factors",
        {"vanishing": "(ours, from )?lecture(?!, section 8)"},
    ),
    Row(
        SHRINKAGE,
        "phases, power series, closed forms",
        {
            "shrinkage": r"Section 2\.2|\(2\.4\)|Appendix B$",
            "bridge": r"shrinkage paper, equation 2\.3|ours, from shrinkage paper, equation 2\.4",
        },
    ),
    Row(
        SHRINKAGE,
        "Theorems 1 and 2, their bounds and remarks, Figs 1 and 2",
        {
            "shrinkage": r"Theorem|Appendix A|Figure 1|\(4\.[12]\)|Remark|Fig\. 2|Section 3$|Section 5\.1$",
            "bridge": r"(ours, from )?shrinkage paper, (Theorem 1|remark 1|section 3$)",
        },
    ),
    Row(SHRINKAGE, "Fig. 3: critical and chaotic networks, Jacobians, gradients", {"shrinkage": r"Fig\. 3|\(4\.3\)"}),
    Row(SHRINKAGE, "residual networks", {"shrinkage": r"\(A\.10\)"}),
    Row(SHRINKAGE, "Fig. 4, section 4.2: skimming", {"shrinkage": r"Fig\. 4|Section 4\.2"}),
    Row(
        SHRINKAGE,
        "section 3, items 2 and 3: shrinkage and learning",
        {"bridge": r"(ours, from )?shrinkage paper, section 3, item|section 3, item"},
    ),
    Row(
        SHRINKAGE,
        "(A.8), (A.9) at finite width; properties 1 to 3; observation 1, property 7",
        open="(A.8) and (A.9) are steps of Theorem 1's proof; what follows, the norm of the Jacobian, is measured at "
        "finite width (Fig. 3d). Properties and observation 1 are checked by unit tests",
    ),
    Row(
        SHRINKAGE,
        "sections 5.1, 5.2 and 3: the first log L layers, batch norm, machine precision",
        {"shrinkage": r"(ours, from )?Section (5\.1, log L|5\.2|3, item 2)$"},
    ),
    Row(
        SHRINKAGE,
        "suggestions: deeper networks need more steps; trainable functions that start linear",
        {"shrinkage": r"(ours, from )?Section (3, item 2, steps|5\.2, trainable)$"},
    ),
    Row(
        COLLAPSE,
        "Figs 1 to 5, Theorem 4: trained networks collapse, to what and for which loss",
        {"collapse": r"section 2|Fig\. [1-5]|Theorem 4", "bridge": r"collapse paper, section 2"},
    ),
    Row(
        COLLAPSE,
        "section 3, Theorems 8 to 10, Figs 6 and 7: random networks",
        {
            "collapse": r"section 3|Theorem (8|9|10)|Lemma 7|appendix J|section 4|equation 5|Fig\. [67]",
            "bridge": r"collapse paper, Theorem",
        },
    ),
    Row(
        COLLAPSE,
        "section 5.2: remedies, at several widths and for all targets",
        {"collapse": r"(ours, from )?section 5\.2(?!, LSUV)", "bridge": r"collapse paper, section 5\.2"},
    ),
    Row(
        COLLAPSE,
        "Theorem 1, Corollary 2, Lemma 3, Theorems 5 and 6; layer-sequential unit variance",
        {"collapse": r"Theorem [156]$|Corollary 2|Lemma 3|section 5\.2, LSUV"},
    ),
)


def section(said: Mapping[str, pd.DataFrame], verdicts: Sequence[Verdict]) -> list[str]:
    """Write the map: for each row what answers it, with links into the studies' reports."""
    found = {
        verdict.number: f"[claim {verdict.number}](#the-papers-claims): {verdict.outcome}{verdict.suffix}"
        for verdict in verdicts
    }
    rows = [[row.source, row.says, "; ".join(_answers(row, said, found)) or "–", row.open] for row in ROWS]
    return [
        "## Every claim of the sources",
        "Answers to each claim or result of the sources, and what isn't measured. Expectations of ours are counted by "
        "themselves.",
        table(["source", "claim or result", "answered by", "open"], rows),
    ]


def matching(pattern: str, said: pd.DataFrame) -> pd.DataFrame:
    """Select the statements whose source matches the pattern, from its beginning or after "; "."""
    return said[[any(re.match(pattern, one) for one in source.split("; ")) for source in said["source"]]]


def unmapped(said: Mapping[str, pd.DataFrame]) -> list[str]:
    """List the statements, by study and source, that no row names."""
    lost = []
    for study, frame in said.items():
        named = {index for row in ROWS if study in row.answers for index in matching(row.answers[study], frame).index}
        lost += [f"{study}: {source}" for index, source in frame["source"].items() if index not in named]
    return lost


def _answers(row: Row, said: Mapping[str, pd.DataFrame], claims: Mapping[int, str]) -> Iterator[str]:
    for number in row.claims:
        yield claims[number]
    for study, pattern in row.answers.items():
        if study in said and len(chosen := matching(pattern, said[study])):
            yield f"[{study}]({study}/report.md): {counts(chosen)}"
