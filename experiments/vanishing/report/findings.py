"""The findings of experiments.vanishing.report beyond the sources' statements."""

from __future__ import annotations

import math

import numpy as np

from bsnn.results.markdown import table as markdown_table
from bsnn.results.tables import Table
from experiments.vanishing.report.rules import first_to_last
from experiments.vanishing.report.runs import METHOD_NAMES, floors_of, last_tenth, seeds, summary

ADAM_EPSILON = 1e-8
RELU_SHORTCUT = 1.47374
"""Growth of a ReLU network's signal by one layer with a shortcut (tests/vanishing/test_tricks.py derives it)."""


def talk(talk: Table) -> list[str]:
    ratios, _ = first_to_last(talk.frame, "0.01")
    gpn, _ = first_to_last(talk.frame, "gpn")
    predicted = talk.frame[talk.frame.layer == 1].groupby(talk.frame.weights.astype(str)).predicted.first()
    measured = {name: np.exp(np.log(first_to_last(talk.frame, name)[0]).mean()) for name in predicted.index}
    rows = [
        [f"{'orthogonal, sigmoid-GPN' if name == 'gpn' else f'N(0, {float(name) ** 2:g} I)'}",
         f"{measured[name]:.4g}", f"{predicted[name]:.4g}"]
        for name in predicted.index
    ]  # fmt: skip
    return [
        "**The sigmoid network.** The talk's N(0, 0.01 I) is read as a variance; were 0.01 the standard deviation, the "
        f"gradients would vanish all the more: first / last layer {ratios.min():.2g} to {ratios.max():.2g}. The same "
        "network with orthogonal W and the sigmoid's GPN version has first / last layer "
        f"{gpn.min():.2f} to {gpn.max():.2f}. At infinite width the ratio follows from Gaussian integrals "
        "(`bsnn.vanishing.gaussian_weights`):",
        markdown_table(["entries of W", "first / last layer, measured (geometric mean)", "width to infinity"], rows),
    ]


def chain(chain: Table) -> list[str]:
    frame = chain.frame[(chain.frame.law == "random") & (chain.frame.scale == 1.0)]
    relu = frame[frame.function == "relu"].set_index("depth").vanished
    depths = [depth for depth in (1, 2, 5, 10, 20, 50) if depth in relu.index]
    rows = [[depth, f"{relu[depth]:.4f}", f"{1 - 2.0**-depth:.4f}"] for depth in depths]
    deepest = chain.frame[chain.frame.depth == chain.frame.depth.max()]
    tanh = deepest[(deepest.function == "tanh") & (deepest.scale == 1.0)].set_index("law")
    share = tanh.weights["random"] / (tanh.weights["random"] + tanh.slopes["random"])
    one = chain.frame[(chain.frame.function == "tanh") & (chain.frame.law == "fixed") & (chain.frame.scale == 1.0)]
    late = one[one.depth >= one.depth.max() / 5]
    exponent = np.polyfit(np.log10(late.depth), late.slopes, 1)[0]
    return [
        "**Equation (23).** A ReLU's factor is 1 for z > 0 but 0 for z < 0, and a random chain meets a z < 0 soon: "
        "every layer halves the share of chains whose derivative is not exactly 0. In a wide layer other units remain.",
        markdown_table(["depth", "share of random ReLU chains with df/dw_1 = 0", "1 - 2^-depth"], rows),
        "Tanh's slope is 1 at 0, and with w_l = 1 or below its chain goes there: the product of its slopes falls as "
        f"depth^{exponent:.2f} here (w_l = 1; depth^-1.5 in the limit, since z_l ~ (3 / 2 l)^(1/2)), not "
        f"exponentially. With w_l ~ N(0, 1) {share:.0%} of the decades that df/dw_1 loses are due to the weights, "
        "E ln |w| = -0.635. Large weights saturate sigmoid and tanh: the factor w sigma'(z) of w_l = 4 is below that "
        "of w_l = 1.",
    ]


def quadratic(quadratic: Table) -> list[str]:
    frame = quadratic.frame[quadratic.frame.special.isna() & np.isfinite(quadratic.frame.steps)]
    late = (frame.steps - frame.steps_bound).max()
    long = frame[frame.steps_bound >= 100]
    early = (1 - long.steps / long.steps_bound).max() if len(long) else 0.0
    above = quadratic.frame[quadratic.frame.special == "above the threshold"]
    return [
        f"**theta^T Q theta.** Steps needed, by running it in turned coordinates, against the bound log(tolerance) / "
        f"log rho: at most {late:.0f} later, and where it takes 100 steps or more at most {early:.1%} earlier "
        f"({len(frame)} pairs of step size and condition number; the start is (1, 1) in the eigenvectors' coordinates, "
        "the bound is for the worst start). A thousandth above the threshold "
        f"{int(np.isinf(above.steps).sum())} of {len(above)} runs do not arrive. In the talk's convention "
        "all step sizes are twice as large and all numbers of steps the same.",
    ]


