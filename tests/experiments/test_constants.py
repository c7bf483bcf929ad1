"""experiments.constants: whatever a part's numbers depend on is part of what identifies its table."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bsnn.config import CONF, checked
from experiments import constants, study, synthetic
from experiments.shrinkage import limits
from experiments.study import STUDIES
from experiments.synthetic import Experiment

PARTS = [(name, part) for name in STUDIES for part in importlib.import_module(f"experiments.{name}.__main__").PARTS]
SLOW = {"gradient", "hermite", "shell", "depth", "lemma1", "lemma5", "maps", "bounds", "slope", "fig3", "table2"}
"""Parts that compute GPN constants or the like before their first unit: 0.3 to 2.5 s each."""
NO_NUMBERS = {
    "STARTED", "HOST", "MORE_TO_DO",  # of the command
    "STUDIES", "PARTS", "ALL", "FIGURES",  # what there is to compute
    "PROTOCOL_VERSION",  # which is in the identity itself
    "SCHEMA", "MACHINE", "NAME_LENGTH", "PUBLISHED", "PACKAGE", "OURS", "DIGITS",  # of records, paths and constants
}  # fmt: skip


@functools.cache
def composed(name: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, ["budget=quick"])


def function_of(name: str, part: str) -> Any:
    return importlib.import_module(f"experiments.{name}.__main__").PARTS[part]


def hash_of(name: str, part: str, **settings: Any) -> str:
    """Of the table that the study's command would make."""
    config = composed(name).copy()
    for key, value in {"part": part, **settings}.items():
        config[key] = value
    typed: Any = checked(config, OmegaConf.get_type(config))
    return study.work_of(name, config, typed, function_of(name, part)).hash


@pytest.mark.parametrize("name", STUDIES)
def test_published_tables_are_recognised(name: str) -> None:
    """Nothing is computed again in a fresh clone; of slow parts only the constants are looked at."""
    for part in [part for study_name, part in PARTS if study_name == name]:
        if part in SLOW:
            assert constants.changed(constants.found(function_of(name, part))) == {}
        else:
            record = json.loads((CONF.parent / "results" / "quick" / name / f"{part}.json").read_text())
            assert hash_of(name, part) == record["hash"], part


def test_published_figures_are_recognised() -> None:
    for figure in ("fig1", "fig2", "fig3"):
        record = json.loads((CONF.parent / "results" / "quick" / f"{figure}.json").read_text())
        config = composed("synthetic").copy()
        config.figure = figure
        assert Experiment(checked(config, synthetic.SyntheticConfig)).work.hash == record["hash"]


@pytest.mark.parametrize(
    ("name", "part", "module", "constant", "value", "untouched"),
    [
        ("collapse", "targets", "collapse.training", "BATCH", 64, "chain"),
        ("collapse", "remedies", "collapse.training", "DEPTH", 20, "safe"),
        ("collapse", "optimisers", "collapse.training", "CURVES", 5, "length"),
        ("collapse", "safe", "collapse.random", "SHARES", (0.01, 0.2), "targets"),
        ("bridge", "fitted", "bridge.narrow", "BATCH", 64, "narrow"),
        ("bridge", "narrow", "bridge.narrow", "FLAT", 0.02, "fitted"),
        ("vanishing", "tricks", "vanishing.descent", "MOMENTUM", 0.9, "paths"),
        ("vanishing", "deep", "vanishing.descent", "BATCH", 128, "talk"),
        ("vanishing", "chain", "vanishing.random", "BIAS_STD", 0.2, "talk"),
        ("theory", "talk", "theory.sphere", "TALK_A", 1.4, "histogram"),
        ("shrinkage", "depth", "shrinkage.networks", "SEARCH_RATE", 0.1, "fig1"),
    ],
)
def test_another_constant_is_another_table(
    monkeypatch: pytest.MonkeyPatch, name: str, part: str, module: str, constant: str, value: Any, untouched: str
) -> None:
    before, same = hash_of(name, part), hash_of(name, untouched)
    monkeypatch.setattr(f"experiments.{module}.{constant}", value)
    assert hash_of(name, part) != before
    assert hash_of(name, untouched) == same


def test_another_learning_rate_or_activation_is_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an optimiser in bsnn that a part names, and of the training that the bridge study shares with Table 2."""
    before = hash_of("collapse", "optimisers"), hash_of("bridge", "trained")
    adam = {"adam": functools.partial(torch.optim.Adam, lr=0.01, eps=1e-7)}
    monkeypatch.setattr("experiments.collapse.training.OPTIMISERS", adam)
    assert hash_of("collapse", "optimisers") != before[0]
    activations = composed("bridge").activations.copy()
    activations.elu.module.alpha = 2.0
    assert hash_of("bridge", "trained", activations=activations) != before[1]


def test_no_module_level_constant_is_forgotten() -> None:
    """Each of experiments/ is found in the code of some part. One that isn't is dead, or hidden from `found`."""
    code = [constants.found(function_of(*part)) for part in PARTS]
    code += [constants.found(one.measure, Experiment.rows) for one in synthetic.FIGURES.values()]
    known = {(name.rsplit(".", 1)[1], str(value)) for found in code for name, value in found.items()}
    folder = Path(study.__file__).parent
    for path in sorted(one for one in folder.rglob("*.py") if "report" not in one.relative_to(folder).parts):
        parts = path.relative_to(folder).with_suffix("").parts
        module = importlib.import_module(".".join(["experiments", *(part for part in parts if part != "__init__")]))
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            for name in names - NO_NUMBERS:
                value = getattr(module, name)
                if name.isupper() and len(name) > 1:
                    assert (name, str(constants.plain(value))) in known, f"{path.name}: {name}"
                else:
                    assert not isinstance(value, (int, float, str, list, tuple, dict)), f"{path.name}: {name}"


def test_the_next_constant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it hides, without a list that it has to be put on."""
    module = ModuleType("experiments.fresh")
    source = """
import functools
from bsnn.randomness import Purpose
from bsnn.vanishing import quadratic
HIDDEN, UNUSED, RATES, SCALE = 3, 4, {"slow": 0.1}, 2.0
CODE = {"one": lambda: IN_LAMBDA}
IN_LAMBDA = 5
class Helper:
    @property
    def value(self): return RATES["slow"]
@functools.cache
def cached(): return [SCALE * k for k in range(2)]
def part(config):
    def rows(unit): return [Helper().value, *cached(), CODE["one"](), quadratic.TALK, Purpose.BRIDGE]
    return rows, lambda: HIDDEN
def other(config): return 1
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = constants.found(module.part)
    ours = {name.removeprefix("experiments.fresh."): value for name, value in found.items()}
    assert ours == {
        "HIDDEN": 3,
        "RATES": {"slow": 0.1},
        "SCALE": 2.0,
        "CODE": {"one": "<lambda>"},
        "IN_LAMBDA": 5,
        "Purpose.BRIDGE": 7,
        "bsnn.vanishing.quadratic.TALK": 1.0,
    }
    assert constants.found(module.other) == {}
    assert set(constants.changed(found)) == set(found) - {"bsnn.vanishing.quadratic.TALK"}
    with pytest.raises(TypeError, match="expected a constant made of"):
        constants.plain(object())


def test_a_command_finds_what_an_import_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part defined in the file that python -m runs belongs to the module __main__."""
    expected = constants.found(limits.block)
    assert expected["experiments.shrinkage.limits.RIGHT_ANGLE"] == 0
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name=limits.__name__))
    monkeypatch.setattr(limits.block, "__module__", "__main__")
    assert constants.found(limits.block) == expected
