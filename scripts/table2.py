"""Table 2: accuracy of networks of depth 200 on MNIST and CIFAR-10, ours beside the paper's.

    python -m scripts.table2 results/quick

Reads the records in results/<budget>/runs/, in seconds, and writes beside them table2.csv (one line for each of the
table's cells), table2.md and table2.tex (needs the package booktabs). Cells without a record are shown as missing.
Unfinished ones are shown with their progress: 95.87 @8 is the accuracy after 8 epochs. Bold compares only networks
after the same number of epochs. If a function's networks are at different epochs, a second table compares them at one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bsnn.files import write_text
from bsnn.results import budgets, cli, grid
from bsnn.results.budgets import Key
from bsnn.results.grid import Results
from bsnn.results.records import UNFINISHED
from bsnn.results.tables import DIGITS

SPLITS = ("train", "test")
VARIANTS = {
    "plain": (False, False),
    "GPN": (True, False),
    "plain-BN": (False, True),
    "GPN-BN": (True, True),
}  # gpn, batch_norm
Entries = dict[Key, dict[str, Any]]


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    loaded = grid.load(folder)
    write_text(
        folder / "table2.csv", loaded.table.to_csv(index=False, na_rep="nan", float_format=DIGITS, lineterminator="\n")
    )
    write_text(folder / "table2.md", markdown(loaded))
    write_text(folder / "table2.tex", latex(loaded))


@dataclass(frozen=True)
class Markup:
    bold: Callable[[str], str]
    mark: Callable[[int], str]
    epoch: Callable[[str], str]
    plus_minus: str
    dash: str


MARKDOWN = Markup("**{}**".format, "<sup>{}</sup>".format, " @{}".format, " ± ", "–")
LATEX = Markup(
    r"\textbf{{{}}}".format, r"\textsuperscript{{{}}}".format, r"\,{{\scriptsize @{}}}".format, r" $\pm$ ", "--"
)


@dataclass
class Notes:
    """Footnotes in order of appearance; the same text has the same number."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def markdown(loaded: Results) -> str:
    """Write the table with its caption and footnotes, and the second table if there is one."""
    rows, notes = body(loaded, MARKDOWN)
    footnotes = [f"{number}. {text}" for number, text in enumerate(notes.texts, start=1)]
    parts = [
        f"**Table 2.** {caption(loaded)}",
        _table(["", *(f"{label} {split} {whose}" for label, split, whose, _ in heads(loaded))], rows),
        "\n".join(footnotes),
        *agreement(loaded),
    ]
    if unequal(loaded):
        head, equal = equal_epochs(loaded, MARKDOWN)
        parts += [f"**Table 2, at equal epochs.** {EQUAL}", _table(head, equal)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heads(loaded: Results) -> list[tuple[str, str, str, str]]:
    """List dataset, split, source (ours or the paper's) and epochs of every column."""
    columns = []
    for dataset, config in loaded.datasets.items():
        entries = loaded.table[loaded.table["dataset"] == dataset]
        epochs = f"{entries['epochs'].max():.4g}"
        for split in SPLITS:
            ours = f"ours, @epoch of {epochs}" if unfinished(entries) else "ours"
            paper = f"paper, after {epochs}" if unfinished(entries) and loaded.budget.name == budgets.PAPER else "paper"
            columns += [(config.label, split, ours, epochs), (config.label, split, paper, epochs)]
    return columns


def unfinished(entries: pd.DataFrame) -> bool:
    return bool((entries["status"] == UNFINISHED).any())


NONE_FINISHED = (
    "**Agreement.** No cell is finished yet. The paper's numbers are those of finished trainings; they stand here for "
    "orientation, and ours are not judged by them."
)


def agreement(loaded: Results) -> list[str]:
    """Say if the paper's runs agree with ours, and where they don't; nothing for a budget that isn't the paper's."""
    if loaded.budget.name != budgets.PAPER:
        return []
    if not (known := (loaded.table[[f"{split}_agrees" for split in SPLITS]] != "").any(axis=1).sum()):
        return [NONE_FINISHED]
    told, rows = [], []
    for split in SPLITS:
        agree = loaded.table[f"{split}_agrees"]
        told.append(f"{(agree == 'yes').sum()} of {(agree != '').sum()} {split} accuracies")
        for key, entry in zip(loaded.expected, loaded.table.to_dict("records"), strict=True):
            if entry[f"{split}_agrees"] == "no":
                mean, sd, printed = entry[f"{split}_mean"], entry[f"{split}_sd"], entry[f"paper_{split}"]
                spread = "" if math.isnan(sd) else f" ± {_digits(sd)}"
                difference = f"{printed - mean:+.2f}"
                rows.append([f"{loaded.name_of(key)}, {split}", f"{_digits(mean)}{spread}", str(entry["n"]),
                             _digits(printed), difference])  # fmt: skip
    of_all = f" Judged: the finished cells, {known} of {len(loaded.table)}." if unfinished(loaded.table) else ""
    sentence = (
        f"**Agreement.** The paper's single run lies within {grid.AGREES_SD:g} standard deviations of our mean, or "
        f"within {grid.AGREES_POINTS:g} point of it, for {' and '.join(told)}."
        + (" With one seed only the second can be told." if loaded.table["n"].max() < 2 else "")
        + of_all
    )
    head = ["not so", "ours", "n", "paper", "difference"]
    return [sentence, _table(head, rows)] if rows else [sentence]


def latex(loaded: Results) -> str:
    rows, notes = body(loaded, LATEX)
    labels = _labels(loaded)
    columns = 4 * len(labels)
    datasets = " & ".join([""] + [rf"\multicolumn{{4}}{{c}}{{{label}}}" for label in labels])
    splits = " & ".join([""] + [rf"\multicolumn{{2}}{{c}}{{{split.capitalize()}}}" for _ in labels for split in SPLITS])
    whose = " & ".join(["", *(_escape(head[2]) for head in heads(loaded))])
    rules = "".join(rf"\cmidrule(lr){{{first}-{first + 3}}}" for first in range(2, columns + 2, 4))
    subrules = "".join(rf"\cmidrule(lr){{{first}-{first + 1}}}" for first in range(2, columns + 2, 2))
    footnotes = [rf"\textsuperscript{{{number}}}~{_escape(text)}" for number, text in enumerate(notes.texts, start=1)]
    top = [rf"{datasets} \\", rules, rf"{splits} \\", subrules, rf"{whose} \\"]
    text = _latex_table(caption(loaded), f"l{'r' * columns}", top, rows, footnotes)
    if unequal(loaded):
        head, equal = equal_epochs(loaded, LATEX)
        text += "\n" + _latex_table(EQUAL, f"l{'r' * (len(head) - 1)}", [" & ".join(head) + r" \\"], equal, [])
    return text


def _latex_table(caption: str, columns: str, top: list[str], rows: list[list[str]], footnotes: list[str]) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *top,
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip\footnotesize", "\n\n".join(footnotes)] if footnotes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def caption(loaded: Results) -> str:
    depth = next(iter(loaded.expected.values())).depth
    seeds = sorted({record["cell"]["seed"] for record in loaded.records})
    n = loaded.table["n"].max()
    several = n > 1
    partial = unfinished(loaded.table)
    bold = "the best of the four networks with one function"
    return " ".join(
        [
            f"Accuracy (percentage) of neural networks of depth {depth} with different activation functions on "
            "real-world",
            (
                "data, ours as far as they are trained (@8: after 8 epochs), beside the paper's after the last epoch."
                if partial
                else "data after the last epoch, ours beside the paper's."
            ),
            "In parentheses: with batch normalization before the activation function.",
            f"Bold: {bold}, where all that there are stand at one epoch." if partial else f"Bold: {bold}.",
            f"Ours: {budgets.headline(loaded.budget.name)}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            + (
                f"; mean ± standard deviation over n = {n} seeds, other n in footnotes, without ±: n = 1."
                if several
                else "."
            ),
            "The paper: depth 200, width 500, one seed.",
        ]
    )