def paths(paths: Table) -> list[str]:
    frame = paths.frame[paths.frame.rule == "normalised"]
    rows = []
    for decades in sorted(frame.decades.unique()):
        floors = floors_of(frame, decades)
        rows.append(["fixed" if decades == 0 else f"{decades:g} decades", *(f"{value:.2g}" for value in floors)])
    head = ["decay of eta", *(f"eta = {eta:g}" for eta in sorted(frame.eta.unique()))]
    return [
        "**The simple solution on theta^T Q theta**: rms of ||theta|| over the second half of the steps, from "
        "||theta|| = 1.41. Too little decay leaves a floor, too much stops short of the minimum.",
        markdown_table(head, rows),
    ]


def deep(deep: Table) -> list[str]:
    frame = deep.frame
    ends = last_tenth(frame[frame.rule == "normalised"], ["decades", "eta"]).unstack("eta")
    rows = [
        ["fixed" if decades == 0 else f"{decades:g} decades", *(f"{value:.2g}" for value in row)]
        for decades, row in ends.iterrows()
    ]
    others = {rule: last_tenth(frame[frame.rule == rule], ["eta"]) for rule in ("constrained", "gradient")}
    told = [", ".join(f"{value:.2g} at {eta:g}" for eta, value in found.items()) for found in others.values()]
    sizes = deep.config["sizes"]["deep"]
    return [
        f"**The simple solution on a Tanh network of depth {sizes['depth']} and width {sizes['width']}** "
        f"({sizes['images']} MNIST images, all of them at every one of {sizes['steps']} steps, squared error): loss "
        "over the last tenth of the steps.",
        markdown_table(["decay of eta", *(f"eta = {eta:g}" for eta in ends.columns)], rows),
        f"With fixed eta and rows of W kept at norm 1: {told[0]}. Plain gradient descent: {told[1]}.",
    ]


def tricks(tricks: Table) -> list[str]:
    found = summary(tricks.frame)
    rows = []
    for function in tricks.frame.function.unique():
        for method in METHOD_NAMES:
            one = found.loc[(method, function)]
            accuracies = [f"{one.train:.1f}", f"{one.test:.1f} ± {one.se:.1f}"]
            if math.isinf(one.loss):
                accuracies = ["diverged", "diverged"]
            rate = f"{one.rate:g}" + " (edge)" * bool(one.edge)
            norms = [f"{one.ratio:.3g}", f"{one.norm:.2g}", f"{one.last_ratio:.3g}"]
            loss = f"{one.loss:.3g}" + f" ± {one.loss_sd:.2g}" * math.isfinite(one.loss_sd)
            rows.append([function, METHOD_NAMES[method], rate, loss, *accuracies, *norms])
    head = ["function", "method", "chosen rate", "loss, last tenth", "train %", "test %", "ratio at the start",
            "largest norm", "ratio at the end"]  # fmt: skip
    sizes = tricks.config["sizes"]["tricks"]
    depth = sizes["depth"]
    ranks = []
    for function in tricks.frame.function.unique():
        order = found.xs(function, level="function").loss.sort_values()
        better = [METHOD_NAMES[method] for method in order.index[order < order["gpn"]]]
        ranks.append(f"{function}: {', '.join(better) or 'none'}")
    texts = [
        f"**The tricks against GPN at equal steps**: depth {depth}, width {sizes['width']}, {sizes['steps']} steps of "
        f"64 MNIST images, {seeds(tricks.frame)}; loss ± sd. Each method at the rate of the lowest training loss over "
        "the last tenth of the steps on one more seed (edge: the smallest or largest tried). Ratio: max / min over "
        "layers of ||dE/dV||_F.",
        markdown_table(head, rows),
        f"Methods that end with a lower training loss than GPN with plain SGD: {'; '.join(ranks)}.",
    ]
    relu = found.xs("relu", level="function")
    if math.isinf(relu.loss["shortcuts"]):
        texts.append(
            "Shortcuts diverge with ReLU at every rate: the branch's mean adds up, and the signal grows by a factor of "
            f"1.474 a layer, 10^{depth * math.log10(RELU_SHORTCUT):.0f} over {depth} "
            "(`bsnn.vanishing.tricks.shortcut_growth`)."
        )
    if relu.norm["nothing"] < ADAM_EPSILON:
        texts.append(
            f"Plain ReLU's gradients are alike from layer to layer (ratio {relu.ratio['nothing']:.3g}) and all of them "
            f"tiny (largest norm {relu.norm['nothing']:.1e}): below Adam's epsilon, 1e-8, so that Adam doesn't see "
            "them, and clipping only makes gradients smaller. Equal gradients are not yet gradients that train."
        )
    return texts
