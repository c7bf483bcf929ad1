"""Findings of the study about what the theory leaves open."""

from __future__ import annotations

import math

import pandas as pd

from bsnn import paper
from bsnn.results.markdown import table
from bsnn.results.tables import Table
from experiments.beyond.report import rules_orthogonal as of_orthogonal
from experiments.beyond.report import rules_rivals as of_rivals
from experiments.beyond.report.rules_convolution import best, ratios
from experiments.beyond.report.rules_during import NEAR_ORTHOGONAL


def meaning_of_the_law(law: pd.DataFrame) -> list[str]:
    rows = []
    for name in paper.ACTIVATIONS:
        one = law[law.function == name]
        at = one[(one.depth == 200) & (one.width == 500)]
        cells = [f"{math.exp(at.single.iloc[0]):.2f}", f"{math.exp(at['mean'].iloc[0]):.2f}"] if len(at) else ["–", "–"]
        first = one.iloc[0]
        width = first.width * (first.simple_single / math.log(2)) ** 2 * 200 / first.depth
        rows.append([paper.LABELS[name], f"{first.fourth:.3f}", f"{first.gain:.2f}", *cells, f"{width:.0f}"])
    head = ["GPN function", "E phi'^4", "gain", "one sample, 200 x 500", "mean over samples", "width for a factor 2"]
    return [
        "**A law for Fig. 3.** Nothing restores the norm of the error on its way down. Each layer multiplies its "
        "square by 1 + eta, d Var eta = 3 (E phi'^4 - 1) less a small term. So max/min of one sample's gradient norms"
        " is about exp(0.8 sqrt(3 (E phi'^4 - 1) L / d)), the range of a random walk. With depth inputs become alike,"
        " but their errors stay independent: then samples share a third of the noise, and the mean over samples, "
        "which Fig. 3 shows, is about exp(0.8 sqrt((E phi'^4 - 1) L / d)). Where the gain is near 1 (ReLU) the "
        "signal's norm walks, too, and adds to it. **Width must grow with depth**, in proportion, for every function "
        "that isn't linear: E phi'^4 = 1 only for phi(x) = +-x. The last column is the width at which one sample's "
        "ratio stays at 2 over 200 layers, by the short formula.",
        table(head, rows),
    ]


def depth_and_width(deeper: pd.DataFrame) -> list[str]:
    shapes = list(dict.fromkeys(zip(deeper.depth, deeper.width, strict=True)))
    rows = []
    for name, of in deeper.groupby("function", sort=False):
        at = of.set_index(["depth", "width"])
        cells = [f"{at.test_accuracy[shape]:.1f} ({at.initial_ratio[shape]:.3g})" for shape in shapes]
        rows.append([paper.LABELS[str(name)], *cells])
    deepest = deeper[deeper.depth == deeper.depth.max()]
    ends = [
        deepest[deepest.width == width].set_index("function") for width in (deepest.width.min(), deepest.width.max())
    ]
    told = [
        f"{paper.LABELS[name]} {ends[0].initial_ratio[name]:.3g} to {ends[1].initial_ratio[name]:.3g}, accuracy "
        f"{ends[0].test_accuracy[name]:.1f} to {ends[1].test_accuracy[name]:.1f} %"
        for name in ends[0].index
    ]
    return [
        f"**Deeper.** GPN networks on MNIST after {deeper.step.max()} updates, trained as Table 2's, one seed: test "
        "accuracy in %, and in parentheses max/min of the layers' gradients in the first update. Width brings the "
        f"gradients of {deepest.depth.max()} layers nearer together, as the law says. It is necessary, not sufficient: "
        f"from width {deepest.width.min()} to {deepest.width.max()} {'; '.join(told)}. Where the ratio is small and "
        "the network still doesn't learn in so many updates, something else holds it back: width doesn't keep inputs "
        "from becoming alike with depth, and no learning rate was tuned.",
        table(["GPN function", *(f"{depth} x {width}" for depth, width in shapes)], rows),
    ]


