"""How a claim is judged: checks, each true, false or without data; a verdict that follows from them by rule.

A claim has parts, a part has checks (one for each dataset and function, say). The verdict on a part:

    confirmed   every check holds
    mixed       at least half of them hold
    refuted     fewer than half hold
    not tested  checks without data could still change the word

The claim as a whole is refuted if a part is; else not tested if a part is; else mixed if a part is; else confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

Outcome = Literal["confirmed", "mixed", "refuted", "not tested"]

MIXED_SHARE = 0.5
"""A claim about every function is strictly refuted by one exception; while it holds in most cases "mixed" says more."""


@dataclass(frozen=True)
class Check:
    """One comparison. `holds` is None where there is no data, `applies` False where the claim says nothing."""

    subject: str
    measured: str
    required: str
    holds: bool | None
    applies: bool = True


@dataclass(frozen=True)
class Part:
    says: str
    checks: Sequence[Check]

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many checks hold, fail, lack data."""
        outcomes = [check.holds for check in self.checks if check.applies]
        return outcomes.count(True), outcomes.count(False), outcomes.count(None)

    @property
    def outcome(self) -> Outcome:
        held, failed, lacking = self.counts
        worst, best = _word(held, failed + lacking), _word(held + lacking, failed)
        return worst if worst == best else "not tested"


@dataclass(frozen=True)
class Verdict:
    number: int
    claim: str
    rule: str
    parts: Sequence[Part] = ()
    not_tested_because: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.not_tested_because or not self.parts:
            return "not tested"
        outcomes = {part.outcome for part in self.parts}
        order: tuple[Outcome, ...] = ("refuted", "not tested", "mixed", "confirmed")
        return next(outcome for outcome in order if outcome in outcomes)

    def table(self) -> pd.DataFrame:
        """One row for each check."""
        rows = [
            {
                "claim": self.number,
                "part": part.says,
                "subject": check.subject,
                "measured": check.measured,
                "required": check.required,
                "holds": _answer(check),
            }
            for part in self.parts
            for check in part.checks
        ]
        return pd.DataFrame(rows, columns=["claim", "part", "subject", "measured", "required", "holds"])


def _word(held: int, failed: int) -> Outcome:
    if held + failed == 0:
        return "not tested"
    if failed == 0:
        return "confirmed"
    return "mixed" if held >= MIXED_SHARE * (held + failed) else "refuted"


def _answer(check: Check) -> str:
    if not check.applies:
        return "does not apply"
    return "no data" if check.holds is None else "yes" if check.holds else "no"


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy over seeds with its standard error, both in %, and the number of images of one seed."""

    mean: float
    se: float
    images: int


def estimate(accuracies: Sequence[float], images: int) -> Estimate:
    """The mean of one accuracy for each seed.

    The standard error is the larger of the binomial one of `images` images, sqrt(p (1 - p) / n), which more seeds don't
    lower since they are judged by the same images, and that of the mean over seeds, sd / sqrt(seeds). With one seed
    only the first is known: then it is a lower bound.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    mean = float(values.mean())
    between = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(mean, max(binomial_se(mean, images), between), images)


def binomial_se(percent: float, images: int) -> float:
    """Of a share measured on n images, in %; at 0 and 100 % that of one image more or less."""
    p = min(max(percent / 100, 1 / images), 1 - 1 / images)
    return 100 * math.sqrt(p * (1 - p) / images)


def difference_in_se(first: Estimate, second: Estimate) -> float:
    """(second - first) / combined standard error."""
    return (second.mean - first.mean) / math.hypot(first.se, second.se)
