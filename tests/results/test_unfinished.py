"""Unfinished trainings downstream: every number with its epoch, comparisons at equal epochs, verdicts that can change.

The made-up accuracies give the wrong answer wherever networks are compared at different epochs.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bsnn.results import grid as results
from bsnn.results.budgets import Key
from bsnn.results.equal_epochs import after, at_equal_epochs
from bsnn.results.grid import Results
from bsnn.results.records import Record
from bsnn.results.verdicts import Check, Part, Verdict, of_smaller_networks
from scripts import fig4, publish, table2
from scripts.report import __main__ as report
from scripts.report import account
from tests.factories import PROVENANCE, paper_like_record, table_keys, trained_claims, unfinished_record, write

TANH = {name: Key("mnist", "tanh", gpn, bn) for name, (gpn, bn) in table2.VARIANTS.items()}
PLAIN, GPN, PLAIN_BN, GPN_BN = TANH.values()
# plain is ahead only because it is trained for longer
AHEAD = unfinished_record(PLAIN, [40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 94.0, 95.0])
BEHIND = unfinished_record(GPN, [60.0, 90.0])
FINISHED = unfinished_record(PLAIN_BN, [20.0, 30.0, *[45.0] * 6, *[99.0] * 42], status="ok")


def load(*records: Record) -> Results:
    return results.from_records("paper", records)


def entry(loaded: Results, key: Key) -> dict[str, Any]:
    return dict(loaded.table.iloc[list(loaded.expected).index(key)])


def checks(loaded: Results, number: int) -> dict[str, Check]:
    verdict = trained_claims(loaded.history)[number - 1]
    return {f"{part.says}: {check.subject}": check for part in verdict.parts for check in part.checks}


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {start} |")]


class TestEqualEpochs:
    def test_entries_are_as_far_as_they_are_and_compared_where_all_are(self) -> None:
        loaded = load(AHEAD, BEHIND, FINISHED)
        columns = ["status", "epoch", "epochs", "test_mean", "epoch_compared", "test_compared", "test_agrees"]
        found = {name: [entry(loaded, key)[column] for column in columns] for name, key in TANH.items()}
        assert found["plain"] == ["unfinished", 8, 50, 95.0, 2, 50.0, ""]
        assert found["GPN"] == ["unfinished", 2, 50, 90.0, 2, 90.0, ""]
        assert found["plain-BN"] == ["ok", 50, 50, 99.0, 2, 30.0, "no"]  # the paper: 89.32
        assert found["GPN-BN"][0] == "missing"
        assert math.isnan(found["GPN-BN"][1])

    def test_no_bold_across_epochs(self) -> None:
        """The finished network would win by its 50 epochs, the plain one by its 8; after 2 epochs GPN is ahead."""
        text = table2.markdown(load(AHEAD, BEHIND, FINISHED))
        plain, gpn = (lines(text, name)[0].split(" | ") for name in ("Tanh", "Tanh-GPN"))
        assert plain[3] == "95.00 @8 (99.00 @50)"
        assert gpn[3].startswith("90.00 @2 (–")
        second = text.split("**Table 2, at equal epochs.**")[1]
        assert lines(second, "MNIST Tanh") == [
            "| MNIST Tanh | 2 of 50 | 50.00 (49.00) | **90.00** (**89.00**) | 30.00 (29.00) | – |"
        ]
        latex = table2.latex(load(AHEAD, BEHIND, FINISHED))
        assert r"95.00\,{\scriptsize @8} (99.00\,{\scriptsize @50})" in latex
        assert r"\textbf{90.00} (\textbf{89.00})" in latex

    def test_bold_at_one_epoch(self) -> None:
        text = table2.markdown(load(unfinished_record(PLAIN, [40.0, 50.0]), BEHIND))
        assert "**90.00** @2" in lines(text, "Tanh-GPN")[0]
        assert "at equal epochs" not in text

    def test_the_paper_s_numbers_are_of_other_epochs(self) -> None:
        text = table2.markdown(load(AHEAD, BEHIND))
        assert "| MNIST test ours, @epoch of 50 | MNIST test paper, after 50 |" in text
        assert "**Agreement.** No cell is finished yet." in text
        some = table2.markdown(load(AHEAD, BEHIND, FINISHED))
        assert "for 0 of 1 train accuracies and 0 of 1 test accuracies." in some
        assert "Judged: the finished cells, 1 of 48." in some

    def test_claims_compare_at_equal_epochs(self) -> None:
        loaded = load(AHEAD, BEHIND, FINISHED)
        raised = checks(loaded, 2)["training accuracy is raised: MNIST tanh"]
        assert (raised.holds, raised.after, raised.settled) == (True, "2 of 50 epochs", False)
        assert raised.measured.startswith("49.00 ± 0.20 % -> 89.00")
        hurts = checks(loaded, 3)["hurts Tanh, ReLU, LeakyReLU, GELU: MNIST tanh"]
        assert (hurts.holds, hurts.after) == (True, "8 of 50 epochs")  # these two have both reached 8
        assert hurts.measured.startswith("95.00 ± 0.22 % -> 45.00")

    def test_seeds_that_are_not_so_far_yet_do_not_count(self) -> None:
        further = unfinished_record(GPN, [62.0, 92.0, 93.0, 94.0], seed=1)
        same = unfinished_record(GPN, [62.0, 92.0, 93.0, 96.0], seed=2)
        loaded = load(BEHIND, further, same)
        assert [entry(loaded, GPN)[name] for name in ("n", "epoch", "test_mean")] == [2, 4, 95.0]
        assert "MNIST Tanh-GPN: 1 of 3 seeds still at epoch 2 (seed 0)." in table2.markdown(loaded)
        done = unfinished_record(GPN, [50.0] * 50, seed=3, status="ok")
        assert [entry(load(further, done), GPN)[name] for name in ("status", "n", "test_mean")] == ["ok", 1, 50.0]

    def test_the_curve_is_over_the_same_seeds(self) -> None:
        further = unfinished_record(GPN, [62.0, 92.0, 93.0], seed=1)
        table = fig4.curves(load(BEHIND, further, AHEAD), "mnist")
        gpn = table[table["gpn"]]
        assert gpn[["epoch", "test_mean", "n"]].to_numpy().tolist()[1:] == [[1, 62, 1], [2, 92, 1], [3, 93, 1]]
        assert table["epoch"].max() == 8

    def test_diverged_networks_set_no_limit(self) -> None:
        lost = unfinished_record(GPN, [90.0], status="diverged", diverged_at_step=1000)
        rows = at_equal_epochs(load(AHEAD, lost).history)
        assert dict(zip(rows["status"], rows["epoch"], strict=True)) == {"unfinished": 8, "diverged": 1}
        assert after(rows[rows["status"] == "diverged"]) == "divergence"
        check = checks(load(AHEAD, lost), 2)["training accuracy is raised: MNIST tanh"]
        assert (check.holds, check.after, check.settled) == (False, "8 of 50 epochs", False)

    def test_first_weights_are_no_result(self) -> None:
        begun = unfinished_record(GPN, [])
        loaded = load(AHEAD, begun)
        assert [entry(loaded, GPN)[name] for name in ("status", "n")] == ["unfinished", 0]
        assert entry(loaded, PLAIN)["epoch_compared"] == 8
        assert fig4.curves(loaded, "mnist")["gpn"].sum() == 0
        assert checks(loaded, 2)["training accuracy is raised: MNIST tanh"].holds is None
        assert "MNIST Tanh-GPN: still at epoch 0 (seed 0)." in table2.markdown(loaded)


def grid(epochs: int, changes: dict[Key, dict[str, Any]] | None = None) -> pd.DataFrame:
    """Histories of all 48 networks after so many epochs, with the paper's accuracies but for the changes."""
    rows = []
    for key in table_keys():
        final = paper_like_record("paper", key)["rows"][-1]
        values: dict[str, Any] = {"test": [final["test_accuracy"]] * epochs, **(changes or {}).get(key, {})}
        record = unfinished_record(key, values.pop("test"), **values)
        if "test" not in (changes or {}).get(key, {}):
            for row in record["rows"][1:]:
                row["train_accuracy"] = final["train_accuracy"]
        rows += results.history(key, record)
    return pd.DataFrame(rows)


