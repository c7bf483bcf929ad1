"""What the paper claims of trained networks (section 3.2, Table 2), and the rule by which each claim is judged.

The thresholds below were fixed before the results they judge existed. Claims of Figs 1-3, which need no training, are
in bsnn.synthetic_claims; how checks become a verdict, in bsnn.verdicts. A training that diverged counts
as one that ends at chance: its network is of no use. One that crashed is no data.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from bsnn import paper
from bsnn.data import DATASETS
from bsnn.results import RUN_COLUMNS, runs_of, worst
from bsnn.verdicts import Check, Estimate, Part, Verdict, binomial_se, difference_in_se, estimate

CHANCE = {
    ("mnist", "train"): 100 * 6742 / 60_000,  # the share of ones
    ("mnist", "test"): 100 * 1135 / 10_000,
    ("cifar10", "train"): 10.0,
    ("cifar10", "test"): 10.0,
}
"""Accuracy of the best constant answer, in %: where a network ends whose gradients are 0. The paper's dead networks
have it."""

TRAINED_SE = 5.0
"""A network trains if its final test accuracy is this many standard errors above chance and above its accuracy before
training. 48 networks are judged: at 5 standard errors (p = 3e-7) not one of them passes by luck."""

RAISED_SE = 2.0
"""Two accuracies differ if 2 combined standard errors lie between them: the usual 95 %."""

HURT_SE = 5.0
"""Batch norm hurts if it costs this many combined standard errors of test accuracy: about 3.5 points at 50 %. More than
two, since the seed moves test accuracies of deep networks by more than the finite test set does."""

EXPLODED = 1e3
"""Ratio of the largest to the smallest layer gradient above which gradients explode: then no learning rate suits all
layers, an update that moves one by 1 % moves another by a hundred thousandth or tenfold."""

EXPLODED_TREND = -0.5
"""Spearman's correlation of gradient norm with layer, bottom to top, below which gradients grow on their way down. A
ratio alone can't tell explosion from vanishing; exponential growth gives -1."""

STABLE = 1e2
"""Ratio up to which gradients are called equal enough: over 200 layers a factor of at most 1.023 a layer."""

STABLE_DRIFT = 10.0
"""Factor by which the ratio may change from the first to the last interval and still be called stable."""

UNTRAINABLE = ("relu", "leaky_relu", "gelu")
UNHURT = ("elu", "selu")


def trained_claims(runs: pd.DataFrame, depth: int) -> list[Verdict]:
    """Claims 1 to 4 from runs (see bsnn.results.run_row) of networks with `depth` constrained layers."""
    verdicts = [untrainable_without_gpn(runs), gpn_raises(runs), batch_norm_explodes(runs), gpn_is_stable(runs)]
    if depth < paper.DEPTH:
        reason = f"the claim is about networks of {paper.DEPTH} layers, these have {depth}"
        return [replace(verdict, not_tested_because=reason) for verdict in verdicts]
    return verdicts


def paper_runs() -> pd.DataFrame:
    """The paper's own Table 2 as runs, to see what the rules say of it; gradients are not in it."""
    runs = paper.table2().assign(seed=0, status="ok")
    for split in ("train", "test"):
        runs[f"{split}_images"] = [getattr(DATASETS[name], f"{split}_size") for name in runs["dataset"]]
    runs["ratio_rows"] = 0
    return runs.reindex(columns=RUN_COLUMNS)


def untrainable_without_gpn(runs: pd.DataFrame) -> Verdict:
    plain: list[Check] = []
    normalised: list[Check] = []
    for dataset in paper.DATASETS:
        for activation in UNTRAINABLE:
            for gpn, checks in ((False, plain), (True, normalised)):
                outcome, measured = trains(runs, dataset, activation, gpn, False)
                holds = None if outcome is None else outcome == gpn
                required = f"{'above' if gpn else 'not above'} the bar"
                checks.append(Check(subject(dataset, activation, gpn, False), measured, required, holds))
    return Verdict(
        1,
        "Plain ReLU, LeakyReLU and GELU networks are untrainable at depth 200; their GPN versions train.",
        "A network trains if its last test accuracy exceeds both chance (the best constant answer) and its accuracy "
        f"before training by more than {TRAINED_SE:g} standard errors of the difference. Without batch norm.",
        [Part("plain: does not train", plain), Part("GPN: trains", normalised)],
    )


