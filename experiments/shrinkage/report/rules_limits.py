"""The source's remarks on batch norm, on the first log L layers and on machine precision, and how they are judged."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from scipy import stats

from bsnn.results.claims import LEVEL
from bsnn.results.rules import Judged, Rules
from bsnn.results.statistics import holm

rules = Rules()

NEAR_EPS = 30.0
"""Factor within which an angle is comparable to the machine precision."""

GROWTH_ERROR = 0.02
"""Largest difference of growths, in ln, that finite width may make at the widths tried."""

BY_HOLM = f"one-sided t tests over the draws, Holm's procedure at {100 * LEVEL:g} % over functions and batch sizes"


def all_above(samples: dict[str, pd.Series]) -> bool | None:
    """Tell whether all means are above 0, significantly: False if one is significantly below, None if undecided."""
    above, below = (
        holm([stats.ttest_1samp(one, 0, alternative=side).pvalue for one in samples.values()], LEVEL)
        for side in ("greater", "less")
    )
    return False if any(below) else True if all(above) else None


def growths(batch_norm: pd.DataFrame) -> pd.DataFrame:
    """Arrange ln growth: a row for each batch size and draw, a column for each function."""
    return batch_norm.pivot(index=["batch", "draw"], columns="function", values="log_growth")


@rules.states(
    "Section 5.2",
    "Batch normalization necessarily leads to gradient explosion.",
    rule=f"squared gradients grow from layer to layer, downwards, for every function and batch size: {BY_HOLM}",
)
def explodes(batch_norm: pd.DataFrame) -> Judged:
    samples = {str(key): one.log_growth for key, one in batch_norm.groupby(["function", "batch"])}
    means = batch_norm.groupby(["function", "batch"]).log_growth.mean()
    told = [f"{key[0]} {np.exp(value):.3f} (batch {key[1]})" for key, value in zip(means.index, means, strict=True)]
    least, most = told[int(np.argmin(means))], told[int(np.argmax(means))]
    draws = batch_norm.draw.nunique()
    return f"growth by a layer from {least} to {most}; n = {draws} draws", all_above(samples)


@rules.states(
    "Section 5.2",
    "... which is slowest with linear activations.",
    rule=f"growth with every other function larger, in pairs of equal weights: {BY_HOLM}",
)
def slowest_when_linear(batch_norm: pd.DataFrame) -> Judged:
    table = growths(batch_norm)
    others = table.drop(columns="linear").sub(table["linear"], axis=0)
    samples = {f"{name} {batch}": one for name in others for batch, one in others[name].groupby("batch")}
    means = table.groupby("batch").mean()
    told = [
        f"batch {batch}: linear {np.exp(row['linear']):.3f}, next {row.drop('linear').idxmin()} "
        f"{np.exp(row.drop('linear').min()):.3f}"
        for batch, row in means.iterrows()
    ]
    return "; ".join(told), all_above(samples)


@rules.states(
    "ours, from Section 5.2",
    "linear networks with batch norm: squared gradients grow by (B - 2) / (B - 3) a layer (Yang et al., 2019)",
    rule=f"ln growth within {GROWTH_ERROR:g} of it, every batch size",
)
def linear_law(batch_norm: pd.DataFrame) -> Judged:
    found = batch_norm[batch_norm.function == "linear"].groupby("batch").log_growth.mean()
    law = {int(str(batch)): math.log((int(str(batch)) - 2) / (int(str(batch)) - 3)) for batch in found.index}
    told = [f"batch {batch}: {np.exp(found[batch]):.4f} for {np.exp(value):.4f}" for batch, value in law.items()]
    return "; ".join(told), all(abs(found[batch] - value) <= GROWTH_ERROR for batch, value in law.items())


def deviations(block: pd.DataFrame) -> pd.DataFrame:
    """Compute the rms of ln(distance / infinite) over the draws: index function, size; columns first, last (layer)."""
    place = np.where(block.layer == block["size"], "last", "first")
    frame = block.assign(place=place, square=np.log(block.distance / block.infinite) ** 2)
    squares: pd.DataFrame = frame.pivot_table(index=["function", "size"], columns="place", values="square")
    return squares**0.5


@rules.states(
    "Section 5.1, log L",
    "If L and N grow simultaneously, the first log L layers are described by the map P^(log L).",
    rule="networks as wide as deep, e = |ln(measured / infinite width)|: after ceil(ln L) layers it falls with L, for "
    f"each function (regression of ln e on ln L, one-sided, Holm's procedure at {100 * LEVEL:g} %), while after L "
    "layers its rms stays above 1/2",
)
def first_layers_follow(block: pd.DataFrame) -> Judged:
    found = deviations(block)
    told, p = [], []
    for name, of in found.groupby("function"):
        early = block[(block.function == name) & (block.layer < block["size"])]
        error = np.abs(np.log(early.distance / early.infinite))
        fit = stats.linregress(np.log(early["size"]), np.log(error), alternative="less")
        late = f"after L layers rms {of['last'].min():.2g} to {of['last'].max():.2g}"
        p.append(float(fit.pvalue))
        told.append(
            f"{name}: rms {of['first'].iloc[0]:.2g} to {of['first'].iloc[-1]:.2g}, e ~ L^({fit.slope:.2f} ± "
            f"{fit.stderr:.2f}), p = {fit.pvalue:.1g}; {late}"
        )
    sizes_told = f"L = {block['size'].min()} to {block['size'].max()}, n = {block.draw.nunique()} draws"
    stays = bool((found["last"] > 0.5).all())
    return f"{'; '.join(told)} ({sizes_told})", (True if all(holm(p, LEVEL)) else None) if stays else False


@rules.states(
    "Section 5.1, log L",
    "This first block is already problematic: P^(log L) becomes pathological.",
    rule="infinite width: 1 - rho of orthogonal inputs after ceil(ln L) layers falls as L grows, and is below 0.1 at "
    "the largest L; undecided if only the first holds, since the statement is on L going to infinity",
)
def first_layers_shrink(block: pd.DataFrame) -> Judged:
    first = block[block.layer < block["size"]].groupby(["function", "size"]).infinite.mean()
    ends = {str(name): (of.iloc[0], of.iloc[-1]) for name, of in first.groupby("function")}
    told = ", ".join(f"{name} {start:.2g} to {end:.2g}" for name, (start, end) in ends.items())
    falls = all(end < start for start, end in ends.values())
    small = all(end < 0.1 for _, end in ends.values())
    text = f"L = {block['size'].min()} to {block['size'].max()}: {told}; it falls as a power of ln L only"
    return text, (True if small else None) if falls else False


def departures(precision: pd.DataFrame) -> pd.DataFrame:
    """Find the first layer whose distance is off by more than a half in a format, and the exact angle / eps there."""
    frame = precision[precision.dtype != "float64"]
    off = frame[(frame.distance / frame.exact - 1).abs() > 0.5].sort_values("layer")
    first = off.groupby(["function", "phase", "dtype", "draw"], as_index=False).first()
    eps = first.dtype.map(lambda name: torch.finfo(getattr(torch, name)).eps)
    return first.assign(ratio=np.sqrt(2 * first.exact) / eps)


@rules.states(
    "Section 3, item 2",
    "If the angle becomes comparable to the machine precision, numerical issues may come.",
    rule="ordered networks: where a format's 1 - rho is first off by more than a half, the angle is within a factor "
    f"{NEAR_EPS:g} of its eps, each function, format and draw",
)
def numbers_end_at_eps(precision: pd.DataFrame) -> Judged:
    found = departures(precision)
    found = found[found.phase == "ordered"]
    expected = precision[(precision.phase == "ordered") & (precision.dtype != "float64")]
    runs = len(expected.groupby(["function", "dtype", "draw"]))
    told = [
        f"{name}: layer {of.layer.min()} to {of.layer.max()}, angle {of.ratio.min():.2g} to {of.ratio.max():.2g} eps"
        for name, of in found.groupby("dtype")
    ]
    inside = found.ratio.between(1 / NEAR_EPS, NEAR_EPS)
    return f"{'; '.join(told)} ({len(found)} of {runs} runs)", bool(len(found) == runs and inside.all())


@rules.states(
    "ours, from Section 3, item 2",
    "critical networks of usual depths don't get there in float32, and gradients stay exact beyond it",
    rule=f"float32: critical networks keep an angle above {NEAR_EPS:g} eps to the last layer; gradients within 0.1 % "
    "of float64's at every layer shown, ordered networks included",
)
def critical_is_safe(precision: pd.DataFrame) -> Judged:
    single = precision[precision.dtype == "float32"]
    critical = single[single.phase == "critical"]
    angle = float(np.sqrt(2 * critical.exact.min())) / torch.finfo(torch.float32).eps
    error = float(single.gradient_error.max())
    half = precision[precision.dtype == "bfloat16"].gradient_error.median()
    text = (
        f"smallest angle {angle:.3g} eps at layer {critical.layer.max()} or before; largest error of the gradient "
        f"{error:.1g}, in bfloat16 a median of {half:.2g}"
    )
    return text, angle > NEAR_EPS and error < 1e-3
