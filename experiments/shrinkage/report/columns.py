"""Quantities from the shrinkage section's tables, for its statements, figures and findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def exponent(x: Any, y: Any) -> float:
    """Fit n of y ~ x^n by least squares on logarithms; nan for fewer than two points."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    proper = (x > 0) & (y > 0)
    if len(set(x[proper])) < 2:
        return math.nan
    return float(np.polyfit(np.log(x[proper]), np.log(y[proper]), 1)[0])


def rate(layer: Any, value: Any, low: float, high: float) -> float:
    """Fit r of value ~ exp(r layer) by least squares where low < value < high; nan for fewer than two points."""
    layer, value = np.asarray(layer, dtype=float), np.asarray(value, dtype=float)
    proper = (value > low) & (value < high)
    return float(np.polyfit(layer[proper], np.log(value[proper]), 1)[0]) if proper.sum() > 1 else math.nan


def tail(frame: pd.DataFrame, column: str, per_layer: bool = False) -> tuple[Any, Any]:
    """Select the last decade of depth: layers and 1 - rho; with `per_layer` the geometric mean of the pairs."""
    late = frame[frame[column] >= frame[column].max() / 10]
    if not per_layer:
        return late[column], late.distance
    mean = np.exp(np.log(late.distance).groupby(late[column]).mean())
    return mean.index, mean


def last(frame: pd.DataFrame) -> pd.DataFrame:
    rows: pd.DataFrame = frame[frame.layer == frame.layer.max()]
    return rows


def fluctuation(values: Sequence[float]) -> tuple[float, float]:
    """Compute mean and standard error; the latter is nan for one value."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan


def displacements(fig4: pd.DataFrame) -> pd.Series[float]:
    """Compute Pearson's correlation by layer (from 1), mean over the draws."""
    return fig4[fig4.quantity == "displacement"].groupby("index").value.mean()


def median_displacement(fig4: pd.DataFrame) -> float:
    return float(displacements(fig4).median())


def far_and_near(fig4: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return displacement correlations: of the five first and last layers, and of four on each side of the block."""
    all_layers = displacements(fig4)
    layers = all_layers.index.to_numpy()
    gap = int(np.argmax(np.diff(layers)))
    return pd.concat([all_layers.iloc[:5], all_layers.iloc[-5:]]), all_layers.iloc[max(0, gap - 3) : gap + 5]


def block_layers(fig4: pd.DataFrame) -> tuple[int, int]:
    """Return the first and last layer of the block, from 1: its layers are missing in the displacements."""
    layers = displacements(fig4).index.to_numpy()
    gap = int(np.argmax(np.diff(layers)))
    return int(layers[gap]) + 1, int(layers[gap + 1]) - 1
