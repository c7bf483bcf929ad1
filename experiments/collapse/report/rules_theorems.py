"""The paper's statements about networks that are constant, with their rules."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from bsnn.results.rules import Judged, Rules

rules = Rules()

LEAST = 10
"""Networks that a statement has to be about, in every setting, before it counts as tested."""


ALL = "every random network of width 2 that it is about, for every law of weights and biases"

STATEMENTS = {
    "Theorem 1": ("a constant ReLU network has a hidden layer that is 0 on the whole domain", "it has one"),
    "Corollary 2": (
        "without biases all layers above that one are 0, too",
        "no hidden layer above the first dead one is alive",
    ),
    "Lemma 3": (
        "a constant network's gradients vanish in all layers up to that one",
        "they are exactly 0, by autograd, for y = |x|",
    ),
    "Theorem 5": (
        "all gradients of the squared error vanish for a constant network that is E y",
        "at most 1e-12 of its signals once its last bias makes it E y",
    ),
    "Theorem 6": (
        "so they do for a network that is y but for a piece of the domain, where it is constant and y's mean there",
        "at most 1e-12 of its signals, y made to fit",
    ),
}
"""The paper's statements and the conditions that stand for them."""


def judge_of(statement: str) -> Callable[[pd.DataFrame], Judged]:
    def judge(theorems: pd.DataFrame) -> Judged:
        of = theorems[theorems.statement == statement]
        largest = of.largest.max()
        size = "" if pd.isna(largest) else f", largest gradient {largest:.1g}"
        text = f"{of.holds.sum()} of {of.networks.sum()} networks in {len(of)} settings{size}"
        if not len(of) or of.networks.min() < LEAST:
            return text, None
        return text, bool((of.holds == of.networks).all())

    return judge


for _statement, (_says, _rule) in STATEMENTS.items():
    rules.states(_statement, _says, rule=f"{_rule}: {ALL}")(judge_of(_statement))


@rules.states(
    "section 5.2, LSUV",
    "rescaling to unit variance can't make a network escape: orthogonal weights decide for LSUV, too",
    rule="rescaled layer by layer to unit variance, the same orthogonal networks are dead, without exception",
)
def lsuv(theorems: pd.DataFrame) -> Judged:
    of = theorems[theorems.statement == "LSUV"]
    text = f"{of.holds.sum()} of {of.networks.sum()} networks as before, {100 * of.largest.max():.1f} % of them dead"
    return text, bool(len(of) and (of.holds == of.networks).all() and (of.largest > 0).all())
