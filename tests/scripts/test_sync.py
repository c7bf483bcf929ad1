"""scripts.sync and scripts.dashboard against a server that keeps what it is told: all arrives, once."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from bsnn.errors import UserError
from bsnn.files import try_lock
from bsnn.results.budgets import headline
from bsnn.results.records import Record, read_records, run_dir
from bsnn.tracking import upload as wandb_upload
from bsnn.tracking import watch as wandb_watch
from bsnn.tracking.artifact import FIGURES
from bsnn.tracking.runs import expected_summary, known, of_record
from scripts import sync
from scripts.report import __main__ as report
from tests.factories import (
    CRASHED,
    DIVERGED,
    TWO_SEEDS,
    cell_of,
    make_record,
    paper_like_record,
    unfinished,
    write,
)  # fmt: skip
from tests.fake_wandb import ENTITY, KEY, FakeWandb
from tests.fake_wandb_server import serving
from tests.tracking.test_runs import assert_same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # wandb-workspaces defines its models as pydantic 1 did
    from scripts.dashboard import __main__ as dashboard


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/smoke with four finished records (nan and inf among them), one crashed, a report and figures."""
    results = tmp_path_factory.mktemp("published") / "results"
    for seed, ratios in enumerate([(2.0, 3.0), (math.inf, 7.0), (0.1 + 0.2, math.nan)]):
        write(results, paper_like_record("smoke", TWO_SEEDS, seed=seed, ratios=ratios))
    write(results, paper_like_record("smoke", DIVERGED, status="diverged", test=math.nan, evaluations=2))
    write(results, paper_like_record("smoke", CRASHED, status="crashed", evaluations=2))
    folder = results / "smoke"
    report.main([str(folder)])
    for shade, figure in enumerate(FIGURES):
        Image.new("L", (2, 2), shade).save(folder / f"{figure}.png")
    return folder


@pytest.fixture
def budget(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "results" / published.name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeWandb]:
    with serving() as state:
        log_in(monkeypatch, tmp_path, state.url)
        monkeypatch.setattr(wandb_upload, "SETTLE_SECONDS", (0.0, 0.1))
        yield state
        wandb.teardown()
        assert not state.unknown


def log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    wandb.teardown()  # it would go on talking to the server of an earlier test
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


def finished(folder: Path) -> list[Record]:
    return [record for record in read_records(folder) if record["status"] != "crashed"]


def assert_arrived(server: FakeWandb, folder: Path) -> None:
    """Every finished record is a run there, to the last bit, and nothing else is."""
    records = finished(folder)
    trained = {name for name in server.runs if not name.startswith("results-")}
    assert trained == {of_record(record).id for record in records}
    for record in records:
        told, run = of_record(record), server.runs[of_record(record).id]
        assert (run.display_name, run.group, run.settings) == (told.name, told.group, told.config)
        assert sorted(run.tags) == sorted(told.tags)
        assert_same(run.rows, [known(row) for row in record["rows"]])
        summary = expected_summary(record)
        assert_same([{key: run.summary[key] for key in summary}], [summary])
        assert run.state == "finished"


