"""Test accuracy at equal training loss."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from bsnn.results.generalisation import accuracy_at, compared, whole_epochs


def curve(losses: list[float], accuracies: list[float], gpn: bool = False, seed: int = 0) -> pd.DataFrame:
    """One network's evaluations, one an epoch."""
    return pd.DataFrame({
        "dataset": "mnist", "activation": "tanh", "gpn": gpn, "batch_norm": False, "seed": seed, "status": "ok",
        "epoch": [float(epoch) for epoch in range(1, len(losses) + 1)], "train_loss": losses,
        "test_accuracy": accuracies,
    })  # fmt: skip


def test_equal_functions_of_the_loss_don_t_differ_however_fast_they_are() -> None:
    """Both have accuracy 100 - 20 loss; the GPN network gets there in half of the epochs, and further."""
    slow, fast = [2.0, 1.6, 1.2, 0.8, 0.4], [2.0, 1.2, 0.4, 0.1]
    both = [curve(losses, [100 - 20 * loss for loss in losses], gpn) for losses, gpn in ((slow, False), (fast, True))]
    (row,) = compared(pd.concat(both)).to_dict("records")
    assert row["loss"] == 0.4
    assert row["plain"] == pytest.approx(92)
    assert row["gpn"] == pytest.approx(92)


def test_the_one_that_generalises_better_is_seen() -> None:
    losses = [2.0, 1.0, 0.5]
    both = [curve(losses, [one + bonus for one in (30, 60, 80)], gpn) for gpn, bonus in ((False, 0), (True, 5))]
    (row,) = compared(pd.concat(both)).to_dict("records")
    assert (row["plain"], row["gpn"]) == (80, 85)
    assert row["in_se"] > 5


def test_between_evaluations_it_is_interpolated_where_the_loss_first_gets_there() -> None:
    one = curve([2.0, 1.0, 1.5, 0.5], [20, 60, 50, 80])
    assert accuracy_at(one, 1.25) == pytest.approx(50)
    assert accuracy_at(one, 1.0) == 60
    assert math.isnan(accuracy_at(one, 0.4))


def test_what_cannot_be_compared_is_left_out() -> None:
    good = curve([2.0, 1.0], [20, 60])
    dead = curve([2.302, 2.302], [10, 10], gpn=True)
    assert compared(pd.concat([good, dead])).empty
    assert compared(good).empty  # no GPN network
    at_once = curve([0.5, 0.4], [80, 85], gpn=True)  # its first epoch ends below the other's last loss
    assert compared(pd.concat([good, at_once])).empty


def test_only_ends_of_epochs_without_batch_norm_count() -> None:
    made = curve([2.0, 1.0, 0.5, 0.4], [20, 60, 70, 80]).assign(epoch=[0.5, 1.0, 2.0, 3.0])
    made.loc[3, "batch_norm"] = True
    assert list(whole_epochs(made)["train_loss"]) == [1.0, 0.5]
    assert whole_epochs(made.assign(status="diverged")).empty
