"""The bridge study: its networks are Table 2's, what it measures is what it says, its judges can say no."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional as F  # noqa: N812

from bsnn import paper
from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.collapse.exact import exact_width_2
from bsnn.collapse.fate import OPTIMISERS, TARGETS
from bsnn.collapse.networks import fit
from bsnn.config import CONF, checked
from bsnn.data import DATASETS, Dataset
from bsnn.errors import UserError
from bsnn.gpn import GPN
from bsnn.network import BSNN
from bsnn.results.budgets import Key
from bsnn.results.tables import Table
from bsnn.training import loop as training
from experiments import study
from experiments.bridge import __main__ as bridge
from experiments.bridge import training as bridge_training
from experiments.bridge.config import BridgeConfig, shown
from experiments.bridge.narrow import narrow, narrow_stack
from experiments.bridge.report import rules as bridge_statements
from experiments.bridge.report import rules_width as bridge_width
from experiments.bridge.table2 import ACCURACIES, accuracies_of, fourth_moment
from experiments.bridge.training import cell_of, class_gaps
from tests import factories


def config(budget: str = "smoke", *overrides: str) -> BridgeConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return checked(compose("bridge", [f"budget={budget}", "part=trained", *overrides]), BridgeConfig)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("budget", ["paper", "quick"])
@pytest.mark.parametrize("gpn", [False, True])
def test_the_cells_are_those_of_table_2(budget: str, gpn: bool) -> None:
    settings = config(budget)
    for dataset in paper.DATASETS:
        for name in PAPER_ACTIVATIONS:
            expected = factories.cell_of(budget, Key(dataset, name, gpn, False))
            assert cell_of(settings, dataset, name, gpn, settings.budget.training).hash == expected.hash


def test_layers_shown() -> None:
    assert shown(1) == [0, 1]
    assert shown(200)[:4] == [0, 1, 2, 3]
    assert shown(200)[-1] == 200
    assert len(shown(200)) < 35


def images() -> Dataset:
    x, y = torch.randn(60, 784, generator=random()), torch.arange(60) % 10
    return Dataset(DATASETS["mnist"], x, y, x, y)


def test_class_gaps() -> None:
    """Against cosine similarities of the pre-activations, pair by pair."""
    network, data = BSNN(784, 10, width=12, depth=4, activation=GPN(torch.nn.ELU()), generator=random()), images()
    rows = class_gaps(network, data, images=2)
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    chosen = [label + 10 * k for label in range(10) for k in range(2)]
    h = network.double().signals(data.test_x[chosen].double()).h_LBN
    for layer, same, _, different, _, length in rows:
        gaps: dict[bool, list[float]] = {True: [], False: []}
        for i in range(20):
            for j in range(i):
                cosine = F.cosine_similarity(h[int(layer) - 1, i], h[int(layer) - 1, j], dim=0)
                gaps[i // 2 == j // 2].append(1 - float(cosine))
        assert same == pytest.approx(np.mean(gaps[True]), abs=1e-12)
        assert different == pytest.approx(np.mean(gaps[False]), abs=1e-12)
        assert length == pytest.approx(float(h[int(layer) - 1].square().mean()))


def test_training_goes_on_where_it_was_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After the first of the two networks; the numbers are those of an uninterrupted run, and no checkpoint is left."""
    monkeypatch.setattr(bridge_training, "dataset", lambda device: images())
    settings = config("smoke", f"results_dir={tmp_path}", "threads=1")
    trained: list[Any] = []
    work = bridge_training.trained(settings)
    unit = ("tanh", 0)

    def left() -> int:
        return len(list(tmp_path.rglob("*.pt")))

    expected = work.rows(unit)
    assert left() == 2, "they go when the rows are on the disk, not before"
    work.saved(unit)
    assert left() == 0
    real = training.train

    def dying(cells: Any, *arguments: Any, **options: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(cells)
        return real(cells, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", dying)
        with pytest.raises(KeyboardInterrupt):
            work.rows(unit)
    assert left() == 1
    assert work.rows(unit) == expected
    before, after = ([row for row in expected if row[0] and row[1] == when] for when in (False, True))
    assert before != after


def test_dead_networks_are_counted() -> None:
    """ReLU and ReLU-GPN of width 2, Gaussian weights, against the exact probability: 4 standard errors of 3000."""
    settings = config("smoke", "sizes.narrow.networks=3000", "sizes.narrow.depth=4", "sizes.narrow.widths=[2]")
    work = narrow(settings)
    rows = pd.DataFrame(work.rows(("gaussian", 2)), columns=list(work.columns))
    relu = rows[(rows.function == "relu") & (rows.layer > 0)]
    for gpn in (False, True):
        dead = relu[relu.gpn == gpn].sort_values("layer").dead.to_numpy()
        expected = exact_width_2(4)
        assert (np.abs(dead - expected) <= 4 * np.sqrt(expected * (1 - expected) / 3000) + 1e-12).all()
    assert (rows[rows.function != "relu"].dead == 0).all()
    assert (rows.flat >= rows.flatter).all()


def test_rows_keep_their_norm_in_training() -> None:
    stack = narrow_stack(3, 5, 4, "tanh", "rows", random())
    before = [stack.effective_weight(layer).detach().clone() for layer in range(5)]
    optimiser = OPTIMISERS["adam"]([one for one in stack.parameters() if one.requires_grad])
    fit(stack, optimiser, TARGETS["abs"].batches(8, 4, 16, random()))
    for layer in range(5):
        after = stack.effective_weight(layer).detach()
        assert not torch.allclose(after, before[layer], atol=1e-3)  # directions move everywhere
        norms = after.norm(dim=2)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-6) == (0 < layer < 4)
    gpn = narrow_stack(3, 5, 4, "tanh", "gpn", random())
    assert torch.allclose(F.normalize(gpn.effective_weight(1), dim=2), before[1], atol=1e-6)  # the same directions


def test_fourth_moments() -> None:
    """ReLU-GPN: phi'^4 = 4 on a half line; LeakyReLU: a^4 (1 + s^4) / 2, a^2 = 2 / (1 + s^2)."""
    assert fourth_moment(GPN(torch.nn.ReLU())) == pytest.approx(2)
    s = 0.3
    expected = (2 / (1 + s**2)) ** 2 * (1 + s**4) / 2
    assert fourth_moment(GPN(torch.nn.LeakyReLU(s))) == pytest.approx(expected)
    z = torch.randn(200_000, generator=random(), dtype=torch.float64)
    samples = (1.46741359163 / torch.cosh(z) ** 2) ** 4
    assert abs(fourth_moment(GPN(torch.nn.Tanh())) - float(samples.mean())) < 4 * float(samples.std()) / 200_000**0.5


def test_our_accuracies_are_means_over_seeds(tmp_path: Path) -> None:
    settings = config("smoke", f"results_dir={tmp_path}")
    key = Key("mnist", "elu", True, False)
    for seed, test in ((0, 30.0), (1, 40.0)):
        factories.write(tmp_path, factories.make_record(factories.cell_of("smoke", key, seed), "smoke", test=test))
    others = dataclasses.replace(factories.cell_of("smoke", key, 2), depth=99)  # of another network
    factories.write(tmp_path, factories.make_record(others, "smoke", test=90.0))
    crashed = factories.make_record(factories.cell_of("smoke", key, 3), "smoke", test=0.0, status="crashed")
    factories.write(tmp_path, crashed)
    found = {name: dict(zip(ACCURACIES, row, strict=True)) for name, row in accuracies_of(settings).items()}
    assert found["elu"]["ours_mnist_test"] == 35
    assert found["elu"]["ours_cifar10_test"] is None
    assert found["tanh"]["ours_mnist_test"] is None
    assert found["elu"]["paper_mnist_train"] == 100
    assert found["relu"]["paper_cifar10_test"] == 34.96


def test_an_unknown_part() -> None:
    with pytest.raises(UserError, match="expected one of meanfield"):
        study.run("bridge", config_of_unknown_part(), BridgeConfig, bridge.PARTS)


def config_of_unknown_part() -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("bridge", ["budget=smoke", "part=meanfields"])


# --- judges -----------------------------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, **sizes: Any) -> Table:
    return Table(frame, {"sizes": sizes}, {}, 0.0)


def theory(**changes: float) -> pd.DataFrame:
    """Two layers of every function that obey Theorem 1, or not after `changes` of the last ELU-GPN row."""
    rows = [
        {"function": name, "gpn": gpn, "layer": layer, "rho_0": 0.0, "gap": 0.01 if gpn else 1.0, "length": 1.0,
         "jacobian": 1.0, "error": 2.0 * layer}
        for name in PAPER_ACTIVATIONS for gpn in (False, True) for layer in (0, 1, 2)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    chosen = (frame.function == "elu") & frame.gpn & (frame.layer == 2)
    for column, value in changes.items():
        frame.loc[chosen, column] = value
    return frame


def verdict(name: str, **parts: Table | None) -> bool | None:
    known = dict.fromkeys(bridge.PARTS) | parts
    judges = vars(bridge_width) | vars(bridge_statements)
    agrees: bool | None = judges[name](known).agrees
    return agrees


@pytest.mark.parametrize(
    ("judge", "change"),
    [
        ("critical", {"jacobian": 1 + 1e-6}),
        ("shrinks", {"gap": 0.2}),
        ("nonlinear", {"error": 1e-3}),
    ],
)
def test_judges_of_infinite_width(judge: str, change: dict[str, float]) -> None:
    assert verdict(judge) is None
    assert verdict(judge, meanfield=table(theory())) is True
    assert verdict(judge, meanfield=table(theory(**change))) is False


def test_the_judge_of_theorem_1() -> None:
    """A network whose inputs keep apart, whatever the depth, would refute it; a large gain of gradients excuses it."""
    frame = theory()
    assert verdict("theorem_1", meanfield=table(frame)) is True
    elu = (frame.function == "elu") & frame.gpn
    frame.loc[elu, "gap"], frame.loc[elu & (frame.layer > 0), "error"] = 1.0, 20.0
    assert verdict("theorem_1", meanfield=table(frame)) is False
    frame.loc[elu, "jacobian"] = 100.0
    assert verdict("theorem_1", meanfield=table(frame)) is True


@pytest.mark.parametrize(("power", "kinked", "smooth", "rate"), [(-2, 1, 0, 1), (-1, 0, 1, 1), (-0.4, 0, 0, 0)])
def test_judges_of_powers(power: float, kinked: int, smooth: int, rate: int) -> None:
    layers = np.unique(np.geomspace(1, 1000, 30).round())
    frame = pd.concat(
        pd.DataFrame({"function": name, "layer": layers, "gap": layers**power}) for name in PAPER_ACTIVATIONS
    )
    parts = dict.fromkeys(bridge.PARTS) | {"decay": table(frame)}
    assert [one.agrees for one in bridge_width.powers(parts)] == [bool(kinked), bool(smooth)]
    assert bridge_width.rate(parts).agrees == bool(rate)


def trained_frame(gained: float, factor: float) -> pd.DataFrame:
    rows = [
        {"function": "elu", "seed": 0, "gpn": True, "trained": after, "layer": layer,
         "different": 0.1 * (1 + (factor - 1) * layer / 9 * after), "test_accuracy": 10 + gained * after}
        for after in (False, True) for layer in range(10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gained", "factor", "undone", "kept"),
    [(50, 3, True, True), (50, 1.5, False, True), (2, 3, False, False), (2, 1.5, False, True)],
)
def test_judges_of_training(gained: float, factor: float, undone: bool, kept: bool) -> None:
    frame = table(trained_frame(gained, factor))
    assert verdict("undoes", trained=frame) is undone
    assert verdict("not_undone", trained=frame) is kept
    assert verdict("layer_by_layer", trained=frame) is (gained > 10)


def test_judges_of_collapse() -> None:
    rows = [
        {"width": 2, "function": name, "variant": variant, "outcome": outcome}
        for name, outcome in (("relu", "constant"), ("selu", "approximates"))
        for variant in ("plain", "gpn", "rows")
        for _ in range(20)
    ]
    frame = pd.DataFrame(rows)
    sizes = {"fitted": {"networks": 20}}
    parts = dict.fromkeys(bridge.PARTS) | {"fitted": table(frame, **sizes)}
    assert [one.agrees for one in bridge_statements.training_collapse(parts)] == [True] * 4
    frame["outcome"] = frame.outcome.map({"constant": "other", "approximates": "constant"})
    assert [one.agrees for one in bridge_statements.training_collapse(parts)] == [False] * 4
