"""The judgement of claims: checks, each true, false or without data, and a verdict that follows from them by rule.

A claim has parts, a part has checks (one for each dataset and function, say). The verdict on a part:

    confirmed   every check holds
    mixed       at least half of them hold
    refuted     fewer than half hold, and no more training and no larger network can change that
    not shown   fewer than half hold, but that may change: the networks are smaller or trained for fewer epochs than the
                paper's, or their training isn't finished
    not tested  checks without data could still change the word

The claim as a whole is refuted if a part is; else not shown if a part is; else not tested if a part is; else mixed if a
part is; else confirmed. Every check says whether it is settled. As long as one isn't, the verdict holds "so far"; on
networks other than the paper's it holds "at this budget".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

Outcome = Literal["confirmed", "mixed", "not shown", "refuted", "not tested"]

MIXED_SHARE = 0.5
"""One exception strictly refutes a claim about every function; if it holds in most cases, "mixed" says more."""


@dataclass(frozen=True)
class Check:
    """One comparison. `holds` is None where there is no data, `applies` False where the claim says nothing.

    after: the length of the networks' training: "8 of 50 epochs".
    settled: whether both answers are final, so that more training of these networks can't change them.
    """

    subject: str
    measured: str
    required: str
    holds: bool | None
    applies: bool = True
    after: str = ""
    settled: bool = True

    @property
    def lacks_data(self) -> bool:
        return self.applies and self.holds is None


@dataclass(frozen=True)
class Part:
    says: str
    checks: Sequence[Check]

    @property
    def counts(self) -> tuple[int, int, int]:
        """The numbers of checks that hold, fail and lack data."""
        outcomes = [check.holds for check in self.checks if check.applies]
        return outcomes.count(True), outcomes.count(False), outcomes.count(None)

    @property
    def unsettled(self) -> int:
        """The number of answers that may still change."""
        return sum(not check.settled and not check.lacks_data for check in self.checks)

    @property
    def after(self) -> str:
        """The training of the networks of its checks: "8 of 50 epochs"."""
        return ", ".join(dict.fromkeys(check.after for check in self.checks if check.after))

    @property
    def outcome(self) -> Outcome:
        held, failed, lacking = self.counts
        worst, best = _word(held, failed + lacking), _word(held + lacking, failed)
        if worst != best:
            return "not tested"
        if worst != "refuted":
            return worst
        lost = sum(check.holds is False and check.settled for check in self.checks)
        may_hold = sum(check.applies or not check.settled for check in self.checks) - lost
        return "refuted" if _word(may_hold, lost) == "refuted" else "not shown"


@dataclass(frozen=True)
class Verdict:
    """A judged claim. papers_size: True if the networks have the paper's size and will be trained as long."""

    number: int
    claim: str
    rule: str
    parts: Sequence[Part] = ()
    not_tested_because: str = ""
    papers_size: bool = True

    @property
    def outcome(self) -> Outcome:
        if self.not_tested_because or not self.parts:
            return "not tested"
        outcomes = {part.outcome for part in self.parts}
        order: tuple[Outcome, ...] = ("refuted", "not shown", "not tested", "mixed", "confirmed")
        return next(outcome for outcome in order if outcome in outcomes)

    @property
    def suffix(self) -> str:
        """Addition to an outcome that isn't final: " so far", " at this budget"."""
        return self._suffix(self.outcome, any(part.unsettled for part in self.parts))

    def suffix_of(self, part: Part) -> str:
        """Return the addition to the outcome of one part."""
        return self._suffix(part.outcome, part.unsettled > 0)

    def _suffix(self, outcome: Outcome, unsettled: bool) -> str:
        if outcome in ("not tested", "refuted") or not unsettled:
            return ""
        return " so far" if self.papers_size else " at this budget"

    @property
    def reason(self) -> str:
        """The reason why the verdict isn't final yet; empty if it is."""
        if self.not_tested_because:
            return self.not_tested_because
        if self.outcome == "refuted":
            return ""
        if not self.papers_size:
            return "smaller networks or fewer epochs than the paper's can't decide it"
        checks = sum(sum(part.counts) for part in self.parts)
        lacking, unsettled = (
            sum(values) for values in zip(*((p.counts[2], p.unsettled) for p in self.parts), strict=True)
        )
        reasons = [f"{lacking} of {checks} checks have no data yet"] if lacking else []
        if unsettled:
            reasons.append(f"{unsettled} may still change with more training")
        return ", and ".join(reasons)

    def table(self) -> pd.DataFrame:
        """Make one row for each check."""
        rows = [
            {
                "claim": self.number,
                "part": part.says,
                "subject": check.subject,
                "after": check.after,
                "measured": check.measured,
                "required": check.required,
                "holds": _answer(check),
                "may change with": self._may_change_with(check),
            }
            for part in self.parts
            for check in part.checks
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _may_change_with(self, check: Check) -> str:
        if check.lacks_data:
            return "data"
        if not self.papers_size:
            return "the paper's size"
        return "nothing" if check.settled else "more training"


def of_smaller_networks(verdict: Verdict) -> Verdict:
    """Return the verdict for networks that are not the paper's: none of its checks is settled."""
    parts = [replace(part, checks=[replace(check, settled=False) for check in part.checks]) for part in verdict.parts]
    return replace(verdict, parts=parts, papers_size=False)


COLUMNS = ["claim", "part", "subject", "after", "measured", "required", "holds", "may change with"]
"""Columns of Verdict.table and claims.csv."""


def _word(held: int, failed: int) -> Outcome:
    """Return the word for these numbers of checks, as if all were settled."""
    if held + failed == 0:
        return "not tested"
    if failed == 0:
        return "confirmed"
    return "mixed" if held >= MIXED_SHARE * (held + failed) else "refuted"


def _answer(check: Check) -> str:
    if not check.applies:
        return "does not apply"
    return "no data" if check.holds is None else "yes" if check.holds else "no"
