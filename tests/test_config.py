"""The configuration: every mistake stops with one clear message, every published file is the object it names."""

from __future__ import annotations

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bsnn.activations import PAPER_ACTIVATIONS
from bsnn.cell import Cell
from bsnn.config import CONF, SyntheticConfig, TrainConfig, checked
from bsnn.data import DATASETS
from bsnn.errors import UserError
from bsnn.gpn import GPN
from bsnn.paper import LABELS


def config(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("train", overrides=list(overrides)), TrainConfig)


def cell(*overrides: str) -> Cell:
    return Cell.from_config(config(*overrides))


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+depht=4", "depht: no such setting; did you mean depth"),
        ("+activation.nam=x", "activation.nam: no such setting; did you mean activation.name"),
        ("+budget.training.dept=3", "budget.training.dept: no such setting"),
        ("+zzz=1", "zzz: no such setting; known keys: "),
        ("depth=-3", "depth: expected a whole number >= 1, found -3"),
        ("width=0", "width: expected"),
        ("epochs=0", "epochs: expected"),
        ("max_steps=0", "max_steps: expected"),
        ("threads=0", "threads: expected a whole number >= 1, found 0"),
        ("max_stack=0", "max_stack: expected a whole number >= 1, found 0"),
        ("checkpoint_seconds=-1", r"checkpoint_seconds: expected a number >= 0, found -1\.0"),
        ("checkpoint_seconds=nan", "checkpoint_seconds: expected a number >= 0, found nan"),
        ("seed=-1", "seed: expected a whole number >= 0"),
        ("learning_rate=0", "learning_rate: expected a number > 0"),
        ("learning_rate=nan", "learning_rate: expected a number > 0"),
        ("momentum=1", r"momentum: expected a number in \[0, 1\), found 1"),
        ("device=gpu", "device: expected one of auto, cpu, cuda, found 'gpu'"),
        ("dtype=bf16", "dtype: expected one of"),
        ("tracking.mode=on", "tracking.mode: expected one of"),
        ("activation.gpn_root=plus", "activation.gpn_root: expected one of"),
        ("depth=???", "depth: expected a value, found none"),
        ("activation.name=a/b", "activation.name: expected .* becomes part of a path, found 'a/b'"),
        ("activation.name=../../../evil", "activation.name: expected .* found '../../../evil'"),
        ("activation.name=..", r"activation.name: expected .* found '\.\.'"),
        ("activation.name=''", "activation.name: expected .* found ''"),
        ("activation.name='ü'", "activation.name: expected .* found 'ü'"),
        ("budget.name=/etc", "budget.name: expected .* found '/etc'"),
        ("dataset.name=../x", "dataset.name: expected one of mnist, cifar10, fashion_mnist, found '../x'"),
        ("results_dir='~nobody-has-this-name/x'", "expected a home directory for ~, found none"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(override)


def test_home_directories_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    expanded = config("results_dir='~/x'", "tracking.dir='~/y'")
    assert (expanded.results_dir, expanded.tracking.dir) == ("/home/somebody/x", "/home/somebody/y")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        synthetic = checked(compose("synthetic", ["figure=fig1", "results_dir='~/x'"]), SyntheticConfig)
    assert synthetic.results_dir == "/home/somebody/x"


def test_activations_are_the_papers_functions() -> None:
    """conf/activation and bsnn.activations name the same six modules; any further file must be a GPN-able function."""
    assert set(PAPER_ACTIVATIONS) <= set(names("activation"))
    for name in names("activation"):
        made = cell(f"activation={name}").make_activation()
        if name in PAPER_ACTIVATIONS:
            assert repr(made) == repr(PAPER_ACTIVATIONS[name]())
        assert config(f"activation={name}").activation.name == name
        gpn = cell(f"activation={name}", "gpn=true").make_activation()
        assert isinstance(gpn, GPN)


def test_an_activation_that_cannot_be_normalised_is_a_users_mistake() -> None:
    flat = cell("activation.module._target_=torch.nn.Threshold", "+activation.module.threshold=99", "gpn=true")
    flat.activation_module["value"] = 1.0
    with pytest.raises(UserError, match=r"activation=tanh gpn=true: .*derivative"):
        flat.make_activation()


@pytest.mark.parametrize("gpn", ["false", "true"])
@pytest.mark.parametrize("module", ["RReLU", "Dropout", "Softmin"])
def test_an_activation_that_is_no_elementwise_function_is_a_users_mistake(module: str, gpn: str) -> None:
    """With or without GPN: its gradients would be wrong, and two runs of one command would differ."""
    wrong = cell(f"activation.module._target_=torch.nn.{module}", f"gpn={gpn}")
    if module == "Softmin":
        wrong.activation_module["dim"] = -1
    with pytest.raises(UserError, match=rf"activation=tanh gpn={gpn}: {module} is not one elementwise function"):
        wrong.make_activation()


def test_every_dataset_budget_and_function_file() -> None:
    for name, label in LABELS.items():
        activation = config(f"activation={name}").activation
        assert (activation.name, activation.label) == (name, label)
    assert names("dataset") == sorted(DATASETS)
    for name in names("dataset"):
        dataset = config(f"dataset={name}").dataset
        assert (dataset.name, dataset.label) == (name, DATASETS[name].label)
    for name in names("budget"):
        assert config(f"budget={name}").budget.name == name


def test_the_paper_budget_is_the_papers_protocol() -> None:
    """Section 3.2: depth 200, width 500, 50 and 100 epochs, batch 64, learning rate 1e-4, momentum 0.5."""
    mnist, cifar10 = cell("budget=paper"), cell("budget=paper", "dataset=cifar10")
    for c in (mnist, cifar10):
        assert (c.depth, c.width, c.batch_size, c.learning_rate, c.momentum) == (200, 500, 64, 1e-4, 0.5)
        assert (c.max_steps, c.dtype) == (None, "float32")
    assert (mnist.epochs, cifar10.epochs) == (50, 100)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        synthetic = checked(compose("synthetic", overrides=["budget=quick", "+experiment=fig1"]), SyntheticConfig)
    assert (synthetic.depth, synthetic.width, synthetic.samples) == (200, 500, 500)
    assert (min(synthetic.widths), max(synthetic.widths)) == (100, 1500)
    assert list(synthetic.activations) == list(PAPER_ACTIVATIONS)


def test_table2_is_the_papers_48_cells() -> None:
    params = yaml.safe_load((CONF / "experiment" / "table2.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert params["activation"].split(",") == list(PAPER_ACTIVATIONS)
    assert params["dataset"].split(",") == ["mnist", "cifar10"]
    assert {params["gpn"], params["batch_norm"]} == {"false,true"}


def test_identity_changes_with_what_changes_the_result_and_with_nothing_else() -> None:
    base = cell("gpn=true")
    different = [
        "activation=relu",
        "dataset=cifar10",
        "batch_norm=true",
        "gpn=false",
        "seed=1",
        "depth=100",
        "width=50",
        "epochs=2",
        "max_steps=5",
        "evaluations_per_epoch=1",
        "batch_size=32",
        "learning_rate=0.01",
        "momentum=0.9",
        "dtype=float64",
        "initialisation=gaussian",
        "constraint=orthogonal",
        "activation.gpn_root=-",
    ]
    assert len({base.hash} | {cell("gpn=true", override).hash for override in different}) == len(different) + 1
    for same in (
        "device=cpu",
        "threads=2",
        "max_stack=3",
        "checkpoint_seconds=0",
        "results_dir=elsewhere",
        "tracking=none",
        "keep_checkpoint=true",
    ):
        assert cell("gpn=true", same).hash == base.hash
    assert cell("activation.gpn_root=-").hash == cell().hash  # plain: there is no b
    assert Cell.from_dict(base.as_dict()) == base
    assert base.with_seed(7) == cell("gpn=true", "seed=7")
    assert cell("gpn=true", "batch_norm=true", "seed=2").name == "mnist-tanh-gpn-bn-s2"
    assert cell("initialisation=gaussian").name == "mnist-tanh-gaussian-s0"
    assert cell("constraint=landing").name == "mnist-tanh-landing-s0"
    before = {key: value for key, value in base.as_dict().items() if key not in ("initialisation", "constraint")}
    assert Cell.from_dict(before).hash == base.hash  # a record from before the setting existed


def test_a_hash_is_a_promise() -> None:
    """Records on disk are found by it: if this fails, every published result is orphaned."""
    assert cell("gpn=true", "budget=paper").id == "mnist-tanh-gpn-s0-db1433dd"


def test_composed_config_resolves_without_missing_values() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train")
    assert not OmegaConf.missing_keys(composed)