def gpn_raises(runs: pd.DataFrame) -> Verdict:
    raised, falls = [], 0
    compared = 0
    fallen: list[str] = []
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            for split in ("train", "test"):
                plain, gpn = (accuracy(runs, dataset, activation, is_gpn, False, split) for is_gpn in (False, True))
                distance = None if plain is None or gpn is None else difference_in_se(plain, gpn)
                if split == "train":
                    holds = None if distance is None else distance > RAISED_SE
                    measured = "no data" if plain is None or gpn is None else f"{_show(plain)} -> {_show(gpn)}"
                    measured += "" if distance is None else f" ({distance:+.1f} SE)"
                    name = subject(dataset, activation)
                    raised.append(Check(name, measured, f"more than {RAISED_SE:+g} SE", holds))
                elif distance is not None:
                    compared += 1
                    if distance < -RAISED_SE:
                        falls += 1
                        fallen.append(subject(dataset, activation))
    pairs = len(paper.DATASETS) * len(paper.ACTIVATIONS)
    not_always = Check(
        "all datasets and functions",
        f"falls in {falls} of {compared} pairs" + (f": {', '.join(fallen)}" if fallen else ""),
        "at least 1",
        True if falls else False if compared == pairs else None,
    )
    return Verdict(
        2,
        "GPN raises training accuracy for every function; test accuracy not always.",
        f"Raised: the GPN version's last accuracy is more than {RAISED_SE:g} combined standard errors above the plain "
        "one's. Not always: in at least one pair test accuracy falls by more than that. Without batch norm.",
        [Part("training accuracy is raised", raised), Part("test accuracy falls somewhere", [not_always])],
    )


def batch_norm_explodes(runs: pd.DataFrame) -> Verdict:
    explodes: list[Check] = []
    hurts: list[Check] = []
    spares: list[Check] = []
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            for gpn in (False, True):
                explodes.append(_explodes(runs, dataset, activation, gpn))
                (spares if activation in UNHURT else hurts).append(_hurts(runs, dataset, activation, gpn))
    return Verdict(
        3,
        "Batch norm makes gradients explode with every function, and hurts all but ELU and SELU.",
        f"Explode: in the first update the largest layer gradient is more than {EXPLODED:g} times the smallest, and "
        f"gradients grow towards the input (rank correlation with the layer < {EXPLODED_TREND:g}). The first update, "
        "because a row that has received a huge gradient becomes long, which by itself shrinks its later gradients. "
        f"Hurt: test accuracy more than {HURT_SE:g} combined standard errors below that without batch norm. Where "
        "neither network trains (claim 1) nothing can be hurt; where only the one with batch norm does, it does not "
        "hurt.",
        [
            Part("gradients explode", explodes),
            Part("hurts Tanh, ReLU, LeakyReLU, GELU", hurts),
            Part("does not hurt ELU, SELU", spares),
        ],
    )


def _explodes(runs: pd.DataFrame, dataset: str, activation: str, gpn: bool) -> Check:
    chosen = _finished(runs_of(runs, dataset, activation, gpn, True)).dropna(subset=["initial_ratio", "initial_trend"])
    required = f"> {EXPLODED:g}, trend < {EXPLODED_TREND:g}"
    if chosen.empty:
        return Check(subject(dataset, activation, gpn, True), "no data", required, None)
    ratio, trend = chosen["initial_ratio"].min(), chosen["initial_trend"].max()
    holds = bool(ratio > EXPLODED and trend < EXPLODED_TREND)
    return Check(subject(dataset, activation, gpn, True), f"{ratio:.3g}, trend {trend:.2f}", required, holds)


