"""bsnn.results.ranks against scipy, which counts the same permutations another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bsnn.results.ranks import rank_test


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
def test_against_scipy(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 4, (2, 6)).astype(float) if ties else random.standard_normal((2, 6))
    found = rank_test(list(x), list(y))
    assert found.correlation == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    # scipy permutes pairings exactly if there are fewer orders than n_resamples; one-sided, so twice both tails
    test = stats.permutation_test(
        (x,), lambda one: abs(stats.spearmanr(one, y).statistic), permutation_type="pairings", n_resamples=1000,
        alternative="greater",
    )  # fmt: skip
    assert found.p == pytest.approx(test.pvalue, abs=1e-12)


def test_the_least_p_of_six() -> None:
    found = rank_test([1, 2, 3, 4, 5, math.inf], [6, 5, 4, 3, 2, 1])
    assert found.correlation == pytest.approx(-1, abs=1e-15)
    assert found.p == pytest.approx(2 / math.factorial(6))


def test_what_has_no_ranks() -> None:
    assert all(math.isnan(value) for value in rank_test([1, 1, 1], [1, 2, 3]))
    for x, y in (([1, 2], [1, 2, 3]), ([1.0, math.nan], [1.0, 2.0]), ([1.0] * 10, [2.0] * 10)):
        with pytest.raises(ValueError, match="expected"):
            rank_test(x, y)
