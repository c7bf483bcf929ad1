"""A command whose standard streams are closed, as a scheduler or a daemon may start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["experiments", "scripts"])
def test_closed_streams_are_opened_before_any_file_takes_their_numbers(
    tmp_path: Path, root: Path, package: str
) -> None:
    code = (
        f"import os, sys, subprocess, {package}; "
        "file = open('record', 'w'); file.write(str(file.fileno())); file.close(); "
        "os.write(2, b'a warning'); print('line', file=sys.stderr); assert not sys.stderr.isatty(); "
        "subprocess.run([sys.executable, '-c', 'import sys; sys.stderr.write(str(1))'], check=True)"
    )
    command = f'cd "{tmp_path}" && exec "{sys.executable}" -c "{code}" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", command], check=True, timeout=60, env={"PYTHONPATH": str(root)})
    assert int((tmp_path / "record").read_text()) > 2
