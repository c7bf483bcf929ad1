"""The account of what ran and where: the part of the report that counts, and names the origin of each number."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bsnn import paper
from bsnn.cell import Cell
from bsnn.results import budgets
from bsnn.results.budgets import Key
from bsnn.results.equal_epochs import span
from bsnn.results.grid import Results, runs_of
from bsnn.results.markdown import table
from bsnn.results.records import UNFINISHED, Record, cell_of, how_far
from bsnn.results.sweeps import swept
from bsnn.results.tables import Table, command, load_finished
from bsnn.training.planning import steps_per_epoch

SYNTHETIC = ("fig1", "fig2", "fig3")


Synthetic = dict[str, Table | None]
"""Figs 1-3 by name; None for those not computed, or not wholly."""


def load_synthetic(folder: Path) -> Synthetic:
    """Load Figs 1-3 of a budget. Raises UserError for damaged ones."""
    return {
        figure: load_finished(folder / figure, command("synthetic", f"+experiment={figure}", folder))
        for figure in SYNTHETIC
    }


def what_ran(loaded: Results, synthetic: Synthetic) -> list[str]:
    rows = []
    for key, config in loaded.datasets.items():
        entries = loaded.table[loaded.table["dataset"] == key]
        runs = loaded.runs[loaded.runs["dataset"] == key]
        trained = runs[runs["status"] != "crashed"]
        counts = [int((runs["status"] == status).sum()) for status in ("ok", "diverged", UNFINISHED, "crashed")]
        missing = int((entries["status"] == "missing").sum())
        rows.append([config.label, len(entries), *counts, missing, *_seconds(trained["seconds"])])
    head = ["", "cells", "runs ok", "diverged", "unfinished", "crashed", "cells missing",
            "median s", "min s", "max s", "sum s"]  # fmt: skip
    texts = [table(head, rows), "How far the networks are trained:", progress(loaded)]
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


def progress(loaded: Results) -> str:
    """Make a table: for each dataset, without and with batch norm, the smallest and largest epoch, and the seconds."""
    rows = []
    for dataset, config in loaded.datasets.items():
        for batch_norm in (False, True):
            entries, runs = (
                frame[(frame["dataset"] == dataset) & (frame["batch_norm"] == batch_norm)]
                for frame in (loaded.table, loaded.runs)
            )
            begun = entries[entries["n"] > 0]["epoch"]
            finished = int(entries["status"].isin(["ok", "partly diverged", "diverged"]).sum())
            ends = ["–"] * 2 if begun.empty else [f"{begun.min():.4g}", f"{begun.max():.4g}"]
            seconds = f"{runs['seconds'].sum():.0f}" if len(runs) else "–"
            name = f"{config.label}, {'with' if batch_norm else 'without'} batch norm"
            rows.append([name, len(entries), len(begun), finished, *ends, f"{entries['epochs'].max():.4g}", seconds])
    return table(
        ["", "cells", "with an accuracy", "finished", "smallest epoch", "largest epoch", "of", "seconds"], rows
    )


def summary(loaded: Results) -> list[str]:
    """Say how far a dataset's networks are: "MNIST: 12 of 24 networks, after 4 to 8 of 50 epochs"."""
    told = []
    for dataset, config in loaded.datasets.items():
        entries = loaded.table[loaded.table["dataset"] == dataset]
        begun = entries[entries["n"] > 0]
        reached = f", after {span(begun['epoch'], entries['epochs'].max())}" if len(begun) else ""
        lost = int((entries["status"] == "diverged").sum())
        told.append(
            f"{config.label}: {len(begun)} of {len(entries)} networks{reached}" + (f"; {lost} diverged" if lost else "")
        )
    return told


def _continued(loaded: Results) -> list[str]:
    """Name seeds that are missing where others are not, and the command that trains all that isn't finished."""
    seeds = loaded.seeds or [0]
    texts, functions = [], set()
    for seed in seeds:
        keys = loaded.lacking(seed)
        functions |= {key.activation for key in keys}
        going = loaded.runs[(loaded.runs["seed"] == seed) & (loaded.runs["status"] == UNFINISHED)]
        told = [key for key in keys if len(runs_of(loaded.runs, *key)) and runs_of(going, *key).empty]
        if told and len(seeds) > 1:
            texts.append(f"Not trained with seed {seed}: {', '.join(loaded.name_of(key) for key in told)}.")
    if not functions:
        return []
    settings = [] if functions <= set(paper.ACTIVATIONS) else ["activation='glob(*)'"]
    settings += [] if seeds == [0] else [f"seed={','.join(map(str, seeds))}"]
    command = f"make reproduce BUDGET={loaded.budget.name}" + (f' SET="{" ".join(settings)}"' if settings else "")
    texts.append(
        f"`{command}` trains what is missing: what is finished is skipped, what was stopped goes on from its "
        "checkpoint, what crashed is tried again."
    )
    return texts


