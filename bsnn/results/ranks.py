"""Spearman's rank correlation of a handful of points, with its exact significance: no tables, no asymptotics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd

LARGEST = 9
"""Points at most: 9! = 362 880 orders take about a second."""


class RankTest(NamedTuple):
    """correlation: Spearman's, ties having their mean rank; nan if one side is constant. p: the share of all orders of
    y whose correlation is at least as far from 0: two-sided, exact."""

    correlation: float
    p: float


def rank_test(x: Sequence[float], y: Sequence[float]) -> RankTest:
    """Whether y rises or falls with x. inf is a value like others. Raises ValueError for nan or over LARGEST points."""
    if len(x) != len(y) or not 2 <= len(x) <= LARGEST:
        raise ValueError(f"expected 2 to {LARGEST} pairs, found {len(x)} and {len(y)} numbers")
    if any(math.isnan(value) for value in (*x, *y)):
        raise ValueError("expected numbers, found nan")
    first, second = (pd.Series(list(side), dtype=np.float64).rank().to_numpy() for side in (x, y))
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    if scale == 0:
        return RankTest(math.nan, math.nan)
    orders = np.array(list(permutations(second)))
    found, all_of_them = float(first @ second) / scale, orders @ first / scale
    return RankTest(found, float((np.abs(all_of_them) >= abs(found) - 1e-12).mean()))