def test_everything_arrives_once(server: FakeWandb, budget: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = [("UpsertBucket", 429), ("file_stream", 503)]
    server.answers = list(busy)
    sync.main([str(budget)])
    assert not server.answers
    assert_arrived(server, budget)
    told = capsys.readouterr().out
    assert headline("smoke") in told
    assert "runs: 4 uploaded, 0 were there already; 1 crashed, not uploaded" in told
    [artifact] = server.artifacts
    expected = {"claims.csv", "provenance.json", "report.md", *(f"{figure}.png" for figure in FIGURES)}
    assert set(artifact.manifest["contents"]) == expected
    assert server.blobs[f"{artifact.id}/report.md"] == (budget / "report.md").read_bytes()
    assert artifact.metadata["headline"] == headline("smoke")
    assert artifact.metadata["commits"] == ["0123456789abcdef0123456789abcdef01234567"]
    assert artifact.metadata["devices"] == ["Some CPU, 2 cores"]
    assert artifact.metadata["versions"]["torch"] == ["2.9.0"]
    [published] = [run for run in server.runs.values() if run.job_type == "publish"]
    assert {key for key in published.history[-1] if not key.startswith("_")} == set(FIGURES)
    assert sum(file.endswith(".png") for file in published.files) == len(FIGURES)
    assert "budget" not in published.settings  # no chart of trainings shows it

    asked = len(server.requests)
    sync.main([str(budget)])
    assert set(server.requests[asked:]) <= {"/", "Viewer", "GetDefaultEntity", "Runs", "ServerFeaturesQuery",
                                            "ArtifactMembershipByName", "telemetry"}  # fmt: skip
    assert "runs: 0 uploaded, 4 were there already" in capsys.readouterr().out

    (budget / "report.md").write_text("changed\n")
    sync.main([str(budget)])
    assert [one.version for one in server.artifacts] == [0, 1]
    assert {run.opened for run in server.runs.values() if run.job_type is None} == {1}


CELL = replace(cell_of("smoke", TWO_SEEDS, seed=9), max_steps=None, epochs=50)
LONG = make_record(CELL, "smoke", ratios=[2.0] * 50)
ANOTHER = LONG | {"rows": [row | {"test_loss": 1.5} for row in LONG["rows"]]}


def test_an_unfinished_network_goes_on_as_the_same_run(
    server: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each sync brings the rows that are new, a second one nothing; one that is trained now is left alone."""
    told = of_record(LONG)
    for evaluations in (1, 3, 3, 50):
        record = unfinished(LONG, evaluations) if evaluations < 50 else LONG
        write(tmp_path, record)
        opened = server.runs[told.id].opened if server.runs else 0
        new = not server.runs or len(server.runs[told.id].rows) < evaluations + 1
        lock = try_lock(run_dir(tmp_path, "smoke", LONG["id"]))
        assert lock is not None
        if evaluations < 50:
            sync.main([str(tmp_path / "smoke")])
            assert "runs: 0 uploaded, 0 were there already; 1 in training now" in capsys.readouterr().out
        lock.release()
        sync.main([str(tmp_path / "smoke")])
        said = capsys.readouterr().out
        assert f"runs: {int(new)} uploaded, {int(not new)} were there already" in said
        assert ("; 1 of them unfinished" in said) == (evaluations < 50)
        assert_arrived(server, tmp_path / "smoke")
        assert server.runs[told.id].opened == opened + new
    assert server.runs[told.id].summary["status"] == "ok"


def test_another_training_of_a_network_is_another_run(
    server: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is where a record was replaced by one that came from elsewhere. The first one's rows stay, unseen."""
    first = of_record(LONG).id
    write(tmp_path, unfinished(LONG, 3))
    sync.main([str(tmp_path / "smoke")])
    rows = server.runs[first].rows
    for evaluations, number in ((3, 2), (8, 2)):
        write(tmp_path, unfinished(ANOTHER, evaluations))
        for superseded in ("; 1 of other trainings superseded", ""):
            sync.main([str(tmp_path / "smoke")])
            said = capsys.readouterr().out
            assert ("superseded" in said) == bool(superseded and evaluations == 3)
        assert set(server.runs) == {first, f"{first}-{number}"}
        run = server.runs[f"{first}-{number}"]
        assert_same(run.rows, [known(row) for row in ANOTHER["rows"][: evaluations + 1]])
    assert server.runs[first].rows == rows
    assert server.runs[first].tags == ["superseded"]
    assert server.runs[first].settings["budget"] == "smoke, superseded"


def test_a_live_run_that_is_ahead_of_the_record_is_its_own(server: FakeWandb, tmp_path: Path) -> None:
    """Killed after its last checkpoint, the training will get there again."""
    write(tmp_path, unfinished(LONG, 3))
    sync.main([str(tmp_path / "smoke")])
    write(tmp_path, unfinished(LONG, 2))
    sync.main([str(tmp_path / "smoke")])
    [run] = server.runs.values()
    assert (run.opened, len(run.rows)) == (1, 4)


def test_a_killed_upload_goes_on(server: FakeWandb, budget: Path, tmp_path: Path, root: Path) -> None:
    """No run twice, no row twice, none missing; what was there in whole isn't touched."""
    reached, over = threading.Event(), threading.Event()

    def gate(name: str) -> None:
        if name == "file_stream" and server.count("file_stream") >= 3:
            reached.set()
            over.wait(20)
            raise ConnectionAbortedError  # never taken in

    server.gate = gate
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "scripts.sync", str(budget)]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as killed:  # fmt: skip
        assert reached.wait(60)
        processes = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
        children = [int(pid) for pid, parent in map(str.split, processes.splitlines()) if int(parent) == killed.pid]
        assert children  # W&B's own, which sends
        for pid in (killed.pid, *children):
            os.kill(pid, signal.SIGKILL)
    server.gate = lambda name: None
    over.set()
    whole = {name: run.opened for name, run in server.runs.items() if run.state == "finished"}
    assert len(whole) < 4
    # W&B's server may have any part of a run that was cut off
    part = next(run for run in server.runs.values() if run.state == "running")
    record = next(record for record in finished(budget) if of_record(record).id == part.name)
    part.history, part.summary = [{**known(record["rows"][0]), "_step": 0}], known(record["rows"][0])
    sync.main([str(budget)])
    assert_arrived(server, budget)
    assert part.opened == 2
    assert {name: server.runs[name].opened for name in whole} == whole


def test_rows_that_are_refused_are_told_and_brought_later(server: FakeWandb, budget: Path) -> None:
    """A server that takes no rows: the error says how much is missing, and the next call brings it."""
    server.answers = [("file_stream", 400)] * 100
    with pytest.raises(UserError, match="expected 4 runs to arrive, 4 did not"):
        sync.main([str(budget)])
    server.answers = []
    sync.main([str(budget)])
    assert_arrived(server, budget)


def test_a_server_that_falls_silent_is_given_up(
    server: FakeWandb, budget: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the runs; then the next call, in the middle of the artifact; then all arrives."""
    monkeypatch.setattr(wandb_watch, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(wandb_watch, "LOOK_SECONDS", 0.1)
    for last in ("file_stream", "CreateArtifact"):
        gone = threading.Event()

        def gate(name: str, last: str = last, gone: threading.Event = gone) -> None:
            if name == last and server.count("file_stream") >= 2:
                gone.set()
            if gone.is_set():
                raise ConnectionAbortedError

        server.gate = gate
        with pytest.raises(UserError, match=r"expected an answer from .*, found none for 0.2 s .*; repeat the command"):
            sync.main([str(budget)])
        assert gone.is_set()
    server.gate = lambda name: None
    assert_arrived(server, budget)
    assert not any(artifact.committed for artifact in server.artifacts)
    sync.main([str(budget)])
    assert [artifact.committed for artifact in server.artifacts if artifact.committed] == [True]


def test_a_service_that_is_ended_is_waited_for(server: FakeWandb) -> None:
    """Else it stays as a zombie, and Python warns wherever it happens to collect its garbage."""
    process = wandb.setup().ensure_service()._proc._process
    assert process.poll() is None
    wandb_watch.end_service()
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        ({"WANDB_API_KEY": "", "NETRC": "none"}, "expected a login, found no key for .*; run `wandb login`"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "expected an answer from http://127.0.0.1:9, found none"),
        ({"WANDB_API_KEY": "9" * 40}, "to accept the login, found: .*; run `wandb login --relogin`"),
        ({"WANDB_MODE": "offline"}, "expected to be online, found WANDB_MODE=offline; unset it"),
    ],
)
def test_where_nothing_can_be_published(
    server: FakeWandb, budget: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    break_it: dict[str, str], says: str,
) -> None:  # fmt: skip
    """sync: one sentence. dashboard: the files, and the sentence; a key that is refused is a mistake there, too."""
    for name, value in break_it.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        sync.main([str(budget)])
    assert not server.runs
    if "accept" in says:
        with pytest.raises(UserError, match=says):
            dashboard.main([str(budget)])
    else:
        dashboard.main([str(budget)])
        assert re.search(f"not published: W&B: {says}", told := capsys.readouterr().out), told
        assert f"python -m scripts.dashboard {budget}, with a login" in told
    assert (budget / "dashboard" / "report.json").exists()
    assert not server.views


def test_dashboards_are_saved_once_and_renewed(
    server: FakeWandb, budget: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        dashboard.main([str(budget), "--project=mine"])
        views = {view["displayName"]: view for view in server.views.values()}
        assert len(server.views) == len(views) == 4
        for path in (budget / "dashboard").glob("*.json"):
            file = json.loads(path.read_text())
            view = views.pop(file["name"])
            assert (view["entityName"], view["projectName"]) == (ENTITY, "mine")
            assert without_projects(json.loads(view["spec"])) == file["spec"]
        assert not views
        told = capsys.readouterr().out.splitlines()
        addresses = [line for line in told if line.startswith(f"{server.url}/{ENTITY}/mine")]
        assert len(addresses) == 4
    assert server.projects == {"mine"}


def without_projects(spec: Any) -> Any:
    """What depends on who is logged in: the address of each run set's project."""
    if isinstance(spec, dict):
        return {key: without_projects(value) for key, value in spec.items() if key != "project"}
    return [without_projects(value) for value in spec] if isinstance(spec, list) else spec
