"""scripts.review without a terminal: runs are made once, and it says what to open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bsnn.results.budgets import headline
from scripts import review
from tests.factories import CRASHED, TWO_SEEDS, cell_of, make_record, paper_like_record, unfinished, write


def test_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        write(Path("results"), paper_like_record("smoke", TWO_SEEDS, seed=seed, evaluations=2))
    write(Path("results"), paper_like_record("smoke", CRASHED, status="crashed", evaluations=2))
    cell = replace(cell_of("smoke", TWO_SEEDS), max_steps=None)
    write(Path("results"), unfinished(make_record(cell, "smoke", ratios=(2.0, 3.0)), 1))
    for made in (3, 0):
        review.main(["results/smoke"])
        told = capsys.readouterr().out
        assert headline("smoke") in told
        assert f"outputs/review/smoke/wandb: 3 runs, {made} made now; 1 unfinished" in told
        assert "in a terminal: wandb leet outputs/review/smoke/wandb" in told
        assert "no results/smoke/index.html yet: python -m scripts.page results/smoke" in told
    Path("results/smoke/index.html").touch()
    review.main(["results/smoke"])
    assert "results/smoke/index.html: open it in a browser" in capsys.readouterr().out
    assert len(list(Path("outputs/review/smoke/wandb").glob("run-*/*.wandb"))) == 3
