"""Numbers and relations that a source states, each with our measurement and whether the two agree.

A rule, fixed beforehand, says what counts as agreement; it stands in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

WORDS = {True: "yes", False: "no", None: "not measured"}


@dataclass(frozen=True)
class Statement:
    """One statement of a source.

    Args:
        source: the place: "section 4, Fig. 6", "Theorem 2".
        says: the statement, in the source's words or numbers.
        measured: our result, with n and its uncertainty where there is one; "" where there is no data.
        rule: the condition for agreement, in numbers.
        agrees: None if there is no data.
    """

    source: str
    says: str
    measured: str
    rule: str
    agrees: bool | None

    @property
    def word(self) -> str:
        return WORDS[self.agrees]


def frame(statements: Sequence[Statement]) -> pd.DataFrame:
    """Make the table: source, says, measured, rule, agrees (yes | no | not measured)."""
    columns = ["source", "says", "measured", "rule", "agrees"]
    rows = [[one.source, one.says, one.measured, one.rule, one.word] for one in statements]
    return pd.DataFrame(rows, columns=columns)
