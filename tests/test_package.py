"""The installed package: what the wheel holds, that it works without the checkout, what is said where a part lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bsnn
from bsnn import extras
from tests.data.test_data import real_data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as pip would leave them."""
    folder = tmp_path_factory.mktemp("site")
    root = Path(__file__).resolve().parent.parent
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=60)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_bsnn_its_launchers_and_conf(site: Path, root: Path) -> None:
    assert sorted(path.name for path in site.iterdir()) == [
        "bsnn",
        f"bsnn-{bsnn.__version__}.dist-info",
        "hydra_plugins",
    ]
    for installed, source in (("bsnn/conf", "conf"), ("hydra_plugins", "hydra_plugins")):
        theirs = {
            p.relative_to(root / source): p.read_bytes() for p in (root / source).rglob("*.*") if p.suffix != ".pyc"
        }
        assert {p.relative_to(site / installed): p.read_bytes() for p in (site / installed).rglob("*.*")} == theirs
    code = {
        path.relative_to(root / "bsnn") for path in (root / "bsnn").rglob("*") if path.suffix in (".py", ".cpp", ".csv")
    }
    assert code <= {path.relative_to(site / "bsnn") for path in (site / "bsnn").rglob("*")}


@real_data
def test_it_trains_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    """With its own configs and kernels; the record names the command that makes it again, and the version."""
    done = run(site, tmp_path, "-m", "bsnn.train", "activation=gelu", "gpn=true", "budget=smoke", "tracking=none")
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "results/smoke/runs").glob("mnist-gelu-gpn-s0-*/record.json")
    record = json.loads(path.read_text())
    origin = record["provenance"]
    assert record["status"] == "ok"
    assert origin["command"] == "bsnn-train activation=gelu gpn=true budget=smoke tracking=none"
    assert (origin["commit"], origin["versions"]["bsnn"]) == (None, bsnn.__version__)
    assert "the record says bsnn's version" in done.stdout + done.stderr


def test_importing_bsnn_takes_no_time(site: Path, tmp_path: Path) -> None:
    """Public names are imported when they are asked for; all of them are there."""
    asked = "[getattr(bsnn, name) for name in bsnn.__all__]; print(bsnn.__file__)"
    done = run(site, tmp_path, "-c", f"import sys, bsnn; assert 'torch' not in sys.modules; {asked}")
    assert done.stdout.strip() == str(site / "bsnn/__init__.py"), done.stderr
    assert set(bsnn.__all__) <= set(dir(bsnn))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bsnn.nothing  # noqa: B018


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "bsnn.train", raising=False)
    expected = (
        r"bsnn-train: expected the package hydra, found none; install it with `pip install 'bsnn\[experiments\]'`\."
    )
    with pytest.raises(SystemExit, match=expected):
        extras.train()


def test_the_version_is_the_same_everywhere(root: Path) -> None:
    assert f"\nversion: {bsnn.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"bsnn {bsnn.__version__}" in (root / "CHANGELOG.md").read_text()
