"""Pickling of parametrized modules.

torch.nn.utils.parametrize gives a parametrized module a class of its own and refuses to pickle it, since a class that
was made on the fly can't be found by its name. What is needed is only the class before it, and the parametrizations:
the module is built from these again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def make_picklable(module: nn.Module) -> None:
    """Let `pickle`, `torch.save` and `copy.copy` take a parametrized module, a whole network that holds it as well."""
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def _reduce(module: nn.Module, protocol: Any) -> str | tuple[Any, ...]:
    if not parametrize.is_parametrized(module):  # a copy whose parametrizations were removed keeps no such class
        return object.__reduce_ex__(module, protocol)
    return _rebuild, (type(module).__mro__[1], dict(module.__dict__))


def _rebuild(plain: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    """Build a module of class `plain` with the attributes `state`, parametrized as they say."""
    module = plain.__new__(plain)
    modules = dict(state["_modules"])
    parametrizations = modules.pop("parametrizations")
    module.__dict__.update(state | {"_modules": modules})
    for name, saved in parametrizations.items():
        module.register_buffer(name, torch.empty(0), persistent=False)
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)
        module.parametrizations[name] = saved  # type: ignore[operator]
    make_picklable(module)
    return module
