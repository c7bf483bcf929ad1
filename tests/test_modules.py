"""bsnn.modules: a record names functions, and never code that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bsnn.activations import SigmoidGELU
from bsnn.cell import Cell
from bsnn.engine.reference import ReferenceStack
from bsnn.errors import UserError
from bsnn.modules import build
from bsnn.results import grid
from bsnn.results.records import cell_of, read_record, run_dir, write_record
from bsnn.training import checkpoints
from bsnn.training.checkpoints import Progress
from bsnn.training.runner import load_trained
from tests.engine.cells import make_cell
from tests.factories import make_record, write

MADE: list[str] = []


class Foreign(nn.Module):
    """Somebody's own function, whose construction leaves a trace."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        MADE.append(name)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


FOREIGN = {"_target_": f"{__name__}.Foreign", "name": "x"}


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    MADE.clear()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ({"_target_": "torch.nn.Tanh"}, nn.Tanh()),
        ({"_target_": "torch.nn.Identity"}, nn.Identity()),
        ({"_target_": "torch.nn.modules.activation.ELU", "alpha": 0.5}, nn.ELU(0.5)),
        ({"_target_": "torch.nn.GELU", "approximate": "tanh"}, nn.GELU("tanh")),
        ({"_target_": "bsnn.activations.SigmoidGELU"}, SigmoidGELU()),
        ({"_target_": "bsnn.SigmoidGELU"}, SigmoidGELU()),
    ],
)
def test_functions_of_torch_and_of_this_project_are_built(module: dict[str, Any], expected: nn.Module) -> None:
    for trusted in (False, True):
        assert repr(build(module, trusted)) == repr(expected)


@pytest.mark.parametrize(
    "module",
    [
        FOREIGN,
        {"_target_": "torch.hub.load", "repo_or_dir": "/elsewhere", "model": "x", "source": "local"},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "builtins.exec"},
        {"_target_": "torch.nn.Sequential"},
        {"_target_": "torch.nn.functional.relu"},
        {"_target_": "torch.nn.modules.activation.torch.hub.load"},
        {"_target_": "bsnn.modules.importlib.import_module", "name": "antigravity"},
        {"_target_": "bsnn.modules.instantiate", "config": FOREIGN},
        {"_target_": "bsnn.cell.GPN.forward"},
        {"_target_": "bsnn..x.Y"},
        {"_target_": "Tanh"},
        {"_target_": None},
        {},
        {"_target_": "torch.nn.ELU", "alpha": FOREIGN},
        {"_target_": "torch.nn.ELU", "alpha": [{"x": FOREIGN}]},
        {"_target_": "torch.nn.ELU", "_args_": [0.5]},
        {"_target_": "torch.nn.ELU", "_partial_": True},
    ],
    ids=str,
)
def test_what_else_a_record_names_is_refused(module: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"found another name in a record: .*load_trained\(folder, trust=True\)"):
        build(module, trusted=False)
    assert not MADE


def test_arguments_that_a_function_does_not_take_are_named() -> None:
    with pytest.raises(UserError, match=r"torch.nn.Tanh: expected arguments that it takes, found \{'alpha': 1\}"):
        build({"_target_": "torch.nn.Tanh", "alpha": 1}, trusted=False)


@pytest.mark.parametrize("arguments", [{"num_parameters": -1}, {"device": "nowhere"}])
def test_arguments_that_torch_refuses_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"torch.nn.PReLU: expected arguments that it takes, found"):
        build({"_target_": "torch.nn.PReLU"} | arguments, trusted=False)


def test_a_folder_from_somebody_else_runs_nothing_unless_it_is_trusted(tmp_path: Path) -> None:
    mine = make_cell("foreign", activation_module=FOREIGN)
    folder = run_dir(tmp_path, "smoke", mine.id)
    write(tmp_path, make_record(mine, "smoke"))
    checkpoints.save(folder / "checkpoint.pt", mine, ReferenceStack([mine], torch.device("cpu")).member(0), Progress())
    MADE.clear()
    with pytest.raises(UserError, match=r"tests.test_modules.Foreign: expected an activation of torch.nn"):
        load_trained(folder)
    assert not MADE
    assert isinstance(load_trained(folder, trust=True).activation, Foreign)
    assert MADE == ["x"]


def test_results_are_read_without_building_what_they_name(tmp_path: Path) -> None:
    record = make_record(make_cell("foreign", activation_module=FOREIGN, depth=8, width=16), "smoke")
    write(tmp_path, record)
    assert grid.load(tmp_path / "smoke").others == [record]
    cell = cell_of(record)
    assert cell is not None
    with pytest.raises(UserError, match="trust=True"):
        cell.with_seed(3).make_activation()
    assert not MADE


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", None])
def test_a_record_names_no_other_place(tmp_path: Path, name: str | None) -> None:
    record = make_record(make_cell("tanh"), "smoke")
    folder = run_dir(tmp_path, "smoke", record["id"])
    write_record(folder, record | {"id": name})
    with pytest.raises(UserError, match="expected an id that names a folder, found"):
        read_record(folder)


def test_trust_is_no_part_of_a_cell() -> None:
    cell = make_cell("tanh")
    read = Cell.from_dict(cell.as_dict())
    assert not read.trusted
    assert read == cell
    assert read.hash == cell.hash
    with pytest.raises(TypeError):
        Cell.from_dict(cell.as_dict() | {"trusted": True})
