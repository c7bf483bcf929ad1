"""What ran and where: the part of the report that counts, and that says where each number comes from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn import budgets, paper
from bsnn.budgets import Key
from bsnn.records import Record
from bsnn.results import Results, runs_of
from bsnn.sweeps import swept
from scripts.tables import Table, command, load_finished

SYNTHETIC = ("fig1", "fig2", "fig3")


Synthetic = dict[str, Table | None]
"""Figs 1-3 by name, None for those not (or not wholly) computed."""


def load_synthetic(folder: Path) -> Synthetic:
    """Figs 1-3 of a budget. Raises UserError for damaged ones."""
    return {figure: load_finished(folder / figure, command("synthetic", figure, folder)) for figure in SYNTHETIC}


def what_ran(loaded: Results, synthetic: Synthetic) -> list[str]:
    rows = []
    for key, config in loaded.datasets.items():
        entries = loaded.table[loaded.table["dataset"] == key]
        runs = loaded.runs[loaded.runs["dataset"] == key]
        trained = runs[runs["status"] != "crashed"]
        counts = [int((runs["status"] == status).sum()) for status in ("ok", "diverged", "crashed")]
        missing = int((entries["status"] == "missing").sum())
        rows.append([config.label, len(entries), *counts, missing, *_seconds(trained["seconds"])])
    head = ["", "cells", "runs ok", "diverged", "crashed", "cells missing", "median s", "min s", "max s", "sum s"]
    texts = [table(head, rows)]
    for status in ("missing", "crashed"):
        keys = [key for key, value in zip(loaded.expected, loaded.table["status"], strict=True) if value == status]
        if keys:
            texts.append(f"{status.capitalize()}: {', '.join(loaded.name_of(key) for key in keys)}.")
    texts += _continued(loaded)
    texts.append(
        "Seconds are of training and evaluation of one run (a cell and a seed), resumed parts included. Cells that ran "
        "side by side share the machine, so that the sum is more than the time on the clock."
    )
    if loaded.records:
        first = min(record["started"] for record in loaded.records)
        last = max(record["finished"] for record in loaded.records)
        texts.append(f"First start {first}, last end {last}.")
    times = [f"{stem} {found.seconds:.3g} s" for stem, found in _made(synthetic).items()]
    texts.append(f"Synthetic figures: {', '.join(times) or 'none computed yet'}.")
    of_sweeps = swept(loaded)
    if of_sweeps:
        seconds = sum(record["seconds"] for record in of_sweeps)
        texts.append(f"Sweeps: {len(of_sweeps)} runs beyond those of Table 2, {seconds:.0f} s in all.")
    told = {record["id"] for record in of_sweeps}
    rest = [record for record in loaded.others if record["id"] not in told]
    if rest:
        texts.append(
            "Also in this folder, but with other settings, so that the tables, figures and claims leave them out:"
        )
        texts.append(table(["", "differs in", "status", "train %", "test %"], [_other(loaded, r) for r in rest]))
    return texts


def _continued(loaded: Results) -> list[str]:
    """Which seeds are missing where others are not, and the command that trains all that is missing."""
    seeds = loaded.seeds or [0]
    texts, functions = [], set()
    for seed in seeds:
        keys = loaded.lacking(seed)
        functions |= {key.activation for key in keys}
        told = [key for key in keys if not runs_of(loaded.runs, *key).empty]
        if told and len(seeds) > 1:
            texts.append(f"Not trained with seed {seed}: {', '.join(loaded.name_of(key) for key in told)}.")
    if not functions:
        return []
    command = f"python -m experiments.train +experiment=table2 budget={loaded.budget.name}"
    if not functions <= set(paper.ACTIVATIONS):
        command += " activation='glob(*)'"
    if seeds != [0]:
        command += f" seed={','.join(map(str, seeds))}"
    texts.append(
        f"`{command}` trains what is missing: what is finished is skipped, what was stopped goes on from its "
        "checkpoint, what crashed is tried again."
    )
    return texts


def _other(loaded: Results, record: Record) -> list[str]:
    """What tells a record apart from the cells of the table, and where it ended."""
    cell = record["cell"]
    same_data = [expected for expected in loaded.expected.values() if expected.dataset == cell["dataset"]]
    usual = (same_data or list(loaded.expected.values()))[0].as_dict()
    varied = {*Key._fields, "activation_module", "seed"}  # within the table, too
    differing = [
        f"{name} {cell[name]} instead of {usual[name]}"
        for name in cell
        if name not in varied and cell[name] != usual.get(name)
    ]
    if not same_data:
        differing.insert(0, f"dataset {cell['dataset']}")
    last = record["rows"][-1] if record["rows"] else {}
    accuracies = [last.get(f"{split}_accuracy") for split in ("train", "test")]
    shown = ["–" if accuracy is None else f"{accuracy:.2f}" for accuracy in accuracies]
    name = record["id"].rsplit("-", 1)[0]
    return [name, "; ".join(differing) or "version of the protocol or function", record["status"], *shown]


def where(loaded: Results, synthetic: Synthetic) -> list[str]:
    groups = {
        "training": distinct(record["provenance"] for record in loaded.records),
        "Figs 1-3": distinct(found.provenance for found in _made(synthetic).values()),
    }
    if of_sweeps := swept(loaded):
        groups["sweeps"] = distinct(record["provenance"] for record in of_sweeps)
    fields = [
        field for field in dict.fromkeys(name for group in groups.values() for name in group) if field != "command"
    ]
    rows = [
        [
            field,
            *(
                "; ".join(f"{_plain(value)} ({count})" for value, count in group.get(field, []))
                for group in groups.values()
            ),
        ]
        for field in fields
    ]
    disagreeing = [field for field in fields if _disagree(field, [group.get(field, []) for group in groups.values()])]
    verdict = (
        f"The results disagree among themselves in: {', '.join(disagreeing)}. In parentheses: how many records say so."
        if disagreeing
        else "All results agree. In parentheses: the number of records."
    )
    if any(value for group in groups.values() for value, _ in group.get("dirty", [])):
        verdict += " **dirty: some were made from files that differ from the commit.**"
    if any(value is None for group in groups.values() for value, _ in group.get("commit", [])):
        verdict += " **commit: it isn't known from which files some were made.**"
    return [verdict, table(["", *groups], rows)]


def _disagree(field: str, groups: Sequence[Sequence[tuple[Any, int]]]) -> bool:
    """Whether a field has several values that could matter; threads only within training or within the figures, which
    use them differently."""
    if field == "stack":  # how many cells were trained together: a cell's numbers don't depend on it
        return False
    if field == "threads":
        return any(len(values) > 1 for values in groups)
    return len({json.dumps(value) for values in groups for value, _ in values}) > 1


def provenance(loaded: Results, synthetic: Synthetic, commands: Sequence[str]) -> dict[str, Any]:
    """Where everything in the folder comes from: every value found, with the number of records that say so."""
    counts = loaded.runs["status"].value_counts()
    return {
        "budget": loaded.budget.name,
        "headline": budgets.headline(loaded.budget.name),
        "cells": len(loaded.table),
        "runs": {status: int(counts.get(status, 0)) for status in ("ok", "diverged", "crashed")},
        "cells_missing": int((loaded.table["status"] == "missing").sum()),
        "records_of_other_settings": len(loaded.others),
        "seconds": float(loaded.runs["seconds"].sum()),
        "training": _counted(loaded.records),
        "sweeps": _counted(swept(loaded)),
        "figures": {
            stem: {"seconds": found.seconds, "provenance": found.provenance} for stem, found in _made(synthetic).items()
        },
        "commands": list(commands),
    }


def _counted(records: Iterable[Record]) -> dict[str, list[dict[str, Any]]]:
    return {
        field: [{"value": value, "records": count} for value, count in values]
        for field, values in distinct(record["provenance"] for record in records).items()
    }


def distinct(provenances: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[Any, int]]]:
    """For every field of bsnn.provenance.collect the values found, commonest first, and how often; versions one by
    one."""
    counters: dict[str, Counter[str]] = {}
    for facts in provenances:
        flat = {name: value for name, value in facts.items() if name != "versions"}
        flat |= {f"version of {name}": value for name, value in facts["versions"].items()}
        for name, value in flat.items():
            counters.setdefault(name, Counter())[json.dumps(value)] += 1
    return {
        name: [
            (json.loads(text), count) for text, count in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        ]
        for name, counter in counters.items()
    }


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; a bar in a cell is escaped, since it would end the cell."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _made(synthetic: Synthetic) -> dict[str, Table]:
    return {stem: found for stem, found in synthetic.items() if found is not None}


def _seconds(seconds: pd.Series) -> list[str]:
    if seconds.empty:
        return ["–"] * 4
    return [
        f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        for value in (seconds.median(), seconds.min(), seconds.max(), seconds.sum())
    ]


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
