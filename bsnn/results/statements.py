"""Numbers and relations that a source states, each with our measurement and whether the two agree.

A rule, fixed beforehand, says what counts as agreement; it stands in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

NOT_MEASURED, UNDECIDED = "not measured", "undecided"
OURS = "ours"
"""The start of a statement's source if no source says it, but we expected it: it is counted by itself."""


@dataclass(frozen=True)
class Statement:
    """One statement of a source.

    Args:
        source: the place: "section 4, Fig. 6", "Theorem 2"; "ours" for what no source says, but theory lets expect.
        says: the statement, in the source's words or numbers.
        measured: our result, with n and its uncertainty where there is one; "" where there is no data.
        rule: the condition for agreement, in numbers.
        agrees: None if there is no data, or if the data can't decide it at this size.
    """

    source: str
    says: str
    measured: str
    rule: str
    agrees: bool | None

    @property
    def word(self) -> str:
        if self.agrees is None:
            return UNDECIDED if self.measured else NOT_MEASURED
        return "yes" if self.agrees else "no"


def frame(statements: Sequence[Statement]) -> pd.DataFrame:
    """Make the table: source, says, measured, rule, agrees (yes | no | undecided | not measured)."""
    columns = ["source", "says", "measured", "rule", "agrees"]
    rows = [[one.source, one.says, one.measured, one.rule, one.word] for one in statements]
    return pd.DataFrame(rows, columns=columns)


def counts(said: pd.DataFrame) -> str:
    """Count the statements of a `frame`: 12 of 14 statements agree, 1 undecided; 3 of 3 expectations of ours hold."""
    ours = said["source"].str.startswith(OURS)
    groups = ((~ours, "statements agree"), (ours, "expectations of ours hold"))
    return "; ".join(_counts(list(said["agrees"][chosen]), agree) for chosen, agree in groups if chosen.any())


def _counts(words: Sequence[str], agree: str) -> str:
    decided = words.count("yes") + words.count("no")
    rest = [f"{words.count(word)} {word}" for word in (UNDECIDED, NOT_MEASURED) if word in words]
    return ", ".join([f"{words.count('yes')} of {decided} {agree}", *rest])