def _other(loaded: Results, record: Record) -> list[str]:
    """Return the differences of a record from the table's cells, and where it ended."""
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
    status = record["status"]
    if status == UNFINISHED and cell_of(record) is not None:
        status = how_far(record)
    return [name, "; ".join(differing) or "version of the protocol or function", status, *shown]


def where(loaded: Results, synthetic: Synthetic) -> list[str]:
    groups = {
        "training": of_records(loaded.records),
        "Figs 1-3": distinct(found.provenance for found in _made(synthetic).values()),
    }
    if of_sweeps := swept(loaded):
        groups["sweeps"] = of_records(of_sweeps)
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
    return ["What trained Table 2's networks:", trained_by(loaded.records), verdict, table(["", *groups], rows)]


def trained_by(records: Iterable[Record]) -> str:
    """Make a table of each commit and device that trained: number of networks, number of epochs, and dates."""
    shares: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in records:
        per_epoch = steps_per_epoch(Cell.from_dict(record["cell"]))
        for segment in record["segments"]:
            facts = segment["provenance"]
            place = (str(facts["device"]), str(facts["commit"]), _plain(facts["dirty"]))
            share = shares.setdefault(place, {"networks": set(), "epochs": 0.0, "times": []})
            share["networks"].add(record["id"])
            share["epochs"] += (segment["last_step"] - segment["first_step"]) / per_epoch
            share["times"] += [segment["started"], segment["finished"]]
    rows = [
        [*place, len(share["networks"]), f"{share['epochs']:.6g}", min(share["times"]), max(share["times"])]
        for place, share in sorted(shares.items(), key=lambda item: -item[1]["epochs"])
    ]
    return table(["device", "commit", "changed files", "networks", "epochs", "from", "to"], rows)


def _disagree(field: str, groups: Sequence[Sequence[tuple[Any, int]]]) -> bool:
    """True if a field has several values that could matter.

    Threads count only within training or within the figures, which use them differently.
    """
    if field == "stack":  # how many cells were trained together: a cell's numbers don't depend on it
        return False
    if field == "threads":
        return any(len(values) > 1 for values in groups)
    return len({json.dumps(value) for values in groups for value, _ in values}) > 1


def provenance(loaded: Results, synthetic: Synthetic, commands: Sequence[str]) -> dict[str, Any]:
    """Collect the provenance of everything in the folder: every value found, with its number of records."""
    counts = loaded.runs["status"].value_counts()
    return {
        "budget": loaded.budget.name,
        "headline": budgets.headline(loaded.budget.name),
        "cells": len(loaded.table),
        "runs": {
            status: int(counts.get(status, 0))
            for status in ("ok", "diverged", UNFINISHED, "crashed")
            if status != UNFINISHED or UNFINISHED in counts
        },
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
        for field, values in of_records(records).items()
    }


def of_records(records: Iterable[Record]) -> dict[str, list[tuple[Any, int]]]:
    """Apply `distinct` to the segments of training; counts are of records that have such a segment."""
    return _counters([segment["provenance"] for segment in record["segments"]] for record in records)


def distinct(provenances: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[Any, int]]]:
    """List, for every field of bsnn.results.provenance.collect, the values found, commonest first, and their counts.

    Versions are listed one by one.
    """
    return _counters([facts] for facts in provenances)


def _counters(groups: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, list[tuple[Any, int]]]:
    """List the same as `distinct`, but count the groups in which a value is found."""
    counters: dict[str, Counter[str]] = {}
    for group in groups:
        found: dict[str, set[str]] = {}
        for facts in group:
            flat = {name: value for name, value in facts.items() if name != "versions"}
            flat |= {f"version of {name}": value for name, value in facts["versions"].items()}
            for name, value in flat.items():
                found.setdefault(name, set()).add(json.dumps(value))
        for name, values in found.items():
            counters.setdefault(name, Counter()).update(values)
    return {
        name: [
            (json.loads(text), count) for text, count in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        ]
        for name, counter in counters.items()
    }


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
