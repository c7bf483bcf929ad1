"""The paper's printed numbers, and that our conf/ asks for the same experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from bsnn import paper
from bsnn.results.budgets import differences, headline, load_budget, table_configs


def test_table1_has_the_six_functions_in_order() -> None:
    table = paper.table1()
    assert tuple(table["activation"]) == paper.ACTIVATIONS
    assert table.set_index("activation").loc["gelu"].tolist() == [1.4915, -0.9097]


def test_table2_is_complete() -> None:
    table = paper.table2()
    key = ["dataset", "activation", "gpn", "batch_norm"]
    assert len(table) == 48
    assert not table.duplicated(key).any()
    assert set(table["dataset"]) == set(paper.DATASETS)
    assert set(table["activation"]) == set(paper.ACTIVATIONS)
    assert table["gpn"].dtype == table["batch_norm"].dtype == bool
    assert table[["train_accuracy", "test_accuracy"]].stack().between(9, 100).all()
    entry = table.set_index(key).loc[("cifar10", "selu", True, False)]
    assert entry.tolist() == [98.24, 45.90]


def test_files_say_where_they_come_from() -> None:
    for path in Path(paper.__file__).parent.glob("*.csv"):
        assert "Lu, Gould, Ajanthan" in path.read_text().splitlines()[0]


def test_conf_asks_for_the_same_cells(root: Path) -> None:
    params = OmegaConf.load(root / "conf/experiment/table2.yaml").hydra.sweeper.params
    assert sorted(params.activation.split(",")) == sorted(paper.ACTIVATIONS)
    assert sorted(params.dataset.split(",")) == sorted(paper.DATASETS)
    assert set(params.gpn.split(",")) == set(params.batch_norm.split(",")) == {"false", "true"}
    assert set(map(tuple, paper.table2().iloc[:, :4].to_numpy().tolist())) <= {
        tuple(key) for key in table_configs("paper")
    }


def test_paper_budget_is_the_papers() -> None:
    configs = table_configs("paper")
    assert {config.depth for config in configs.values()} == {paper.DEPTH}
    assert {config.width for config in configs.values()} == {500}
    epochs = {(key.dataset, config.dataset.epochs, config.epochs) for key, config in configs.items()}
    assert epochs == {("mnist", 50, None), ("cifar10", 100, None)}
    assert differences("paper") == []
    assert headline("paper") == headline("paper", "synthetic ") == "paper budget: the paper's own sizes"


def test_headline_names_what_differs() -> None:
    quick = load_budget("quick").training
    line = headline("quick")
    assert line.startswith("quick budget, NOT the paper's: ")
    assert f"width {quick.width} instead of 500" in line
    assert f"epochs {quick.epochs} instead of 50 (MNIST) / 100 (CIFAR-10)" in line
    assert "depth" not in line
    assert "depth 8 instead of 200" in headline("smoke")
    assert isinstance(pd.DataFrame(differences("smoke")), pd.DataFrame)
