"""Modules that are named by data: `_target_`, the path of a class, and its arguments.

What a user writes on the command line or in conf/ may name anything. A record may come from somebody else, and building
what it names would run what they chose. So a record's module is built only if it is an activation class of torch.nn or
a module class of bsnn, with plain arguments, or if the caller trusts whoever wrote it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from torch import nn

from bsnn.errors import UserError

TARGET = "_target_"
ACTIVATIONS = "torch.nn.modules.activation"


def build(module: Mapping[str, Any], trusted: bool) -> nn.Module:
    """Build the module that `module` describes. Raises UserError if it is neither trusted nor known as harmless."""
    if trusted:
        made: nn.Module = instantiate(dict(module))
        return made
    arguments = {name: value for name, value in module.items() if name != TARGET}
    kind = _known(module.get(TARGET))
    if kind is None or not _plain(arguments) or any(name.startswith("_") for name in arguments):
        raise UserError(
            f"{module.get(TARGET)}: expected an activation of torch.nn or a module of bsnn with plain arguments, found "
            "another name in a record: to build it would run what the record's author chose; if you trust them, say so "
            "with load_trained(folder, trust=True)."
        )
    try:
        return kind(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{module.get(TARGET)}: expected arguments that it takes, found {arguments} ({error})."
        ) from error


def _known(target: object) -> type[nn.Module] | None:
    """Return the activation class of torch.nn, or module class of bsnn, at this path; None for anything else."""
    where, _, name = str(target).rpartition(".")
    if where not in ("torch.nn", ACTIVATIONS) and where.split(".")[0] != "bsnn":
        return None  # and nothing is imported
    try:
        kind = getattr(importlib.import_module(where), name, None)
    except (ImportError, ValueError):
        return None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    known = kind is nn.Identity or kind.__module__ == ACTIVATIONS or kind.__module__.startswith("bsnn.")
    return kind if known else None


def _plain(value: object) -> bool:
    """True for a number, a text, a truth value, None, and lists and mappings of these that have no target."""
    if isinstance(value, Mapping):
        return TARGET not in value and all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