def said(history: pd.DataFrame, number: int) -> str:
    verdict = trained_claims(history)[number - 1]
    return verdict.outcome + verdict.suffix


def keys(gpn: bool, batch_norm: bool, *activations: str) -> list[Key]:
    return [Key(dataset, name, gpn, batch_norm) for dataset in ("mnist", "cifar10") for name in activations]


def every(chosen: list[Key], **values: Any) -> dict[Key, dict[str, Any]]:
    return dict.fromkeys(chosen, values)


UNTRAINABLE = ("relu", "leaky_relu", "gelu")
FUNCTIONS = ("tanh", "elu", "selu", *UNTRAINABLE)


class TestWhatMoreTrainingMayChange:
    def test_what_holds_holds_so_far(self) -> None:
        history = grid(2)
        assert [said(history, number) for number in (1, 2, 3, 4)] == ["confirmed so far"] * 4
        verdict = trained_claims(history)[2]
        assert [verdict.suffix_of(part) for part in verdict.parts] == [
            "",
            " so far",
            " so far",
        ]  # first updates are made
        assert "12 may still change with more training" in trained_claims(history)[0].reason

    def test_gpn_that_does_not_train_yet(self) -> None:
        late = every(keys(True, False, *UNTRAINABLE), test=[10.0, 10.0])
        assert said(grid(2, late), 1) == "not shown so far"
        for key in late:
            epochs = 50 if key.dataset == "mnist" else 100
            late[key] = {"test": [10.0] * epochs, "status": "ok"}
        plain = {
            key: {"test": [10.0] * (50 if key.dataset == "mnist" else 100), "status": "ok"}
            for key in keys(False, False, *UNTRAINABLE)
        }
        assert said(grid(2, late | plain), 1) == "refuted"

    def test_a_network_that_diverged_will_not_train(self) -> None:
        lost = every(keys(True, False, *UNTRAINABLE), status="diverged", diverged_at_step=5)
        assert said(grid(2, lost), 1) == "refuted"

    def test_accuracies_that_are_not_raised_yet(self) -> None:
        assert said(grid(2, every(keys(True, False, *FUNCTIONS), test=[11.0, 11.0])), 2) == "not shown so far"

    def test_the_first_update_is_final(self) -> None:
        equal = every(
            keys(False, True, *FUNCTIONS) + keys(True, True, *FUNCTIONS), gradient_norms={"first": [1.0, 2.0]}
        )
        assert said(grid(2, equal), 3) == "refuted"
        spared = every(keys(False, True, *FUNCTIONS) + keys(True, True, *FUNCTIONS), test=[99.9, 99.9])
        assert said(grid(2, spared), 3) == "not shown so far"

    def test_networks_that_do_not_train_yet_may_be_hurt_later(self) -> None:
        loaded = load(*(unfinished_record(key, [10.0, 10.0]) for key in (PLAIN, PLAIN_BN)))
        check = checks(loaded, 3)["hurts Tanh, ReLU, LeakyReLU, GELU: MNIST tanh"]
        assert (check.applies, check.settled) == (False, False)

    def test_a_ratio_that_was_large_stays_large(self) -> None:
        assert said(grid(2, every(keys(True, False, *FUNCTIONS), ratio=1e3)), 4) == "refuted"

    def test_a_ratio_may_drift_back(self) -> None:
        drifted = grid(2)
        drifted.loc[drifted["gpn"] & ~drifted["batch_norm"], ["ratio_first", "ratio_last"]] = [1.0, 50.0]
        assert said(drifted, 4) == "not shown so far"

    def test_smaller_networks_refute_nothing(self) -> None:
        finished = [paper_like_record("quick", key, test=10.0) for key in table_keys()]
        history = results.from_records("quick", finished).history
        verdict = trained_claims(history, papers_size=False)[0]
        assert (verdict.outcome, verdict.suffix) == ("not shown", " at this budget")
        assert trained_claims(history)[0].outcome == "refuted"
        assert set(verdict.table()["may change with"]) == {"the paper's size"}


