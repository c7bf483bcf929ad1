"""The report of a budget: what ran, where, which of the paper's claims hold, every table and figure.

    python -m scripts.report results/quick

Reads what lies in results/<budget>/ (records, fig1..3.csv, figures, the studies' statements), in seconds, and writes
beside it report.md, claims.csv (every check of every claim) and provenance.json. Nothing else goes in: the same files
give the same report, to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bsnn import budgets, results
from bsnn.budgets import PAPER, Key
from bsnn.claims import paper_runs, trained_claims
from bsnn.files import write_json, write_text
from bsnn.paper import DEPTH
from bsnn.results import Results
from bsnn.synthetic_claims import tanh_goes_linear, wider_is_more_equal
from bsnn.verdicts import Verdict
from experiments.study import STUDIES
from scripts import account, cli, sweeps_report, table1, table2
from scripts.account import SYNTHETIC, Synthetic, table
from scripts.sections import counts

FIGURES = {
    "fig1": "norms of signal and gradient by layer, synthetic data",
    "fig2": "histogram of phi'(h), synthetic data",
    "fig3": "gradient ratio against width, synthetic data",
    "fig4": "test accuracy during training, CIFAR-10",
    "fig4_mnist": "the same for MNIST (not in the paper)",
}

ONE_EPOCH = (
    "Training accuracy is, as in the paper, a mean over the mini-batches of the last epoch. Here this is the only one: "
    "the figure is a mean over the whole of training, its beginning included, which lowers it."
)

SMALLER = (
    "The verdicts are about this budget. The claims are about the paper's: one that is confirmed here shows already in "
    "smaller networks or shorter training; one that is mixed or refuted here may need more of either, which only "
    "`make reproduce BUDGET=paper` can tell."
)

DEPARTURES = (
    "Test accuracy is that of the current weights. The authors' code evaluates with row norms cached one step earlier, "
    "so their test figures belong to weights that differ by the scaling of one update.",
    "The gradient ratio is computed at every step and shown as a median over each interval between evaluations.",
    "All networks of one seed start from the same weight matrices and see the mini-batches in the same order.",
)


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv).absolute()
    loaded = results.load(folder)
    synthetic = account.load_synthetic(folder)
    verdicts = judge(loaded, synthetic)
    write_text(folder / "claims.csv", claims_csv(verdicts))
    write_json(folder / "provenance.json", account.provenance(loaded, synthetic, commands(folder.name)))
    write_text(folder / "report.md", report(loaded, synthetic, verdicts, folder))


def judge(loaded: Results, synthetic: Synthetic) -> list[Verdict]:
    """The six claims, on what there is."""
    depth = next(iter(loaded.expected.values())).depth
    tables = {figure: None if found is None else found.frame for figure, found in synthetic.items()}
    depths = {figure: DEPTH if found is None else int(found.config["depth"]) for figure, found in synthetic.items()}
    return [
        *trained_claims(loaded.runs, depth),
        tanh_goes_linear(tables["fig1"], tables["fig2"], min(depths["fig1"], depths["fig2"])),
        wider_is_more_equal(tables["fig3"], depths["fig3"]),
    ]


def claims_csv(verdicts: Sequence[Verdict]) -> str:
    checks = pd.concat([verdict.table() for verdict in verdicts])
    return checks.to_csv(index=False, lineterminator="\n")


def report(loaded: Results, synthetic: Synthetic, verdicts: Sequence[Verdict], folder: Path) -> str:
    name = loaded.budget.name
    sections = [
        f"# Bidirectionally self-normalizing neural networks, reproduced: {name} budget",
        f"**{budgets.headline(name)}.**",
        *(
            []
            if name == PAPER
            else ["The paper's numbers stand beside ours for orientation: they are of larger budgets."]
        ),
        "## The paper's claims",
        *summary(verdicts, name),
        *(text for verdict in verdicts for text in claim(verdict)),
        "## Table 1",
        table1.markdown(table1.constants(name)).strip(),
        "## Table 2",
        table2.markdown(loaded).strip(),
        "## Every cell",
        *every_cell(loaded),
        "## Figures",
        *(figure(folder, name, stem, text) for stem, text in FIGURES.items()),
        *sweeps_report.section(folder, loaded),
        *beyond(folder),
        "## What ran",
        *account.what_ran(loaded, synthetic),
        "## Where it ran",
        *account.where(loaded, synthetic),
        "## Differences from the paper",
        *different(name),
        "## How to make or continue this",
        "```\n" + "\n".join(commands(name)) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def summary(verdicts: Sequence[Verdict], name: str) -> list[str]:
    papers = {verdict.number: verdict for verdict in trained_claims(paper_runs(), DEPTH)}
    rows = [
        [verdict.number, verdict.claim, f"**{verdict.outcome}**", _parts(verdict), _parts(papers.get(verdict.number))]
        for verdict in verdicts
    ]
    return [
        table(["", "claim", f"verdict, {name} budget", "checks that hold", "in the paper's own Table 2"], rows),
        "Each claim is judged by a rule that is written down in `bsnn/claims.py` and `bsnn/synthetic_claims.py`, with "
        "its thresholds and their reasons, and was fixed before the results existed. A part is confirmed if all of its "
        "checks hold, mixed if at least half do, refuted if fewer; not tested if missing data could change that. A "
        "claim is as good as its worst part. With one seed the standard errors (SE) are those of the finite number of "
        "images alone; the spread between seeds is not known then and comes on top.",
        *([] if name == PAPER else [SMALLER]),
    ]


def claim(verdict: Verdict) -> list[str]:
    texts = [f"### Claim {verdict.number}: {verdict.outcome}", f"*{verdict.claim}*", f"Rule. {verdict.rule}"]
    if verdict.not_tested_because:
        return [*texts, f"Not tested: {verdict.not_tested_because}."]
    lines = [f"- {part.says}: **{part.outcome}**, {_counts(part.counts)}" for part in verdict.parts]
    checks = verdict.table()
    rows = checks[["part", "subject", "measured", "required", "holds"]].to_numpy().tolist()
    details = table(["part", "subject", "measured", "required", "holds"], rows)
    return [*texts, "\n".join(lines), f"<details><summary>{len(rows)} checks</summary>\n\n{details}\n\n</details>"]


def every_cell(loaded: Results) -> list[str]:
    """Gradients and seconds of each cell."""
    head = ["", "first update", "trend", "first interval", "last interval", "largest median", "largest", "seconds"]
    rows = []
    for entry in loaded.table.to_dict("records"):
        known = entry["ratio_rows"] > 0
        ratios = [entry[name] for name in ("initial_ratio", "ratio_first", "ratio_last", "ratio_worst", "ratio_peak")]
        shown = [_ratio(value) if known else "–" for value in ratios]
        trend = "–" if math.isnan(entry["initial_trend"]) else f"{entry['initial_trend']:.2f}"
        seconds = "–" if math.isnan(entry["seconds"]) else f"{entry['seconds']:.0f}"
        name = loaded.name_of(Key(*(entry[part] for part in Key._fields)))
        rows.append([name, shown[0], trend, *shown[1:], seconds])
    return [
        "Ratio: max_l / min_l of ||dE/dV_l||_F over the constrained layers: in the first update, as the median "
        "over the first and the last interval between evaluations, the largest of all such medians, and the largest of "
        "all steps. Trend: rank correlation of norm and layer in the first update, bottom to top; -1 grows towards the "
        "input (explodes), +1 shrinks (vanishes). inf: some layer's gradient is exactly 0; 0/0: all are. With several "
        "seeds the largest ratios, the mean trend and the sum of the seconds.",
        table(head, rows),
    ]


def figure(folder: Path, budget: str, stem: str, text: str) -> str:
    title = f"**Figure {stem.removeprefix('fig').replace('_mnist', ', MNIST')}**: {text}"
    if (folder / f"{stem}.png").exists():
        return f"{title}\n\n![{text}]({stem}.png)"
    return f"{title}\n\nNot drawn yet: `make {stem.removesuffix('_mnist')} BUDGET={budget}`."


def beyond(folder: Path) -> list[str]:
    """The studies that there are: how much of what their sources say was found, and what wasn't."""
    made = {study: folder / study / "statements.csv" for study in STUDIES}
    said = {study: pd.read_csv(path, keep_default_na=False) for study, path in made.items() if path.exists()}
    if not said:
        return []
    rows = [[f"[{study}]({study}/report.md)", counts(one)] for study, one in said.items()]
    against = [
        [study, *one[["source", "says", "measured"]].iloc[index]]
        for study, one in said.items()
        for index in range(len(one))
        if one["agrees"].iloc[index] == "no"
    ]
    texts = ["## Beyond Table 2", "Studies of what this paper and two others say of depth, each with a report.",
             table(["study", "what its sources say"], rows)]  # fmt: skip
    if against:
        texts += ["What we found otherwise:", table(["study", "where", "the source says", "we measured"], against)]
    return texts


