"""The report's section on generalisation: test accuracy at equal training loss, plain and GPN."""

from __future__ import annotations

from pathlib import Path

from bsnn.data import DATASETS
from bsnn.results.claims import LEVEL
from bsnn.results.generalisation import compared
from bsnn.results.grid import Results
from bsnn.results.markdown import table
from bsnn.results.statistics import holm


def section(loaded: Results, folder: Path) -> list[str]:
    """Write the section; nothing while no pair of networks can be compared."""
    found = compared(loaded.curves)
    if found.empty:
        return []
    differs = holm(found["p"].tolist(), LEVEL)
    rows, words = [], []
    for pair, differ in zip(found.to_dict("records"), differs, strict=True):
        words.append("neither" if not differ else "GPN" if pair["in_se"] > 0 else "plain")
        names = [DATASETS[pair["dataset"]].label, loaded.activations[pair["activation"]].label]
        numbers = [f"{pair['loss']:.3f}", f"{pair['plain']:.2f}", f"{pair['gpn']:.2f}", f"{pair['in_se']:+.1f}"]
        rows.append([*names, *numbers, words[-1], pair["seeds"]])
    head = ["data", "function", "training loss", "plain, %", "GPN, %", "difference, SE", "better", "seeds"]
    drawn = (folder / "generalisation.png").exists()
    image = ["![test accuracy against training loss](generalisation.png)"] if drawn else []
    return [
        "## Generalisation",
        "The paper leaves open how GPN networks generalise. Test accuracy at equal training loss, the lowest that both "
        "networks have reached, without batch norm; the loss is the mean over an epoch's mini-batches, so it lags "
        "behind the weights that are tested, by more for the faster one. Of "
        f"{len(found)} pairs that can be compared the plain network tests better in {words.count('plain')}, the GPN "
        f"one in {words.count('GPN')}, neither in {words.count('neither')} (Holm's procedure, {LEVEL:.0%} for all). "
        "With one seed the errors are those of the test images alone; test accuracy also goes up and down from epoch "
        "to epoch.",
        *image,
        table(head, rows),
    ]
