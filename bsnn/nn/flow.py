"""The flow of signals through a network: torch.fx's graph of its forward, reduced to what normalisation needs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from bsnn.nn import kinds
from bsnn.nn.probe import FUNCTIONS

INPUT, OUTPUT, SUM, PRODUCT, SIZE, FUNCTION = "input", "output", "sum", "product", "size", "function"

_SHAPES = {
    "flatten",
    "reshape",
    "view",
    "permute",
    "transpose",
    "contiguous",
    "getitem",
    "unsqueeze",
    "squeeze",
    "expand",
    "cat",
    "concat",
    "stack",
    "movedim",
    "chunk",
    "split",
    "clone",
    "detach",
    "to",
    "float",
    "type_as",
    "swapaxes",
}
_SIZES = {"size", "dim", "numel", "getattr", "eq", "ne", "lt", "gt", "le", "ge", "_assert", "is_floating_point"}
_SUMS, _PRODUCTS = {"add", "add_", "sub", "iadd", "sub_"}, {"mul", "mul_", "imul", "matmul", "bmm", "truediv", "div"}


class Untraceable(Exception):  # noqa: N818
    """torch.fx can't follow the network's forward."""


class _Tracer(fx.Tracer):
    """A tracer that stops at torch.nn's modules and at `functions`.

    `functions` names modules that are one elementwise function. They are named beforehand: a module that is called
    while torch.fx traces would be traced itself.
    """

    def __init__(self, functions: set[str]) -> None:
        super().__init__()
        self.functions = functions

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or module_qualified_name in self.functions


def trace(module: nn.Module) -> list[fx.Node]:
    """List the nodes of a network's forward, called with its required arguments. Raises Untraceable."""
    tensors = (*module.parameters(), *module.buffers())
    parts = module.named_modules(remove_duplicate=False)
    functions = {name for name, part in parts if kinds.kind_of(part) == kinds.ACTIVATION}
    try:
        twin = copy.deepcopy(module, {id(t): t for t in tensors})  # a forward may keep what it computes
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        return list(_Tracer(functions).trace(twin, concrete_args=defaults).nodes)
    except Exception as error:  # somebody else's code can fail in any way
        raise Untraceable(" ".join(str(error).split())[:120] or type(error).__name__) from error


def role_of(node: fx.Node, module: nn.Module) -> str:
    """Return a kind of bsnn.nn.kinds, or one of the roles above."""
    if node.op in ("placeholder", "output"):
        return INPUT if node.op == "placeholder" else OUTPUT
    if node.op == "call_module":
        return kinds.kind_of(module.get_submodule(str(node.target)))
    if node.op == "get_attr":
        return kinds.OTHER
    name = function_name(node)
    source = source_of(node)
    if name in _SIZES or (source is not None and source.op != "placeholder" and role_of(source, module) == SIZE):
        return SIZE
    if name in _SHAPES:
        return kinds.SHAPE
    if name in _SUMS:
        return SUM
    if name in _PRODUCTS:
        return PRODUCT
    if "pool" in name:
        return kinds.POOL
    if "dropout" in name:
        return kinds.DROPOUT
    known: Any = FUNCTIONS.get(node.target) if callable(node.target) else None
    if known is None and node.op == "call_method":
        known = FUNCTIONS.get(getattr(torch.Tensor, str(node.target), None))  # type: ignore[arg-type]
    return FUNCTION if known is not None else kinds.OTHER


def function_name(node: fx.Node) -> str:
    """Name the function or method that a node calls, if it calls no module: "add", "relu"."""
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", node.target)).removeprefix("_operator.")


def source_of(node: fx.Node) -> fx.Node | None:
    """Return the node whose signal passes through this one: its first argument, or the first item of a list."""
    first: Any = node.args[0] if node.args else node.kwargs.get("input")
    while isinstance(first, (tuple, list)):
        first = first[0] if first else None
    return first if isinstance(first, fx.Node) else None


def consumers(node: fx.Node, module: nn.Module) -> Iterator[tuple[fx.Node, str]]:
    """List the nodes that the signal meets first after reshaping, pooling and dropout, with their roles."""
    for user in node.users:
        role = role_of(user, module)
        if role == SIZE or (role == kinds.SHAPE and user.op != "call_module" and not _is_signal(node, user)):
            continue
        if role in (kinds.SHAPE, kinds.POOL, kinds.DROPOUT):
            yield from consumers(user, module)
        else:
            yield user, role


def _is_signal(node: fx.Node, user: fx.Node) -> bool:
    first = user.args[0] if user.args else user.kwargs.get("input")
    return first is node or (isinstance(first, (tuple, list)) and node in first)
