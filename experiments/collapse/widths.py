"""The part of experiments.collapse on remedies in wider networks and for the other targets (section 5.2).

The paper names no width in section 5.2; its figures have widths 2 and, for two inputs, 4. Part `remedies` has width 2.
"""

from __future__ import annotations

from typing import Any

from bsnn.collapse.fate import OPTIMISERS, TARGETS, fates
from bsnn.collapse.networks import NarrowStack, fit
from bsnn.randomness import Purpose, generator
from experiments.collapse.config import CollapseConfig
from experiments.collapse.training import BATCH, DEPTH, METHODS, POINTS
from experiments.units import Row, Unit, Work

STREAM = 8
"""The stream of this part, an index of Purpose.COLLAPSE; experiments.collapse.random.STREAMS has other parts'."""

REMEDIES: dict[str, dict[str, Any]] = {
    **{name: METHODS[name] for name in ("none", "batch norm", "SELU", "weight norm")},
    "dropout 0.1": {"dropout": 0.1},
    "dropout 0.3": {"dropout": 0.3},
}
"""Arguments of NarrowStack."""


def widths(config: CollapseConfig) -> Work:
    """Train networks of several widths with every remedy, as part `remedies` trains them, with Adam."""
    sizes = config.sizes.widths

    def rows(unit: Unit) -> list[Row]:
        name, width, remedy = str(unit[0]), int(str(unit[1])), str(unit[2])
        target = TARGETS[name]
        code = list(TARGETS).index(name), width
        start, data = (generator(config.seed, Purpose.COLLAPSE, STREAM, *code, use) for use in (0, 1))
        layers = (target.inputs, *[width] * (DEPTH - 1), target.outputs)
        stack = NarrowStack(layers, sizes.members, generator=start, **REMEDIES[remedy])
        batches = target.batches(sizes.steps, sizes.members, BATCH, data)
        fit(stack, OPTIMISERS["adam"](stack.parameters()), batches, "mse")
        found = fates(stack, target, POINTS[target.inputs], "mse")
        return [[member, fate.outcome, float(f"{fate.error:.6g}")] for member, fate in enumerate(found)]

    chosen = [(name, width) for name, several in sizes.widths.items() for width in several]
    units = [(*one, remedy) for one in chosen for remedy in REMEDIES]
    return Work(("target", "width", "remedy"), ("member", "outcome", "error"), units, rows, {"version": 1})