def isometry(jacobian: pd.DataFrame) -> str:
    deepest = jacobian[jacobian.gpn.astype(bool) & (jacobian.depth == jacobian.depth.max())]
    widest = deepest[deepest.width == deepest.width.max()].groupby("function").participation.mean()
    told = ", ".join(f"{paper.LABELS[name]} {100 * widest[name]:.1f} %" for name in paper.ACTIVATIONS)
    return (
        "**GPN is not dynamical isometry.** A GPN network keeps the mean square of its Jacobian's singular values, "
        "hence the norm of a random error. It doesn't keep each singular value: their spread grows with depth, and at "
        f"{jacobian.depth.max()} layers of width {deepest.width.max()} a small share of the directions carries the sum "
        f"of squares: {told}. Most directions of the input are lost, which is the shrinkage of representations seen "
        "from the Jacobian's side. Plain Tanh, which goes linear, keeps its spread."
    )


def in_training(during: pd.DataFrame) -> list[str]:
    steps = sorted(during.step.unique())
    medians = during.groupby(["version", "function", "step"], sort=False).median(numeric_only=True)
    columns = {
        "||W W^T - I||_F / sqrt(N)": "drift", "sd of h": "deviation", "distance from N(0, 1)": "distance",
        "E phi'^2": "slope", "share of phi' near 1": "near", "Jacobian's participation": "jacobian_participation",
    }  # fmt: skip
    rows = []
    for version in dict.fromkeys(during.version):
        for name in dict.fromkeys(during.function):
            ends = [
                [float(medians[key][version, name, step]) for key in columns.values()] for step in (steps[0], steps[-1])
            ]
            cells = [
                "–" if math.isnan(first) else f"{first:.2g} -> {last:.2g}" for first, last in zip(*ends, strict=True)
            ]
            rows.append([f"{paper.LABELS[name]}, {version}", *cells])
    gpn = during[(during.version == "GPN") & (during.step == steps[-1])]
    near = gpn.drift.max() <= NEAR_ORTHOGONAL
    relaxed = ", at the paper's learning rate" * bool(near)
    told = ""
    if "batch norm" in set(during.version):
        of = medians.loc["batch norm"].unstack("step", sort=False)
        shown = ", ".join(
            f"{paper.LABELS[name]} {of.gamma[steps[1]][name]:.2g} and {of.drift[steps[1]][name]:.2g}"
            for name in of.index
        )
        told = (
            f" **Batch norm** against this: where the first gradients explode, the first {steps[1]} updates throw its "
            f"scales (from 1) and W (from 0) far away, in the median layer to {shown}. What trains from there on is "
            "not the network that was drawn."
        )
    return [
        f"**In training.** Start -> after {steps[-1]} updates, median over the layers shown; MNIST, one seed. While a "
        f"GPN network trains, W leaves orthogonality by {gpn.drift.min():.1g} to {gpn.drift.max():.1g}, where "
        f"independent rows would have 1{relaxed}.{told}",
        table(["", *columns], rows),
    ]


def convolutions(convolution: pd.DataFrame) -> list[str]:
    found, spread = best(convolution), ratios(convolution)
    rates = convolution.rate.agg(["min", "max"]).tolist()
    rows = []
    for row in found.reset_index().to_dict("records"):
        edge = " (edge)" * (row["rate"] in rates)
        ratio = spread[row["version"], row["function"]]
        name = f"{paper.LABELS[row['function']]}, {row['version']}"
        rows.append(
            [name, f"{ratio:.3g}", f"{row['rate']:g}{edge}", f"{row['loss']:.3f}", f"{row['test_accuracy']:.1f}"]
        )
    head = ["", "max/min gradient, first update", "best rate", "training loss", "test accuracy, %"]
    accuracy = found.test_accuracy
    told = ", ".join(
        f"{paper.LABELS[name]} {accuracy['plain', name]:.1f} -> {accuracy['GPN', name]:.1f} %"
        for name in spread["GPN"].index
    )
    return [
        f"**Convolutions.** Plain networks of {convolution.layer.max()} convolutions on CIFAR-10, SGD with momentum, "
        "the rate of the lowest training loss among those tried, one seed. 2.303 is the loss of a network that has "
        f"learnt nothing. From plain to GPN test accuracy goes {told}: an even gradient need not mean a faster "
        "training where a plain function keeps its signal otherwise, by going linear or by a fixed point. The law's "
        "width is the number of channels here, which is small.",
        table(head, rows),
    ]


