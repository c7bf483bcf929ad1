"""The examples in docstrings of the public names."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import bsnn
from bsnn import nn

RESULTS = {"Diagnosis", "Normalization", "Signals", "load_trained"}
"""Public names that other ones' examples show, or that need a network that was trained."""


@pytest.mark.parametrize("name", sorted({getattr(bsnn, name).__module__ for name in {*bsnn.__all__} - RESULTS}))
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readme_says_what_its_example_gives(root: Path) -> None:
    """At a tenth of the width and of the depth."""
    text = (root / "README.md").read_text().partition("## As a library")[2]
    code = re.search(r"```python\n(.*?)```", text, flags=re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("500", "50").replace("200", "20"), names)
    assert f"# {names['a']:.4f}, {names['b']:.4f};" in code[1]
    assert names["signals"].x_LBN.shape == (21, 64, 50)


def test_the_examples_of_the_pages_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in notebooks run when the documentation is built."""
    for page in (root / "docs").rglob("*.md"):
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
            exec(code, {})
    assert "Gradients keep their scale" in capsys.readouterr().out


def test_every_public_name_is_documented_and_shown() -> None:
    for module in (bsnn, nn):
        for name in module.__all__:
            text = getattr(module, name).__doc__ or ""
            assert len(text) > 60, name
            assert ">>>" in text or name in RESULTS or name in ("OrthogonalRows", "UnitRows"), name
