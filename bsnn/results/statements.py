"""The source says / we measured / agrees?: numbers and relations that a paper states, each with ours beside it.

A rule says beforehand what counts as agreement; it stands in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

WORDS = {True: "yes", False: "no", None: "not measured"}


@dataclass(frozen=True)
class Statement:
    """One thing that a source states.

    Args:
        source: where: "section 4, Fig. 6", "Theorem 2".
        says: what, in its words or numbers.
        measured: ours, with n and its uncertainty where there is one; "" where there is no data.
        rule: what counts as agreement, in numbers.
        agrees: None where there is no data to tell.
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
    """Columns source, says, measured, rule, agrees (yes | no | not measured)."""
    columns = ["source", "says", "measured", "rule", "agrees"]
    rows = [[one.source, one.says, one.measured, one.rule, one.word] for one in statements]
    return pd.DataFrame(rows, columns=columns)
