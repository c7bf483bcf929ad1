"""W&B never stops a training: no key, no network, a server that refuses, an exception in the middle."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import wandb

from bsnn.cell import Cell
from bsnn.config import TrackingConfig
from bsnn.errors import UserError
from bsnn.results.metrics import Row
from bsnn.results.records import Record, read_records
from bsnn.tracking import live
from bsnn.tracking import login as wandb_login
from bsnn.tracking.live import Tracker
from bsnn.tracking.login import logged_in, mode
from bsnn.tracking.runs import known
from tests.factories import TWO_SEEDS, cell_of, make_record, unfinished
from tests.fake_wandb import KEY, FakeWandb
from tests.fake_wandb_server import serving
from tests.tracking.test_runs import assert_is_record, assert_same
from tests.training.toy import CELL


@pytest.fixture
def refusing_server() -> Iterator[str]:
    with serving(FakeWandb(known_key="another")) as server:
        yield server.url


@pytest.fixture
def closed_port() -> str:
    with serving() as server:
        return server.url


def test_a_logged_in_user_whose_server_refuses_gets_an_offline_run_and_the_record(
    tmp_path: Path, root: Path, refusing_server: str
) -> None:
    here = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of an earlier test
    environment = here | {
        "PYTHONPATH": str(root),
        "WANDB_API_KEY": KEY,
        "WANDB_BASE_URL": refusing_server,
        "WANDB_MODE": "",
    }
    command = [sys.executable, "-m", "experiments.train", "budget=smoke"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        cwd=tmp_path, env=environment, timeout=120,
    )  # fmt: skip
    [record] = read_records(tmp_path / "results" / "smoke")
    assert record["status"] == "ok"
    assert "kept offline" in done.stdout
    [run] = (tmp_path / "outputs" / "wandb").glob(f"offline-run-*-smoke-{record['id']}")
    assert_is_record(run, record)


def test_a_server_that_does_not_answer_is_asked_once_and_runs_are_kept_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed_port: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb_login, "server", lambda: closed_port)
    wandb_login.reachable.cache_clear()
    assert [mode("auto"), mode("auto")] == ["offline", "offline"]
    assert caplog.text.count(f"{closed_port} doesn't answer") == 1
    wandb_login.reachable.cache_clear()


def test_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wandb_login, "reachable", lambda: True)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_MODE", "")
    assert not logged_in()
    assert [mode(asked) for asked in ("auto", "offline", "none")] == ["offline", "offline", "disabled"]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mode("auto") == "online"
    assert mode("none") == "disabled"
    for environment, found in (("offline", "offline"), ("disabled", "disabled"), ("online", "online")):
        monkeypatch.setenv("WANDB_MODE", environment)
        assert mode("auto") == found


def test_a_key_from_wandb_login_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb_login, "server", lambda: "https://wandb.example.org")
    (tmp_path / "netrc").write_text(f"machine wandb.example.org\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert logged_in()
    monkeypatch.setattr(wandb_login, "server", lambda: "https://elsewhere.example.org")
    assert not logged_in()


@pytest.mark.parametrize("server", ["https://api.wandb.ai", "https://api.forge.coreweave.com", "http://localhost:8080"])
@pytest.mark.parametrize("name", [".netrc", "_netrc", "elsewhere"])
def test_a_key_is_found_where_wandb_finds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, name: str
) -> None:
    """Keys for the default server lie under its old name, too; others may read the file; a server may have a port."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(wandb_login, "server", lambda: server)
    assert not logged_in()
    if name == "elsewhere":
        monkeypatch.setenv("NETRC", "~/elsewhere")
    keys = tmp_path / name
    keys.write_text(
        "".join(f"machine {host} login user password {KEY}\n" for host in ("api.wandb.ai", "localhost:8080"))
    )
    keys.chmod(0o644)
    assert logged_in()
    keys.write_text(f"machine example.org login user password {KEY}\n")
    assert not logged_in()


def test_a_key_is_found_with_a_wandb_without_its_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("wandb.sdk.lib.wbauth.read_netrc_auth")
    test_a_key_from_wandb_login_is_found(monkeypatch, tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not logged_in()


def test_a_key_of_the_wrong_form_is_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb_login, "server", lambda: "https://wandb.example.org")
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password short\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not logged_in()
    monkeypatch.setattr(wandb_login, "server", lambda: "no URL")
    assert not logged_in()


def test_none_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.wandb, "init", lambda **_: pytest.fail("mode none must not touch W&B"))
    Tracker(TrackingConfig(mode="none"), CELL, "smoke").finish("ok")


