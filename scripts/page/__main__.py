"""The review page of a budget: all curves, gradients and runs on one page that needs neither a server nor an account.

    python -m scripts.page results/quick

Reads the records in results/<budget>/runs/, in seconds, and writes beside them index.html (about 7 MB, most of it
plotly.js): open it in a browser, from the disk too. It loads nothing from anywhere. The address keeps what is chosen on
the page, so that a view can be bookmarked or sent. The same records give the same page, to the byte.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bsnn import plotting
from bsnn.data import DATASETS
from bsnn.files import write_text
from bsnn.results import budgets, cli, grid
from bsnn.results.grid import Results
from bsnn.results.records import UNFINISHED, Record, epochs_reached, how_far
from scripts.page import data as page_data
from scripts.page import figures as page_figures
from scripts.page import runs as page_runs
from scripts.page.figures import Panel
from scripts.page.runs import Row
from scripts.page.style import shown

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("switches.js", "panels.js", "table.js", "page.js")
STATUSES = ("ok", "partly diverged", "diverged", "unfinished", "crashed", "missing")


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    write_text(folder / "index.html", page(grid.load(folder)))


def page(loaded: Results) -> str:
    headings, table = page_runs.columns(loaded), page_runs.rows(loaded)
    sections = {dataset: page_figures.panels(loaded, dataset) for dataset in loaded.datasets}
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        budget=loaded.budget.name,
        headline=budgets.headline(loaded.budget.name),
        cells=cells(loaded),
        statuses=STATUSES,
        facts=facts(loaded),
        switches=switches(loaded, table),
        sections=[(dataset, loaded.datasets[dataset].label, panels) for dataset, panels in sections.items()],
        headings=headings,
        choices={name: choices(table, name) for name in headings},
        style=Markup((ASSETS / "page.css").read_text()),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        scripts=[Markup((ASSETS / name).read_text()) for name in SCRIPTS],
        data=Markup(data(sections, headings, table)),
    )


def cells(loaded: Results) -> list[tuple[str, list[int], int]]:
    """Count, for each dataset, the table's cells that have each of STATUSES, and the runs."""
    counted = []
    for dataset, config in loaded.datasets.items():
        found = Counter(
            page_data.standing({record["status"] for record in records})
            for records in page_data.by_cell(loaded, dataset).values()
        )
        runs = int((loaded.runs["dataset"] == dataset).sum())
        counted.append((config.label, [found[status] for status in STATUSES], runs))
    return counted


def facts(loaded: Results) -> dict[str, str]:
    """List the page's sources: seeds, commits, devices, versions, dates; in parentheses the number of records."""
    records = [*loaded.records, *loaded.others]
    seeds = Counter(record["cell"]["seed"] for record in records)
    facts = {
        "records": f"{len(loaded.records)} of Table 2's cells, {len(loaded.others)} of other settings",
        "seeds": _counts(sorted(seeds.items())),
        "commits": _sources(records, page_runs.commit),
        "devices": _sources(records, lambda facts: facts["device"]),
        "torch": _sources(records, lambda facts: facts["versions"].get("torch") or "unknown"),
        "trained": f"{min(r['started'] for r in records)} to {max(r['finished'] for r in records)}",
        "training time": f"{sum(r['seconds'] for r in records) / 3600:.2f} h, the sum over all runs",
    }
    unfinished = [record for record in loaded.records if record["status"] == UNFINISHED]
    return ({"unfinished": _how_far(loaded, unfinished)} if unfinished else {}) | facts


def _sources(records: Iterable[Record], told: Callable[[dict[str, Any]], str]) -> str:
    """List a fact about the processes that trained, and in parentheses the number of records with each value."""
    found = Counter(value for record in records for value in {told(facts) for facts in page_runs.sources(record)})
    return _counts(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _how_far(loaded: Results, unfinished: list[Record]) -> str:
    """Format the progress: MNIST: 24 runs, 1 to 8 of 50 epochs; CIFAR-10: 24 runs, 1 of 100 epochs."""
    told = []
    for dataset, config in loaded.datasets.items():
        mine = [record for record in unfinished if record["cell"]["dataset"] == dataset]
        if mine:
            least, most = (choose(mine, key=epochs_reached) for choose in (min, max))
            span = f"{epochs_reached(least):.4g} to " if epochs_reached(least) < epochs_reached(most) else ""
            told.append(f"{config.label}: {len(mine)} run{'s' * (len(mine) != 1)}, {span}{how_far(most)}")
    return "; ".join(told)


def switches(loaded: Results, table: list[Row]) -> list[dict[str, Any]]:
    """List the page's switches. `many` are checkboxes: a trace or row must match one. The others are radio buttons."""
    datasets = {
        row["dataset"]: DATASETS[row["dataset"]].label if row["dataset"] in DATASETS else row["dataset"]
        for row in table
    }
    functions = {row["activation"]: row["activation"] for row in table}
    functions |= {name: config.label for name, config in loaded.activations.items()}
    colors = {name: look.color for name, look in plotting.looks([*loaded.activations, *functions]).items()}
    order = [*loaded.activations, *sorted(set(functions) - set(loaded.activations))]
    yes_no = [("yes", "with"), ("no", "without")]
    return [
        _switch("dataset", "Dataset", [(name, datasets[name]) for name in datasets], many=True),
        _switch("activation", "Activation", [(name, functions[name]) for name in order], many=True, colors=colors),
        _switch("gpn", "GPN", yes_no, many=True),
        _switch("batch_norm", "Batch norm", yes_no, many=True),
        _switch("split", "Accuracy", [(split, split) for split in page_figures.SPLITS]),
        _switch("update", "Gradients", list(page_figures.UPDATES.items())),
        _switch("by", "Split by", [("variant", "variant"), ("activation", "activation"), ("none", "none")]),
    ]


def choices(table: list[Row], name: str) -> list[str]:
    """List a column's values if they are few enough for a list; measured numbers are not."""
    if name in page_runs.MEASURED or name in ("run", "epochs_reached", "steps", "seconds", "note"):
        return []
    values = {row.get(name) for row in table} - {None, ""}
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return [str(value) for value in ordered] if len(values) <= 16 else []


def data(sections: dict[str, list[Panel]], headings: dict[str, str], table: list[Row]) -> str:
    """Return figures and table as JSON that may stand in a script element."""
    figures = {
        f"{dataset}-{panel.name}": {"grouped": panel.layout == "grouped", **panel.figure.to_dict()}
        for dataset, panels in sections.items()
        for panel in panels
    }
    content = {
        "figures": figures,
        "parallel": page_runs.parallel(table, headings).to_dict(),
        "columns": list(headings),
        "rows": [[_value(row.get(name)) for name in headings] for row in table],
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _switch(
    name: str, title: str, options: Iterable[tuple[str, str]], many: bool = False, colors: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"name": name, "title": title, "options": list(options), "many": many, "colors": colors or {}}


def _value(value: Any) -> Any:
    return shown(value) if isinstance(value, float) and not math.isfinite(value) else value


def _counts(values: Iterable[tuple[Any, int]]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in values) or "unknown"


if __name__ == "__main__":
    cli.run(main)
