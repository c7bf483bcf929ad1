"""The report of a budget: what ran, where, which of the paper's claims hold, every table and figure.

    python -m scripts.report results/quick

Reads what lies in results/<budget>/ (records, fig1..3.csv, figures, the studies' statements), in seconds, and writes
beside it report.md, claims.csv (every check of every claim) and provenance.json. Nothing else goes in: the same files
give the same report, to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from bsnn.files import write_json, write_text
from bsnn.results import budgets, claims, claims_synthetic, cli, grid
from bsnn.results.budgets import PAPER, Key
from bsnn.results.grid import Results
from bsnn.results.markdown import table
from bsnn.results.rules import Networks
from bsnn.results.statements import OURS, counts
from bsnn.results.tables import Table
from bsnn.results.verdicts import Verdict
from experiments.study import STUDIES
from scripts import fig4, table1, table2
from scripts.report import account, generalisation, outcomes, sources, sweeps
from scripts.report.account import SYNTHETIC, Synthetic
from scripts.report.synthetic import spread

FIGURES = {
    "fig1": "norms of signal and gradient by layer, synthetic data",
    "fig2": "histogram of phi'(h), synthetic data",
    "fig3": "gradient ratio against width, synthetic data",
    "fig4": "test accuracy during training, CIFAR-10",
    "fig4_mnist": "test accuracy during training, MNIST (the paper shows CIFAR-10 only)",
}

ONE_EPOCH = (
    "Training accuracy is, as in the paper, a mean over the mini-batches of the last epoch. Here this is the only one: "
    "the figure is a mean over the whole of training, its beginning included, which lowers it."
)

PIPELINE = (
    "**This budget is a check that the pipeline runs: {sizes}.** It can't decide what the paper claims of trained "
    "networks, which are {papers}: what shows here shows already in smaller networks or after less training, what "
    "doesn't may need more of either. The paper's numbers stand beside ours for orientation."
)
ELSEWHERE = "The paper's own networks: {place}."
NOT_HERE = "`make reproduce BUDGET=paper` trains them; it can be stopped at any time and reports how far it is"
UNFINISHED_OPENING = (
    "**The training isn't finished; what is below is true as far as it goes.** The paper has no schedule, so that the "
    "first epochs of an unfinished training are those of the finished one. {reached}. Every number says after which "
    "epoch it was measured, networks are compared at equal epochs, and a verdict that more training may change is "
    "marked as one so far. `make reproduce BUDGET={budget}` goes on; how far the networks are stands under "
    "[What ran](#what-ran)."
)
FINISHED_OPENING = "All networks are trained to the end. {reached}."
OPENING_FIGURE = "fig4_mnist"

DEPARTURES = (
    "The authors' code is `assets/bsnn.zip` in the repository `yaolubrain.github.io`. It trains Tanh-GPN with b = "
    "0.3886, where Table 1 and the equations have 0.3885, and has SELU's b = 0.2585 from constants rounded to four "
    "digits. Its `synthetic.m` draws the norm of the batch's mean gradient, which Figs 1 and 3 show beside the mean of "
    "the norms, scales the error by d, and has a sign error in the derivative of plain GELU; here derivatives are "
    "checked.",
    "Test accuracy is that of the current weights. The authors' code evaluates with row norms cached one step earlier, "
    "so their test figures belong to weights that differ by the scaling of one update.",
    "The gradient ratio is computed at every step and shown as a median over each interval between evaluations.",
    "All networks of one seed start from the same weight matrices and see the mini-batches in the same order.",
)


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv).absolute()
    loaded = grid.load(folder)
    synthetic = account.load_synthetic(folder)
    verdicts = judge(loaded, synthetic)
    write_text(folder / "claims.csv", claims_csv(verdicts))
    write_json(folder / "provenance.json", account.provenance(loaded, synthetic, commands(folder.name)))
    write_text(folder / "report.md", report(loaded, synthetic, verdicts, folder))


def judge(loaded: Results, synthetic: Synthetic) -> list[Verdict]:
    """Judge the six claims on the data that exists."""
    depth = next(iter(loaded.expected.values())).depth
    networks = {
        figure: Networks(None) if found is None else Networks(found.frame, found.config["depth"], of_papers_size(found))
        for figure, found in synthetic.items()
    }
    networks["history"] = Networks(loaded.history, depth, budgets.is_papers(loaded.budget.name))
    return [*claims.claims.judged(networks), *claims_synthetic.claims.judged(networks)]


def of_papers_size(figure: Table) -> bool:
    """True if the networks of a synthetic figure are the paper's; the number of draws is no size."""
    papers = asdict(budgets.load_budget(PAPER).synthetic)
    return all(figure.config.get(name, size) == size for name, size in papers.items() if name != "draws")


