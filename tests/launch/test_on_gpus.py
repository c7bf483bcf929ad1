"""hydra/launcher=stacked on a machine with several GPUs, by what each worker would see. No GPU is needed."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.errors import CompactHydraException

from bsnn.launch import entry, on_gpus
from bsnn.launch import on_slurm as dispatch_submitit
from bsnn.launch.cells import CellSpread
from bsnn.results.records import read_records
from bsnn.training import costs
from experiments.train import main
from tests.factories import cell_of, table_keys
from tests.hydra_app import run_app
from tests.launch.test_dispatch import Inline, inline  # noqa: F401 (inline: workers in this process)
from tests.training.grid import images, jobs  # noqa: F401 (images: noise instead of data)

SWEEP = ("-m", "hydra/launcher=stacked", "budget=smoke", "tracking=none", "gpn=false,true")


@pytest.fixture
def gpus_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of GPUs that torch says it sees; it can't use them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def set_to(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return set_to


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that ask for a GPU are trained on the CPU notwithstanding."""
    monkeypatch.setattr("bsnn.training.cellrun.choose_device", lambda name: torch.device("cpu"))


# --- which GPUs ---


@pytest.mark.parametrize(
    ("count", "variable", "names"),
    [
        (0, None, []),
        (3, None, ["0", "1", "2"]),
        (3, "4, 5,GPU-c", ["4", "5", "GPU-c"]),
        (1, "2,-1,3", ["2"]),  # CUDA stops at the first that there isn't
        (0, "", []),
    ],
)
def test_gpus_by_the_names_that_a_worker_is_given(
    count: int, variable: str | None, names: list[str], gpus_of: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus_of(count)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert on_gpus.names() == names


def test_a_driver_that_torch_cannot_use_counts_as_no_gpu(
    gpus_of: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus_of(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpus.names() == []


def test_what_each_process_of_stacked_local_sees(
    gpus_of: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus_of(4)
    assert dispatch_submitit._devices(None, 2) == [None, None]
    assert dispatch_submitit._devices(2, 2) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-c,7")
    assert dispatch_submitit._devices(2, 2) == ["4,5", "GPU-c,7"]
    with pytest.raises(CompactHydraException, match=r"expected 3 x 2 GPUs .* found 4"):
        dispatch_submitit._devices(3, 2)


def test_a_worker_sees_its_gpus_from_its_first_instruction_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment of its process, since CUDA reads it once. A GPU is given to the next worker when one ends."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-c")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    parameters = {"submitit_folder": f"{tmp_path}/%j", "timeout_min": 5, "jobs_at_once": 2, "gpus_per_node": 1}
    pool = dispatch_submitit.LocalPool(parameters)
    started: list[str] = []
    ended: set[str] = set()

    class Job:
        def __init__(self, devices: str) -> None:
            self.devices = devices
            self.paths = SimpleNamespace(folder=tmp_path, result_pickle=tmp_path / "none", stdout="out", stderr="err")

        def done(self) -> bool:
            return self.devices in ended

    for devices, executor in pool._executors.items():

        def submit(worker: Any, devices: str = str(devices)) -> Job:
            started.append(devices)
            return Job(devices)

        monkeypatch.setattr(executor, "submit", submit)
    pool.send([SimpleNamespace() for _ in range(3)])  # type: ignore[list-item]
    assert started == ["4", "GPU-c"]
    ended.add("GPU-c")
    [(name, _)] = pool.ended()
    assert name == "2"
    assert started == ["4", "GPU-c", "GPU-c"]
    program = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    for devices, seen in (("4", "4"), ("GPU-c", "GPU-c"), (None, "4,GPU-c")):
        command = [*shlex.split(dispatch_submitit._python_that_sees(devices)), "-S", "-c", program]
        as_submitit = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        assert subprocess.run(command, env=as_submitit, capture_output=True, text=True).stdout.strip() == seen


# --- who trains what ---


def test_cells_are_divided_evenly_most_telling_first() -> None:
    asked = [
        replace(job, config=replace(job.config, gpn=gpn, seed=seed))
        for job in jobs("dataset=cifar10", "dataset=mnist")
        for seed in range(3)
        for gpn in (False, True)
    ]
    spread = CellSpread(asked, None, lambda tally: None)
    groups = spread.groups(24, workers=4)
    assert [len(group) for group in groups] == [2, 2, 2, 2, 1, 1, 1, 1]
    assert sorted(k for group in groups for k in group) == list(range(12))
    configs = [[asked[k].config for k in group] for group in groups]
    assert all(len({config.dataset.name for config in group}) == 1 for group in configs)
    first = [(group[0].seed, group[0].dataset.name == "cifar10", not group[0].gpn) for group in configs]
    assert first == sorted(first)
    assert [len(group) for group in spread.groups(2, workers=2)] == [2, 2, 2, 2, 1, 1, 1, 1]


@pytest.mark.usefixtures("on_cpu")
def test_stacks_are_spread_over_all_gpus(
    inline: type[Inline],  # noqa: F811
    gpus_of: Callable[[int], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    gpus_of(2)
    assert run_app(main, *SWEEP) == 0
    [pool] = inline.opened
    assert (pool.parameters["jobs_at_once"], pool.parameters["gpus_per_node"]) == (2, 1)
    assert pool.sent == [[1], [0]]  # GPN first
    assert pool.closed
    assert len(read_records(Path("results/smoke"))) == 2
    said = capfd.readouterr().out
    assert said.count("Launching 2 jobs on 2 GPUs") == 1
    assert said.count("Launching") == 3  # each worker says it of its own
    assert run_app(main, *SWEEP) == 0  # nothing is left: no worker
    assert len(inline.opened) == 1


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("gpus", "option"), [(1, "gpn=false,true"), (2, "device=cpu"), (2, "gpn=true")])
def test_one_process_does_where_there_is_nothing_to_spread(
    gpus: int,
    option: str,
    inline: type[Inline],  # noqa: F811
    gpus_of: Callable[[int], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    gpus_of(gpus)
    assert run_app(main, *SWEEP, option) == 0
    assert not inline.opened
    assert capfd.readouterr().out.count("Launching") == 1


@pytest.mark.usefixtures("on_cpu")
def test_without_submitit_the_first_gpu_is_used_and_one_line_says_so(
    inline: type[Inline],  # noqa: F811
    gpus_of: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gpus_of(4)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "submitit" and real(name, *rest)) or None
    )
    assert on_gpus.in_use() == ["0"]
    assert run_app(main, *SWEEP) == 0
    assert not inline.opened
    said = capfd.readouterr().out
    assert "this machine has 4 GPUs, of which the first is used: the others need the package submitit" in said


@pytest.mark.usefixtures("on_cpu")
def test_ctrl_c_says_how_far_it_is(
    inline: type[Inline],  # noqa: F811
    gpus_of: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Cells that were done before count, too."""
    assert run_app(main, *SWEEP, "gpn=true") == 0
    gpus_of(2)

    def interrupt(self: Inline) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(inline, "ended", interrupt)
    monkeypatch.setattr(sys, "argv", ["experiment", *SWEEP, "seed=0,1"])
    with pytest.raises(SystemExit) as ended:
        entry.run(main)
    assert ended.value.code == 130
    assert inline.opened[0].stopped
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "interrupted: stopped: 1 of 4 cells done, 25 % of the steps; the same command goes on"


# --- what it costs ---


def test_so_many_gpus_take_so_much_less_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(members: list[costs.Planned], workers: int) -> float:
        measured.append(workers)
        return 0.001

    monkeypatch.setattr(costs, "measure", measure)
    monkeypatch.setattr(costs, "device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 10**9,) * 2)
    cells = [(cell_of("paper", key), 0) for key in table_keys()]
    one, four = (
        costs.estimate(cells, 1, torch.device("cuda"), tmp_path, workers=2, gpus=gpus) for gpus in (1, 4)
    )  # `workers` is what threads= says, for a CPU
    assert set(measured) == {1, 4}
    assert one.seconds == pytest.approx(24 * (938 + 782) * 0.001)
    assert four.seconds == pytest.approx(one.seconds / 4)
    assert one.where == "Some GPU"
    assert "on 4 x Some GPU (48 cells)" in four.sentence()
