"""bsnn.plotting: what must not get lost in a drawing, and bytes that don't change."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from bsnn import plotting


def test_zero_and_infinity_have_a_place_outside_of_the_numbers() -> None:
    scale = plotting.LogRange.of([[0.0, 1e-30, 2.0], [math.inf, math.nan]])
    assert scale.floor is not None
    assert scale.ceiling is not None
    assert scale.floor < 1e-30
    assert scale.ceiling > 2
    placed = scale.place([0.0, 1.0, math.inf, math.nan])
    np.testing.assert_array_equal(placed, [scale.floor, 1.0, scale.ceiling, math.nan])
    ordinary = plotting.LogRange.of([[1.0, 3.0]])
    assert (ordinary.floor, ordinary.ceiling) == (None, None)
    plotting.LogRange.of([[0.0, math.inf]])  # nothing between: still an axis


def test_looks_are_fixed_for_the_paper_and_distinct_for_others() -> None:
    assert plotting.looks(["swish", "tanh"])["tanh"] == plotting.LOOKS["tanh"]
    chosen = plotting.looks([*plotting.LOOKS, "swish", "mish"])
    for attribute in ("color", "marker"):
        assert len({getattr(look, attribute) for look in chosen.values()}) == len(chosen)


def test_drawing_leaves_no_trace_and_repeats_to_the_byte(tmp_path: Path) -> None:
    """Whatever the user's matplotlibrc says: a dark style, LaTeX, fonts, what savefig crops."""
    before = dict(mpl.rcParams)
    files = []
    users: dict[str, Any] = {
        "axes.facecolor": "black",
        "text.color": "white",
        "text.usetex": True,
        "savefig.bbox": "tight",
        "pdf.compression": 0,
        "lines.dash_capstyle": "round",
        "path.sketch": (1, 100, 2),
    }
    for name, matplotlibrc in (("one", {}), ("two", users)):
        with mpl.rc_context(matplotlibrc), plotting.style():
            figure, axes = plotting.figure(1, 1, size=(2, 2))
            scale = plotting.LogRange.of([[0.0, 1e-9, math.inf]])
            axes[0, 0].plot(scale.place([0.0, 1e-9, math.inf]), **plotting.LOOKS["tanh"].line(markers=1))
            scale.mark(axes[0, 0])
            plotting.budget_note(figure, "smoke budget")
            files.append([path.read_bytes() for path in plotting.save(figure, tmp_path / name)])
    assert files[0] == files[1]
    assert dict(mpl.rcParams) == before
