"""`diagnose`: signals and gradients of any network by layer, as in Figs 1-4 of the paper, and a verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bsnn.nn import kinds
from bsnn.nn.probe import Probe, first_tensor, norm
from bsnn.nn.verdict import ratio, verdict

if TYPE_CHECKING:  # imported when they are used: pandas and matplotlib take longer to import than torch
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Measurements of `diagnose`. print() shows the verdict and the table.

    Args:
        network: its class.
        loss: the loss.
        calls: a mapping for each call of a layer, the rows of `table`.
    """

    network: str
    loss: float
    calls: list[dict[str, Any]]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each call of a layer, in the order of the forward pass; nan where a quantity has no meaning.

        ========================  =====================================================================================
        module, type, kind        its name in the network; F.relu called in module "block" is "block.relu()"
        rms_in, rms               root mean square of its input and of its output
        gradient                  ||dLoss / d output||, over the whole batch
        weight_gradient           ||dLoss / d weight||_F of a weight layer, of all its calls together; of V for a
                                  parametrized one
        slope_square              mean of phi'(h)^2 of an activation; 1 keeps the gradient's square
        linear                    share of phi'(h) within 0.1 of 1: an activation with all of them there is linear
        dead                      share of units of an activation whose output is the same for every sample and position
        correlation               mean cosine of the outputs for two different samples; 1: the layer can't tell them
                                  apart
        ========================  =====================================================================================
        """
        import pandas as pd

        return pd.DataFrame(self.calls, index=pd.RangeIndex(1, len(self.calls) + 1, name="call"))

    @property
    def gradient_ratio(self) -> float:
        """Largest / smallest `gradient` over the weight layers: inf if one is 0, nan if there is none."""
        return ratio(call["gradient"] for call in self._weights)

    @property
    def signal_ratio(self) -> float:
        """Largest / smallest `rms` over the weight layers, that is of pre-activations."""
        return ratio(call["rms"] for call in self._weights)

    @property
    def verdict(self) -> str:
        """The findings of the table, in plain sentences."""
        return verdict(self.calls, self.loss)

    def figure(self) -> Figure:
        """Signals, gradients, shapes of activations and correlations against depth, as a matplotlib figure."""
        from bsnn.nn.diagnosis_figure import draw

        return draw(self)

    @property
    def _weights(self) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["kind"] == kinds.WEIGHT]

    def __str__(self) -> str:
        shown = self.table.to_string(float_format=lambda value: f"{value:.3g}", na_rep="")
        return f"{self.network}: {self.verdict}\n\n{shown}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{self.network}: {self.verdict}</p>" + str(
            self.table.to_html(float_format="{:.3g}".format, na_rep="")
        )


def diagnose(module: nn.Module, batch: Any, loss: Callable[..., Tensor]) -> Diagnosis:
    """Measure signals and gradients of every layer in one forward and one backward pass.

    The module stays as it is, also if it raises: parameters, their .grad, buffers such as batch norm's statistics,
    hooks, mode, and torch's random state. The pass is made in the mode that it is in: diagnose what you train in
    training mode. Layers are torch.nn's modules, activations of your own, and functions that a forward calls itself.

    Args:
        module: any network; its output goes to `loss`.
        batch: (inputs, targets), or the inputs alone if they are a tensor or a mapping. Inputs are a tensor, a tuple of
            arguments or a mapping of keyword arguments. The first axis of the first tensor counts samples; two or more
            are needed for correlations.
        loss: loss(output, targets) or, without targets, loss(output): a scalar tensor.

    Raises:
        TypeError: if module is no nn.Module, or a scripted one, which can't be hooked; if batch is none of the above.
        ValueError: if the loss is not a scalar or depends on no parameter and no input.

    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> deep = nn.Sequential(*[part for _ in range(30) for part in (nn.Linear(64, 64), nn.Tanh())], nn.Linear(64, 10))
    >>> batch = torch.randn(32, 64), torch.randint(10, (32,))
    >>> found = diagnose(deep, batch, nn.functional.cross_entropy)
    >>> found.gradient_ratio > 1e5
    True
    >>> found.table.shape
    (61, 11)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, found {type(module).__name__}; pass the network itself")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "module: expected a module of Python, found a scripted one; diagnose it before torch.jit.script"
        )
    module = getattr(module, "_orig_mod", module)  # of torch.compile, which may leave hooks out
    args, kwargs, targets = _parted(batch)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        leaves, args, kwargs = _fresh_inputs(args, kwargs)
        first = first_tensor([args, kwargs])
        tensors = [*module.parameters(), *module.buffers(), *([] if first is None else [first])]
        cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda" and t.device.index is not None})
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        state = _fresh_state(module)
        parameters = {name: state[name] for name, _ in module.named_parameters() if state[name].requires_grad}
        probe = Probe(_samples(args, kwargs))
        stack.callback(probe.detach)
        probe.attach(module)
        with probe:
            output = torch.func.functional_call(module, state, args, kwargs)
        probe.stop()
        value = loss(output, *targets)
        _check_loss(value)
        gradients = torch.autograd.grad(value, [*parameters.values(), *leaves], allow_unused=True)
    _add_weight_gradients(module, probe, dict(zip(parameters, gradients, strict=False)))
    calls = [{key: _number(entry) for key, entry in call.items()} for call in probe.calls]
    return Diagnosis(type(module).__name__, float(value.detach()), calls)


