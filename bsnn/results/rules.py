"""Declare what a source says, the rule by which it is judged, and the judge, in one place.

    rules = Rules()

    @rules.states("Theorem 1", "Var phi <= E phi'^2", rule="1 - Var phi / E phi'^2 >= -1e-9 for every function")
    def theorem_1(constants: pd.DataFrame) -> Judged:
        smallest = constants.discriminant.min()
        return f"smallest {smallest:.2g} (n = {len(constants)} functions)", smallest >= -1e-9

A judge's parameters name the parts of the study that it reads; it is called once all of them are computed. A parameter
annotated as Table gets the part with its settings, any other one the part's numbers. Statements come in the order in
which they are declared; `rules.states(...)(judge)` declares another one of the same judge.

The claims of the BSNN paper are declared alike. Theirs are judged check by check, so that they can be judged in part:

    claims = Claims()

    @claims.states(4, "GPN keeps the gradient ratio small and stable.", rule="the ratio is at most 100 ...")
    def gpn_is_stable(history: pd.DataFrame) -> list[Part]: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from bsnn import paper
from bsnn.results import verdicts
from bsnn.results.statements import Statement
from bsnn.results.tables import Table
from bsnn.results.verdicts import Verdict

Judged = tuple[str, bool | None]
"""The measurement in words and numbers, and whether it agrees by the rule; None: it can't be decided at this size."""
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


@dataclass(frozen=True)
class Networks:
    """A table of networks that claims are judged on.

    Args:
        frame: None if it isn't computed yet.
        depth: how many constrained layers the networks have.
        papers_size: whether they have the paper's size and are to be trained as long as the paper's.
    """

    frame: pd.DataFrame | None
    depth: int = paper.DEPTH
    papers_size: bool = True


CheckedParts = list[verdicts.Part]
"""A claim's parts with their checks."""
ClaimJudge = TypeVar("ClaimJudge", bound=Callable[..., CheckedParts])


class Claims:
    """The paper's claims that a module judges, in the order in which they are declared."""

    def __init__(self) -> None:
        self._declared: list[tuple[Verdict, Callable[..., CheckedParts]]] = []

    def states(self, number: int, says: str, *, rule: str) -> Callable[[ClaimJudge], ClaimJudge]:
        """Declare a claim, judged by the decorated function, whose parameters name the tables that it reads."""

        def declare(judge: ClaimJudge) -> ClaimJudge:
            self._declared.append((Verdict(number, says, rule), judge))
            return judge

        return declare

    def judged(self, networks: Mapping[str, Networks]) -> list[Verdict]:
        """Judge the claims on these tables. Networks that are shallower than the paper's can't test a claim."""
        return [_judged(claim, judge, networks) for claim, judge in self._declared]


def _judged(claim: Verdict, judge: Callable[..., CheckedParts], networks: Mapping[str, Networks]) -> Verdict:
    given = {name: networks[name] for name in inspect.signature(judge).parameters}
    depth = min(table.depth for table in given.values())
    if depth < paper.DEPTH:
        reason = f"the claim is about networks of {paper.DEPTH} layers, these have {depth}"
        return replace(claim, not_tested_because=reason)
    verdict = replace(claim, parts=judge(**{name: table.frame for name, table in given.items()}))
    return verdict if all(table.papers_size for table in given.values()) else verdicts.of_smaller_networks(verdict)
