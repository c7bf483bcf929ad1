"""Everything that is made from records: tables, figures, sweeps, report, page. One process, in seconds.

    python -m scripts.publish results/quick

Does the same as scripts.table1, .table2, .fig1 to .fig4, .generalisation, .sweeps, .report and .page one after the
other. Those of Figures 1-3 that aren't computed yet are left out.
"""

from __future__ import annotations

from bsnn.results import cli
from scripts import fig1, fig2, fig3, fig4, generalisation, sweeps, table1, table2
from scripts.page import __main__ as page
from scripts.report import __main__ as report
from scripts.report import account


def main(argv: list[str] | None = None) -> None:
    folder = cli.budget_dir(__doc__, argv)
    computed = account.load_synthetic(folder)
    synthetic = {"fig1": fig1, "fig2": fig2, "fig3": fig3}
    drawn = [script for figure, script in synthetic.items() if computed[figure] is not None]
    for script in (table1, table2, *drawn, fig4, generalisation, sweeps, report, page):
        script.main([str(folder)])


if __name__ == "__main__":
    cli.run(main)
