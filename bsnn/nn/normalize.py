"""`normalize`: the paper's normalisation for any network, where it is sound, and the reasons where it isn't.

What has to hold: a GPN activation keeps E phi^2 = E phi'^2 = 1 if its inputs are like N(0, 1). Rows of norm one give
pre-activations of mean square one if their inputs have mean square one. So a signal is followed from the network's
input, taken to be standardised, through torch.fx's graph. A layer is changed only if the signal that enters it has mean
square one by these rules, at every call, and if nothing but a GPN activation or a normalisation layer depends on the
scale that a weight is given.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from bsnn.gpn import GPN
from bsnn.nn import flow, kinds
from bsnn.nn.parametrizations import constrainable_weight, plain_name, unit_rows

if TYPE_CHECKING:
    import pandas as pd

REPLACED, CONSTRAINED, KEPT = "replaced", "constrained", "kept"


@dataclass
class Normalization:
    """Record of what `normalize` did. print() shows the table.

    Args:
        changes: (module, type, action, why) of every layer, in the order of the network.
    """

    changes: list[tuple[str, str, str, str]]
    _network: nn.Module = field(repr=False)
    _activations: list[tuple[nn.Module, str, nn.Module, nn.Module]] = field(default_factory=list, repr=False)
    _weights: list[tuple[nn.Module, Tensor]] = field(default_factory=list, repr=False)
    _undone: bool = False

    @property
    def table(self) -> pd.DataFrame:
        """Columns module, type, action ("replaced", "constrained" or "kept") and why."""
        import pandas as pd

        return pd.DataFrame(self.changes, columns=["module", "type", "action", "why"])

    def undo(self) -> None:
        """Make the network what it was before, bit for bit: modules, weights and the order of its parameters.

        Constrained weights get their old values back: what training made of them since is lost. To keep it as plain
        weights, call torch.nn.utils.parametrize.remove_parametrizations(layer, "weight") instead.

        Raises ValueError if it was undone already, or if a module that was changed has been replaced since.
        """
        moved = any(getattr(parent, key, None) is not new for parent, key, _, new in self._activations)
        moved = moved or any(not parametrize.is_parametrized(layer, "weight") for layer, _ in self._weights)
        if self._undone or moved:
            found = "one that was undone already" if self._undone else "one whose modules were changed since"
            raise ValueError(f"undo: expected the network as normalize left it, found {found}; nothing was changed")
        self._revert()
        self._undone = True

    def _revert(self) -> None:
        for parent, key, old, _ in self._activations:
            setattr(parent, key, old)
        for layer, before in self._weights:
            if not parametrize.is_parametrized(layer, "weight"):
                continue
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            with torch.no_grad():
                layer.weight.copy_(before)  # type: ignore[operator]
            bias = layer.bias
            if isinstance(bias, nn.Parameter):  # the weight comes first again
                del layer.bias
                layer.register_parameter("bias", bias)

    def __str__(self) -> str:
        counts = {
            action: sum(change[2] == action for change in self.changes) for action in (REPLACED, CONSTRAINED, KEPT)
        }
        summary = (
            f"{counts[REPLACED]} activations replaced by their GPN versions, {counts[CONSTRAINED]} weights constrained "
            f"to rows of norm one, {counts[KEPT]} layers kept. The input is taken to be standardised."
        )
        widths = [max((len(change[column]) for change in self.changes), default=0) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, change[:3], widths), change[3]]).rstrip() for change in self.changes]
        return "\n".join([summary, *lines])

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))


def normalize(module: nn.Module) -> Normalization:
    """Replace activations by their GPN versions and constrain weights to rows of norm one, in place, where it is sound.

    Three lines for a network of your own, whose inputs are standardised (mean 0, mean square 1)::

        import bsnn
        print(bsnn.normalize(network))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    Kept, each with its reason: the last layer (unconstrained in the paper, too) and activations of the output; whatever
    isn't elementwise (softmax, GLU), is random or trains a parameter of its own (PReLU); gates, whose output multiplies;
    what stands behind a sum (residual), attention, or a function called by a forward, and is not renormalised since;
    weights that other modules share or that are parametrized already. Modules used several times are changed if that
    is sound at every call. Batch norm and the like are kept: they set the scale by themselves. Biases are kept.

    Load a checkpoint of the plain network before: the keys of the state_dict change.

    Args:
        module: a network that torch.fx can trace. Of one that it can't, nothing is changed and the table says why;
            normalise its parts.

    Returns:
        what was changed and kept, and `undo`.

    Raises:
        TypeError: for what is no nn.Module.
        ValueError: for a single activation, which can't be replaced in place: use GPN.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Mish(), nn.Linear(8, 2))
    >>> done = normalize(network)
    >>> print(done)
    2 activations replaced by their GPN versions, 2 weights constrained to rows of norm one, 1 layers kept. The input is taken to be standardised.
    0  Linear  constrained  rows of norm one
    1  ReLU    replaced     GPN: a = 1.41421, b = 0
    2  Linear  constrained  rows of norm one
    3  Mish    replaced     GPN: a = 1.44476, b = 0.0727379
    4  Linear  kept         its output is the network's: unconstrained, as in the paper
    >>> done.undo()
    >>> network[1]
    ReLU()
    """  # noqa: E501
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, found {type(module).__name__}; pass the network itself")
    if kinds.kind_of(module) == kinds.ACTIVATION:
        raise ValueError(
            "module: expected a network, found an activation, which has no place to be replaced in; use GPN"
        )
    plan = _Plan(module)
    report = Normalization(plan.table(), module)
    try:
        for name, gpn in plan.replaced.items():
            old = module.get_submodule(name)
            for parent in module.modules():
                for key, child in list(parent._modules.items()):
                    if child is old and parent is not gpn:
                        setattr(parent, key, gpn)
                        report._activations.append((parent, key, old, gpn))
        for name in plan.constrained:
            layer = module.get_submodule(name)
            report._weights.append((layer, layer.weight.detach().clone()))  # type: ignore[operator]
            unit_rows(layer)
    except BaseException:
        report._revert()
        raise
    return report


class _Plan:
    """The largest set of sound changes, found by striking out unsound ones until nothing changes."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers = {name: (part, kind) for name, part, kind in kinds.layers(network) if kind != kinds.CONTAINER}
        self.names = {id(part): name for name, (part, _) in self.layers.items()}
        self.why: dict[str, str] = {}
        self.replaced: dict[str, GPN] = {}
        self.constrained: list[str] = []
        try:
            self.nodes = flow.trace(network)
        except flow.Untraceable as error:
            for name in self.layers:
                self.why[name] = f"the network's forward can't be traced ({error}): normalise its parts"
            return
        self.roles = {node: flow.role_of(node, network) for node in self.nodes}
        self._candidates()
        while self._strike():
            pass

    def _name(self, node: fx.Node) -> str:
        return self.names.get(id(self.network.get_submodule(str(node.target))), str(node.target))

    def _candidates(self) -> None:
        called = {self._name(node) for node in self.nodes if node.op == "call_module"}
        owners: dict[int, int] = {}
        for part in self.network.modules():
            for parameter in part.parameters(recurse=False):
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        known: dict[bytes, tuple[float, float]] = {}
        for name, (part, kind) in self.layers.items():
            if name not in called:
                self.why[name] = "never called in the traced forward"
            elif kind == kinds.ACTIVATION:
                self._activation(name, part, known)
            elif kind == kinds.WEIGHT:
                try:
                    shared = owners[id(constrainable_weight(part))] > 1
                    self.why[name] = (
                        "another module has the same weight: constraining it would part them" if shared else ""
                    )
                except (TypeError, ValueError) as error:
                    self.why[name] = str(error)
                if not self.why[name]:
                    self.constrained.append(name)
            else:
                self.why[name] = _reason(part, kind)

    def _activation(self, name: str, part: nn.Module, known: dict[bytes, tuple[float, float]]) -> None:
        if isinstance(part, GPN):
            self.why[name] = "GPN already"
            return
        if any(True for _ in part.parameters()):
            self.why[name] = "it trains a parameter, with which GPN's constants would change; freeze its shape"
            return
        try:
            key = pickle.dumps(part)
        except Exception:  # a local class, say
            key = name.encode()
        try:
            gpn = GPN(part) if key not in known else GPN.with_constants(part, *known[key])
        except ValueError as error:
            self.why[name] = str(error)
            return
        known[key] = gpn.a, gpn.b
        self.replaced[name] = gpn.train(part.training)

    def _strike(self) -> bool:
        """Follow the signal once and strike out what is unsound. Returns True if anything was."""
        before = len(self.replaced) + len(self.constrained)
        state: dict[fx.Node, str] = {}
        for node in self.nodes:
            source = flow.source_of(node)
            coming = state.get(source, "it is no signal from the input") if source is not None else "no input"
            role = self.roles[node]
            state[node] = self._state(node, role, coming)
        return before != len(self.replaced) + len(self.constrained)

    def _state(self, node: fx.Node, role: str, coming: str) -> str:
        """Say why the node's output may not have mean square one; empty if it has."""
        if role in (flow.INPUT, kinds.NORM):
            return ""
        if role in (kinds.SHAPE, kinds.POOL, kinds.DROPOUT, flow.SIZE, flow.OUTPUT):
            return coming
        if role in (kinds.ACTIVATION, kinds.WEIGHT):
            name = self._name(node)
            part = self.layers[name][0]
            if isinstance(part, GPN) or (role == kinds.WEIGHT and _is_constrained(part)):
                return coming
            reason = f"its input has an unknown scale: {coming}" if coming else self._misused(node, role)
            if reason:
                self.why.setdefault(name, "")
                self.why[name] = self.why[name] or reason
                self.replaced.pop(name, None)
                self.constrained = [other for other in self.constrained if other != name]
            changed = name in self.replaced or name in self.constrained
            return "" if changed else coming or f"{name} is kept"
        if role == flow.SUM:
            return "it follows a sum (residual)"
        if node.op == "call_module":
            return f"it follows {self._name(node)} ({type(self.network.get_submodule(str(node.target))).__name__})"
        return f"it follows {flow.function_name(node)}(), called in a forward"

    def _misused(self, node: fx.Node, role: str) -> str:
        """Say why a consumer of the node's output forbids changing its scale; empty if none does."""
        for user, kind in flow.consumers(node, self.network):
            if kind == flow.OUTPUT:
                own = "unconstrained, as in the paper" if role == kinds.WEIGHT else "its scale has a meaning"
                return f"its output is the network's: {own}"
            if kind == flow.PRODUCT:
                return "its output multiplies another signal (a gate)"
            if role == kinds.ACTIVATION:
                continue
            if kind == kinds.ACTIVATION and (
                self._name(user) in self.replaced or isinstance(self.layers[self._name(user)][0], GPN)
            ):
                continue
            if kind != kinds.NORM:
                what = self._name(user) if user.op == "call_module" else f"{flow.function_name(user)}()"
                return f"its output goes to {what}, which is not normalised"
        return ""

    def table(self) -> list[tuple[str, str, str, str]]:
        rows = []
        for name, (part, _) in self.layers.items():
            if name in self.replaced:
                gpn = self.replaced[name]
                action, why = REPLACED, f"GPN: a = {gpn.a:.6g}, b = {gpn.b:.6g}"
            elif name in self.constrained:
                action, why = CONSTRAINED, "rows of norm one"
            else:
                action, why = KEPT, self.why.get(name, "")
            rows.append((name or "(the network)", plain_name(part), action, why))
        seen = {}
        for node in getattr(self, "nodes", []):
            if self.roles[node] == flow.FUNCTION:
                path = [str(place[0]) for place in (node.meta.get("nn_module_stack") or {}).values()]
                name = f"{path[-1] if path else ''}.{flow.function_name(node)}()".lstrip(".")
                seen[name] = (
                    name,
                    "function",
                    KEPT,
                    "called in a forward, where it can't be replaced; make it a module",
                )
        return [*rows, *seen.values()]


def _is_constrained(part: nn.Module) -> bool:
    from bsnn.nn.parametrizations import OrthogonalRows, UnitRows

    if not parametrize.is_parametrized(part, "weight"):
        return False
    found: Any = part.parametrizations
    return isinstance(found["weight"][0], (UnitRows, OrthogonalRows))


def _reason(part: nn.Module, kind: str) -> str:
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return "it normalises over the batch by itself; in the paper gradients explode with it"
    reasons = {
        kinds.NORM: "it sets the scale by itself",
        kinds.POOL: "it changes the signal's mean square, by a little; GPN's rules don't cover it",
        kinds.DROPOUT: "it is random, and raises the mean square by 1 / (1 - p) in training",
        kinds.SHAPE: "it only reshapes",
    }
    if isinstance(part, kinds.NOT_ELEMENTWISE):
        return "it is not elementwise"
    return reasons.get(kind, "a module that bsnn does not know")
