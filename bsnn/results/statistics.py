"""Statistics of a handful of networks: accuracies with their standard errors, Welch's and exact rank tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Shares = TypeVar("Shares", float, "NDArray[np.float64]", "pd.Series[Any]")

LARGEST = 9
"""Most points of an exact test: 9! = 362 880 orders take about a second."""


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy over seeds with its standard error, both in %, the images of one seed and the number of seeds."""

    mean: float
    se: float
    images: int
    seeds: int = 1


def estimate(accuracies: Sequence[float], images: int) -> Estimate:
    """Estimate the mean from one accuracy for each seed.

    The standard error is the larger of two. The binomial one of `images` images is sqrt(p (1 - p) / n); more seeds
    don't lower it, since they are judged by the same images. That of the mean over seeds is sd / sqrt(seeds). With one
    seed only the first is known, and it is a lower bound.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    mean = float(values.mean())
    between = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(mean, max(binomial_se(mean, images), between), images, len(values))


def share_error(share: Shares, n: float | Shares) -> Shares:
    """The binomial standard error sqrt(p (1 - p) / n) of a share p of n, or of many shares."""
    error: Shares = (share * (1 - share) / n) ** 0.5
    return error


def clustered_error(values: pd.Series[Any], clusters: pd.Series[Any]) -> float:
    """The standard error of a mean over all values where those of one cluster are not independent.

    It is the root of sum_c (n_c (mean_c - mean))^2 / n^2 * C / (C - 1) for C clusters of n_c values.
    """
    sums = (values - values.mean()).groupby(clusters).sum()
    return float(math.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1)) / len(values))


def binomial_se(percent: float, images: int) -> float:
    """The standard error of a share measured on n images, both in %; at 0 and 100 % that of one image more or less."""
    return 100 * share_error(min(max(percent / 100, 1 / images), 1 - 1 / images), images)


class Difference(NamedTuple):
    """A difference of two mean accuracies.

    in_se: in combined standard errors. p: two-sided, by Welch's t test; see `difference`.
    """

    in_se: float
    p: float


def difference(first: Estimate, second: Estimate) -> Difference:
    """Compare two means: second - first.

    Over several seeds an error has a t law with seeds - 1 degrees of freedom, and the difference has the degrees of
    freedom of Welch and Satterthwaite, (a + b)^2 / (a^2 / df_a + b^2 / df_b) for the squared errors a and b. With one
    seed only the finite number of images is known to err, whose law is normal: p is then a lower bound, as se is.
    """
    squares = np.array([first.se, second.se]) ** 2
    in_se = (second.mean - first.mean) / math.sqrt(squares.sum())
    inverse = [1 / (one.seeds - 1) if one.seeds > 1 else 0.0 for one in (first, second)]
    weight = float((squares**2 * inverse).sum())
    freedom = float(squares.sum() ** 2) / weight if weight else math.inf
    return Difference(in_se, 2 * float(stats.t.sf(abs(in_se), freedom)))


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Tell which of several hypotheses are rejected if the chance of a single false rejection is to be `level`.

    Holm's procedure: the k-th smallest of m values of p is compared with level / (m - k + 1), until one fails.
    """
    rejected = [False] * len(p)
    for tested, index in enumerate(np.argsort(np.asarray(p, dtype=np.float64), kind="stable")):
        if not p[index] <= level / (len(p) - tested):
            break
        rejected[index] = True
    return rejected


def rank_correlation(x: Iterable[float], y: Iterable[float]) -> float:
    """Compute Spearman's correlation, ties having their mean rank; nan if a side is constant or any value is nan."""
    first, second = (np.asarray(list(side), dtype=np.float64) for side in (x, y))
    if np.isnan([*first, *second]).any() or len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)


class RankTest(NamedTuple):
    """An exact, two-sided rank test.

    correlation: Spearman's; nan if one side is constant. p: the share of all orders of y whose correlation is at least
    as far from 0.
    """

    correlation: float
    p: float


def rank_test(x: Sequence[float], y: Sequence[float]) -> RankTest:
    """Test whether y rises or falls with x. inf is a value like others.

    Raises ValueError for nan or over LARGEST points.
    """
    if len(x) != len(y) or not 2 <= len(x) <= LARGEST:
        raise ValueError(f"expected 2 to {LARGEST} pairs, found {len(x)} and {len(y)} numbers")
    if any(math.isnan(value) for value in (*x, *y)):
        raise ValueError("expected numbers, found nan")
    found = rank_correlation(x, y)
    if math.isnan(found):
        return RankTest(found, found)
    ranks = stats.rankdata(y)

    def size(ordered: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        centred = ordered - ordered.mean(axis=axis, keepdims=True)
        found: NDArray[np.float64] = np.abs((centred * (ranks - ranks.mean())).sum(axis=axis))
        return found

    test = stats.permutation_test(
        (stats.rankdata(x),), size, permutation_type="pairings", vectorized=True, n_resamples=np.inf,
        alternative="greater",
    )  # fmt: skip
    return RankTest(found, float(test.pvalue))