EQUAL = (
    "Functions whose networks stand at different epochs, compared after the largest epoch that all networks of the "
    "function have reached: test accuracy (percentage), in parentheses training accuracy. Bold: the best of the "
    "networks with one function."
)


def unequal(loaded: Results) -> list[tuple[str, str]]:
    """List dataset and function of the networks that are at different epochs."""
    groups = loaded.table.groupby(["dataset", "activation"], sort=False)["epoch"]
    return [(str(dataset), str(activation)) for (dataset, activation), epochs in groups if epochs.nunique() > 1]


def equal_epochs(loaded: Results, markup: Markup) -> tuple[list[str], list[list[str]]]:
    """Make head and rows of the second table."""
    entries = _entries(loaded)
    rows = []
    for dataset, activation in unequal(loaded):
        four = [entries[Key(dataset, activation, *variant)] for variant in VARIANTS.values()]
        best = {split: _best([entry[f"{split}_compared"] for entry in four]) for split in SPLITS}
        shown = [
            [_bold(_digits(entry[f"{split}_compared"]), best[split], markup) for split in ("test", "train")]
            for entry in four
        ]
        told = [
            "div." if entry["status"] == "diverged" else f"{test} ({train})" if test else markup.dash
            for entry, (test, train) in zip(four, shown, strict=True)
        ]
        name = f"{loaded.datasets[dataset].label} {loaded.activations[activation].label}"
        epoch = max(entry["epoch_compared"] for entry in four if not math.isnan(entry["epoch_compared"]))
        rows.append([name, f"{epoch:.4g} of {four[0]['epochs']:.4g}", *told])
    return ["", "after epoch", *VARIANTS], rows


def _entries(loaded: Results) -> Entries:
    return {
        key: {str(name): value for name, value in row.items()}
        for key, row in zip(loaded.expected, loaded.table.to_dict("records"), strict=True)
    }


