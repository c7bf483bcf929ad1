"""The kind of a module in signal propagation: a weight layer, an activation, a normalisation, or something else."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from bsnn.gpn import GPN
from bsnn.nn.parametrizations import CONSTRAINED, TRANSPOSED
from bsnn.quadrature import float64_phi

WEIGHT, ACTIVATION, NORM, POOL, DROPOUT, SHAPE, CONTAINER, OTHER = (
    "weight",
    "activation",
    "normalisation",
    "pooling",
    "dropout",
    "shape",
    "container",
    "other",
)

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
NOT_ELEMENTWISE = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU, nn.MultiheadAttention)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def kind_of(module: nn.Module) -> str:
    """Return one of the kinds above.

    A class that torch.nn doesn't have is an activation if it holds no parameters or buffers and is one elementwise
    function as a whole (x * sigmoid(x) with an nn.Sigmoid inside, say). Otherwise a module that holds others is a
    container.
    """
    where = type(module).__module__
    if isinstance(module, (*CONSTRAINED, *TRANSPOSED)):
        return WEIGHT
    if isinstance(module, NORMS):
        return NORM
    if isinstance(module, SHAPES):
        return SHAPE
    if isinstance(module, CONTAINERS):
        return CONTAINER
    if isinstance(module, NOT_ELEMENTWISE):
        return OTHER
    if isinstance(module, GPN) or where == "torch.nn.modules.activation":
        return ACTIVATION
    if where == "torch.nn.modules.pooling":
        return POOL
    if where == "torch.nn.modules.dropout":
        return DROPOUT
    if not where.startswith("torch.nn.") and not any(True for _ in (*module.parameters(), *module.buffers())):
        try:
            phi = float64_phi(module)
        except ValueError:
            pass
        else:
            x = torch.linspace(-3, 3, 16, dtype=torch.float64, device="cpu")
            with torch.no_grad():
                return SHAPE if torch.equal(phi(x.clone()), x) else ACTIVATION
    return CONTAINER if any(True for _ in module.children()) else OTHER


def layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (name, module, kind) of `module` or, if it is a container, of its parts; a module met before is left out.

    Containers are listed, too, before what they hold.
    """
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, str]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        kind = kind_of(module)
        yield name, module, kind
        if kind == CONTAINER:
            for key, child in module.named_children():
                yield from walk(child, f"{name}.{key}" if name else key)

    return walk(module, name)
