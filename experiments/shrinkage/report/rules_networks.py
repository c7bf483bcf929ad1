"""The source's statements on chaos, residual networks and skimming (Figures 3 and 4), and how they are judged."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn.results.rules import Judged, Rules
from bsnn.results.tables import Table
from experiments.shrinkage.report.columns import (
    exponent,
    far_and_near,
    fluctuation,
    last,
    median_displacement,
)
from experiments.shrinkage.report.rules_depth import chosen

rules = Rules()

SOURCES_WIDTH = 1024
"""Width of Fig. 1, the only one that the source states."""
LEAST_DRAWS = 3
AT_FULL_SIZE = f"; below width {SOURCES_WIDTH} or {LEAST_DRAWS} trainings it can't be refuted"


def unless_small(fig4: Table, agrees: bool) -> bool | None:
    """Leave undecided what a narrower network than the source's, or one training, seems to refute."""
    sizes = fig4.config["sizes"]["fig4"]
    full = sizes["width"] >= SOURCES_WIDTH and sizes["draws"] >= LEAST_DRAWS
    return agrees if agrees or full else None


@rules.states(
    "Fig. 3a, (4.2)",
    "Critical erf: all inputs get squeezed, at least as the bound says.",
    rule="below the bound everywhere; mean 1 - rho < 0.1 at the last layer",
)
def fig3_shrinks(fig3: pd.DataFrame) -> Judged:
    one = chosen(fig3, "critical", "correlation")
    ratio = (one.value / one.bound).replace(np.inf, np.nan).max()
    at_end = last(one)
    return (
        f"(1 - rho) / bound <= {ratio:.2f}; at layer {one.layer.max()} 1 - rho = {at_end.value.mean():.3g} on average "
        f"(infinite width {at_end.infinite.mean():.3g}), n = {len(at_end)} pairs",
        bool(ratio <= 1 and at_end.value.mean() < 0.1),
    )


@rules.states(
    "Fig. 3b",
    "Chaotic erf: correlations of any two inputs approach rho_fp < 1.",
    rule="every pair within 0.1 of it at the last layer",
)
def fig3_fixed_point(fig3: pd.DataFrame) -> Judged:
    at_end = last(chosen(fig3, "chaotic", "correlation"))
    limit = float(at_end.infinite.mean())
    off = (at_end.value - at_end.infinite).abs().max()
    return (
        f"rho at layer {at_end.layer.max()}: {1 - at_end.value.min():.3f} at most, {1 - at_end.value.max():.3f} at "
        f"least, rho_fp = {1 - limit:.3f} (n = {len(at_end)} pairs)",
        bool(off <= 0.1),
    )


@rules.states(
    "Fig. 3c",
    "Critical: the operator norm of the Jacobian does not grow with depth.",
    rule=f"exponent of the largest singular value at most 0.1, from layer 8; below width {SOURCES_WIDTH} not decided",
)
def fig3_norm(fig3: Table) -> Judged:
    one = chosen(fig3.frame, "critical", "jacobian")
    growth = [
        exponent(draw.layer, draw.value)
        for _, draw in one[(one.series == "largest") & (one.layer >= 8)].groupby("draw")
        if len(draw) > 1
    ] or [exponent(one[one.series == "largest"].layer, one[one.series == "largest"].value)]
    mean, error = fluctuation(growth)
    width = fig3.config["sizes"]["fig3"]["jacobian_width"]
    text = f"largest singular value ~ L^({mean:.2f} +- {error:.2f}), {len(growth)} draws, width {width}"
    return text, True if mean <= 0.1 else False if width >= SOURCES_WIDTH else None


@rules.states(
    "Section 2.2, Fig. 3c",
    "Critical: perturbations keep their size on average.",
    rule="root mean square singular value at the last layer between 0.5 and 2",
)
def fig3_mean_square(fig3: pd.DataFrame) -> Judged:
    at_end = last(chosen(fig3, "critical", "jacobian").query("series == 'root mean square'"))
    return (
        f"root mean square singular value at layer {at_end.layer.max()}: {at_end.value.mean():.2f} "
        f"(n = {len(at_end)} draws, {at_end.value.min():.2f} to {at_end.value.max():.2f}); infinite width 1",
        bool(0.5 <= at_end.value.mean() <= 2),
    )


@rules.states(
    "Fig. 3d, (4.3)",
    "Chaotic: the Jacobian's norm grows, and is at least the bound.",
    rule="norm >= bound at every layer, and larger at the last than at the first",
)
def fig3_jacobian_bound(fig3: pd.DataFrame) -> Judged:
    one = chosen(fig3, "chaotic", "jacobian").query("series == 'largest'")
    ratio = one.value / one.bound
    grown = last(one).value.mean() / one[one.layer == one.layer.min()].value.mean()
    return (
        f"norm / bound >= {ratio.min():.2f}; the norm grows {grown:.3g}-fold over {one.layer.max()} layers",
        bool((ratio >= 1).all() and grown > 1),
    )


