"""The constants that a part's numbers depend on. They are found in its code, so that none of them can be forgotten.

A part's code is what can be reached from its function inside the package experiments. Each constant that this code
names is part of a table's identity: module-level numbers, texts, containers of them and members of enumerations, of
experiments or of bsnn. The part's `version` covers what is written inside a function, and the code of bsnn.

The tables published before constants were part of the identity must stay recognised. So a constant that still has its
value of that time, kept in published_constants.json, is left out. Never change anything in that file.
"""

from __future__ import annotations

import dis
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, EnumType
from functools import partial
from inspect import unwrap
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

PUBLISHED = Path(__file__).with_name("published_constants.json")
PACKAGE, OURS = "experiments.", ("experiments.", "bsnn.")
DIGITS = 12
"""Digits of a float that count: the last bits of torch.linspace differ between processors."""


def changed(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Select the constants, by qualified name, that don't have their published value."""
    published = json.loads(PUBLISHED.read_text())
    return {name: value for name, value in constants.items() if name not in published or published[name] != value}


def found(*code: Callable[..., object]) -> dict[str, Any]:
    """Find all constants that this code names, in the form of JSON, in the order of their names."""
    constants: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(value: object) -> None:
        """Follow whatever code `value` is or holds."""
        value = unwrap(value) if callable(value) else value  # of functools.cache
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, partial):
            visit(value.func)
        elif isinstance(value, FunctionType):
            if f"{_module(value)}.".startswith(PACKAGE):
                for name, named in _globals(value):
                    if not isinstance(named, (FunctionType, ModuleType)) and not _is_class(named):
                        constants[name] = plain(named)
                    visit(named)
                for cell in value.__closure__ or ():
                    if callable(cell.cell_contents):
                        visit(cell.cell_contents)
        elif isinstance(value, type):
            if f"{value.__module__}.".startswith(PACKAGE):
                for member in vars(value).values():
                    visit(member.fget if isinstance(member, property) else getattr(member, "__func__", member))
        elif isinstance(value, Mapping):
            for item in value.values():
                visit(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)

    for one in code:
        visit(one)
    return dict(sorted(constants.items()))


def plain(value: Any) -> Any:
    """Convert a value to JSON's types; functions and classes become their names. Raises TypeError for anything else."""
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Tensor):
        rounding = value.abs() < 10.0**-DIGITS * value.abs().max()
        return plain(value.masked_fill(rounding, 0).tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(item) for item in value]
    if isinstance(value, partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, nn.Module):
        return repr(value)
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    raise TypeError(f"expected a constant made of numbers, texts, containers and functions, found {value!r}")


def _globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield (qualified name, value) of each global of experiments or bsnn that a function names, or module.NAME."""
    for code in _codes(function.__code__):
        for this, following in pairwise([*dis.get_instructions(code), None]):
            if this is None or this.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                continue
            owner, name = _module(function), str(this.argval)
            value = function.__globals__.get(name)
            if isinstance(value, (ModuleType, EnumType)) and following is not None:
                if not f"{getattr(value, '__module__', value.__name__)}.".startswith(OURS):
                    continue
                owner, name = f"{owner}.{name}" if isinstance(value, EnumType) else value.__name__, following.argval
                value = getattr(value, str(name), None)
            if name in function.__globals__ or owner != _module(function):
                yield f"{owner}.{name}", value


def _module(function: FunctionType) -> str:
    """Return the name of the function's module, the same for a command (python -m) and for an import."""
    spec = sys.modules["__main__"].__spec__ if function.__module__ == "__main__" else None
    return function.__module__ if spec is None else spec.name


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of all functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_class(value: object) -> bool:
    return isinstance(value, type) or (callable(value) and not isinstance(value, (nn.Module, partial)))
