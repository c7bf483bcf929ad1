"""What the tests of bsnn.data share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's. What lies beside it counts too (a bundle's parts), and beside tmp_path lie other tests' files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    return folder