@pytest.mark.parametrize(
    ("lost", "open_", "outcome"),
    [
        (2, 0, "refuted"),
        (0, 2, "not shown"),
        (2, 1, "refuted"),  # one of three at best
        (1, 1, "not shown"),  # one of two at best: mixed
    ],
)
def test_refuted_whatever_the_open_checks_say(lost: int, open_: int, outcome: str) -> None:
    part = Part("", [Check("", "", "", False, settled=k < lost) for k in range(lost + open_)])
    assert part.outcome == outcome
    verdict = Verdict(1, "", "", [part])
    assert (verdict.outcome, of_smaller_networks(verdict).outcome) == (outcome, "not shown")


def test_missing_data_are_not_counted_as_open() -> None:
    verdict = trained_claims(load(BEHIND).history)[1]
    assert verdict.reason == "13 of 13 checks have no data yet"


def test_a_check_that_may_apply_later_may_save_a_part() -> None:
    waiting = Check("", "", "", None, applies=False, settled=False)
    assert Part("", [Check("", "", "", False), waiting]).outcome == "not shown"
    assert Part("", [Check("", "", "", False), Check("", "", "", None, applies=False)]).outcome == "refuted"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something of everything: ok, diverged, unfinished, crashed, missing, trained on two machines."""
    root = tmp_path_factory.mktemp("results")
    step = 938
    moved = [
        {"first_step": 0, "last_step": 2 * step, "started": "1", "finished": "2", "provenance": PROVENANCE},
        {"first_step": 2 * step, "last_step": 8 * step, "started": "3", "finished": "4",
         "provenance": {**PROVENANCE, "device": "A GPU", "commit": "f" * 40}},
    ]  # fmt: skip
    stopped = unfinished_record(Key("cifar10", "elu", False, False), [20.0], error="OSError: disk full")
    for record in (
        AHEAD | {"segments": moved, "provenance": moved[1]["provenance"]},
        BEHIND,
        FINISHED,
        unfinished_record(GPN_BN, [10.0], status="diverged", diverged_at_step=950),
        unfinished_record(Key("mnist", "relu", True, False), [], status="crashed", error="RuntimeError: no"),
        stopped,
    ):
        write(root, record)
    return root / "paper"


def test_report_of_a_mixed_folder(folder: Path) -> None:
    fig4.main([str(folder)])
    report.main([str(folder)])
    text = (folder / "report.md").read_text()
    opening = text.split("## The paper's claims")[0]
    assert "The training isn't finished" in opening
    assert "MNIST: 3 of 24 networks, after 2 to 50 of 50 epochs; 1 diverged. CIFAR-10: 1 of 24 networks" in opening
    assert "`make reproduce BUDGET=paper` goes on" in opening
    assert "![test accuracy during training, MNIST (the paper shows CIFAR-10 only)](fig4_mnist.png)" in opening
    assert lines(text, "MNIST, without batch norm")[0].endswith("| 12 | 2 | 0 | 2 | 8 | 50 | 180 |")
    assert lines(text, "MNIST, with batch norm")[0].endswith("| 12 | 1 | 2 | 50 | 50 | 50 | 120 |")
    assert re.search(r"^\| A GPU \| f{40} \| no \| 1 \| 6 \| 3 \| 4 \|$", text, re.MULTILINE)
    assert re.search(r"^\| Some CPU, 2 cores \| 0\w+ \| no \| 6 \| 56 \|", text, re.MULTILINE)  # 2 + 2 + 50 + 1 + 0 + 1
    assert "commit, device" in text  # disagree
    assert "CIFAR-10 ELU: stopped by an error, OSError: disk full (seed 0)." in text
    assert (
        "Figure 4**: test accuracy during training, CIFAR-10; 1 of 24 networks, 1 unfinished after 1 of 100 epochs"
        in text
    )
    rows = pd.read_csv(folder / "claims.csv")
    assert set(rows["may change with"]) == {"data", "more training", "nothing"}


def test_a_record_counts_once_for_each_value_of_its_segments(folder: Path) -> None:
    found = account.of_records(results.load(folder).records)
    assert found["device"] == [("Some CPU, 2 cores", 6), ("A GPU", 1)]
    assert found["version of torch"] == [("2.9.0", 6)]


def test_publishing_needs_no_synthetic_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for script in (publish.table1, publish.table2, publish.fig1, publish.fig2, publish.fig3, publish.fig4,
                   publish.sweeps, publish.report, publish.page):  # fmt: skip
        monkeypatch.setattr(script, "main", lambda argv, name=script.__name__: called.append(name.split(".")[1]))
    publish.main([str(folder)])
    assert called == ["table1", "table2", "fig4", "sweeps", "report", "page"]
