"""The mathematics of the BSNN paper, checked by numbers: the section of the report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.statements import Statement
from scripts.cli import run
from scripts.sections import Drawing, Parts, Section, publish
from scripts.tables import Table


def norms(talk: Table) -> Figure:
    figure, axes = plotting.figure(1, 1, size=(3.5, 3.2))
    panel = axes[0, 0]
    panel.plot(talk.frame.z_norm, talk.frame.f_norm, "o", markersize=3)
    panel.set_xlabel(r"$\|z\|_2$")
    panel.set_ylabel(r"$\|f(z)\|_2$")
    return figure


def statements(parts: Parts) -> Sequence[Statement]:
    talk = parts["talk"]
    measured, agrees = "", None
    if talk is not None:
        ratio = (talk.frame.f_norm / talk.frame.z_norm).mean()
        measured, agrees = f"{ratio:.4f} (n = {len(talk.frame)})", bool(abs(ratio - 1) < 0.01)
    return [Statement("talk, Lemma", "||f(z)|| ~ ||z||", measured, "mean ratio within 1 %", agrees)]


SECTION = Section(
    study="theory",
    title="The theory, checked by numbers",
    opening="",
    parts=("talk",),
    drawings={"norms": Drawing(("talk",), "The norm of f(z) against that of z.", norms)},
    statements=statements,
)


def main(argv: list[str] | None = None) -> None:
    publish(SECTION, __doc__, argv)


if __name__ == "__main__":
    run(main)