def _parted(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """Split a batch into arguments, keyword arguments and targets (none or one)."""
    targets: tuple[Any, ...] = ()
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, target = batch
        targets = (target,)
    elif isinstance(batch, (Tensor, Mapping)):
        inputs = batch
    else:
        found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(
            f"batch: expected (inputs, targets), or inputs as a tensor or a mapping, found {found}; several inputs "
            "go into one tuple, ((x1, x2), targets)"
        )
    if isinstance(inputs, Mapping):
        return (), dict(inputs), targets
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}, targets


def _fresh_inputs(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]:
    """Make leaves that require gradients, and copies of them as inputs: a network may overwrite its inputs."""
    leaves: list[Tensor] = []

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.clone()
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()

    return leaves, tuple(map(fresh, args)), {name: fresh(value) for name, value in kwargs.items()}


def _fresh_state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters that share the module's numbers but not their .grad, and copies of its buffers."""
    if any(nn.parameter.is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        raise ValueError("module: expected initialised weights, found lazy ones; run one forward pass first")
    overwritten = any(getattr(part, "max_norm", None) is not None for part in module.modules())  # by nn.Embedding
    state = {name: p.detach().clone() if overwritten else p.detach() for name, p in module.named_parameters()}
    for parameter in state.values():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return state | {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


def _samples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() > 0]
    return tensors[0].shape[0] if tensors else 0


def _check_loss(value: Any) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected a scalar tensor, found {found}; take its mean")
    if not value.requires_grad:
        raise ValueError(
            "loss: expected one that depends on the network's weights or inputs, found one without a gradient; is the "
            "output detached, or computed under torch.no_grad()?"
        )


def _add_weight_gradients(module: nn.Module, probe: Probe, gradients: Mapping[str, Tensor | None]) -> None:
    by_tensor = {id(parameter): gradients.get(name) for name, parameter in module.named_parameters()}
    names = {name: id(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}
    for call in probe.calls:
        for suffix in ("weight", "parametrizations.weight.original"):
            name = f"{call['module']}.{suffix}".lstrip(".")
            gradient = by_tensor.get(names.get(name, 0))
            if call["kind"] == kinds.WEIGHT and gradient is not None:
                call["weight_gradient"] = norm(gradient)


def _number(entry: Any) -> Any:
    return float(entry) if isinstance(entry, Tensor) else entry
