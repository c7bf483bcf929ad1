"""Sweeps: which cells an experiment file asks for, which records they find, what the tables and the report say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bsnn.cell import Cell
from bsnn.results import grid
from bsnn.results.budgets import Key, table_configs
from bsnn.results.records import read_records
from bsnn.results.sweeps import Sweep, expected, papers, runs, summary, sweeps, swept
from experiments.train import main
from scripts import sweeps as figures
from scripts.report import sweeps as sweeps_report
from tests.factories import cell_of, make_record, unfinished_record, write
from tests.hydra_app import run_app

ELU, RELU = Key("mnist", "elu", True, False), Key("mnist", "relu", False, False)


def by_name(name: str) -> Sweep:
    return next(sweep for sweep in sweeps() if sweep.name == name)


def write_depths(folder: Path) -> Path:
    """A depth sweep at smoke: ELU-GPN at two depths and two seeds, one of which diverged; ReLU dead; one of Table 2."""
    deep = {depth: replace(cell_of("smoke", ELU), depth=depth) for depth in (50, 1000)}
    write(folder, make_record(cell_of("smoke", ELU), "smoke", test=60.0))  # Table 2's own depth, not in the sweep
    write(folder, make_record(deep[50], "smoke", test=70.0, first_norms=(1.0, 2.0)))
    write(folder, make_record(deep[50].with_seed(1), "smoke", test=74.0, first_norms=(1.0, 8.0)))
    write(folder, make_record(deep[50].with_seed(2), "smoke", test=99.0))  # a seed that 1000 layers don't have
    for seed in (0, 1):
        write(folder, make_record(deep[1000].with_seed(seed), "smoke", test=30.0, status="diverged"))
    relu = replace(cell_of("smoke", RELU), depth=50)
    write(folder, make_record(relu, "smoke", test=9.8, ratios=(math.nan,), first_norms=(0.0, 0.0)))
    write(folder, make_record(replace(relu, initialisation="gaussian"), "smoke", test=9.8))
    write(folder, make_record(replace(relu, depth=51), "smoke", test=9.8))
    return folder / "smoke"


def test_every_sweep_has_the_papers_value_and_otherwise_the_papers_network() -> None:
    settings = {"depth": 200, "width": 500, "learning_rate": 1e-4, "batch_size": 64, "initialisation": "orthogonal"}
    assert {sweep.name for sweep in sweeps()} == settings.keys()
    table2 = {grid.identity(Cell.from_config(config)) for config in table_configs("paper").values()}
    for sweep in sweeps():
        assert papers(sweep.name) == settings[sweep.name]
        assert papers(sweep.name) in sweep.axes[sweep.name]
        cells = expected(sweep, "paper")
        assert len(cells) == 12 * math.prod(map(len, sweep.axes.values()))
        assert len(cells.keys() & table2) == 12  # its six functions, plain and GPN


def test_records_find_their_sweeps(tmp_path: Path) -> None:
    loaded = grid.load(write_depths(tmp_path))
    table = runs(by_name("depth"), loaded)
    found = table[["activation", "depth", "seed", "test_accuracy"]].to_numpy().tolist()
    assert found == [["relu", 50, 0, 9.8], ["elu", 50, 0, 70.0], ["elu", 50, 1, 74.0],
                     ["elu", 1000, 0, 30.0], ["elu", 1000, 1, 30.0]]  # fmt: skip
    assert set(runs(by_name("initialisation"), loaded)["initialisation"]) == {"orthogonal", "gaussian"}
    assert runs(by_name("width"), loaded).empty
    assert len(swept(loaded)) == 7
    assert len(loaded.others) == 8  # 51 layers are nobody's


def test_summary_over_seeds(tmp_path: Path) -> None:
    sweep = by_name("depth")
    means = summary(sweep, runs(sweep, grid.load(write_depths(tmp_path)))).set_index(["activation", "depth"])
    shallow, deep, dead = means.loc[("elu", 50)], means.loc[("elu", 1000)], means.loc[("relu", 50)]
    assert (shallow["n"], shallow["test_mean"], shallow["status"]) == (2, 72.0, "ok")
    assert shallow["test_sd"] == pytest.approx(math.sqrt(8))
    assert shallow["initial_ratio"] == 2.0  # the lower of two
    assert (deep["n"], deep["status"]) == (0, "diverged")
    assert math.isnan(deep["test_mean"])
    assert math.isnan(dead["initial_ratio"])  # 0/0
    assert math.isnan(dead["ratio_last"])


def test_figure_and_report(tmp_path: Path) -> None:
    folder = write_depths(tmp_path)
    figures.main([str(folder)])
    made = sorted(path.name for path in folder.glob("sweep_*"))
    drawn = ("sweep_depth", "sweep_initialisation")  # of the others there is nothing
    assert made == [f"{stem}.{suffix}" for stem in drawn for suffix in ("csv", "pdf", "png")]
    table = pd.read_csv(folder / "sweep_depth.csv")
    assert table["test_mean"].fillna(-1).tolist() == [9.8, 72.0, -1]
    text = "\n".join(sweeps_report.section(folder, grid.load(folder)))
    assert "| plain: how many train | 0 of 1 | – |" in text
    assert "| GPN: how many train | 1 of 1 | 0 of 1 |" in text
    assert "| ELU-GPN | **72.0 ± 2.8** (2) | diverged (2) |" in text
    assert "| ReLU | 9.8 (0/0) | – |" in text
    assert "57 of its 60 cells are not trained" in text
    assert "sweep_width" not in text


def test_unfinished_cells_are_compared_after_one_epoch(tmp_path: Path) -> None:
    """The deeper network would win by its two epochs more."""
    shallow, deep = (
        unfinished_record(ELU, test, id=cell.id, hash=cell.hash, cell=cell.as_dict())
        for depth, test in ((50, [50.0, 60.0]), (1000, [30.0, 40.0, 80.0, 90.0]))
        for cell in [replace(cell_of("paper", ELU), depth=depth)]
    )
    begun = replace(cell_of("paper", RELU), depth=50)
    nothing = unfinished_record(RELU, [], id=begun.id, hash=begun.hash, cell=begun.as_dict())
    for record in (shallow, deep, nothing):
        write(tmp_path, record)
    folder = tmp_path / "paper"
    figures.main([str(folder)])
    table = pd.read_csv(folder / "sweep_depth.csv")
    assert table[["depth", "status", "test_mean"]].to_numpy().tolist() == [
        [50, "unfinished", 60.0],
        [1000, "unfinished", 40.0],
    ]
    text = "\n".join(sweeps_report.section(folder, grid.load(folder)))
    assert "all of its cells are compared after 2 of 50 epochs" in text
    assert "`make sweep_depth BUDGET=paper` goes on with the unfinished cells." in text


def test_a_figure_leaves_what_it_sweeps_out_of_its_note() -> None:
    assert "depth" not in figures.headline("smoke", by_name("depth"))
    assert "width 16 instead of 500" in figures.headline("smoke", by_name("depth"))
    assert figures.headline("paper", by_name("depth")) == "paper budget: else the paper's own settings"


def test_a_sweep_from_its_file_to_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both starts in one stack, trained by the published experiment file."""
    monkeypatch.chdir(tmp_path)
    narrowed = ("depth=50,100", "activation=tanh")
    assert run_app(main, "+experiment=sweep_initialisation", "budget=smoke", "tracking=none", *narrowed) == 0
    folder = tmp_path / "results" / "smoke"
    records = read_records(folder)
    assert {record["provenance"]["stack"] for record in records} <= {2, 4}
    starts = [(record["cell"]["initialisation"], record["cell"]["depth"], record["cell"]["gpn"]) for record in records]
    assert len(set(starts)) == len(records) == 8
    figures.main([str(folder)])
    assert (folder / "sweep_initialisation.png").exists()
