"""Claims of the paper on trained networks (section 3.2, Table 2), each with the rule by which it is judged.

The thresholds below were fixed before the results they judge existed. Claims of Figs 1-3, which need no training, are
in bsnn.results.claims_synthetic; how checks become a verdict, in bsnn.results.verdicts. A training that diverged counts
as one that ends at chance: its network is of no use. One that crashed is no data.

A check compares networks after the same number of epochs: the largest that all of them have reached. Until they are
trained to the end, more training may change

    accuracies      both ways: a network that doesn't train yet may begin to, one that does may fall back or diverge
    first update    in no way: it has been made
    gradient ratio  from holding to failing; from failing to holding only if it failed by its drift, since the largest
                    of its medians never gets smaller
    divergence      in no way
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bsnn import paper
from bsnn.cell import Cell
from bsnn.data import DATASETS
from bsnn.results.budgets import PAPER, Key, table_configs
from bsnn.results.equal_epochs import after, at_equal_epochs, final
from bsnn.results.grid import RUN_COLUMNS, epochs_of, runs_of, worst
from bsnn.results.rules import Claims
from bsnn.results.statistics import Difference, Estimate, binomial_se, difference, estimate, holm
from bsnn.results.verdicts import Check, Part

CHANCE = {
    ("mnist", "train"): 100 * 6742 / 60_000,  # the share of ones
    ("mnist", "test"): 100 * 1135 / 10_000,
    ("cifar10", "train"): 10.0,
    ("cifar10", "test"): 10.0,
}
"""Accuracy of the best constant answer, in %: where a network ends whose gradients are 0. The paper's dead networks
have it."""

TRAINED_SE = 5.0
"""A trained network trains if its last test accuracy is this many standard errors above chance and above its accuracy
before training. The errors are those of the finite test set, since it is one network that is tested. Hundreds are: at 5
standard errors (p = 3e-7) not one of them passes by luck. A setting trains if most of its seeds' networks do."""

LEVEL = 0.05
"""Two accuracies differ if Welch's test says so at this level, two-sided. Where one difference among several is asked
for, the level is Holm's."""

HURT_SE = 5.0
"""Batch norm hurts if it costs this many combined standard errors of test accuracy, about 3.5 points at 50 %, and the
difference is also significant by Welch's test where there are several seeds. More than two, since the seed moves test
accuracies of deep networks by more than the finite test set does, which a single seed can't tell."""

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

claims = Claims()
"""Judged on `history`, see bsnn.results.grid.history."""


def paper_runs() -> pd.DataFrame:
    """The paper's own Table 2 as histories, to see what the rules say of it; gradients are not in it."""
    runs = paper.table2().assign(seed=0, status="ok", final=True)
    for split in ("train", "test"):
        runs[f"{split}_images"] = [getattr(DATASETS[name], f"{split}_size") for name in runs["dataset"]]
    configs = table_configs(PAPER)
    keys = (Key(*row) for row in runs[list(Key._fields)].itertuples(index=False))
    runs["epoch"] = runs["epochs"] = [epochs_of(Cell.from_config(configs[key])) for key in keys]
    runs["ratio_rows"] = 0
    return runs.reindex(columns=RUN_COLUMNS)


@claims.states(
    1,
    "Plain ReLU, LeakyReLU and GELU networks are untrainable at depth 200; their GPN versions train.",
    rule="A network trains if its last test accuracy exceeds both chance (the best constant answer) and its accuracy "
    f"before training by more than {TRAINED_SE:g} standard errors of the finite test set; with several seeds, if most "
    "of them do. Without batch norm.",
)
def untrainable_without_gpn(history: pd.DataFrame) -> list[Part]:
    plain: list[Check] = []
    normalised: list[Check] = []
    for dataset in paper.DATASETS:
        for activation in UNTRAINABLE:
            rows = at_equal_epochs(runs_of(history, dataset, activation, batch_norm=False))
            for gpn, checks in ((False, plain), (True, normalised)):
                of_one = rows[rows["gpn"] == gpn]
                outcome, measured = trains(of_one, dataset)
                holds = None if outcome is None else outcome == gpn
                required = f"{'above' if gpn else 'not above'} the bar"
                name = subject(dataset, activation, gpn, False)
                checks.append(_compared(Check(name, measured, required, holds), of_one))
    return [Part("plain: does not train", plain), Part("GPN: trains", normalised)]


