"""scripts.offline: the folder that is carried, and what is run in it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bsnn.errors import UserError
from scripts.offline import __main__ as offline

SAYS = """
import json, os, sys
with open(os.environ["TOLD"], "a") as file:
    file.write(json.dumps([sys.modules["__main__"].__spec__.name, *sys.argv[1:]]) + "\\n")
sys.exit({code})
"""


def sparse(folder: Path, sizes: list[int]) -> list[Path]:
    paths = []
    for number, size in enumerate(sizes):
        path = folder / f"file-{number}"
        with path.open("wb") as file:
            file.truncate(size * 10**6)
        paths.append(path)
    return paths


def test_parts_are_of_a_size_that_can_be_carried(tmp_path: Path) -> None:
    files = sparse(tmp_path, [48, 12, 30, 30, 1, 48, 13])
    found = offline.parts(files)
    assert sorted(path for part in found for path in part) == sorted(files)
    assert all(sum(path.stat().st_size for path in part) <= offline.PART_BYTES for part in found)
    assert len(found) <= 4
    with pytest.raises(UserError, match=r"file-0: expected at most 60 MB, found 61\.0 MB"):
        offline.parts(sparse(tmp_path, [61]))


def test_what_is_needed_leaves_out_what_is_there() -> None:
    names = {pin.partition("==")[0] for pin in offline.needed(["torch", "torchvision", "NumPy"])}
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "pandas", "matplotlib", "submitit"} <= names
    assert not names & {"torch", "torchvision", "numpy", "wandb", "pytest"}


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-cp312-cp312-linux.whl", True),
        ("a-1-cp311-cp311-linux.whl", False),
        ("a-1-cp39-abi3-linux.whl", True),
    ],
)
def test_wheels_are_for_the_machines_python(wheel: str, fits: bool) -> None:
    assert offline._fits(wheel, "3.12") is fits


def test_the_source_knows_its_commit_and_leaves_results_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    (repository / "results").mkdir(parents=True)
    (repository / "results" / "record.json").write_text("{}")
    (repository / "code.py").write_text("")
    for command in ("init --quiet", "add .", "-c user.name=A -c user.email=a@example.org commit --quiet -m first"):
        subprocess.run(["git", *command.split()], cwd=repository, check=True)
    monkeypatch.setattr(offline, "ROOT", repository)
    offline.pack_source(tmp_path / "source.tar.gz")
    with tarfile.open(tmp_path / "source.tar.gz") as tar:
        tar.extractall(tmp_path / "there", filter="data")
    there = tmp_path / "there" / "bsnn"
    assert (there / "code.py").exists()
    assert not (there / "results").exists()
    heads = [subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=place) for place in (repository, there)]
    assert heads[0] == heads[1]
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=there)
    (repository / "code.py").write_text("changed")
    with pytest.raises(UserError, match="expected a commit without changes"):
        offline.pack_source(tmp_path / "source.tar.gz")


def test_the_command_trains_then_packs_and_says_how_it_ended(tmp_path: Path) -> None:
    """With a stand-in for the source, which notes what it is asked, and whose training runs into its limit."""
    modules = {"torch.py": "class cuda:\n    is_available = staticmethod(lambda: {cuda})",
               "scripts/reproduce.py": SAYS.format(code=75), "scripts/pack.py": SAYS.format(code=0),
               "scripts/gpu/check.py": SAYS.format(code=1),
               "scripts/__init__.py": "", "scripts/gpu/__init__.py": ""}  # fmt: skip
    for cuda in (False, True):
        folder = tmp_path / str(cuda)
        (folder / "part-1").mkdir(parents=True)
        (folder / "run.py").write_bytes(Path(offline.__file__).with_name("run.py").read_bytes())
        with tarfile.open(folder / "part-1" / "source.tar.gz", "w:gz") as tar:
            for name, text in modules.items():
                content = text.replace("{cuda}", str(cuda)).encode()
                member = tarfile.TarInfo(f"bsnn/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        environment = os.environ | {"TOLD": str(folder / "told")}
        command = [sys.executable, "run.py", "--seconds", "1000", "until=8"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 75, done.stderr
        told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
        assert [words[0] for words in told] == ["scripts.gpu.check"] * cuda + ["scripts.reproduce", "scripts.pack"]
        trained = told[-2]
        assert trained[1:6] == ["paper", "--results", "../out/results", "until=8", "tracking=none"]
        assert 900 < float(trained[6].removeprefix("time_limit=")) <= 970
        assert told[-1][1:] == ["../out/results/paper", str(folder / "out" / "records.tar.xz")]
