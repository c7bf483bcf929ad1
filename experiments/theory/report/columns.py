"""Quantities from the theory section's tables, for its statements, findings and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.theory.functions import FAMILIES

PAPER_ROOTS = {"tanh": "+", "relu": "+", "leaky_relu": "+", "elu": "+", "selu": "+", "gelu": "-"}
"""The root b in Table 1."""

PRINTED_NORMS = np.array([[98.8555, 99.8824], [99.2121, 98.8777], [100.5818, 99.9690]])
"""(||z||, ||f(z)||) as the talk prints them."""


def paper_root(frame: pd.DataFrame) -> pd.Series:
    """Mark the rows of Table 1's root in a frame with columns function and root."""
    return frame.root == frame.function.map(PAPER_ROOTS)


def gaussian_functions(constants: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return (a, b) of the paper's six functions, b by Table 1's root."""
    six = constants[constants.family == "paper"].set_index("function")
    return {
        name: (float(six.a[name]), float((six.b_plus if root == "+" else six.b_minus)[name]))
        for name, root in PAPER_ROOTS.items()
    }


def lines(constants: pd.DataFrame) -> pd.DataFrame:
    return constants[constants.family == "lines"]


def continuous(constants: pd.DataFrame) -> pd.DataFrame:
    return constants[constants.family != "jumps"]


def nonlinear(constants: pd.DataFrame) -> pd.DataFrame:
    """Select the continuous functions that are no lines."""
    return constants[~constants.family.isin(["lines", "jumps"])]


def counted(frame: pd.DataFrame) -> str:
    """Count functions: "n = 171: the paper's 6, 160 random, 5 others"."""
    papers, random = (int(frame.family.isin(of).sum()) for of in (["paper"], FAMILIES))
    straight = int((frame.family == "lines").sum())
    others = len(frame) - papers - random - straight
    told = [f"the paper's {papers}", f"{random} random", f"{straight} lines" * bool(straight), f"{others} others"]
    return f"n = {len(frame)}: {', '.join(filter(None, told))}"


def smallest_and_largest(frame: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select the rows of the smallest and of the largest width, by `keys`."""
    first, last = (frame[frame.width == width].set_index(keys) for width in (frame.width.min(), frame.width.max()))
    return first, last.loc[first.index]


def exponent(width: pd.Series, value: pd.Series) -> float:
    """Fit p of value ~ width^p by least squares in logarithms."""
    return float(np.polyfit(np.log(width), np.log(value), 1)[0])


def norm_ratios(gradient: pd.DataFrame) -> pd.DataFrame:
    """Compute max_l / min_l of each network's signal, error and gradient norms; indexed as `gradient`."""
    norms = ("signal", "error", "gradient")
    return pd.DataFrame({norm: gradient[f"{norm}_max"] / gradient[f"{norm}_min"] for norm in norms})


def outs(frame: pd.DataFrame) -> list[str]:
    """List the columns out_<eps>, by eps."""
    return sorted((name for name in frame.columns if name.startswith("out_")), key=lambda name: float(name[4:]))


def largest(frame: pd.DataFrame, by: pd.Series) -> pd.Series:
    """Return the row at which `by` is largest."""
    return frame.iloc[int(by.to_numpy().argmax())]


def smallest(frame: pd.DataFrame, by: pd.Series) -> pd.Series:
    return frame.iloc[int(by.to_numpy().argmin())]