def different(budget: str) -> list[str]:
    rows = budgets.differences(budget)
    listed = table(["setting", f"{budget} budget", "paper budget"], rows) if rows else "The budget is the paper's."
    if budgets.load_budget(budget).training.epochs == 1:
        listed += "\n\n" + ONE_EPOCH
    return [listed, "In every budget:", "\n".join(f"- {departure}" for departure in DEPARTURES)]


def commands(budget: str) -> list[str]:
    folder = f"results/{budget}"
    return [
        f"make reproduce BUDGET={budget}   # all of the following; what is finished is skipped",
        f"python -m experiments.train +experiment=table2 budget={budget}   # more seeds: seed=0,1,2",
        *(f"python -m experiments.synthetic +experiment={stem} budget={budget}" for stem in SYNTHETIC),
        *(f"python -m scripts.{name} {folder}" for name in ("table1", "table2", *SYNTHETIC, "fig4", "report")),
    ]


def _parts(verdict: Verdict | None) -> str:
    """ "plain: does not train: 6 of 6; GPN: trains: 4 of 6"."""
    if verdict is None:
        return "prints no such numbers"
    if verdict.not_tested_because:
        return "–"
    return "; ".join(f"{part.says}: {_counts(part.counts)}" for part in verdict.parts)


def _counts(counts: tuple[int, int, int]) -> str:
    held, failed, lacking = counts
    if held + failed == 0:
        return "no data"
    return f"{held} of {held + failed}" + (f" ({lacking} without data)" if lacking else "")


def _ratio(value: float) -> str:
    return "0/0" if math.isnan(value) else f"{value:.3g}"


if __name__ == "__main__":
    cli.run(main)
