"""`python -m experiments.train` as a user meets it: records, skipping, kill -9, mistakes, multirun, W&B."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bsnn.data import load
from bsnn.errors import UserError
from bsnn.results.metrics import METRICS
from bsnn.results.records import read_records
from bsnn.training import runner
from bsnn.training.runner import load_trained
from experiments.train import main
from tests.factories import CLOCK_AND_ORIGIN
from tests.hydra_app import run_app

SMOKE = ("budget=smoke", "tracking=none")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's outputs/, W&B's runs and results/ land in the test's folder."""
    monkeypatch.chdir(tmp_path)


def records(folder: Path, budget: str = "smoke") -> list[dict[str, Any]]:
    return read_records(folder / "results" / budget)


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the clock and the command line."""
    kept = {key: value for key, value in record.items() if key not in CLOCK_AND_ORIGIN}
    return kept | {"rows": [{k: v for k, v in row.items() if k != "seconds"} for row in record["rows"]]}


def test_one_cell_leaves_a_self_sufficient_record_and_is_not_trained_twice(tmp_path: Path) -> None:
    command = (*SMOKE, "activation=gelu", "gpn=true", "batch_norm=true", "seed=5")
    assert run_app(main, *command) == 0
    [record] = records(tmp_path)
    assert record["status"] == "ok"
    assert record["id"].startswith("mnist-gelu-gpn-bn-s5-")
    assert record["budget"] == "smoke"
    assert [set(row) for row in record["rows"]] == [set(METRICS)] * 2
    assert record["rows"][-1]["step"] == record["steps"] == 2
    assert record["gpn_constants"] == pytest.approx({"a": 1.49145922675, "b": -0.909652801901}, abs=1e-10)
    assert record["config"]["activation"]["label"] == "GELU"
    assert len(record["gradient_norms"]["last"]) == 8
    provenance = record["provenance"]
    assert len(provenance["commit"]) == 40
    assert provenance["versions"]["torch"]
    assert provenance["threads"] == 1
    assert provenance["command"] == " ".join(["python -m experiments.train", *command])
    folder = tmp_path / "results" / "smoke" / "runs" / record["id"]
    assert {path.name for path in folder.iterdir()} <= {"record.json", ".lock"}

    before = (folder / "record.json").stat()
    assert run_app(main, *command) == 0
    assert (folder / "record.json").stat().st_mtime_ns == before.st_mtime_ns


def test_trained_weights_are_kept_on_request_and_load(tmp_path: Path) -> None:
    assert run_app(main, *SMOKE, "batch_norm=true", "gpn=true") == 0
    [record] = records(tmp_path)
    folder = tmp_path / "results" / "smoke" / "runs" / record["id"]
    with pytest.raises(UserError, match="keep_checkpoint=true"):
        load_trained(folder)
    (folder / "record.json").unlink()
    with pytest.raises(UserError, match="train it first"):
        load_trained(folder)
    assert run_app(main, *SMOKE, "batch_norm=true", "gpn=true", "keep_checkpoint=true") == 0
    data, last = load("mnist"), record["rows"][-1]
    with torch.no_grad():
        logits = load_trained(folder)(data.test_x)
    accuracy = 100 * (logits.argmax(dim=1) == data.test_y).double().mean().item()
    assert accuracy == pytest.approx(last["test_accuracy"], abs=0.05)  # 5 of 10 000 images near a tie
    assert F.cross_entropy(logits, data.test_y).item() == pytest.approx(last["test_loss"], rel=1e-5)


def test_same_command_twice_gives_the_same_record(tmp_path: Path) -> None:
    for place in ("one", "two"):
        assert run_app(main, *SMOKE, "gpn=true", f"results_dir={place}") == 0
    one, two = (comparable(read_records(tmp_path / place / "smoke")[0]) for place in ("one", "two"))
    assert one | {"config": None} == two | {"config": None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("activation=nope",), "Could not find 'activation/nope'"),
        (("activaton=tanh",), "Key 'activaton' not in 'TrainConfig'"),
        (("depth=-3",), "depth: expected a whole number >= 1, found -3."),
        (("seed=abc",), "Value 'abc' of type 'str' could not be converted to Integer"),
        (("+depht=4",), "did you mean depth?"),
        (("activation.module._target_=torch.nn.RReLU",), "activation=tanh gpn=false: RReLU is not one elementwise"),
        (("results_dir=file",), "Not a directory; make it writable or choose another with results_dir=FOLDER"),
    ],
)
def test_mistakes_end_in_one_message_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").write_text("")
    assert run_app(main, *SMOKE, *overrides) == 1
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_truncated_data_is_named_and_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load("mnist")  # make sure that the user's cache is filled
    source = Path(os.environ.get("BSNN_DATA_DIR", "~/.cache/bsnn")).expanduser() / "mnist"
    copy = tmp_path / "data" / "mnist"
    copy.mkdir(parents=True)
    for path in source.glob("*.npy"):
        (copy / path.name).write_bytes(path.read_bytes())
    damaged = copy / "train_images.npy"
    damaged.write_bytes(damaged.read_bytes()[:100_000])
    monkeypatch.setenv("BSNN_DATA_DIR", str(tmp_path / "data"))
    assert run_app(main, *SMOKE) == 1
    error = capfd.readouterr().err
    assert "train_images.npy" in error
    assert "Traceback" not in error
    assert not records(tmp_path)
    assert damaged.stat().st_size == 100_000


def test_a_crash_is_recorded_retried_and_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", out_of_memory)
        assert run_app(main, *SMOKE) == 1
    [record] = records(tmp_path)
    assert (record["status"], record["error"]) == ("crashed", "RuntimeError: out of memory")
    assert run_app(main, *SMOKE) == 0
    assert records(tmp_path)[0]["status"] == "ok"


@pytest.mark.parametrize("name", ["basic", "stacked"])
def test_multirun_trains_the_others_when_one_cell_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    real = runner.train

    def crash_for_relu(cells: Any, *arguments: Any, **options: Any) -> Any:
        if "relu" in {cell.activation for cell in cells}:
            raise RuntimeError("boom")
        return real(cells, *arguments, **options)

    monkeypatch.setattr(runner, "train", crash_for_relu)
    launcher = f"hydra/launcher={name}"
    assert run_app(main, "-m", launcher, *SMOKE, "activation=relu,tanh,elu", "gpn=true,false") == 1
    assert sorted(record["status"] for record in records(tmp_path)) == ["crashed"] * 2 + ["ok"] * 4
    assert "boom" in capfd.readouterr().err


def test_table2_runs(tmp_path: Path) -> None:
    """The real file through its own launcher, from any folder; both gpn=false and gpn=true."""
    assert run_app(main, "+experiment=table2", *SMOKE, "activation=relu,selu", "batch_norm=true") == 0
    trained_are(tmp_path, {f"{d}-{a}" for d in ("mnist", "cifar10") for a in ("relu", "selu")})


def test_fig4_runs(tmp_path: Path) -> None:
    assert run_app(main, "+experiment=fig4", *SMOKE, "activation=gelu", "batch_norm=false") == 0
    trained_are(tmp_path, {"cifar10-gelu"})


def trained_are(folder: Path, cells: set[str]) -> None:
    trained = records(folder)
    assert {record["status"] for record in trained} == {"ok"}
    assert len(trained) == 2 * len(cells)
    assert {"-".join(record["id"].split("-")[:2]) for record in trained} == cells


def test_kill_9_of_a_sweep_ends_its_workers_and_the_same_command_finishes_it(tmp_path: Path, root: Path) -> None:
    """With a launcher that gives each cell a process of its own."""
    size = ("depth=20", "width=32", "max_steps=400", "evaluations_per_epoch=94", "activation=relu", "batch_norm=false",
            "dataset=mnist")  # fmt: skip
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "checkpoint_seconds=0")
    command = [sys.executable, "-m", "experiments.train", "+experiment=fig4", *joblib, *SMOKE, *size]
    environment = os.environ | {"PYTHONPATH": str(root)}

    def members(session: int) -> list[int]:
        """Processes of a session that still run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, *numbers = stat.read_text().rpartition(") ")[2].split()
                if int(numbers[2]) == session and state != "Z":
                    found.append(int(stat.parent.name))
        return found

    def wait_until(condition: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as sweep:
        wait_until(lambda: list((tmp_path / "results").rglob("checkpoint.pt")), 90)
        assert len(members(sweep.pid)) >= 3
        sweep.kill()
    wait_until(lambda: not members(sweep.pid), 20)
    assert "ok" not in [record["status"] for record in records(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=180)
    assert [record["status"] for record in records(tmp_path)] == ["ok", "ok"]
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_wandb_offline_run_holds_the_record(tmp_path: Path) -> None:
    """Read back with W&B's own tool: flat config, group, tags, status, and the rows number by number, inf included."""
    # 300 layers of ReLU underflow in float32: the lowest gradients are exactly 0 and the ratio is inf or nan
    assert run_app(main, "budget=smoke", "activation=relu", "depth=300", "seed=7") == 0
    [record] = records(tmp_path)
    assert not np.isfinite(record["rows"][-1]["gradient_ratio"])
    [log] = (tmp_path / "outputs" / "wandb").glob(f"offline-run-*-smoke-{record['id']}/*.wandb")
    tool = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(log)]
    lines = subprocess.run(tool, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    entries = [json.loads(line) for line in lines]

    run = next(entry["run"] for entry in entries if entry["type"] == "run")
    assert run["run_id"] == f"smoke-{record['id']}"
    assert run["display_name"] == "mnist-relu-s7"
    assert re.fullmatch("mnist-relu-[0-9a-f]{8}", run["run_group"])
    assert run["tags"] == ["smoke", "mnist", "relu", "plain"]
    config = run["config"]["update"]
    assert {key: config[key] for key in ("activation", "gpn", "batch_norm", "depth", "seed")} == {
        key: record["cell"][key] for key in ("activation", "gpn", "batch_norm", "depth", "seed")
    }
    assert {type(value) for key, value in config.items() if key != "_wandb"} <= {str, bool, int, float, type(None)}
    summaries = [entry["summary"].get("update", {}) for entry in entries if entry["type"] == "summary"]
    assert [summary["status"] for summary in summaries if "status" in summary] == ["ok"]

    history = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
    assert len(history) == len(record["rows"])
    for logged, row in zip(history, record["rows"], strict=True):
        known = {key: value for key, value in row.items() if value is not None}
        assert {key: float(value) for key, value in logged.items() if key in METRICS} == pytest.approx(
            known, nan_ok=True
        )