def body(loaded: Results, markup: Markup) -> tuple[list[list[str]], Notes]:
    """Make the rows below the head, and the footnotes that they refer to."""
    entries = _entries(loaded)
    unfit, with_epoch = set(unequal(loaded)), unfinished(loaded.table)
    notes = Notes()
    rows = []
    for activation, config in loaded.activations.items():
        for gpn in (False, True):
            row = [config.label + "-GPN" * gpn]
            for dataset in loaded.datasets:
                for split in SPLITS:
                    quartet = [entries[Key(dataset, activation, g, b)] for g in (False, True) for b in (False, True)]
                    best_ours = _best([ours(entry, split) for entry in quartet])
                    if (dataset, activation) in unfit:
                        best_ours = None
                    best_paper = _best([entry[f"paper_{split}"] for entry in quartet])
                    ours_pair, paper_pair = [], []
                    for batch_norm in (False, True):
                        key = Key(dataset, activation, gpn, batch_norm)
                        entry = entries[key]
                        note = _note(loaded, key, entry, notes)
                        ours_pair.append(_ours(entry, split, best_ours, markup, note, with_epoch))
                        paper_pair.append(_bold(_digits(entry[f"paper_{split}"]), best_paper, markup))
                    row += [_pair(ours_pair), _pair(paper_pair)]
            rows.append(row)
    return rows, notes


def ours(entry: dict[str, Any], split: str) -> float:
    return float(entry[f"{split}_mean"])


def _ours(
    entry: dict[str, Any], split: str, best: str | None, markup: Markup, note: int | None, with_epoch: bool
) -> str:
    if entry["n"]:
        text = _bold(_digits(ours(entry, split)), best, markup)
        if entry["n"] > 1:
            text += markup.plus_minus + _digits(entry[f"{split}_sd"])
        if with_epoch:
            text += markup.epoch(f"{entry['epoch']:.4g}")
    else:
        text = "div." if entry["status"] == "diverged" else markup.dash
    return text if note is None else text + markup.mark(note)


def _note(loaded: Results, key: Key, entry: dict[str, Any], notes: Notes) -> int | None:
    """Return the number of the footnote on a cell's status; None if all seeds ended ok."""
    if entry["status"] == "missing":
        return notes.number("missing: not trained yet, there is no record.")
    runs = grid.runs_of(loaded.runs, *key)
    told = []
    diverged, crashed = runs[runs["status"] == "diverged"], runs[runs["status"] == "crashed"]
    if len(diverged):
        lost = zip(diverged["seed"], diverged["diverged_at_step"], strict=True)
        steps = ", ".join(f"at step {step:.0f} (seed {seed})" for seed, step in lost)
        told.append(f"{_share(diverged, runs)}diverged, its loss becoming nan or inf {steps}")
    if len(crashed):
        errors = "; ".join(f"{e} (seed {seed})" for seed, e in zip(crashed["seed"], crashed["error"], strict=True))
        told.append(f"{_share(crashed, runs)}crashed, {errors}")
    behind = runs[(runs["status"] == UNFINISHED) & ~(runs["epoch"] >= entry["epoch"])]
    if len(behind):
        where = ", ".join(f"{row.epoch:.4g} (seed {row.seed})" for row in behind.itertuples())
        told.append(f"{_share(behind, runs)}still at epoch {where}")
    stopped = runs[(runs["status"] == UNFINISHED) & runs["error"].notna()]
    if len(stopped):
        errors = "; ".join(f"{e} (seed {seed})" for seed, e in zip(stopped["seed"], stopped["error"], strict=True))
        told.append(f"{_share(stopped, runs)}stopped by an error, {errors}")
    if 1 < entry["n"] < loaded.table["n"].max():
        told.append(f"n = {entry['n']}")
    if not told:
        return None
    return notes.number(f"{loaded.name_of(key)}: {'; '.join(told)}.")


def _share(part: pd.DataFrame, runs: pd.DataFrame) -> str:
    return f"{len(part)} of {len(runs)} seeds " if len(runs) > 1 else ""


def _best(values: list[float]) -> str | None:
    """Return the largest value as printed; None if there is no choice."""
    known = [value for value in values if not math.isnan(value)]
    printed = {_digits(value) for value in known}
    return _digits(max(known)) if len(printed) > 1 else None


def _bold(text: str, best: str | None, markup: Markup) -> str:
    return markup.bold(text) if text and text == best else text


def _pair(texts: list[str]) -> str:
    """Join two texts as the paper does: without batch norm, and in parentheses with it."""
    return f"{texts[0]} ({texts[1]})" if any(texts) else ""


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _labels(loaded: Results) -> list[str]:
    return [config.label for config in loaded.datasets.values()]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(map(_line, [head, [":--", *["--:"] * (len(head) - 1)], *rows]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    for special in "\\&%$#_{}":
        text = text.replace(special, r"\textbackslash " if special == "\\" else "\\" + special)
    return text.replace("±", r"$\pm$").replace("–", "--")


if __name__ == "__main__":
    cli.run(main)
