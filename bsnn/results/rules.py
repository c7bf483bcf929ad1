"""Statements of a source, each declared in one place with the rule by which it is judged and the judge.

    rules = Rules()

    @rules.states("Theorem 1", "Var phi <= E phi'^2", rule="1 - Var phi / E phi'^2 >= -1e-9 for every function")
    def theorem_1(constants: pd.DataFrame) -> Judged:
        smallest = constants.discriminant.min()
        return f"smallest {smallest:.2g} (n = {len(constants)} functions)", smallest >= -1e-9

A judge's parameters name the parts of the study that it reads; it is called once all of them are computed. A parameter
annotated as Table gets the part with its settings, any other one the part's numbers. Statements keep the order of their
declarations; `rules.states(...)(judge)` declares another one of the same judge.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bsnn.results.statements import Statement
from bsnn.results.tables import Table

Judged = tuple[str, bool]
"""The measurement in words and numbers, and whether it agrees by the rule."""
Judge = TypeVar("Judge", bound=Callable[..., Judged])
Parts = Mapping[str, Table | None]
"""A study's tables by part; None for those not computed yet."""


@dataclass(frozen=True)
class Rule:
    """One statement of a source and how it is judged.

    Args:
        source: the place in the source: "section 4, Fig. 6", "Theorem 2".
        says: the statement, in the source's words or numbers.
        rule: the condition for agreement, in numbers.
        judge: called with the parts that its parameters name.
    """

    source: str
    says: str
    rule: str
    judge: Callable[..., Judged]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that it reads."""
        return needed(self.judge)

    def judged(self, parts: Parts) -> Statement:
        """Set the measurement beside the statement."""
        given = arguments(self.judge, parts)
        measured, agrees = ("", None) if given is None else self.judge(**given)
        return Statement(self.source, self.says, measured, self.rule, None if agrees is None else bool(agrees))


class Rules:
    """The rules of a module, in the order in which they are declared."""

    def __init__(self) -> None:
        self._declared: list[Rule] = []

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._declared)

    def states(self, source: str, says: str, *, rule: str, **fixed: Any) -> Callable[[Judge], Judge]:
        """Declare a statement, judged by the decorated function. `fixed`: arguments that aren't parts."""

        def declare(judge: Judge) -> Judge:
            self._declared.append(Rule(source, says, rule, partial(judge, **fixed) if fixed else judge))
            return judge

        return declare


def needed(function: Callable[..., Any]) -> tuple[str, ...]:
    """Name the parts that a function needs: its parameters without a default value."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)


def arguments(function: Callable[..., Any], parts: Parts) -> dict[str, Any] | None:
    """Return the parts that a function reads, by its parameters' names; None if one that it needs isn't computed.

    A parameter that is None by default is a part that the function can do without.
    """
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty and parts[name] is None:
            return None
        if parameter.default in (inspect.Parameter.empty, None) and (table := parts[name]) is not None:
            given[name] = table if "Table" in str(parameter.annotation) else table.frame
    return given
