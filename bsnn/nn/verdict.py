"""The verdict of a diagnosis, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from bsnn.nn import kinds

STEADY = 100.0
"""A ratio largest / smallest up to this counts as keeping the scale: two decades, as in GPN networks of 200 layers."""
UNLIKE_ONE = 0.1  # a gain that differs from 1 by more is mentioned
LINEAR_SHARE = 0.95
DEAD_SHARE = 0.1
ALIKE = 0.99

Call = dict[str, Any]


def ratio(values: Iterable[float]) -> float:
    """Compute largest / smallest; inf if the smallest is 0, nan for 0 / 0, for no value and if one is nan."""
    found = list(values)
    if not found or any(math.isnan(value) for value in found):
        return math.nan
    low, high = min(found), max(found)
    return (high / low if math.isfinite(high) else math.inf) if low > 0 else (math.inf if high > 0 else math.nan)


def verdict(calls: Sequence[Call], loss: float) -> str:
    """Write sentences on gradients, signals, activations, dead units and correlations, each only if it applies."""
    weights = [call for call in calls if call["kind"] == kinds.WEIGHT]
    activations = [call for call in calls if call["kind"] == kinds.ACTIVATION]
    if not weights:
        return "No linear or convolutional layer was called, so there is nothing to compare."
    parts = [_overflow(calls, loss), _gradients(weights), _signals(weights)]
    parts += [*_gains(activations), *_linear(activations), _dead(activations), _alike(calls)]
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def _layer(weights: Sequence[Call], index: int) -> str:
    return f"layer {index + 1} of {len(weights)} ({weights[index]['module'] or weights[index]['type']})"


def _overflow(calls: Sequence[Call], loss: float) -> str:
    if math.isfinite(loss):
        return ""
    bad = next((call for call in calls if not math.isfinite(call["rms"])), None)
    return f"the loss is {loss}" + (f": signals overflow from {bad['module']} on" if bad else "")


def _gradients(weights: Sequence[Call]) -> str:
    found = [call["gradient"] for call in weights]
    if any(math.isnan(g) or math.isinf(g) for g in found):
        return "some gradients are not finite numbers, or do not reach their layer"
    zeros = [index for index, g in enumerate(found) if g == 0]
    if zeros:
        return f"gradients are exactly 0 in {len(zeros)} of {len(found)} layers, first in {_layer(weights, zeros[-1])}"
    spread, change = ratio(found), found[0] / found[-1]
    if spread <= STEADY:
        return f"gradients keep their scale: largest / smallest over {len(found)} layers is {spread:.2g}"
    if change <= 1 / STEADY:
        start = next(index for index in range(len(found)) if min(found[index:]) >= found[-1] / 10)
        return f"gradients shrink to {change:.0e} towards the input, from {_layer(weights, max(start - 1, 0))} on"
    if change >= STEADY:
        start = next(index for index in range(len(found)) if max(found[index:]) <= found[-1] * 10)
        return f"gradients grow {change:.0e}-fold towards the input, from {_layer(weights, max(start - 1, 0))} on"
    return f"gradients differ {spread:.0e}-fold between layers, without growing or shrinking from end to end"


def _signals(weights: Sequence[Call]) -> str:
    found = [call["rms"] for call in weights]
    if not all(math.isfinite(rms) for rms in found):
        return ""
    if 0 in found:
        return f"signals are exactly 0 from {_layer(weights, found.index(0))} on"
    spread, change = ratio(found), found[-1] / found[0]
    if spread <= STEADY:
        return f"pre-activations keep their scale: {min(found):.2g} to {max(found):.2g}"
    if change <= 1 / STEADY:
        return f"signals shrink to {change:.0e} by the output"
    return f"signals grow {change:.0e}-fold by the output" if change >= STEADY else f"signals differ {spread:.0e}-fold"


def _types(activations: Sequence[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in activations:
        found.setdefault(call["type"], []).append(call)
    return found


def _gains(activations: Sequence[Call]) -> list[str]:
    sentences = []
    for name, calls in _types(activations).items():
        gains = [(c["rms"] / c["rms_in"]) ** 2 for c in calls if c["rms_in"] > 0 and math.isfinite(c["rms"])]
        slopes = [c["slope_square"] for c in calls if math.isfinite(c["slope_square"])]
        if not gains or not slopes:
            continue
        gain, slope = median(gains), median(slopes)
        if max(abs(gain - 1), abs(slope - 1)) > UNLIKE_ONE:
            sentences.append(f"each {name} passes {gain:.2g} of the signal's square and {slope:.2g} of the gradient's")
    return sentences


def _linear(activations: Sequence[Call]) -> list[str]:
    sentences = []
    for name, calls in _types(activations).items():
        count = sum(call["linear"] > LINEAR_SHARE for call in calls)
        if count:
            sentences.append(f"{name} is as good as linear in {count} of its {len(calls)} calls: phi' is about 1")
    return sentences


def _dead(activations: Sequence[Call]) -> str:
    worst = max(activations, key=lambda call: -1 if math.isnan(call["dead"]) else call["dead"], default=None)
    if worst is None or not worst["dead"] > DEAD_SHARE:
        return ""
    return f"up to {worst['dead']:.0%} of a layer's units are dead ({worst['module']})"


def _alike(calls: Sequence[Call]) -> str:
    found = [call for call in calls if not math.isnan(call["correlation"])]
    if len(found) < 2 or found[-1]["correlation"] <= max(ALIKE, found[0]["correlation"]):
        return ""
    first = next(call for call in found if call["correlation"] > ALIKE)
    return (
        f"different inputs come to look alike: their outputs' mean cosine is {found[0]['correlation']:.2g} in the "
        f"first layer, above {ALIKE} from {first['module']} on, {found[-1]['correlation']:.6g} at the end"
    )
