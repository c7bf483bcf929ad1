"""The examples in docstrings of the public names."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["gpn", "nn.init", "nn.parametrizations", "nn.normalize", "nn.diagnose"])
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    module = importlib.import_module(f"bsnn.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
