"""Every logged quantity, defined once: a record's rows and W&B's history hold exactly these keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt


def _metric(definition: str, unit: str, shown_in: str) -> Any:
    return field(metadata={"definition": definition, "unit": unit, "shown_in": shown_in})


@dataclass(frozen=True)
class Row:
    """The measurements of a cell at one evaluation. The first row, at step 0, has test figures only."""

    epoch: float = _metric("updates so far / updates in an epoch", "epochs", "Fig. 4")
    step: int = _metric("updates so far", "1", "")
    seconds: float = _metric(
        "time spent in training and evaluation so far, over all resumed runs: the stack's time / its networks",
        "s",
        "report",
    )
    train_accuracy: float | None = _metric(
        "share of right answers over this epoch's mini-batches so far, in training mode, each before its update",
        "%",
        "Table 2",
    )
    train_loss: float | None = _metric("mean cross-entropy over the same mini-batches", "nats", "")
    test_accuracy: float = _metric(
        "share of right answers on the whole test set, evaluation mode", "%", "Table 2, Fig. 4"
    )
    test_loss: float = _metric("mean cross-entropy on the whole test set, evaluation mode", "nats", "")
    gradient_ratio: float | None = _metric(
        "max_l / min_l of ||dE/dV_l||_F over the constrained layers: the median over the steps since the last row "
        "(inf: a layer's gradient is exactly 0; nan: all are)",
        "1",
        "report, claims 3 and 4",
    )
    gradient_ratio_max: float | None = _metric("the same ratio: its largest value since the last row", "1", "report")
    gradient_norm_max: float | None = _metric(
        "max over layers and steps since the last row of ||dE/dV_l||_F", "1", "report"
    )
    gradient_norm_min: float | None = _metric(
        "min over layers and steps since the last row of ||dE/dV_l||_F", "1", "report"
    )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


METRICS: dict[str, dict[str, str]] = {f.name: dict(f.metadata) for f in fields(Row)}


def gradient_summary(norms_SL: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Compute the gradient entries of a row from the layers' gradient norms of S steps, (S, L); None when S is 0.

    x/0 is inf and 0/0 is nan, and both count. The median and the maximum take nan as larger than inf, so that a cell
    whose gradients all vanished in most steps has nan.
    """
    names = ("gradient_ratio", "gradient_ratio_max", "gradient_norm_max", "gradient_norm_min")
    if len(norms_SL) == 0:
        return dict.fromkeys(names)
    largest, smallest = norms_SL.max(axis=1), norms_SL.min(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = largest / smallest
    values = (middle(ratios), np.sort(ratios)[-1], largest.max(), smallest.min())
    return dict(zip(names, map(float, values), strict=True))


def middle(values_S: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the median over the first axis, nan counting as larger than inf; of an even number the lower one."""
    ranked = np.sort(values_S, axis=0)  # nan last
    chosen: npt.NDArray[np.float64] = ranked[(len(ranked) - 1) // 2]
    return chosen
