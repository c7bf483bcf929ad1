"""Scripts that turn a budget's folder into tables, figures and the report: right numbers, same bytes, clear errors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bsnn import paper
from bsnn.errors import UserError
from bsnn.files import read_json, write_json
from bsnn.results import cli, grid
from bsnn.results.budgets import Key
from scripts import fig4, table1, table2
from scripts.report import __main__ as report
from scripts.report import account
from scripts.report.sweeps import where
from tests.factories import (
    CRASHED,
    DIVERGED,
    MISSING,
    PARTLY_DIVERGED,
    PROVENANCE,
    TWO_SEEDS,
    cell_of,
    make_record,
    paper_like_record,
    table_keys,
    write,
    write_smoke_grid,
)
from tests.results.test_claims import fig1, fig2, fig3

pytestmark = pytest.mark.xdist_group("report")  # the grid is made once
SCRIPTS = (table1, table2, fig4, report)
MADE = [
    *("table1.csv", "table1.md", "table2.csv", "table2.md", "table2.tex", "report.md", "claims.csv", "provenance.json"),
    *(f"{figure}.{suffix}" for figure in ("fig4", "fig4_mnist") for suffix in ("csv", "png", "pdf")),
]


def make_all(folder: Path) -> dict[str, bytes]:
    for script in SCRIPTS:
        script.main([str(folder)])
    return {name: (folder / name).read_bytes() for name in MADE}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_smoke_grid(tmp_path_factory.mktemp("one"))
    make_all(folder)
    return folder


def cells_of(markdown: str, row: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_same_files_same_bytes(smoke: Path, tmp_path: Path) -> None:
    """Elsewhere, and over what is already there."""
    first = {name: (smoke / name).read_bytes() for name in MADE}
    copy = tmp_path / "elsewhere" / "smoke"
    shutil.copytree(smoke, copy)
    assert make_all(copy) == first
    for name in ("report.md", "provenance.json", "claims.csv", "table2.md", "table2.tex", "fig4.pdf"):
        assert str(smoke.parent).encode() not in first[name]


def test_table2_csv_holds_the_records_numbers(smoke: Path) -> None:
    table = pd.read_csv(smoke / "table2.csv").set_index(list(Key._fields))
    printed = paper.table2().set_index(list(Key._fields))
    assert len(table) == 48
    for key in set(table_keys()) - {DIVERGED, CRASHED, MISSING, PARTLY_DIVERGED, TWO_SEEDS}:
        assert table.loc[tuple(key), ["train_mean", "test_mean"]].tolist() == printed.loc[tuple(key)].tolist()
    assert table.loc[tuple(MISSING), "status"] == "missing"


def test_table2_markdown(smoke: Path) -> None:
    text = (smoke / "table2.md").read_text()
    assert "smoke budget, NOT the paper's: depth 8 instead of 200" in text
    assert cells_of(text, "Tanh") == [
        *("99.05 (87.39)", "99.05 (87.39)", "**96.57** (89.32)", "**96.57** (89.32)"),
        *("80.84 (27.90)", "80.84 (27.90)", "**42.71** (29.32)", "**42.71** (29.32)"),
    ]
    two = grid.load(smoke).table.set_index(list(Key._fields)).loc[tuple(TWO_SEEDS)]
    assert f"{two['test_mean']:.2f} ± {two['test_sd']:.2f}" in cells_of(text, "ELU-GPN")[2]
    assert cells_of(text, "ReLU")[0] == "11.24 (div.<sup>2</sup>)"
    assert cells_of(text, "Tanh-GPN")[4] == "**96.39** (–<sup>1</sup>)"
    for note in (
        "MNIST ReLU-BN: diverged, its loss becoming nan or inf at step 150 (seed 0).",
        "CIFAR-10 Tanh-GPN-BN: crashed, RuntimeError: out of memory (seed 0).",
        "CIFAR-10 SELU: 1 of 2 seeds diverged, its loss becoming nan or inf at step 150 (seed 1).",
        "missing: not trained yet, there is no record.",
    ):
        number = re.search(rf"^(\d)\. {re.escape(note)}$", text, re.MULTILINE)
        assert number is not None, note
        assert f"<sup>{number[1]}</sup>" in text


def test_bold_is_where_the_paper_prints_it(tmp_path: Path) -> None:
    """Bold falls on the best of a function's four networks: applied to the paper's numbers, on what is bold there."""
    keys = table_keys()
    loaded = grid.from_records("smoke", [paper_like_record("smoke", key, evaluations=1) for key in keys])
    bold = re.findall(r"\*\*([\d.]+)\*\*", table2.markdown(loaded).split("\n\n", 1)[1])
    expected = (
        "96.57 42.71 99.81 96.39 33.28 28.13 46.60 34.96 43.17 49.28 51.85 39.38 97.48 45.76 100.00 99.37 "
        "99.92 97.39 98.24 45.90 97.67 95.82 90.51 36.94"
    )
    assert len(bold) == 48
    assert sorted(bold) == sorted(expected.split() * 2)  # ours and the paper's


def test_table2_latex(smoke: Path) -> None:
    text = (smoke / "table2.tex").read_text()
    rows = re.findall(r"^(\S+) & (.*) \\\\$", text, re.MULTILINE)
    assert [name for name, _ in rows][:4] == ["Tanh", "Tanh-GPN", "ReLU", "ReLU-GPN"]
    assert all(row.count("&") == 7 for _, row in rows)
    assert r"\textbf{96.57} (89.32)" in text
    assert r"\textsuperscript{2}~MNIST ReLU-BN: diverged" in text
    assert r"$\pm$" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert text.count("{") == text.count("}")


def test_table1(smoke: Path) -> None:
    table = pd.read_csv(smoke / "table1.csv").set_index("activation")
    # to 12 digits by 30-digit quadrature
    assert table.loc["tanh", ["a", "b"]].tolist() == pytest.approx([1.46741359163, 0.388541670067], abs=2e-10)
    assert table.loc["gelu", ["a", "b"]].tolist() == pytest.approx([1.49145922675, -0.909652801901], abs=2e-10)
    text = (smoke / "table1.md").read_text()
    assert (
        "11 of 12 constants agree with the paper's to its four decimals; not SELU's b (0.2584, printed 0.2585)" in text
    )
    assert "rounded to four decimals first (1.0507, 1.6733) the computation gives a = 0.9660, b = 0.2585" in text


def test_table1_says_so_if_more_than_selu_is_off() -> None:
    table = table1.constants("smoke")
    table.loc[0, "a"] += 0.01
    remark = table1.remark(table)
    assert remark.startswith("10 of 12")
    assert "Tanh's a (1.4774, printed 1.4674)" in remark
    assert "rounded to four decimals first" not in remark


def test_fig4(smoke: Path) -> None:
    for name in ("fig4", "fig4_mnist"):
        assert (smoke / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (smoke / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    curves = pd.read_csv(smoke / "fig4.csv")
    tanh = curves.query("activation == 'tanh' and not gpn and not batch_norm")
    assert tanh["epoch"].tolist() == [0.0, 0.5, 1.0]
    assert tanh["test_mean"].iloc[-1] == 42.71
    lost = curves.query("diverged")
    assert set(lost["activation"]) == {"selu"}
    assert lost["epoch"].tolist() == [0.0, 0.5]  # diverged at step 150 of 200: the row at step 200 is not shown
    both = pd.read_csv(smoke / "fig4_mnist.csv").query("activation == 'elu' and gpn and not batch_norm")
    assert both["n"].tolist() == [2, 2, 2]


def test_report_of_smoke(smoke: Path) -> None:
    text = (smoke / "report.md").read_text()
    first = text.split("\n\n")[1]
    assert first.startswith("**smoke budget, NOT the paper's: depth 8 instead of 200, width 16 instead of 500")
    assert text.count("**not tested**") >= 6
    assert "the claim is about networks of 200 layers, these have 8" in text
    # cells, ok, diverged, unfinished, crashed, missing, median s, min s, max s, sum s
    assert cells_of(text, "MNIST") == ["24", "24", "1", "0", "0", "0", "60", "60", "60", "1500"]
    assert cells_of(text, "CIFAR-10") == ["24", "22", "1", "0", "1", "1", "60", "60", "60", "1380"]
    assert "Missing: CIFAR-10 GELU-GPN." in text
    assert "Crashed: CIFAR-10 Tanh-GPN-BN." in text
    assert "`make reproduce BUDGET=smoke` trains what is missing" in text
    assert "**Agreement.**" not in text  # nothing of the paper's size
    assert "Also in this folder, but with other settings" in text
    assert cells_of(text, "mnist-elu-gpn-s0") == ["depth 9 instead of 8", "ok", "20.00", "19.00"]
    assert cells_of(text, "fashion_mnist-elu-gpn-s0")[0] == "dataset fashion_mnist"
    assert "Not drawn yet: `make fig1 BUDGET=smoke`" in text
    assert "![test accuracy during training, CIFAR-10](fig4.png)" in text
    assert (smoke / "table2.md").read_text().strip() in text
    assert cells_of(text, "MNIST ReLU")[1:] == ["inf", "0.94", "inf", "inf", "inf", "inf", "60"]
    assert cells_of(text, "CIFAR-10 GELU-GPN") == ["missing", *["–"] * 7]
    facts = read_json(smoke / "provenance.json")
    assert facts["runs"] == {"ok": 46, "diverged": 2, "crashed": 1}
    assert facts["training"]["commit"] == [{"value": PROVENANCE["commit"], "records": 49}]


def synthetic_figures(folder: Path) -> None:
    for name, table in (("fig1", fig1()), ("fig2", fig2()), ("fig3", fig3())):
        table.to_csv(folder / f"{name}.csv", index=False)
        config = {"figure": name, "depth": 200, "activations": {}}
        record = {"complete": True, "rows": len(table), "config": config, "provenance": PROVENANCE, "seconds": 12.0}
        write_json(folder / f"{name}.json", record)


def test_report_of_a_whole_budget(tmp_path: Path) -> None:
    for key in table_keys():
        write(tmp_path, paper_like_record("quick", key, evaluations=2))
    synthetic_figures(tmp_path / "quick")
    report.main([str(tmp_path / "quick")])
    text = (tmp_path / "quick/report.md").read_text()
    # claims 1 to 4 are about networks that quick's are smaller than, 5 and 6 about those of Figs 1-3
    assert re.findall(r"^### Claim (\d): (.*)$", text, re.MULTILINE) == [
        (str(k), "confirmed at this budget" if k <= 4 else "confirmed") for k in range(1, 7)
    ]
    assert "a check that the pipeline runs: 200 layers x 100 units, trained for 1 epoch.** It can't decide" in text
    assert "All results agree." in text
    assert "trains what is missing" not in text
    assert "Synthetic figures: fig1 12 s, fig2 12 s, fig3 12 s." in text
    assert "which lowers it" in text  # one epoch
    (tmp_path / "quick/fig1.csv").write_text("function,gpn\n")
    with pytest.raises(UserError, match=r"fig1.csv: expected \d+ rows"):
        report.main([str(tmp_path / "quick")])
    checks = pd.read_csv(tmp_path / "quick/claims.csv")
    assert set(checks["holds"]) == {"yes", "does not apply"}
    assert checks.groupby("claim").size().tolist() == [12, 13, 48, 12, 15, 6]


def test_disagreeing_records_are_told(tmp_path: Path) -> None:
    key = Key("mnist", "tanh", True, False)
    other = {**PROVENANCE, "dirty": True, "versions": {**PROVENANCE["versions"], "torch": "2.10.0"}}  # type: ignore[dict-item]
    records = [
        make_record(cell_of("quick", key, seed), "quick", provenance=facts)
        for seed, facts in enumerate((PROVENANCE, PROVENANCE, other))
    ]
    text = "\n".join(account.where(grid.from_records("quick", records), dict.fromkeys(account.SYNTHETIC)))
    assert "disagree among themselves in: dirty, version of torch" in text
    assert "| version of torch | 2.9.0 (2); 2.10.0 (1) |  |" in text
    assert "dirty: some were made from files that differ from the commit" in text


def test_the_paper_budget_is_compared_with_the_papers_run(tmp_path: Path) -> None:
    """Three seeds, one of which a network lacks. Accuracies 0.9 points off, and 1.1 with a small and a large spread."""
    plain, far, wide, few = (Key("mnist", name, True, False) for name in ("tanh", "relu", "elu", "gelu"))
    seeds = (0, 1, 2)
    shifts = {plain: (0.9, 0.9, 0.9), far: (1.0, 1.1, 1.2), wide: (0.6, 1.1, 1.6), few: (0.0, 0.1)}
    for key in table_keys():
        for seed, shift in zip(seeds, shifts.get(key, (0.0, 0.0, 0.0)), strict=False):
            printed = grid.runs_of(paper.table2(), *key).iloc[0]
            values = {f"{split}": printed[f"{split}_accuracy"] + shift for split in ("train", "test")}
            write(tmp_path, paper_like_record("paper", key, seed, evaluations=1, **values))
    loaded = grid.load(tmp_path / "paper")
    table = loaded.table.set_index(list(Key._fields))
    assert [table.loc[tuple(key), "test_agrees"] for key in (plain, far, wide, few)] == ["yes", "no", "yes", "yes"]
    assert table.loc[tuple(far), ["n", "test_mean", "test_sd"]].tolist() == [3, *map(pytest.approx, (29.23, 0.1))]
    text = table2.markdown(loaded)
    assert "mean ± standard deviation over n = 3 seeds" in text
    assert "MNIST GELU-GPN: n = 2." in text
    assert "for 47 of 48 train accuracies and 47 of 48 test accuracies." in text
    assert cells_of(text, "MNIST ReLU-GPN, test") == ["29.23 ± 0.10", "3", "28.13", "-1.10"]
    lines = "\n".join(account.what_ran(loaded, dict.fromkeys(account.SYNTHETIC)))
    assert "Not trained with seed 2: MNIST GELU-GPN." in lines
    assert '`make reproduce BUDGET=paper SET="seed=0,1,2"` trains what is missing' in lines


def test_one_seed_agrees_within_a_point(tmp_path: Path) -> None:
    keys = table_keys()
    off = dict(zip(keys, (0.99, 1.01), strict=False))
    records = []
    for key in keys[:-1]:
        printed = grid.runs_of(paper.table2(), *key).iloc[0]
        values = {split: printed[f"{split}_accuracy"] + off.get(key, 0.0) for split in ("train", "test")}
        records.append(paper_like_record("paper", key, evaluations=1, **values))
    loaded = grid.from_records("paper", records)
    assert loaded.table["test_agrees"].value_counts().to_dict() == {"yes": 46, "no": 1, "": 1}
    text = table2.markdown(loaded)
    assert "for 46 of 47 train accuracies and 46 of 47 test accuracies. With one seed only the second" in text
    assert set(grid.from_records("smoke", [make_record(cell_of("smoke", keys[0]), "smoke")]).table["test_agrees"]) == {
        ""
    }


def test_no_records_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    for script in (table2, fig4, report):
        with pytest.raises(UserError, match="expected records"):
            script.main([str(tmp_path / "smoke")])
    with pytest.raises(SystemExit, match=r"^error: .*expected records .*budget=smoke`\.$"):  # a text: exit code 1
        cli.run(lambda: report.main([str(tmp_path / "smoke")]))


def test_damaged_record_is_named(tmp_path: Path) -> None:
    write(tmp_path, make_record(cell_of("smoke", TWO_SEEDS), "smoke"))
    (path,) = tmp_path.rglob("record.json")
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(UserError, match="expected a record of schema 1"):
        report.main([str(tmp_path / "smoke")])


def test_a_sweep_is_told_in_a_sentence() -> None:
    both = {"Tanh": True, "ReLU": True}
    one, none = {"Tanh": True, "ReLU": False}, {"Tanh": False, "ReLU": False}
    expected = "train most at 10, 20 (2 of 2: Tanh, ReLU), fewest at 50, 100 (1 of 2: Tanh)"
    assert where({10: both, 20: both, 50: one, 100: one}) == expected
    assert where({10: one, 20: {"Tanh": False, "ReLU": True}}) == "train alike at 10, 20 (1 of 2)"
    expected = "train most at 10 (2 of 2: Tanh, ReLU), fewest at 20 (0 of 2)"
    assert where({10: both, 20: none, 30: {"Tanh": False}}) == expected
    assert where({10: {}}) == "have no data"
