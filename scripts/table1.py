"""Table 1: the constants that make a phi(x) + b Gaussian-Poincaré normalized, computed, beside the paper's.

    python -m scripts.table1 results/quick

Needs no records; seconds. Writes results/<budget>/table1.csv and table1.md.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from bsnn import paper
from bsnn.files import write_text
from bsnn.gpn import gaussian_poincare_constants
from bsnn.modules import build
from bsnn.results import cli
from bsnn.results.budgets import Key, table_configs

DIGITS = 10
"""Decimals written: gaussian_poincare_constants guarantees them, so they are the same on every machine."""

SELU_ROUNDED = (1.0507, 1.6733)
"""SELU's scale and alpha to four decimals; exact: 1.05070098735548, 1.67326324235437 (Klambauer et al. 2017)."""


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    table = constants(folder.absolute().name)
    write_text(folder / "table1.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "table1.md", markdown(table))


def constants(budget: str) -> pd.DataFrame:
    """Compute activation, label, a, b, paper_a, paper_b of the paper's six functions as defined in conf/activation/."""
    configs = table_configs(budget)
    rows = []
    for printed in paper.table1().itertuples():
        config = configs[Key(paper.DATASETS[0], str(printed.activation), True, False)].activation
        a, b = gaussian_poincare_constants(build(config.module, trusted=True), root=config.gpn_root)
        rows.append((config.name, config.label, round(a, DIGITS), round(b, DIGITS), printed.a, printed.b))
    return pd.DataFrame(rows, columns=["activation", "label", "a", "b", "paper_a", "paper_b"])


def markdown(table: pd.DataFrame) -> str:
    head = ["| |" + "".join(f" {label} |" for label in table["label"]), "|:--|" + "--:|" * len(table)]
    lines = []
    for symbol in "ab":
        lines.append(f"| *{symbol}*, computed |" + "".join(f" {value:.{DIGITS}f} |" for value in table[symbol]))
        lines.append(f"| *{symbol}*, paper |" + "".join(f" {value:.4f} |" for value in table[f"paper_{symbol}"]))
    caption = (
        "**Table 1.** Constants for Gaussian-Poincaré normalization of activation functions, "
        "by numerical integration (`bsnn.gpn`) and as the paper prints them."
    )
    return "\n".join([caption, "", *head, *lines, "", remark(table)]) + "\n"


def remark(table: pd.DataFrame) -> str:
    """Say if the computed constants, rounded to four decimals, are the printed ones; if only SELU's b isn't, why."""
    off = [
        (row.activation, f"{row.label}'s {symbol} ({value:.4f}, printed {printed:.4f})")
        for row in table.itertuples()
        for symbol, value, printed in (("a", row.a, row.paper_a), ("b", row.b, row.paper_b))
        if f"{value:.4f}" != f"{printed:.4f}"
    ]
    agreeing = 2 * len(table) - len(off)
    text = f"{agreeing} of {2 * len(table)} constants agree with the paper's to its four decimals"
    if not off:
        return f"{text}."
    text += f"; not {', '.join(name for _, name in off)}."
    if [activation for activation, _ in off] == ["selu"]:
        scale, alpha = SELU_ROUNDED
        a, b = gaussian_poincare_constants(rounded_selu)
        text += (
            f" With SELU's own constants rounded to four decimals first ({scale}, {alpha}) the computation gives "
            f"a = {a:.4f}, b = {b:.4f}."
        )
    return text


def rounded_selu(x: Tensor) -> Tensor:
    scale, alpha = SELU_ROUNDED
    return scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


if __name__ == "__main__":
    cli.run(main)
