"""A study's section of the report, from its tables: figures, statements of the sources beside our results, findings.

    python -m experiments.theory.report results/quick        # likewise vanishing, shrinkage, ...

It reads only results/<budget>/<study>/*.csv and .json. Beside them it writes, in seconds, <figure>.png and .pdf,
statements.csv and report.md. Parts that are not computed yet are named, with the command that computes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from bsnn import plotting
from bsnn.config import CONF
from bsnn.files import write_text
from bsnn.results import statements
from bsnn.results.budgets import PAPER
from bsnn.results.cli import budget_dir
from bsnn.results.markdown import table as markdown_table
from bsnn.results.rules import Parts, Rules, arguments, needed
from bsnn.results.statements import Statement
from bsnn.results.tables import command, load_finished, others
from bsnn.results.tables import load as load_table

FEW = 2  # differences that fit under a figure


@dataclass(frozen=True)
class Drawing:
    """A figure of a study. The parameters of `draw` name the parts that it shows; it waits until they are computed."""

    caption: str
    draw: Callable[..., Figure]

    @property
    def parts(self) -> tuple[str, ...]:
        return needed(self.draw)


@dataclass(frozen=True)
class Section:
    """The contents of a study's report.

    Args:
        study: its name in conf/, experiments/ and results/.
        title: the heading.
        opening: the question, and which source says what; Markdown.
        sizes: the dataclass of the study's sizes, with a field for each of its parts, in the report's order.
        drawings: by file name.
        rules: the statements of the sources, and how each is judged.
        findings: functions that tell what we found beyond the sources' statements, in Markdown, as one text or several.
            Their parameters name the parts that they read; a part that isn't necessary is None by default.
        differences: points in which we differ from the sources in every budget.
        stated: where a source states a size of conf/<study>/paper.yaml, by "part.setting"; the other sizes are ours.
    """

    study: str
    title: str
    opening: str
    sizes: type[Any]
    drawings: Mapping[str, Drawing]
    rules: Sequence[Rules]
    findings: Sequence[Callable[..., str | list[str]]] = ()
    differences: Sequence[str] = ()
    stated: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part.name for part in fields(self.sizes))


def publish(section: Section, description: str | None, argv: list[str] | None = None) -> None:
    """Run the command `python -m experiments.<study>.report results/<budget>`."""
    folder = budget_dir(description, argv).absolute()
    parts = load(section, folder)
    said = [rule.judged(parts) for rule in itertools.chain(*section.rules)]
    where = folder / section.study
    for name, drawing in section.drawings.items():
        given = arguments(drawing.draw, parts)
        if given is not None:
            with plotting.style():
                figure = drawing.draw(**given)
                told = sizes(section, {part: parts[part] for part in drawing.parts})
                plotting.budget_note(figure, f"{folder.name} budget: {told}")
                plotting.save(figure, where / name)
    write_text(where / "statements.csv", statements.frame(said).to_csv(index=False, lineterminator="\n"))
    write_text(where / "report.md", report(section, parts, said, folder))
    print(f"{where / 'report.md'}: {statements.counts(statements.frame(said))}")


def load(section: Section, folder: Path) -> Parts:
    return {
        part: load_finished(folder / section.study / part, _command(section, part, folder)) for part in section.parts
    }


def report(section: Section, parts: Parts, said: Sequence[Statement], folder: Path) -> str:
    budget = folder.name
    missing = [f"- {part}: `{_command(section, part, folder)}`" for part, found in parts.items() if found is None]
    rows = [[one.source, one.says, one.measured or "–", one.word, one.rule] for one in said]
    texts = [
        f"# {section.title}: {budget} budget",
        f"**{budget} budget: {sizes(section, parts)}.**",
        section.opening,
        *(["Not computed yet:\n\n" + "\n".join(missing)] if missing else []),
        "## The sources say, we measured",
        f"{statements.counts(statements.frame(said))}. The rule by which each is judged stands in the last column.",
        markdown_table(["where", "the source says", "we measured", "agrees?", "counts as agreement"], rows),
        "## Figures",
        *(_figure(name, drawing, parts) for name, drawing in section.drawings.items()),
    ]
    found = list(_told(section, parts))
    if found:
        texts += ["## Findings", *found]
    texts += ["## Sizes", _sizes_table(section, parts, budget)]
    if section.differences:
        texts += ["In every budget:", "\n".join(f"- {one}" for one in section.differences)]
    texts += ["## Where it ran", _where(parts)]
    texts += _other_settings(section, folder / section.study)
    everything = f"make {section.study} BUDGET={budget}   # all of it; what is finished is skipped"
    commands = [_command(section, part, folder) for part in section.parts]
    texts += ["## How to make or continue this", "```\n" + "\n".join([everything, *commands]) + "\n```"]
    return "\n\n".join(texts) + "\n"


def _told(section: Section, parts: Parts) -> Iterator[str]:
    for tell in section.findings:
        given = arguments(tell, parts)
        if given is not None:
            told = tell(**given)
            yield from [told] if isinstance(told, str) else told


def sizes(section: Section, parts: Parts) -> str:
    """Say in one line that the sizes are the full ones, those of the paper budget, or what differs from them."""
    rows = differing(section, parts)
    if not rows:
        return "full size"
    if len(rows) > FEW:
        return f"NOT full size, {len(rows)} sizes are smaller (listed in report.md)"
    return "NOT full size: " + ", ".join(f"{name} {ours} instead of {full}" for name, ours, full in rows)


def differing(section: Section, parts: Parts) -> list[tuple[str, str, str]]:
    """List (setting, its value in the tables, its full value) where the two differ.

    conf/<study>/paper.yaml has the full sizes, a mapping for each part.
    """
    full: Any = OmegaConf.load(CONF / section.study / f"{PAPER}.yaml")
    rows = []
    for part, found in parts.items():
        ours = {} if found is None else found.config["sizes"][part]
        for name, value in ours.items():
            if value != full[part][name]:
                rows.append((f"{part}.{name}", _short(value), _short(full[part][name])))
    return rows


def _sizes_table(section: Section, parts: Parts, budget: str) -> str:
    stated = "Stated by a source: " + "; ".join(f"{name}: {where}" for name, where in section.stated.items()) + "."
    told = f"{stated if section.stated else 'No source states a size.'} The other full sizes are our choice."
    rows = differing(section, parts)
    if not rows:
        return f"All sizes are those of the paper budget. {told}"
    marked = [[name, ours, full, section.stated.get(name, "ours")] for name, ours, full in rows]
    return told + "\n\n" + markdown_table(["setting", f"{budget} budget", "full size", "stated by"], marked)


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _figure(name: str, drawing: Drawing, parts: Parts) -> str:
    if any(parts[part] is None for part in drawing.parts):
        return f"**{name}**: {drawing.caption} Not drawn yet."
    return f"**{name}**: {drawing.caption}\n\n![{drawing.caption}]({name}.png)"


def _where(parts: Parts) -> str:
    rows = []
    for part, found in parts.items():
        if found is not None:
            facts = found.provenance
            commit = (facts["commit"] or "unknown")[:10] + (" (files differ from it)" if facts["dirty"] else "")
            torch = facts["versions"]["torch"]
            rows.append([part, f"{found.seconds:.3g}", facts["device"], facts["threads"], commit, torch])
    return markdown_table(["part", "seconds", "device", "threads", "commit", "torch"], rows)


def _other_settings(section: Section, where: Path) -> list[str]:
    rows = []
    for part in section.parts:
        for path in others(where / part):
            found = load_table(path, f"python -m experiments.{section.study} part={part} ...")
            name = f"{path.parent.name}/{path.name}.csv"
            rows.append([part, f"[{name}]({name})", len(found.frame), f"{found.seconds:.3g}"])
    if not rows:
        return []
    told = "Computed with settings, data or code that are not this budget's now. Nothing above uses these tables."
    return ["## Other settings", told, markdown_table(["part", "table", "rows", "seconds"], rows)]


def _command(section: Section, part: str, folder: Path) -> str:
    return command(section.study, f"part={part}", folder)
