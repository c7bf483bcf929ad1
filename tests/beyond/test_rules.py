"""Every rule of the study holds on tables made for it and fails on ones made against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.beyond.report import rules

SHAPES = [(depth, width) for depth in (50, 200) for width in (100, 200, 400)]


def law() -> pd.DataFrame:
    rows = [(name, depth, width, 0.6 * math.sqrt(depth / width), 0.4 * math.sqrt(depth / width))
            for name in ("tanh", "relu") for depth, width in SHAPES]  # fmt: skip
    return pd.DataFrame(rows, columns=["function", "depth", "width", "single", "mean"])


def walk(factor: float = 1.0, power: float = 0.5, spread: float = 0.05, seed: int = 0) -> pd.DataFrame:
    noise = np.random.default_rng(seed)
    rows = [
        (draw, width, name, depth, *(factor * scale * (depth / width) ** power * (1 + spread * noise.standard_normal())
                                     for scale in (0.6, 0.4)))
        for draw in range(10) for name in ("tanh", "relu") for depth, width in SHAPES
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["draw", "width", "function", "depth", "single", "mean"])


def jacobian(rms: float = 1.0, factor: float = 1.0) -> pd.DataFrame:
    rows = [(draw, 400, "tanh", gpn, depth, rms**depth, factor / (1 + depth * 0.58), 1 / (1 + depth * 0.58))
            for draw in range(3) for gpn in (False, True) for depth in (10, 50)]  # fmt: skip
    return pd.DataFrame(rows, columns=["draw", "width", "function", "gpn", "depth", "rms", "participation", "law"])


def deeper(wide: float = 60.0, narrow: float = 20.0) -> pd.DataFrame:
    rows = [("tanh", 200, 100, 70.0), ("tanh", 1000, 100, narrow), ("tanh", 1000, 500, wide)]
    return pd.DataFrame(rows, columns=["function", "depth", "width", "test_accuracy"])


@pytest.mark.parametrize(
    ("judge", "good", "bad"),
    [
        (rules.wider, {"walk": walk()}, {"walk": walk(power=-0.5)}),
        (rules.follows_law, {"law": law(), "walk": walk(), "quantity": "single"},
         {"law": law(), "walk": walk(1.3), "quantity": "single"}),
        (rules.follows_law, {"law": law(), "walk": walk(), "quantity": "mean"},
         {"law": law(), "walk": walk(0.7), "quantity": "mean"}),
        (rules.root_of_depth_over_width, {"walk": walk()}, {"walk": walk(power=1.0)}),
        (rules.mean_square_stays, {"jacobian": jacobian()}, {"jacobian": jacobian(rms=0.95)}),
        (rules.participation_falls, {"jacobian": jacobian()}, {"jacobian": jacobian(factor=1.5)}),
        (rules.width_grows, {"deeper": deeper()}, {"deeper": deeper(wide=30.0)}),
        (rules.width_grows, {"deeper": deeper()}, {"deeper": deeper(narrow=60.0)}),
        (rules.width_grows, {"deeper": deeper()}, {"deeper": deeper().query("width < 500")}),
    ],
)  # fmt: skip
def test_a_rule_can_hold_and_can_fail(
    judge: Callable[..., tuple[str, bool | None]], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    assert judge(**good)[1] is True
    assert judge(**bad)[1] is False


def test_noisy_means_are_not_taken_for_different() -> None:
    """Means of ten draws that spread by 40 % can be 20 % off."""
    assert rules.follows_law(law(), walk(spread=0.4, seed=1), "single")[1] is True