def test_one_refusal_is_enough_and_open_runs_survive_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B's service is ended only where no run needs it; what it still holds then gets another id."""
    opened, refusing = [], [False]

    def init(**settings: Any) -> Any:
        opened.append((settings["mode"], settings["id"].removeprefix(f"smoke-{CELL.id}")))
        if refusing[0] and settings["mode"] == "online":
            raise RuntimeError("401")
        return MagicMock()

    ended = []
    monkeypatch.setattr(live.wandb, "init", init)
    monkeypatch.setattr(live.wandb, "teardown", lambda: ended.append(True))
    monkeypatch.setattr(live._Service, "refused", False)
    monkeypatch.setattr(live._Service, "open_runs", 0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    config = TrackingConfig(mode="online", dir=str(tmp_path))
    first = Tracker(config, CELL, "smoke")
    refusing[0] = True
    second, third = Tracker(config, CELL, "smoke"), Tracker(config, CELL, "smoke")
    assert opened == [("online", ""), ("online", ""), ("offline", "-offline"), ("offline", "")]
    for tracker in (first, second, third):
        tracker.finish("ok")
    assert not ended
    monkeypatch.setattr(live._Service, "refused", False)
    Tracker(config, CELL, "smoke").finish("ok")
    assert opened[4:] == [("online", ""), ("offline", "")]
    assert ended == [True]


@pytest.mark.parametrize(("requested", "environment"), [("online", "offline"), ("auto", "online")])
def test_online_without_a_login_is_a_mistake_and_no_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requested: str, environment: str
) -> None:
    """wandb.init would wait at a terminal for somebody to choose."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_MODE", environment)
    monkeypatch.setattr(live.wandb, "init", lambda **_: pytest.fail("it may ask"))
    with pytest.raises(UserError, match=r"expected a login, .*`wandb login`.* tracking.mode=offline or tracking=none"):
        Tracker(TrackingConfig(mode=requested, dir=str(tmp_path)), CELL, "smoke")


def test_threads_find_the_mode_although_another_has_just_dropped_an_empty_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Environment(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            return "" if name == "WANDB_MODE" else super().get(name, default)  # as it was a moment ago

    monkeypatch.setattr(wandb_login.os, "environ", Environment())
    assert mode("offline") == "offline"


def test_a_failing_log_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        resumed = False

        def define_metric(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no space left")

    monkeypatch.setattr(live.wandb, "init", lambda **_: Broken())
    tracker = Tracker(TrackingConfig(mode="offline", dir=str(tmp_path)), CELL, "smoke")
    row: Any = type("Row", (), {"as_dict": lambda self: {"step": 1, "train_loss": None}, "step": 1})()
    tracker.log(row)
    tracker.log(row)
    tracker.finish("ok")
    assert caplog.text.count("no space left; the record isn't affected") == 1


LONG = make_record(cell_of("paper", TWO_SEEDS), "paper", ratios=[2.0, math.inf, math.nan, 3.0] + [2.0] * 46)


def track(config: TrackingConfig, record: Record, status: str) -> None:
    """A process that trains the record's network as far as the record tells, from the first row on or a checkpoint."""
    tracker = Tracker(config, Cell.from_dict(record["cell"]), record["budget"])
    for row in record["rows"]:
        tracker.log(Row(**row))
    tracker.finish(status)


def test_offline_the_last_process_leaves_the_only_run(tmp_path: Path) -> None:
    """Also if two begin in the same second, whose folders W&B numbers; by chance so do these."""
    config = TrackingConfig(mode="offline", dir=str(tmp_path))
    other = unfinished(LONG, 1) | {"cell": LONG["cell"] | {"seed": 7}}
    track(config, other, "unfinished")
    for evaluations in (1, 2):
        record = unfinished(LONG, evaluations)
        track(config, record, "unfinished")
        [run] = (tmp_path / "wandb").glob(f"offline-run-*-paper-{record['id']}*")
        assert_is_record(run, record)
        if not run.name.endswith("-1"):
            run.rename(run.with_name(f"{run.name}-1"))
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    wandb.teardown()  # it would go on talking to the server of an earlier test
    with serving() as state:
        monkeypatch.setenv("WANDB_BASE_URL", state.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.delenv("WANDB_SERVICE", raising=False)
        monkeypatch.setattr(live._Service, "refused", False)
        yield state
        wandb.teardown()
        assert not state.unknown


def test_online_a_resumed_training_goes_on_with_its_run(server: FakeWandb, tmp_path: Path) -> None:
    """No row twice, not even the one at step 0; nor where the server is ahead of the checkpoint."""
    config = TrackingConfig(mode="online", dir=str(tmp_path))
    for evaluations, status in ((0, "unfinished"), (3, "crashed"), (2, "unfinished"), (5, "unfinished")):
        track(config, unfinished(LONG, evaluations), status)
        [run] = server.runs.values()
        reached = max(evaluations, 3) if evaluations else 0
        assert_same(run.rows, [known(row) for row in LONG["rows"][: reached + 1]])
    assert run.summary["status"] == "unfinished: 5 of 50 epochs"
    assert run.state == "finished"


def test_online_the_run_of_another_training_is_left_alone(
    server: FakeWandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrackingConfig(mode="online", dir=str(tmp_path))
    track(config, unfinished(LONG, 3), "unfinished")
    rows = [row | {"test_loss": 1.0, "train_loss": None} for row in LONG["rows"]]
    track(config, unfinished(LONG | {"rows": rows}, 5), "unfinished")
    [run] = server.runs.values()
    assert_same(run.rows, [known(row) for row in LONG["rows"][:4]])
    assert run.summary["status"] == "unfinished: 3 of 50 epochs"
    assert "is that of another training; `make sync` brings this one" in caplog.text