@claims.states(
    2,
    "GPN raises training accuracy for every function; test accuracy not always.",
    rule="Raised: the GPN version's last accuracy is above the plain one's, significantly at the level of "
    f"{LEVEL:.0%} (two-sided; Welch's t test over the seeds, with one seed the error of the finite set alone). Not "
    "always: test accuracy falls significantly in at least one pair, by Holm's procedure over all pairs. Without batch "
    "norm.",
)
def gpn_raises(history: pd.DataFrame) -> list[Part]:
    raised: list[Check] = []
    on_test: dict[str, tuple[pd.DataFrame, Difference]] = {}
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            rows = at_equal_epochs(runs_of(history, dataset, activation, batch_norm=False))
            name = subject(dataset, activation)
            for split in ("train", "test"):
                plain, gpn = (accuracy(rows[rows["gpn"] == is_gpn], dataset, split) for is_gpn in (False, True))
                found = None if plain is None or gpn is None else difference(plain, gpn)
                if split == "train":
                    holds = None if found is None else found.in_se > 0 and found.p < LEVEL
                    measured = "no data" if plain is None or gpn is None else f"{_show(plain)} -> {_show(gpn)}"
                    measured += "" if found is None else f" ({_told(found)})"
                    raised.append(_compared(Check(name, measured, f"above, p < {LEVEL:g}", holds), rows))
                elif found is not None:
                    on_test[name] = rows, found
    pairs = len(paper.DATASETS) * len(paper.ACTIVATIONS)
    compared = [rows for rows, _ in on_test.values()]
    significant = holm([found.p for _, found in on_test.values()], LEVEL)
    falls = [
        (name, rows)
        for (name, (rows, found)), differs in zip(on_test.items(), significant, strict=True)
        if differs and found.in_se < 0
    ]
    named = ", ".join(name if final(rows) else f"{name} (after {after(rows)})" for name, rows in falls)
    not_always = Check(
        "all datasets and functions",
        f"falls in {len(falls)} of {len(compared)} pairs" + (f": {named}" if falls else ""),
        "at least 1",
        True if falls else False if len(compared) == pairs else None,
        after=", ".join(dict.fromkeys(after(rows) for rows in compared)),
        settled=any(final(rows) for _, rows in falls)
        or (len(compared) == pairs and all(final(rows) for rows in compared)),
    )
    return [Part("training accuracy is raised", raised), Part("test accuracy falls somewhere", [not_always])]


@claims.states(
    3,
    "Batch norm makes gradients explode with every function, and hurts all but ELU and SELU.",
    rule=f"Explode: in the first update the largest layer gradient is more than {EXPLODED:g} times the smallest, and "
    f"gradients grow towards the input (rank correlation with the layer < {EXPLODED_TREND:g}). The first update, "
    "because a row that has received a huge gradient becomes long, which by itself shrinks its later gradients. "
    f"Hurt: test accuracy more than {HURT_SE:g} combined standard errors below that without batch norm, and with "
    f"several seeds also p < {LEVEL:g} by Welch's t test. Where "
    "neither network trains (claim 1) nothing can be hurt; where only the one with batch norm does, it does not "
    "hurt.",
)
def batch_norm_explodes(history: pd.DataFrame) -> list[Part]:
    explodes: list[Check] = []
    hurts: list[Check] = []
    spares: list[Check] = []
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            for gpn in (False, True):
                explodes.append(_explodes(history, dataset, activation, gpn))
                (spares if activation in UNHURT else hurts).append(_hurts(history, dataset, activation, gpn))
    return [
        Part("gradients explode", explodes),
        Part("hurts Tanh, ReLU, LeakyReLU, GELU", hurts),
        Part("does not hurt ELU, SELU", spares),
    ]


def _explodes(history: pd.DataFrame, dataset: str, activation: str, gpn: bool) -> Check:
    chosen = _not_crashed(runs_of(history, dataset, activation, gpn, True))
    chosen = chosen.dropna(subset=["initial_ratio", "initial_trend"])
    name, required = subject(dataset, activation, gpn, True), f"> {EXPLODED:g}, trend < {EXPLODED_TREND:g}"
    if chosen.empty:
        return Check(name, "no data", required, None)
    ratio, trend = chosen["initial_ratio"].min(), chosen["initial_trend"].max()
    holds = bool(ratio > EXPLODED and trend < EXPLODED_TREND)
    return Check(name, f"{ratio:.3g}, trend {trend:.2f}", required, holds, after="the first update")


