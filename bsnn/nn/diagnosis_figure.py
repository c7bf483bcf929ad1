"""The figure of a diagnosis: signals, gradients, shapes of activations and correlations against depth."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from bsnn import plotting
from bsnn.nn import kinds

if TYPE_CHECKING:
    from bsnn.nn.diagnose import Diagnosis

PRE, POST, THIRD = plotting.LOOKS["tanh"], plotting.LOOKS["relu"], plotting.LOOKS["elu"]


def draw(diagnosis: Diagnosis) -> Figure:
    """Draw four panels over the calls in the order of the forward pass; the verdict stands above them."""
    weights = _of(diagnosis, kinds.WEIGHT)
    activations = _of(diagnosis, kinds.ACTIVATION)
    with plotting.style():
        figure, axes = plotting.figure(2, 2, size=(plotting.PAGE_WIDTH, 5.0), sharex=True)
        signals = [(weights, "rms", "linear and convolutional layers", PRE), (activations, "rms", "activations", POST)]
        _log(axes[0, 0], signals, "root mean square of the output")
        gradients = [
            (weights, "gradient", "dLoss / d output", PRE),
            (weights, "weight_gradient", "dLoss / d weight", THIRD),
        ]
        _log(axes[0, 1], gradients, "norm of the gradient")
        shares = [(activations, "linear", "phi' within 0.1 of 1", PRE), (activations, "dead", "dead units", POST)]
        for calls, key, label, look in shares:
            axes[1, 0].plot(*_points(calls, key), label=label, **look.line(1))
        axes[1, 0].set_ylim(-0.03, 1.03)
        axes[1, 0].set_ylabel("share, of activations")
        axes[1, 1].plot(*_points(diagnosis.calls, "correlation", range(1, len(diagnosis.calls) + 1)), **PRE.line())
        axes[1, 1].set_ylabel("mean cosine of two samples' outputs")
        for row in axes:
            for panel in row:
                if panel.get_legend_handles_labels()[0]:
                    panel.legend()
        for panel in axes[1]:
            panel.set_xlabel("call, in the order of the forward pass")
        words = "\n".join(textwrap.wrap(f"{diagnosis.network}: {diagnosis.verdict}", 125))
        figure.suptitle(words, fontsize=7.5, x=0.01, ha="left")
    return figure


def _of(diagnosis: Diagnosis, kind: str) -> list[dict[str, Any]]:
    return [call | {"call": number} for number, call in enumerate(diagnosis.calls, 1) if call["kind"] == kind]


def _points(calls: list[dict[str, Any]], key: str, numbers: Any = None) -> tuple[Any, Any]:
    """Return places and values without nan, so that a line goes on over calls that have no value."""
    where = list(numbers) if numbers is not None else [call["call"] for call in calls]
    pairs = [(n, call[key]) for n, call in zip(where, calls, strict=True) if not math.isnan(call[key])]
    return [n for n, _ in pairs], np.array([value for _, value in pairs])


def _log(panel: Any, series: list[tuple[Any, str, str, plotting.Look]], label: str) -> None:
    drawn = [(*_points(calls, key), name, look) for calls, key, name, look in series]
    scale = plotting.LogRange.of([values for _, values, _, _ in drawn])
    for where, values, name, look in drawn:
        if len(where):
            panel.plot(where, scale.place(values), label=name, **look.line(max(len(where) // 25, 1)))
    scale.mark(panel)
    panel.set_ylabel(label)
