"""Statements about deep plain convolutional networks, with their rules."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bsnn.results.claims import CHANCE, EXPLODED, LEVEL, STABLE
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import difference, estimate, holm
from bsnn.results.tables import Table

rules = Rules()


def ratios(convolution: pd.DataFrame) -> pd.Series:
    """max / min over the layers of the first update's gradients, by version and function."""
    of = convolution[convolution.rate == convolution.rate.min()].groupby(["version", "function"], sort=False).gradient
    with np.errstate(divide="ignore", invalid="ignore"):
        found: pd.Series = of.max() / of.min()
    return found


def best(convolution: pd.DataFrame) -> pd.DataFrame:
    """Choose the rate of the lowest training loss, by version and function: rate, loss, test_accuracy."""
    runs = convolution.drop_duplicates(["version", "function", "rate"]).sort_values("loss", kind="stable")
    found: pd.DataFrame = runs.groupby(["version", "function"], sort=False).first()[["rate", "loss", "test_accuracy"]]
    return found.loc[[key for key in ratios(convolution).index if key in found.index]]


def _told(values: pd.Series) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


@rules.states(
    "ours, from BSNN paper, section 5",
    "convolutions: with delta-orthogonal kernels GPN keeps the gradients of all layers at one scale",
    rule=f"max / min over the layers of ||dE/dV||_F in the first update at most {STABLE:g}, every GPN function",
)
def gpn_is_even(convolution: pd.DataFrame) -> Judged:
    found = ratios(convolution)["GPN"]
    return f"{_told(found)} ({convolution.layer.max()} layers)", bool((found <= STABLE).all())


@rules.states(
    "ours, from BSNN paper, section 5",
    "convolutions: orthogonality is crucial, Gaussian filters of norm one let gradients vanish or explode",
    rule=f"GPN with Gaussian filters: that ratio above {STABLE:g}, every function",
)
def gaussian_is_not(convolution: pd.DataFrame) -> Judged:
    found = ratios(convolution)["GPN, Gaussian"]
    return _told(found), bool((found > STABLE).all())


@rules.states(
    "ours, from BSNN paper, section 5",
    "convolutions: batch norm makes gradients explode",
    rule=f"batch norm: that ratio above {EXPLODED:g}, every function",
)
def batch_norm_explodes(convolution: pd.DataFrame) -> Judged:
    found = ratios(convolution)["batch norm"]
    return _told(found), bool((found > EXPLODED).all())


@rules.states(
    "ours, from BSNN paper, section 5",
    "convolutions: GPN networks train better than plain ones",
    rule="test accuracy at the rate of the lowest training loss above the plain network's, significantly by Holm's "
    f"procedure at {LEVEL:.0%} (errors of the test images), for most functions; below it for none",
)
def gpn_trains_better(convolution: Table) -> Judged:
    found = best(convolution.frame).test_accuracy.clip(lower=CHANCE["cifar10", "test"])
    images = convolution.config["sizes"]["convolution"]["images"]
    pairs = {
        name: difference(estimate([found["plain", name]], images), estimate([found["GPN", name]], images))
        for name in found["GPN"].index
    }
    significant = holm([pair.p for pair in pairs.values()], LEVEL)
    better = [differs and pair.in_se > 0 for differs, pair in zip(significant, pairs.values(), strict=True)]
    worse = [differs and pair.in_se < 0 for differs, pair in zip(significant, pairs.values(), strict=True)]
    told = ", ".join(f"{name} {found['plain', name]:.1f} -> {found['GPN', name]:.1f} %" for name in pairs)
    return f"plain -> GPN: {told} (n = 1)", sum(better) * 2 > len(better) and not any(worse)