def _hurts(history: pd.DataFrame, dataset: str, activation: str, gpn: bool) -> Check:
    """Check that batch norm hurts, or for `UNHURT` that it doesn't."""
    name, spare = subject(dataset, activation, gpn), activation in UNHURT
    required = f"{'not ' * spare}below {-HURT_SE:+g} SE with p < {LEVEL:g}"
    rows = at_equal_epochs(runs_of(history, dataset, activation, gpn))
    both = [rows[rows["batch_norm"] == batch_norm] for batch_norm in (False, True)]
    without, with_norm = (accuracy(of_one, dataset, "test") for of_one in both)
    if without is None or with_norm is None:
        return Check(name, "no data", required, None)
    found = difference(without, with_norm)
    measured = f"{_show(without)} -> {_show(with_norm)} ({_told(found)})"
    if not any(trains(of_one, dataset)[0] for of_one in both):
        return _compared(Check(name, f"{measured}; neither trains", required, None, applies=False), rows)
    hurt = found.in_se < -HURT_SE and found.p < LEVEL
    return _compared(Check(name, measured, required, hurt != spare), rows)


@claims.states(
    4,
    "GPN without batch norm keeps the gradient ratio small and stable all through training.",
    rule=f"max_l / min_l of ||dE/dV_l||_F: its median in every interval between evaluations is at most {STABLE:g}, and "
    f"that of the last interval is within a factor {STABLE_DRIFT:g} of that of the first. With several seeds the "
    "worst counts.",
)
def gpn_is_stable(history: pd.DataFrame) -> list[Part]:
    checks = []
    for dataset in paper.DATASETS:
        for activation in paper.ACTIVATIONS:
            chosen = _not_crashed(runs_of(history, dataset, activation, True, False))
            chosen = chosen.sort_values("epoch").drop_duplicates("seed", keep="last")
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
            small = not diverged and bool(largest <= STABLE)
            holds = small and bool(drift <= STABLE_DRIFT)
            settled = not small or final(chosen)
            checks.append(Check(name, measured, required, holds, after=after(chosen), settled=settled))
    return [Part("small and stable", checks)]


def trains(rows: pd.DataFrame, dataset: str) -> tuple[bool | None, str]:
    """Tell whether most networks of a setting train (None: no data), with the numbers in words.

    `rows` are one setting's, at one epoch, a row a seed. Each network is tested by itself, so that a setting isn't
    called trained for one seed and untrained for three of the same kind.
    """
    reached = accuracy(rows, dataset, "test")
    if reached is None:
        return None, "no data"
    chance, images = CHANCE[dataset, "test"], reached.images
    ended = _or_chance(rows, dataset, "test")
    start = np.fmax(chance, rows["start_accuracy"].to_numpy(dtype=np.float64))
    noise = [math.hypot(*(binomial_se(one, images) for one in pair)) for pair in zip(ended, start, strict=True)]
    above = ended > start + TRAINED_SE * np.array(noise)
    count = "" if len(above) == 1 else f"; {above.sum()} of {len(above)} seeds train"
    bar = float(np.mean(start + TRAINED_SE * np.array(noise)))
    return bool(above.sum() * 2 > len(above)), f"{_show(reached)}, bar {bar:.2f}{count}"


def accuracy(rows: pd.DataFrame, dataset: str, split: str) -> Estimate | None:
    """The accuracy over the seeds, those that diverged counting as chance; None without data."""
    values = _or_chance(rows, dataset, split)
    if rows.empty or np.isnan(values).any():
        return None
    return estimate(values.tolist(), int(rows[f"{split}_images"].max()))


def _or_chance(rows: pd.DataFrame, dataset: str, split: str) -> NDArray[np.float64]:
    """The accuracies in %, those of trainings that diverged being chance."""
    values = rows[f"{split}_accuracy"].where(rows["status"] != "diverged", CHANCE[dataset, split])
    return values.to_numpy(dtype=np.float64)


def subject(dataset: str, activation: str, gpn: bool | None = None, batch_norm: bool | None = None) -> str:
    return " ".join([DATASETS[dataset].label, activation + "-GPN" * bool(gpn) + "-BN" * bool(batch_norm)])


def _compared(check: Check, rows: pd.DataFrame) -> Check:
    """The check, with how far the networks are trained that it compares."""
    if check.lacks_data:
        return check
    return replace(check, after=after(rows), settled=final(rows))


def _not_crashed(history: pd.DataFrame) -> pd.DataFrame:
    return history[history["status"] != "crashed"]


def _show(value: Estimate) -> str:
    return f"{value.mean:.2f} ± {value.se:.2f} %"


def _told(found: Difference) -> str:
    return f"{found.in_se:+.1f} SE, p {'< 1e-9' if found.p < 1e-9 else f'= {found.p:.1g}'}"