def claims_csv(verdicts: Sequence[Verdict]) -> str:
    checks = pd.concat([verdict.table() for verdict in verdicts])
    return checks.to_csv(index=False, lineterminator="\n")


def report(loaded: Results, synthetic: Synthetic, verdicts: Sequence[Verdict], folder: Path) -> str:
    name = loaded.budget.name
    sections = [
        f"# Bidirectionally self-normalizing neural networks, reproduced: {name} budget",
        f"**{budgets.headline(name)}.**",
        *opening(loaded, folder),
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
        *(figure(loaded, folder, stem, synthetic.get(stem)) for stem in FIGURES),
        *generalisation.section(loaded, folder),
        *outcomes.section(loaded),
        *sweeps.section(folder, loaded),
        *beyond(folder, verdicts),
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


def opening(loaded: Results, folder: Path) -> list[str]:
    """Describe the budget and its progress, and say where the paper's own networks are if they aren't here."""
    name = loaded.budget.name
    if not budgets.is_papers(name):
        told = PIPELINE.format(sizes=budgets.in_short(name), papers=budgets.in_short(PAPER))
        there = (folder.parent / PAPER / "report.md").exists()
        place = f"[results/{PAPER}/report.md](../{PAPER}/report.md)" if there else NOT_HERE
        return [told, ELSEWHERE.format(place=place)]
    reached = ". ".join(account.summary(loaded))
    ended = loaded.table["status"].isin(["ok", "partly diverged", "diverged"]).all()
    finished = bool(ended) and "unfinished" not in set(loaded.runs["status"])  # of any seed
    text = (
        FINISHED_OPENING.format(reached=reached)
        if finished
        else UNFINISHED_OPENING.format(reached=reached, budget=name)
    )
    return [text, figure(loaded, folder, OPENING_FIGURE)]


def summary(verdicts: Sequence[Verdict], name: str) -> list[str]:
    papers = {verdict.number: verdict for verdict in claims.claims.judged({"history": Networks(claims.paper_runs())})}
    rows = [
        [
            verdict.number,
            verdict.claim,
            _verdict(verdict.outcome, verdict.suffix),
            _parts(verdict),
            verdict.reason or "–",
            _parts(papers.get(verdict.number)),
        ]
        for verdict in verdicts
    ]
    head = [
        "",
        "claim",
        f"verdict, {name} budget",
        "checks that hold",
        "why it isn't final",
        "in the paper's own Table 2",
    ]
    return [
        table(head, rows),
        "Each claim is judged by a rule that is written down in `bsnn/results/claims.py` and "
        "`bsnn/results/claims_synthetic.py`, with its thresholds and their reasons, and was fixed before the results "
        "existed; the statistics of several seeds (Welch's and Holm's tests, seed by seed for claim 1) came "
        "afterwards. A part is confirmed if all of its checks hold, mixed if at least half do. If fewer do, it is "
        "refuted, provided that neither more training nor larger networks can change that; else it is not shown. It "
        "is not tested if missing data could change the word. A claim is as good as its worst part. Networks are "
        "compared after the same number of epochs: the largest that all the compared ones have reached. With one "
        "seed the standard errors (SE) are those of the finite number of images alone; the spread between seeds is "
        "not known then and comes on top.",
    ]


def claim(verdict: Verdict) -> list[str]:
    texts = [
        f"### Claim {verdict.number}: {verdict.outcome}{verdict.suffix}",
        f"*{verdict.claim}*",
        f"Rule. {verdict.rule}",
    ]
    if verdict.not_tested_because:
        return [*texts, f"Not tested: {verdict.not_tested_because}."]
    if verdict.reason:
        texts.append(f"Not final: {verdict.reason}.")
    lines = [
        f"- {part.says}: {_verdict(part.outcome, verdict.suffix_of(part))}, {_counts(part.counts)}"
        + (f", after {part.after}" if part.unsettled and part.after else "")
        for part in verdict.parts
    ]
    checks = verdict.table().drop(columns="claim")
    details = table(list(checks.columns), checks.to_numpy().tolist())
    return [*texts, "\n".join(lines), f"<details><summary>{len(checks)} checks</summary>\n\n{details}\n\n</details>"]


def every_cell(loaded: Results) -> list[str]:
    """Make the table of each cell's progress, gradients and seconds."""
    head = [
        "",
        "epoch",
        "first update",
        "trend",
        "first interval",
        "last interval",
        "largest median",
        "largest",
        "seconds",
    ]
    rows = []
    for entry in loaded.table.to_dict("records"):
        known = entry["ratio_rows"] > 0
        ratios = [entry[name] for name in ("initial_ratio", "ratio_first", "ratio_last", "ratio_worst", "ratio_peak")]
        shown = [_ratio(value) if known else "–" for value in ratios]
        trend = "–" if math.isnan(entry["initial_trend"]) else f"{entry['initial_trend']:.2f}"
        seconds = "–" if math.isnan(entry["seconds"]) else f"{entry['seconds']:.0f}"
        name = loaded.name_of(Key(*(entry[part] for part in Key._fields)))
        epoch = f"{entry['epoch']:.4g} of {entry['epochs']:.4g}" if entry["n"] else entry["status"]
        rows.append([name, epoch, shown[0], trend, *shown[1:], seconds])
    return [
        "Ratio: max_l / min_l of ||dE/dV_l||_F over the constrained layers: in the first update, as the median "
        "over the first and the last interval between evaluations, the largest of all such medians, and the largest of "
        "all steps. Trend: rank correlation of norm and layer in the first update, bottom to top; -1 grows towards the "
        "input (explodes), +1 shrinks (vanishes). inf: some layer's gradient is exactly 0; 0/0: all are. With several "
        "seeds the largest ratios, the mean trend and the sum of the seconds.",
        table(head, rows),
    ]


def figure(loaded: Results, folder: Path, stem: str, table: Table | None = None) -> str:
    text = FIGURES[stem]
    title = f"**Figure {stem.removeprefix('fig').replace('_mnist', ', MNIST')}**: {text}"
    if stem in fig4.FIGURES and (told := fig4.progress(loaded, fig4.FIGURES[stem])):
        title += f"; {told}"
    if (folder / f"{stem}.png").exists():
        told = f"\n\n{spread(table.frame)}" if stem == "fig1" and table is not None else ""
        return f"{title}\n\n![{text}]({stem}.png){told}"
    return f"{title}\n\nNot drawn yet: `make {stem.removesuffix('_mnist')} BUDGET={loaded.budget.name}`."


def beyond(folder: Path, verdicts: Sequence[Verdict]) -> list[str]:
    """Summarise the studies: how many of their sources' statements agree, which don't, and where each claim stands."""
    made = {study: folder / study / "statements.csv" for study in STUDIES}
    said = {study: pd.read_csv(path, keep_default_na=False) for study, path in made.items() if path.exists()}
    if not said:
        return []
    rows = [[f"[{study}]({study}/report.md)", counts(one)] for study, one in said.items()]
    against = [
        [study, *one[["source", "says", "measured"]].iloc[index]]
        for study, one in said.items()
        for index in range(len(one))
        if one["agrees"].iloc[index] == "no" and not one["source"].iloc[index].startswith(OURS)
    ]
    texts = ["## Beyond Table 2", "Studies of what this paper and two others say of depth, each with a report.",
             table(["study", "what its sources say"], rows)]  # fmt: skip
    if against:
        texts += ["What we found otherwise:", table(["study", "where", "the source says", "we measured"], against)]
    return texts + (sources.section(said, verdicts) if len(said) == len(STUDIES) else [])


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


def _verdict(outcome: str, suffix: str) -> str:
    return f"**{outcome}**{suffix}"


def _parts(verdict: Verdict | None) -> str:
    """Format the parts: "plain: does not train: 6 of 6; GPN: trains: 4 of 6"."""
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