@rules.states(
    "(4.3)",
    "norm >= sqrt((arctan(2/sqrt 5) - 2/3) sqrt 5) / 4 (1 - rho_fp) sqrt L.",
    rule="equal to 0.1 % (rho_fp is taken from the last layer)",
)
def chaos_constant(fig3: pd.DataFrame) -> Judged:
    one = chosen(fig3, "chaotic", "jacobian").query("series == 'largest'")
    fixed = float(last(chosen(fig3, "chaotic", "correlation")).infinite.mean())
    found = float((one.bound / np.sqrt(one.layer)).mean())
    wanted = math.sqrt((math.atan(2 / math.sqrt(5)) - 2 / 3) * math.sqrt(5)) / 4
    return (
        f"{found / fixed:.6f} from Theorem 1, {wanted:.6f} as printed",
        abs(found / fixed / wanted - 1) <= 1e-3,
    )


@rules.states(
    "Fig. 3e",
    "Critical: gradients are well-behaved.",
    rule="norms of dE/dW_l within a factor 10 over all layers",
)
def fig3_gradients(fig3: pd.DataFrame) -> Judged:
    norms = chosen(fig3, "critical", "gradient").groupby("layer").value.apply(lambda v: np.exp(np.log(v).mean()))
    ratio = float(norms.max() / norms.min())
    return f"max / min over {len(norms)} layers {ratio:.2f} (geometric mean of the draws)", ratio <= 10


@rules.states(
    "Fig. 3f",
    "Chaotic: large gradients in low layers, at least the bound.",
    rule="norm >= bound at every layer; ten times larger in the first than in the last",
)
def fig3_exploding(fig3: pd.DataFrame) -> Judged:
    one = chosen(fig3, "chaotic", "gradient")
    mean = one.groupby("layer")[["value", "bound"]].apply(lambda v: np.exp(np.log(v.clip(lower=1e-300)).mean()))
    ratio = float((mean.value / mean.bound).min())
    grown = float(mean.value.iloc[0] / mean.value.iloc[-1])
    return f"norm / bound >= {ratio:.2f}; layer 1 has {grown:.3g} times the last layer's", ratio >= 1 and grown >= 10


# ---- residual networks ----------------------------------------------------------------------------------------------


@rules.states(
    "(A.10)",
    "Residual networks follow P(rho) = (rho + sigma^2 C) / (1 + sigma^2 |phi|^2).",
    rule="within a factor 1.25 at the last layer, every network",
)
def residual_map(residual: pd.DataFrame) -> Judged:
    at_end = last(residual)
    logs = at_end.assign(off=np.log(at_end.distance / at_end.infinite))
    by_case = logs.groupby(["function", "sigma"]).off.mean()
    worst = max(by_case, key=abs)
    return (
        f"measured / infinite 1 - rho at layer {residual.layer.max()}, geometric mean over pairs and draws: "
        f"{math.exp(worst):.2f} farthest from 1 (of {len(by_case)} networks)",
        bool(by_case.abs().max() <= math.log(1.25)),
    )


@rules.states(
    "Theorem 2",
    "Residual networks' squared gain is at least the bound.",
    rule="holds at every layer, measured",
)
def residual_bound(residual: pd.DataFrame) -> Judged:
    one = residual[residual.bound > 0]
    ratio = one.measured_gain / one.bound
    return (
        f"measured squared gain / bound >= {ratio.min():.2f}, at infinite width {(one.gain / one.bound).min():.2f}",
        bool((ratio >= 1).all()),
    )


@rules.states(
    "Section 5.1",
    "sigma^2 ~ 1/L keeps deep residual networks well-behaved.",
    rule="smallest sigma: 1 - rho >= 0.5 from orthogonal inputs, squared gain <= 2",
)
def residual_scaling(residual: pd.DataFrame) -> Judged:
    depth, sigma = int(residual.layer.max()), float(residual.sigma.min())
    at_end = last(residual[(residual.sigma == sigma) & (residual.rho_0 == 0)])
    return (
        f"sigma = {sigma:g}, {depth} blocks: 1 - rho {at_end.distance.min():.2f} at least (from 1), squared gain "
        f"{at_end.measured_gain.max():.2f} at most (n = {len(at_end)})",
        bool(at_end.distance.min() >= 0.5 and at_end.measured_gain.max() <= 2),
    )


# ---- Figure 4 -------------------------------------------------------------------------------------------------------


@rules.states(
    "Section 4.2",
    "82 layers, 67 when a block of 16 is made one.",
    rule="82 and 67",
)
def fig4_layers(fig4: pd.DataFrame) -> Judged:
    layers = fig4[fig4.quantity == "layers"].groupby("network").value.first()
    return f"{layers.full:.0f} and {layers.skimmed:.0f}", layers.full == 82 and layers.skimmed == 67


