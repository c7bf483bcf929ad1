"""The house rules that a reader relies on: short files, small folders, no import circle, nobody's private names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGES = ("bsnn", "experiments", "scripts", "hydra_plugins")
KERNELS = {"bsnn/engine/triton_kernels.py"}
"""Files whose subject can't be cut: they may be longer than the others."""


def _modules(root: Path) -> dict[str, Path]:
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def _imports(tree: ast.Module, known: dict[str, Path]) -> Iterator[tuple[str, str | None]]:
    """(module, name) of all that is imported when the module itself is: not within functions or for types only."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if inner in known else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def _parsed(code: str) -> ast.Module:
    """Parse; once more if Python 3.11's parser was disturbed by another thread that parses (CPython issue 106905).

    W&B's threads do, when they log a traceback while a run of an earlier test ends.
    """
    try:
        return ast.parse(code)
    except SystemError:
        return ast.parse(code)


@pytest.fixture
def trees(root: Path) -> dict[str, ast.Module]:
    return {name: _parsed(path.read_text()) for name, path in _modules(root).items()}


def test_files_and_folders_are_of_a_size_one_can_read(root: Path) -> None:
    files = [path for package in (*PACKAGES, "tests") for path in (root / package).rglob("*.py")]
    long = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in long.items() if lines > 400 and name not in KERNELS} == {}
    folders = {path.parent for path in files}
    crowded = {str(one.relative_to(root)): len(list(one.glob("*.py"))) for one in folders if one.name != "tests"}
    assert {name: count for name, count in crowded.items() if count > 20} == {}


def test_no_import_circle(root: Path, trees: dict[str, ast.Module]) -> None:
    """A package's __init__ counts as imported by what lies in it only where it names it."""
    known = _modules(root)
    graph = {name: {module for module, _ in _imports(tree, known) if module in known} for name, tree in trees.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(known)


def test_no_private_name_of_another_module(root: Path, trees: dict[str, ast.Module]) -> None:
    known = _modules(root)
    found = []
    for name, tree in trees.items():
        ours = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    if inner in known:
                        ours[alias.asname or alias.name] = inner
                    elif node.module in known and alias.name.startswith("_") and not alias.name.startswith("__"):
                        found.append(f"{name}: {inner}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
                private = node.attr.startswith("_") and not node.attr.startswith("__")
                if private:
                    found.append(f"{name}: {ours[node.value.id]}.{node.attr}")
    assert found == []


FOLDERS = ("bsnn", "conf", "docs", "experiments", "hydra_plugins", "scripts", "tests")
NAMED = re.compile(rf"\b((?:{'|'.join(FOLDERS)})(?:/\w+)+\.(?:cpp|css|html|js|md|py|yaml))\b")
MADE_UP = {"conf/activation/softplus.yaml", "conf/activation/swish.yaml"}
"""Files that a reader or a test is to make."""


def test_files_that_texts_name_exist(root: Path) -> None:
    """In docstrings, comments, documentation and what reports print."""
    texts = [root / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
    texts += [
        path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in (".md", ".py", ".yaml")
    ]
    named = {(str(path.relative_to(root)), found) for path in texts for found in NAMED.findall(path.read_text())}
    assert {(where, name) for where, name in named if name not in MADE_UP and not (root / name).exists()} == set()
