"""Every part of every study through the commands that a user types, at the smoke budget."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.errors import UserError
from bsnn.results.section import Section
from experiments import study as studies
from experiments import units
from experiments.study import STUDIES


def section_of(study: str) -> Section:
    section: Section = importlib.import_module(f"experiments.{study}.report.section").SECTION
    return section


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, experiment: str, *overrides: str) -> None:
    """python -m experiments.<study> part=<part> budget=smoke, without Hydra's logging. `experiment`: <study>_<part>."""
    study, part = experiment.split("_", 1)
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={folder}/hydra"]
    arguments = [f"part={part}", "budget=smoke", f"results_dir={folder}", *quiet, *overrides]
    monkeypatch.setattr(sys, "argv", [study, *arguments])
    importlib.import_module(f"experiments.{study}.__main__").main()


def part_of(folder: Path, experiment: str, *overrides: str) -> None:
    """The same without the command line, whose start takes longer than most parts of this size."""
    study, part = experiment.split("_", 1)
    entry = importlib.import_module(f"experiments.{study}.__main__")
    config = composed(study, *overrides).copy()
    config.part, config.results_dir = part, str(folder)
    entry.main(config)


@functools.cache
def composed(study: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(study, ["budget=smoke", *overrides])


def publish(study: str, folder: Path) -> dict[str, bytes]:
    importlib.import_module(f"experiments.{study}.report.section").main([str(folder)])
    return {path.name: path.read_bytes() for path in (folder / study).iterdir() if path.is_file()}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_computed_once_and_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study: str) -> None:
    """Its published configs without results, then with all of them: every figure drawn, every statement measured."""
    folder, section = tmp_path / "smoke", section_of(study)
    before = publish(study, folder)
    assert set(before) == {"statements.csv", "report.md"}
    assert set(pd.read_csv(folder / study / "statements.csv")["agrees"]) == {"not measured"}
    if study == "collapse":  # side by side, as a user with two cores has it
        command(monkeypatch, tmp_path, f"{study}_all", "threads=2")
    for part in section.parts:
        part_of(tmp_path, f"{study}_{part}")
        table = folder / study / f"{part}.csv"
        record = json.loads(table.with_suffix(".json").read_text())
        assert record["complete"]
        assert (record["study"], record["part"]) == (study, part)
        assert record["rows"] == len(pd.read_csv(table)) > 0

    def refuse(*_: object) -> None:
        raise AssertionError("a finished table was computed again")

    with monkeypatch.context() as patch:
        patch.setattr(units, "_save", refuse)
        # by its command now; skipping is one piece of code: all parts of one study, and one part of each other
        for part in ["all"] if study == "collapse" else list(section.parts)[-1:]:
            command(patch, tmp_path, f"{study}_{part}")

    made = publish(study, folder)
    assert {f"{name}.{suffix}" for name in section.drawings for suffix in ("png", "pdf")} <= set(made)
    said = pd.read_csv(folder / study / "statements.csv", keep_default_na=False)
    assert set(said["agrees"]) <= {"yes", "no", "undecided"}
    assert (said["measured"] != "").all()
    report = made["report.md"].decode()
    assert "NOT full size" in report
    assert "Not computed yet" not in report
    assert all(f"]({name}.png)" in report for name in section.drawings)
    if study == "collapse":  # publishing is one piece of code; twice is enough for one of them
        assert made == publish(study, folder)


@pytest.mark.parametrize("study", STUDIES)
def test_all_budgets_name_the_same_sizes(study: str) -> None:
    """And every part has its sizes, and the function that computes it."""
    sizes: dict[str, dict[str, Any]] = {
        path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / study).glob("*.yaml"))
    }
    assert set(sizes) == {"paper", "quick", "smoke"}
    parts = set(section_of(study).parts)
    for budget in sizes.values():
        assert set(budget) == parts
        assert {part: set(values) for part, values in budget.items()} == {
            part: set(values) for part, values in sizes["paper"].items()
        }
    assert parts == set(importlib.import_module(f"experiments.{study}.__main__").PARTS)


def test_a_killed_part_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment, table = "theory_talk", tmp_path / "smoke" / "theory" / "talk.csv"
    real, written = units._save, []

    def dying(file: Path, progress: dict[str, Any], rows: list[list[str]]) -> None:
        if len(written) == 3:
            raise SystemExit("killed")
        written.append(len(rows))
        real(file, progress, rows)

    with monkeypatch.context() as patch:
        patch.setattr(units, "_save", dying)
        with pytest.raises(SystemExit, match="killed"):
            command(patch, tmp_path, experiment)
    assert len(written) == 3
    assert not table.exists()
    command(monkeypatch, tmp_path, experiment)
    command(monkeypatch, tmp_path / "at once", experiment)
    assert table.read_bytes() == (tmp_path / "at once" / "smoke" / "theory" / "talk.csv").read_bytes()
    assert len(pd.read_csv(table)) > written[-1] > 0


def test_a_sweep_keeps_every_result_and_the_report_shows_the_budgets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """README: any size is a setting. The budget's own settings go where they always went."""
    folder = tmp_path / "smoke" / "theory"
    part_of(tmp_path, "theory_talk")
    first = publish("theory", tmp_path / "smoke")
    for overrides in (["seed=1"], ["sizes.talk.draws=7"], ["seed=1"], ["threads=1", "device=cpu"]):
        part_of(tmp_path, "theory_talk", *overrides)
    others = {path.name.rsplit("-", 1)[0]: path for path in (folder / "other_settings").glob("*.csv")}
    assert set(others) == {"talk-seed=1", "talk-draws=7"}
    assert [len(pd.read_csv(path)) for path in others.values()].count(7) == 1
    then = publish("theory", tmp_path / "smoke")
    assert then["statements.csv"] == first["statements.csv"]
    report = then["report.md"].decode()
    assert all(f"](other_settings/{path.name})" in report for path in others.values())
    assert "other_settings" not in first["report.md"].decode()

    def failing(*_: object) -> None:
        raise OSError("out of luck")

    before = (folder / "talk.csv").read_bytes(), (folder / "talk.json").read_bytes()
    monkeypatch.setattr(units, "_save", failing)
    with pytest.raises(OSError, match="out of luck"):
        part_of(tmp_path, "theory_talk", "seed=2")
    assert ((folder / "talk.csv").read_bytes(), (folder / "talk.json").read_bytes()) == before


def test_a_budget_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompactHydraException, match=r"budget\.name: expected the name of a file in conf/budget/"):
        part_of(tmp_path, "theory_talk", "budget.name=mine")


def test_an_unknown_part_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theory = importlib.import_module("experiments.theory.__main__")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("theory", ["budget=smoke", "part=talks", f"results_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"part: expected all or one of .*talk.*, found 'talks'"):
        studies.run("theory", config, theory.TheoryConfig, theory.PARTS)
