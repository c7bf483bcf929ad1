"""scripts.reproduce: which rounds there are, what runs in which order, and that a stop is passed on."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsnn.errors import UserError
from bsnn.results.budgets import Key, table_configs
from bsnn.results.records import UNFINISHED, run_dir, write_record
from bsnn.training import costs
from scripts import reproduce
from scripts.reproduce import Commands, rounds_of, table
from tests.factories import cell_of, make_record

MNIST = {"dataset": "mnist", "activation": "tanh,relu", "batch_norm": "false"}


def far(results: Path, epochs: int, gpn: bool) -> None:
    """Unfinished records of MNIST's tanh and ReLU networks without batch norm."""
    for activation in ("tanh", "relu"):
        cell = cell_of("paper", Key("mnist", activation, gpn, False))
        record = make_record(cell, "paper") | {"status": UNFINISHED, "steps": 938 * epochs}
        write_record(run_dir(results, "paper", cell.id), record)


def configs(results: Path, asked: dict[str, str]) -> list[Any]:
    return [replace(config, results_dir=str(results)) for config in table("paper", asked)]


def test_the_cells_of_the_table_that_are_asked_for() -> None:
    assert len(table("paper", {})) == len(table_configs("paper")) == 48
    assert len(table("paper", {"seed": "0,1", "learning_rate": "1"} | MNIST)) == 2 * 4
    assert {config.width for config in table("paper", {"width": "100,200", "tracking": "none"} | MNIST)} == {100, 200}
    assert {config.gpn for config in table("paper", {"gpn": "True"})} == {True}


def test_rounds_that_all_networks_have_reached_are_left_out(tmp_path: Path) -> None:
    asked = configs(tmp_path, MNIST)
    assert rounds_of("paper", asked, None) == [1, 2, 4, 8, 16, 32, None]  # 50 epochs
    assert rounds_of("paper", configs(tmp_path, {}), None) == [1, 2, 4, 8, 16, 32, 64, None]  # 100
    assert rounds_of("paper", asked, 6) == [1, 2, 4, 6]
    assert rounds_of("paper", asked, 50) == [1, 2, 4, 8, 16, 32, None]
    assert rounds_of("smoke", table("smoke", {}), None) == [None]
    far(tmp_path, 2, gpn=True)
    assert rounds_of("paper", asked, None)[0] == 1  # those without GPN are not there yet
    far(tmp_path, 4, gpn=False)
    assert rounds_of("paper", asked, None) == [4, 8, 16, 32, None]
    assert rounds_of("paper", asked, 2) == [2]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that are run; each ends with the code that the fixture's caller has put into `codes`."""
    lines: list[str] = []

    def run(_: Commands, module: str, *arguments: str) -> int:
        lines.append(" ".join([module.rpartition(".")[2], *arguments]))
        return codes.pop(lines[-1].split()[0], 0)

    monkeypatch.setattr(Commands, "run", run)
    monkeypatch.setattr(reproduce, "_say_cost", lambda *_: None)
    codes.clear()
    return lines


codes: dict[str, int] = {}


def test_what_runs_in_which_order(ran: list[str], tmp_path: Path) -> None:
    where = f"results_dir={tmp_path}"
    assert reproduce.reproduce("smoke", tmp_path, ["seed=0,1"]) == 0
    assert ran == [
        f"train +experiment=table2 budget=smoke {where} seed=0,1",
        f"synthetic -m +experiment=fig1,fig2,fig3 budget=smoke {where}",
        f"publish {tmp_path}/smoke",
    ]
    ran.clear()
    assert reproduce.reproduce("paper", tmp_path, ["until=2", "threads=1"]) == 0
    assert ran == [
        f"synthetic -m +experiment=fig1,fig2 budget=paper {where}",
        f"train +experiment=table2 budget=paper {where} threads=1 until=1",
        f"synthetic -m +experiment=fig3 budget=paper {where}",
        f"publish {tmp_path}/paper",
        f"train +experiment=table2 budget=paper {where} threads=1 until=2",
        f"publish {tmp_path}/paper",
    ]


@pytest.mark.parametrize("code", [75, 130, 143, 1])
def test_whatever_ends_a_round_its_results_are_published(ran: list[str], tmp_path: Path, code: int) -> None:
    """An error, too, where it left nothing trained."""
    codes["train"] = code
    assert reproduce.reproduce("paper", tmp_path, ["time_limit=600"]) == code
    ends = [line.split()[0] for line in ran]
    assert ends == ["synthetic", "train", *["synthetic"] * (code == 1), "publish"]
    limits = [word for line in ran for word in line.split() if word.startswith("time_limit=")]
    assert len(limits) == 1
    assert 0 < float(limits[0].removeprefix("time_limit=")) <= 600


def test_one_cell_that_fails_does_not_keep_the_others_from_further_rounds(ran: list[str], tmp_path: Path) -> None:
    far(tmp_path, 2, gpn=True)
    codes["train"] = 1  # in the first round
    settings = [f"{name}={value}" for name, value in MNIST.items()]
    assert reproduce.reproduce("paper", tmp_path, [*settings, "until=2"]) == 1
    assert [line.split()[-1] for line in ran if line.startswith("train")] == ["until=1", "until=2"]


def test_a_spent_time_limit_is_no_failure(ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "STARTED", reproduce.STARTED - 570)
    assert reproduce.reproduce("paper", tmp_path, ["time_limit=600"]) == 75
    assert sum(line.startswith("train") for line in ran) == 1


def test_settings_are_checked_before_anything_runs(ran: list[str], tmp_path: Path) -> None:
    for setting, message in (
        ("until=0", "until: expected a whole number >= 1, found 0"),
        ("until=abc", "until"),
        ("learning_rat=1", "learning_rat"),
        ("activation=nope", "expected cells of Table 2, found none"),
    ):
        with pytest.raises(UserError, match=message):
            reproduce.reproduce("paper", tmp_path, [setting])
    assert not ran


def test_a_disk_without_room_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(costs, "measure", lambda *_: 0.1)
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
    with pytest.raises(UserError, match=r"expected 1\.6 GB for 4 checkpoints, found 1\.0 GB free"):
        reproduce._say_cost(configs(tmp_path, MNIST), 1, tmp_path / "paper")
    assert "round to epoch 1: about " in capsys.readouterr().out


SLEEPS = """
import signal, sys, time
def end(number, _):
    print("saved", flush=True)
    sys.exit(143 if number == signal.SIGTERM else 130)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
open("ready", "w").close()
time.sleep(30)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_the_childs_to_answer(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C reaches both processes, from the terminal; SIGTERM the parent, which passes it on."""
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    commands = Commands()

    def stop() -> None:
        while not Path("ready").exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), number)
        if number == signal.SIGINT:
            assert commands._child is not None
            commands._child.send_signal(number)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert commands.run("sleeps") == code
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert "saved" in capfd.readouterr().out
