"""The numbers that the paper prints: Tables 1 and 2, copied digit for digit into the CSV files here."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent

LABELS = {"tanh": "Tanh", "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "selu": "SELU", "gelu": "GELU"}
"""The paper's spelling of its functions, by the names in conf/activation/."""

ACTIVATIONS = tuple(LABELS)
"""The rows of Table 2 in the paper's order."""

DATASETS = ("mnist", "cifar10")
"""The columns of Table 2 in the paper's order, by the names in conf/dataset/."""

DEPTH = 200
"""Constrained layers of every network in the paper, to which its claims apply."""


def table1() -> pd.DataFrame:
    """Return columns activation, a, b; a and b to the four decimals printed."""
    return pd.read_csv(FOLDER / "table1.csv", comment="#")


def table2() -> pd.DataFrame:
    """Return columns dataset, activation, gpn, batch_norm, train_accuracy, test_accuracy (%); 48 rows."""
    return pd.read_csv(FOLDER / "table2.csv", comment="#")