def entrance(fig4: pd.DataFrame) -> int:
    return int(fig4[fig4.quantity == "farthest"]["index"].iloc[0])


@rules.states(
    "Section 4.2",
    "Pre-activations entering the middle block have correlation >= 0.97 on any pair of inputs.",
    rule="at least 0.965 for the pair found by gradient ascent" + AT_FULL_SIZE,
)
def fig4_correlation(fig4: Table) -> Judged:
    frame = fig4.frame
    block = entrance(frame)
    found = frame[frame.quantity == "farthest"].query("stage == 'before'").value
    here = frame[(frame["index"] == block) & (frame.stage == "before") & (frame.network == "full")]
    pairs = here[here.quantity == "largest distance"].value
    mean = here[here.quantity == "mean distance"].value.mean()
    infinite = frame[(frame.quantity == "infinite") & (frame["index"] == block)].value.iloc[0]
    return (
        f"entering layer {block + 1}: {1 - found.max():.3f} (found by ascent), {1 - pairs.max():.3f} (least of the "
        f"test pairs), {1 - mean:.3f} (their mean), {1 - infinite:.3f} (least at infinite width)",
        unless_small(fig4, bool(found.max() <= 0.035)),
    )


def skimming_error(fig4: pd.DataFrame) -> tuple[float, float]:
    """Average 1 - rho after the block before training: both networks for one input, and the full one for two inputs."""
    error = fig4[fig4.quantity == "skimming error"]
    here = (fig4.quantity == "mean distance") & (fig4.stage == "before") & (fig4.network == "full")
    return float(error.value.mean()), float(fig4[here & (fig4["index"] == error["index"].iloc[0])].value.mean())


@rules.states(
    "Section 4.2",
    "So the block can be replaced by its linearisation without affecting the outputs significantly (hypothesis).",
    rule="before training, after the block: 1 - rho of full and skimmed at most 0.1 of that of two inputs"
    + AT_FULL_SIZE,
)
def fig4_linear(fig4: Table) -> Judged:
    frame = fig4.frame
    error, apart = skimming_error(frame)
    return (
        f"1 - rho: {error:.4f} by skimming, {apart:.4f} between inputs, ratio {error / apart:.2f}",
        unless_small(fig4, error <= 0.1 * apart),
    )


@rules.states(
    "Fig. 4a",
    "Training does not change that significantly.",
    rule="mean 1 - rho of test pairs within a factor 2" + AT_FULL_SIZE,
)
def fig4_unchanged(fig4: Table) -> Judged:
    frame = fig4.frame
    here = frame[(frame.quantity == "mean distance") & (frame.network == "full") & (frame["index"] == entrance(frame))]
    before, after = (here[here.stage == stage].value.mean() for stage in ("before", "after"))
    return f"mean 1 - rho {before:.3f} before, {after:.3f} after training", unless_small(
        fig4, 0.5 <= after / before <= 2
    )


@rules.states(
    "Fig. 4c",
    "Both networks improve at similar rates.",
    rule="test accuracies apart by 0.05 at most on average over training; above 0.2 in the end" + AT_FULL_SIZE,
)
def fig4_curves(fig4: Table) -> Judged:
    frame = fig4.frame
    loss = frame[frame.quantity == "loss"].pivot_table(index="index", columns="network", values="value")
    accuracy = frame[frame.quantity == "accuracy"].pivot_table(index="index", columns="network", values="value")
    apart = float((accuracy.full - accuracy.skimmed).abs().mean())
    return (
        f"test accuracy in the end {accuracy.full.iloc[-1]:.3f} and {accuracy.skimmed.iloc[-1]:.3f}, apart by "
        f"{apart:.3f} on average; loss {loss.full.iloc[-1]:.2f} and {loss.skimmed.iloc[-1]:.2f}",
        unless_small(fig4, bool(apart <= 0.05 and accuracy.full.iloc[-1] > 0.2)),
    )


@rules.states(
    "Fig. 4b",
    "Pearson correlation of parameter displacements: up to 0.8 far from the block.",
    rule="at least 0.7 in one of the five first or last layers",
)
def fig4_far(fig4: pd.DataFrame) -> Judged:
    far, _ = far_and_near(fig4)
    best = far.max()
    return f"{best:.2f} in layer {far.idxmax()}, the largest of the {len(far)} farthest from the block", best >= 0.7


@rules.states(
    "Fig. 4b",
    "About 0.1, positive, near it.",
    rule="mean of the four layers on each side in (0, 0.3]",
)
def fig4_near(fig4: pd.DataFrame) -> Judged:
    _, near = far_and_near(fig4)
    mean, error = fluctuation(near.to_list())
    return (
        f"{mean:.2f} +- {error:.2f} (mean and standard error of the {len(near)} layers nearest to the block; median of "
        f"all layers {median_displacement(fig4):.2f})",
        bool(0 < mean <= 0.3),
    )