def _hurts(runs: pd.DataFrame, dataset: str, activation: str, gpn: bool) -> Check:
    """Whether batch norm hurts, or for `UNHURT` whether it doesn't."""
    name, spare = subject(dataset, activation, gpn), activation in UNHURT
    required = f"not below {-HURT_SE:+g} SE" if spare else f"below {-HURT_SE:+g} SE"
    without, with_norm = (accuracy(runs, dataset, activation, gpn, bn, "test") for bn in (False, True))
    if without is None or with_norm is None:
        return Check(name, "no data", required, None)
    distance = difference_in_se(without, with_norm)
    measured = f"{_show(without)} -> {_show(with_norm)} ({distance:+.1f} SE)"
    if not any(trains(runs, dataset, activation, gpn, bn)[0] for bn in (False, True)):
        return Check(name, f"{measured}; neither trains", required, None, applies=False)
    return Check(name, measured, required, (distance < -HURT_SE) != spare)


def gpn_is_stable(runs: pd.DataFrame) -> Verdict:
    checks = []
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            chosen = _finished(runs_of(runs, dataset, activation, True, False))
            chosen = chosen[chosen["ratio_rows"] > 0]
            name, required = subject(dataset, activation, True, False), f"<= {STABLE:g}, drift <= {STABLE_DRIFT:g}"
            if chosen.empty:
                checks.append(Check(name, "no data", required, None))
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                change = (chosen["ratio_last"] / chosen["ratio_first"]).to_numpy(dtype=np.float64)
                drift = worst(np.maximum(change, 1 / change))
            largest = worst(chosen["ratio_worst"])
            diverged = bool((chosen["status"] == "diverged").any())
            measured = f"largest {largest:.3g}, drift {drift:.3g}" + ", diverged" * diverged
            # nan compares false: gradients that are all 0 are not stable
            checks.append(Check(name, measured, required, not diverged and largest <= STABLE and drift <= STABLE_DRIFT))
    return Verdict(
        4,
        "GPN without batch norm keeps the gradient ratio small and stable all through training.",
        f"max_l / min_l of ||dE/dV_l||_F: its median in every interval between evaluations is at most {STABLE:g}, and "
        f"that of the last interval is within a factor {STABLE_DRIFT:g} of that of the first. With several seeds the "
        "worst counts.",
        [Part("small and stable", checks)],
    )


def trains(runs: pd.DataFrame, dataset: str, activation: str, gpn: bool, batch_norm: bool) -> tuple[bool | None, str]:
    """Whether a network trains (None: no data), and the numbers in words."""
    reached = accuracy(runs, dataset, activation, gpn, batch_norm, "test")
    if reached is None:
        return None, "no data"
    start = _finished(runs_of(runs, dataset, activation, gpn, batch_norm))["start_accuracy"].mean()
    reference = CHANCE[dataset, "test"] if math.isnan(start) else max(CHANCE[dataset, "test"], start)
    bar = reference + TRAINED_SE * math.hypot(reached.se, binomial_se(reference, reached.images))
    return reached.mean > bar, f"{_show(reached)}, bar {bar:.2f}"


def accuracy(
    runs: pd.DataFrame, dataset: str, activation: str, gpn: bool, batch_norm: bool, split: str
) -> Estimate | None:
    """The last accuracy over the seeds, those that diverged counting as chance; None without data."""
    chosen = _finished(runs_of(runs, dataset, activation, gpn, batch_norm))
    values = chosen[f"{split}_accuracy"].where(chosen["status"] == "ok", CHANCE[dataset, split])
    if chosen.empty or values.isna().any():
        return None
    return estimate(values.tolist(), int(chosen[f"{split}_images"].max()))


def subject(dataset: str, activation: str, gpn: bool | None = None, batch_norm: bool | None = None) -> str:
    return " ".join([DATASETS[dataset].label, activation + "-GPN" * bool(gpn) + "-BN" * bool(batch_norm)])


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] != "crashed"]


def _show(value: Estimate) -> str:
    return f"{value.mean:.2f} ± {value.se:.2f} %"
