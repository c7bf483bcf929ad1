"""The review page in a browser without a window."""

from __future__ import annotations

import csv
import io
from typing import Any

from bsnn.results.budgets import Key


class Browser:
    """A page in headless Chromium: `run` calls JavaScript in it and returns what it returns."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, hash_: str = "") -> None:
        self.driver.get("about:blank")  # the same page with another hash would not load anew
        self.driver.get(self.address + hash_)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def reset(self) -> None:
        self.run("switches.form.reset(); switches.form.dispatchEvent(new Event('input', {bubbles: true}))")

    def rows(self) -> list[dict[str, str]]:
        """The table as CSV, which is also what is shown."""
        text = self.run("return table.csv()")
        lines = list(csv.DictReader(io.StringIO(text)))
        assert len(lines) == self.run("return document.querySelectorAll('#runs tbody tr').length")
        return lines

    def traces(self, figure: str) -> list[dict[str, Any]]:
        """Lines of all plots of a figure as they are drawn."""
        return self.run(
            """const plots = document.querySelectorAll(`[data-figure="${arguments[0]}"] .plot`);
            plots.forEach(panels.draw);
            return [...plots].flatMap((plot) => plot._fullData.map((trace) => ({
              meta: trace.meta, type: trace.type, filled: trace.fill === "toself", hover: trace.hovertemplate,
              x: [...trace.x].map(String), y: [...trace.y], told: trace.customdata ? [...trace.customdata] : null,
            })))""",
            figure,
        )

    def line(self, figure: str, key: Key, **switches: str) -> dict[str, Any]:
        wanted = {"dataset": key.dataset, "activation": key.activation, **switches}
        wanted |= {"gpn": "yes" if key.gpn else "no", "batch_norm": "yes" if key.batch_norm else "no"}
        lines = [one for one in self.traces(figure) if not one["filled"] and wanted.items() <= one["meta"].items()]
        assert lines, wanted
        return lines[0]
