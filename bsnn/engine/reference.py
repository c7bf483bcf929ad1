"""Training by the definition: bsnn.network, autograd and torch's SGD, one network after the other.

The engine (`bsnn.engine`) is checked and timed against it. It also trains the cells that the engine can't: those whose
activation has parameters of its own, for which it has no derivative, and those with another constraint than rows of
norm one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import dataset_spec
from bsnn.network import BSNN
from bsnn.optim.stiefel import OrthogonalSGD
from bsnn.randomness import Purpose, generator

ORTHOGONAL = {
    "orthogonal": "polar",
    "orthogonal_qr": "qr",
    "orthogonal_cayley": "cayley",
    "landing": "landing",
}
"""Constraints that the optimiser keeps, and its method (bsnn.optim.stiefel)."""


def initial_network(cell: Cell, device: torch.device, kind: Callable[..., BSNN] = BSNN) -> BSNN:
    """Make the cell's network at its initial weights, which depend on seed, shape and initialisation, not on phi.

    kind: BSNN, or a subclass with the same parameters.
    """
    spec = dataset_spec(cell.dataset)
    return kind(
        in_features=spec.features,
        out_features=spec.classes,
        width=cell.width,
        depth=cell.depth,
        activation=cell.make_activation(),
        batch_norm=cell.batch_norm,
        initialisation=cell.initialisation,
        constraint="free" if cell.constraint in ORTHOGONAL else cell.constraint,
        generator=generator(cell.seed, Purpose.INITIAL_WEIGHTS),
        device=device,
        dtype=cell.torch_dtype,
    )


def needs_reference(cell: Cell) -> bool:
    """Tell whether the engine can't train this cell."""
    return cell.constraint != "row" or any(True for _ in cell.make_activation().parameters())


def optimizers_of(cell: Cell, network: BSNN) -> list[torch.optim.Optimizer]:
    """Make the optimisers that train a cell's network, all with its learning rate and momentum."""
    if cell.constraint not in ORTHOGONAL:
        return [torch.optim.SGD(network.parameters(), lr=cell.learning_rate, momentum=cell.momentum)]
    others = [parameter for name, parameter in network.named_parameters() if name != "V"]
    return [
        torch.optim.SGD(others, lr=cell.learning_rate, momentum=cell.momentum),
        OrthogonalSGD([network.V], cell.learning_rate, cell.momentum, ORTHOGONAL[cell.constraint]),
    ]


def sgd_step(
    network: BSNN, optimizers: Iterable[torch.optim.Optimizer], x_BD: Tensor, y_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of SGD; return mean loss and right answers before it, and the layers' gradient norms (L,)."""
    network.zero_grad()
    logits = network(x_BD)
    loss = F.cross_entropy(logits, y_B)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == y_B).sum(), network.gradient_norms()


@torch.no_grad()
def copy_parts(parts: Iterable[tuple[str, Tensor]], state: Mapping[str, Tensor]) -> None:
    """Set the named tensors to those of `state`. Raises ValueError if one is missing there or has another shape."""
    for name, part in parts:
        if name not in state or state[name].shape != part.shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise ValueError(f"{name}: expected a tensor of shape {tuple(part.shape)}, found {found}")
        part.copy_(state[name])


class ReferenceStack:
    """K cells with the interface of bsnn.engine.stack.Stack, each its own bsnn.network."""

    way = "reference"

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self.cells, self.device = list(cells), device
        self.networks = [initial_network(cell, device) for cell in cells]
        self.optimizers = [optimizers_of(cell, network) for network, cell in zip(self.networks, cells, strict=True)]

    def step(self, x_KBD: Tensor, labels_KB: Tensor, norms_LK: Tensor) -> tuple[Tensor, Tensor]:
        losses, correct = [], []
        for k, (network, optimizers) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            network.train()
            loss, hits, norms_LK[:, k] = sgd_step(network, optimizers, x_KBD[k], labels_KB[k])
            losses.append(loss)
            correct.append(hits)
        return torch.stack(losses), torch.stack(correct)

    @torch.no_grad()
    def logits(self, x_BD: Tensor) -> Tensor:
        return torch.stack([network.eval()(x_BD) for network in self.networks])

    def member(self, k: int) -> dict[str, Tensor]:
        return {name: part.to("cpu", copy=True) for name, part in self._parts(k)}

    def load_member(self, k: int, state: Mapping[str, Tensor]) -> None:
        copy_parts(self._parts(k), state)

    def _parts(self, k: int) -> Iterator[tuple[str, Tensor]]:
        network = self.networks[k]
        for name, value in network.state_dict().items():
            if isinstance(value, Tensor) and not name.endswith("_extra_state"):
                yield name, value
        for name, parameter in network.named_parameters():
            trains = [optimizer for optimizer in self.optimizers[k] if _has(optimizer, parameter)]
            state = trains[0].state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            yield f"velocity.{name}", state["momentum_buffer"]


def _has(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(parameter is one for group in optimizer.param_groups for one in group["params"])