def constraints(orthogonal: pd.DataFrame, orthogonal_cost: pd.DataFrame) -> list[str]:
    chosen, ratios = of_orthogonal.best(orthogonal), of_orthogonal.cost(orthogonal_cost)
    names = list(dict.fromkeys(orthogonal.function))
    at = orthogonal.groupby(["function", "constraint", "rate"]).test_accuracy.mean()
    rates = sorted(orthogonal.rate.unique())
    rows = []
    for constraint in dict.fromkeys(orthogonal.constraint):
        of = orthogonal[orthogonal.constraint == constraint]
        cells = [" / ".join(f"{at[name, constraint, rate]:.1f}" for rate in rates) for name in names]
        rows.append(
            [constraint, *cells, f"{of.frobenius.max():.1g}", *(f"{ratio:.2f}" for ratio in ratios[constraint])]
        )
    told = ", ".join(
        f"{paper.LABELS[name]} {of_orthogonal.accuracy(chosen, name, 'row').mean:.1f} -> "
        f"{of_orthogonal.accuracy(chosen, name, 'orthogonal').mean:.1f} %"
        for name in names
    )
    head = [
        "constraint", *(f"{paper.LABELS[name]}-GPN, % at rate {' / '.join(f'{rate:g}' for rate in rates)}"
        for name in names), "||W W^T - I||_F", *(f"time, width {width}" for width in ratios.index),
    ]  # fmt: skip
    return [
        "**Orthogonal all the way.** The same GPN networks under seven constraints on W, MNIST, test accuracy after "
        f"equally many updates, mean of {orthogonal.draw.nunique()} draws; the largest distance from orthogonality at "
        "the end; and an update's time over that with rows of norm one, both trained by autograd. From rows of norm "
        f"one to exact orthogonality, each at the rate of its lowest training loss: {told}. A way back to the manifold "
        f"takes a few products of N x N matrices, so that its share grows with the width and falls with the batch "
        f"(here {orthogonal_cost.batch.max()}): polar costs {ratios.orthogonal.iloc[0]:.2g} times as much at width "
        f"{ratios.index[0]}, {ratios.orthogonal.iloc[-1]:.2g} at {ratios.index[-1]}.",
        table(head, rows),
    ]


def rivals(rivals: Table) -> list[str]:
    frame = rivals.frame
    found, ratio = of_rivals.accuracies(frame, of_rivals.images_of(rivals)), of_rivals.ratios(frame)
    tuning, test = (frame[frame.stage == stage] for stage in ("tuning", "test"))
    sizes = rivals.config["sizes"]["rivals"]
    rows = []
    for method in sorted(found, key=lambda one: -found[one].mean):
        tried, of = tuning[tuning.method == method], test[test.method == method]
        rate = of.rate.iloc[0]
        edge = " (edge)" * (rate in (tried.rate.min(), tried.rate.max()))
        rows.append(
            [
                method, f"{found[method].mean:.1f} ± {found[method].se:.1f}", f"{of.loss.mean():.3f}",
                f"{rate:g}{edge}", f"{ratio[method]:.3g}",
            ]
        )  # fmt: skip
    head = ["", "test accuracy, %", "training loss", "rate", "max/min gradient, first update"]
    return [
        f"**Beside its rivals.** {sizes['depth']} layers of width {sizes['width']} on MNIST, {sizes['updates']} "
        "updates each; the rate chosen by held-back training images among "
        f"{(tuning.method == rows[0][0]).sum()} for every method, then {test.seed.nunique()} other seeds at it. GPN "
        "and tailored activations state the same two conditions, E phi^2 = E phi'^2 = 1: a tailored Tanh *is* the GPN "
        "function of tanh(alpha x + beta). They differ in how nonlinear a layer is: alpha and beta make the tailored "
        "one linear but for about 1 / L, so that different inputs stay different up to the top, where the GPN function "
        "of Tanh itself brings them together (the study bridge shows how fast). So normalisation keeps "
        "the gradient's size, and does not decide what a deep network learns first. Few updates favour what learns "
        "early, and say nothing about where a method ends; and the law for Fig. 3 asks GPN networks for a width in "
        "proportion to their depth.",
        table(head, rows),
    ]
