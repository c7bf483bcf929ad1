"""Records of every call of a layer, in one forward and one backward pass, for `bsnn.diagnose`.

Hooks see the layers. A TorchFunctionMode sees the functions that a module's forward calls itself (F.relu, torch.tanh,
F.linear). Gradients with respect to outputs come from hooks on the outputs, which also work where the next layer
overwrites them in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from bsnn.activations import value_and_slope
from bsnn.nn import kinds
from bsnn.nn.parametrizations import plain_name

MEASURED = ("rms_in", "rms", "gradient", "weight_gradient", "slope_square", "linear", "dead", "correlation")
"""Quantities measured of a call, see bsnn.nn.diagnose.Diagnosis.table."""

LINEAR_WITHIN = 0.1
_SAMPLED = 2**16  # entries of a pre-activation whose slope is taken: a share is then known to about 0.2%

_ELEMENTWISE = [
    "relu",
    "relu_",
    "relu6",
    "elu",
    "elu_",
    "selu",
    "selu_",
    "celu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "leaky_relu",
    "leaky_relu_",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "logsigmoid",
    "softsign",
    "tanh",
    "sigmoid",
]


def _functions() -> dict[Callable[..., Any], tuple[str, str]]:
    found = {
        getattr(home, name): (name, kinds.ACTIVATION)
        for home in (F, torch, Tensor)
        for name in [*_ELEMENTWISE, "tanh_", "sigmoid_", "sin", "erf"]
        if hasattr(home, name)
    }
    linear = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    found |= {getattr(F, name): (name, kinds.WEIGHT) for name in linear}
    attention = "scaled_dot_product_attention"
    return found | {getattr(F, attention): (attention, kinds.OTHER)}


FUNCTIONS = _functions()


class Probe(TorchFunctionMode):
    """Records calls while it is entered. samples: the size of the batch's first axis."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.calls: list[dict[str, Any]] = []
        self._handles: list[Any] = []
        self._path: list[str] = []
        self._open: list[dict[str, Any]] = []
        self._silent = 0
        self._unit_axis = 1

    def attach(self, module: nn.Module) -> None:
        """Hook the layers and containers of `module`."""
        for name, part, kind in kinds.layers(module):
            own = kind == kinds.OTHER and not type(part).__module__.startswith("torch.nn.")
            if kind == kinds.CONTAINER or own:  # its calls are seen, not the module itself
                self._handles.append(part.register_forward_pre_hook(lambda *_, name=name: self._path.append(name)))
                self._handles.append(part.register_forward_hook(lambda *_: self._leave()))
            else:
                self._attach_layer(part, name, kind)

    def detach(self) -> None:
        """Take all hooks away again."""
        for handle in self._handles:
            handle.remove()

    def _attach_layer(self, part: nn.Module, name: str, kind: str) -> None:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._open.append(self._begin(name, plain_name(part), kind, [*args, *kwargs.values()]))
            self._silent += 1

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if isinstance(part, (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention)):
                self._unit_axis = -1
            elif kind in (kinds.WEIGHT, kinds.NORM):
                self._unit_axis = 1
            self._end(self._open.pop(), output, part.forward)
            self._silent -= 1

        self._handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(part.register_forward_hook(after, with_kwargs=True))

    def _leave(self) -> None:
        self._path.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = None if self._silent else FUNCTIONS.get(func)
        if known is None:
            return func(*args, **kwargs)
        function, kind = known
        path = self._path[-1] if self._path else ""
        call = self._begin(f"{path}.{function}()".lstrip("."), function, kind, [*args, *kwargs.values()])
        output = func(*args, **kwargs)
        if kind == kinds.WEIGHT:
            self._unit_axis = -1 if function == "linear" else 1
        others = {name: value for name, value in kwargs.items() if name != "input"}
        self._end(call, output, lambda h: func(h, *args[1:], **others))
        return output

    @torch.no_grad()
    def _begin(self, name: str, function: str, kind: str, inputs: Sequence[Any]) -> dict[str, Any]:
        """Start the row of a call before the call, which may overwrite its inputs."""
        call: dict[str, Any] = {"module": name, "type": function, "kind": kind} | dict.fromkeys(MEASURED, math.nan)
        x = first_tensor(inputs)
        if x is not None:
            call["rms_in"] = rms(x)
            if kind == kinds.ACTIVATION:
                flat = x.detach().reshape(-1)
                call["h"] = flat[:: flat.numel() // _SAMPLED + 1].clone()
        return call

    def _end(self, call: dict[str, Any], output: Any, phi: Callable[[Tensor], Tensor]) -> None:
        h = call.pop("h", None)
        if not self._recording:
            return
        self.calls.append(call)
        y = first_tensor([output])
        if y is None:
            return
        if y.requires_grad:
            y.register_hook(lambda gradient: call.update(gradient=norm(gradient)))
        with torch.no_grad():
            call["rms"], call["correlation"] = rms(y), correlation(y, self.samples)
            if call["kind"] == kinds.ACTIVATION:
                call["dead"] = dead(y, self._unit_axis)
        if h is not None:
            self._silent += 1
            try:
                slope = value_and_slope(phi, h)[1].double()
            except (RuntimeError, ValueError):  # not elementwise on a sample of entries: nn.PReLU with many slopes
                return
            finally:
                self._silent -= 1
            call["slope_square"] = slope.square().mean()
            call["linear"] = ((slope - 1).abs() < LINEAR_WITHIN).double().mean()

    _recording = True

    def stop(self) -> None:
        """Record no more calls: activation checkpoints run layers again in the backward pass."""
        self._recording = False


def first_tensor(value: Any) -> Tensor | None:
    """Return the first floating-point tensor in nested tuples, lists and mappings."""
    return next(iter(_floating(value)), None)


def _floating(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from _floating(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _floating(part)


def norm(x: Tensor) -> Tensor:
    """Compute ||x||, in float64 where the device has it: squares of float32 numbers underflow below 1e-23."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    found: Tensor = torch.linalg.vector_norm(x.detach(), dtype=wide)
    return found


def rms(x: Tensor) -> Tensor:
    """Compute the root of the mean square of all entries."""
    return norm(x) / math.sqrt(max(x.numel(), 1))


def correlation(y: Tensor, samples: int) -> Tensor | float:
    """Compute the mean cosine of two different samples' outputs.

    It comes from sums alone: sum_{a != b} <u_a, u_b> = ||sum_a u_a||^2 - n for n unit vectors u. A sample that is 0 is
    left out. nan for one sample, or if the first axis isn't the batch.
    """
    if samples < 2 or y.dim() < 2 or y.shape[0] != samples:
        return math.nan
    flat = y.detach().flatten(1).float()
    flat = flat / flat.abs().amax(1, keepdim=True)  # else squares underflow; 0 / 0 is nan, and left out
    unit = F.normalize(flat, dim=1)
    valid = unit.isfinite().all(1)
    n = valid.sum()
    total = unit[valid].sum(0, dtype=torch.float32 if y.device.type == "mps" else torch.float64)
    return (total.square().sum() - n) / (n * (n - 1))


def dead(y: Tensor, axis: int) -> Tensor | float:
    """Compute the share of units whose output is the same for every sample and position; nan for a single one."""
    axis = axis % y.dim() if y.dim() > 1 else 0
    others = tuple(other for other in range(y.dim()) if other != axis)
    if y.dim() < 2 or y.numel() < 2 * y.shape[axis]:
        return math.nan
    return (y.detach().amax(others) == y.detach().amin(others)).double().mean()
