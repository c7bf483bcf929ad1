"""K networks of one shape as one stack: a step of SGD for all of them, without autograd.

The mathematics is bsnn.network's; bsnn.engine.passes lists what is left out of it. A step is

    forward    x_0 = phi(A x + c);  h = r V x,  x = phi(u)                 one batched product a layer
    top        logits = T x + d, cross-entropy
    backward   r y of each layer;  error below = V^T (r y),  (r y) x^T     two batched products a layer

A layer's weights are updated as soon as the layer below has its error, while V is in cache. Of the forward pass only h
is kept; the layers' inputs are computed again from it on the way back.

Shapes in names: K networks, L layers, N width, B batch, D inputs, C classes. Members are ordered: those with batch norm
last, those with the same function side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from bsnn.activations import value_and_slope
from bsnn.cell import Cell
from bsnn.data import dataset_spec
from bsnn.engine import functions, gpu
from bsnn.engine.cpu import CompiledPasses, kernels
from bsnn.engine.passes import ACTIVATIONS, BOTTOM, FusedPasses, LayerState, Optimiser, Passes, TorchPasses
from bsnn.engine.products import baddbmm, bmm
from bsnn.engine.reference import copy_parts, initial_network

SHARED = ("dataset", "depth", "width", "epochs", "max_steps", "evaluations_per_epoch", "batch_size", "learning_rate",
          "momentum", "dtype")  # fmt: skip
"""Settings that all members of a stack share. They differ in activation, GPN, batch norm, initialisation and seed."""


def in_order(cell: Cell) -> tuple[Any, ...]:
    """Return the sort key of a stack's members."""
    return cell.batch_norm, *_function(cell), cell.initialisation, cell.seed


def _function(cell: Cell) -> tuple[str, str, bool, str]:
    return cell.activation, json.dumps(dict(cell.activation_module), sort_keys=True), cell.gpn, cell.gpn_root


class Stack:
    """K cells in training, at their initial weights after construction.

    Args:
        cells: in the order of `in_order`, agreeing in everything that `SHARED` names.
        device: the device that trains them. On a CPU the passes are compiled if there is a compiler.
        compiled: False forces plain torch.

    Raises ValueError for cells that can't share a stack.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device, compiled: bool = True) -> None:
        for name in SHARED:
            if len({getattr(cell, name) for cell in cells}) != 1:
                found = ", ".join(sorted({str(getattr(cell, name)) for cell in cells}))
                raise ValueError(f"expected cells that agree in {name}, found {found}")
        if list(cells) != sorted(cells, key=in_order):
            raise ValueError("expected cells sorted by bsnn.engine.stack.in_order")
        self.cells = list(cells)
        first = self.cells[0]
        self.device, self.depth, self.width = device, first.depth, first.width
        self.optimiser = Optimiser(first.learning_rate, first.momentum)
        self.dtype = first.torch_dtype
        self._allocate()
        self.passes = self._make_passes(compiled)
        self._buffers: dict[str, Tensor] = {}
        # Views made once: to make them anew for every product takes as long as a small product.
        self._V = list(self.layers.V.unbind())
        self._VT = [V.mT for V in self._V]

    def _allocate(self) -> None:
        K, L, N = len(self.cells), self.depth, self.width
        Kb = sum(cell.batch_norm for cell in self.cells)
        spec = dataset_spec(self.cells[0].dataset)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)

        self.layers = LayerState(
            V=zeros(L, K, N, N),
            V_velocity=zeros(L, K, N, N),
            r=zeros(L, K, N),
            gamma=zeros(L, Kb, N) + 1,
            running_var=zeros(L, Kb, N) + 1,
            **{
                name: zeros(L, Kb, N)
                for name in ("beta", "gamma_velocity", "beta_velocity", "running_mean", "mean", "rstd")
            },
            radial=zeros(L, K, N),
        )
        self.bottom, self.bottom_bias = zeros(K, N, spec.features), zeros(K, N, 1)
        self.top, self.top_bias = zeros(K, spec.classes, N), zeros(K, spec.classes, 1)
        self.velocity = {
            name: torch.zeros_like(getattr(self, name)) for name in ("bottom", "bottom_bias", "top", "top_bias")
        }
        for _, members in groupby(sorted(range(K), key=self._start), key=self._start):
            same = list(members)  # initial weights depend on nothing else
            weights = dict(initial_network(self.cells[same[0]], torch.device("cpu")).named_parameters())
            for k in same:
                for name, part in self._parts(k):
                    if name in weights and not name.startswith("batch_norms."):
                        part.copy_(weights[name].detach())
        torch.linalg.vector_norm(self.layers.V, dim=-1, out=self.layers.r)
        self.layers.r.reciprocal_()

    def _start(self, k: int) -> tuple[int, str]:
        return self.cells[k].seed, self.cells[k].initialisation

    def _make_passes(self, compiled: bool) -> Passes:
        rows = [functions.function_of(cell.make_activation()) for cell in self.cells]
        known = [row for row in rows if row is not None]
        if compiled and len(known) == len(rows):
            if self.device.type == "cpu" and kernels() is not None:
                return CompiledPasses(self.layers, known, self.optimiser)
            if self.device.type == "cuda" and self.dtype == torch.float32:
                passes = gpu.passes(self.cells[0], self.layers, known, self.optimiser)
                if passes is not None:
                    return passes
        activations: list[tuple[slice, ACTIVATIONS]] = []
        for _, group in groupby(range(len(self.cells)), key=lambda k: _function(self.cells[k])):
            members = list(group)
            activations.append((slice(members[0], members[-1] + 1), _in_torch(self.cells[members[0]], self.device)))
        return TorchPasses(self.layers, activations, self.optimiser)

    @property
    def way(self) -> str:
        """The way its layers are computed: "compiled", "torch", or one of bsnn.engine.gpu's ways."""
        return self.passes.way

    # --- a step ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, x_KBD: Tensor, labels_KB: Tensor, norms_LK: Tensor) -> tuple[Tensor, Tensor]:
        """Take one update of every member.

        x_KBD: contiguous. norms_LK: float64, receives |dE/dV_l|_F. Returns the mean loss (K,) and the number of right
        answers (K,). These and the norms are those before the update.
        """
        K, B, _ = x_KBD.shape
        h_LKNB = self._buffer("h", self.depth + 1, K, self.width, B)
        x, error, below = (self._buffer(name, K, self.width, B) for name in ("x", "error", "below"))
        V, VT, passes = self._V, self._VT, self.passes
        h = h_LKNB.unbind()

        baddbmm(self.bottom_bias, self.bottom, x_KBD.mT, out=h[0])
        passes.forward(BOTTOM, h[0], x)
        if isinstance(passes, FusedPasses):
            x, below = passes.forward_layers(h, x, below)
        else:
            for layer in range(self.depth):
                torch.bmm(V[layer], x, out=h[layer + 1])
                passes.forward(layer, h[layer + 1], x)

        logits = self._logits(x)
        log_p = torch.log_softmax(logits, dim=1)
        target = labels_KB.unsqueeze(1)
        loss_K = -log_p.gather(1, target).mean(dim=(1, 2))
        correct_K = (logits.argmax(dim=1) == labels_KB).sum(dim=1)
        error_KCB = log_p.exp_()
        error_KCB.scatter_add_(1, target, error_KCB.new_full((1, 1, 1), -1).expand_as(target)).div_(B)

        bmm(self.top.mT, error_KCB, out=error)
        self._update("top", error_KCB, x.mT)
        passes.backward(self.depth - 1, error, h[self.depth], x)
        if isinstance(passes, FusedPasses):
            error = passes.backward_layers(h, error, below, x, norms_LK)
        else:
            product = self._buffer("product", K, self.width, self.width)
            for layer in reversed(range(self.depth)):
                torch.bmm(VT[layer], error, out=below)
                passes.backward(layer - 1, below, h[layer], x)  # x: the input of `layer`
                torch.bmm(error, x.mT, out=product)
                passes.update(layer, product, norms_LK[layer])
                error, below = below, error
        self._update("bottom", error, x_KBD)
        return loss_K, correct_K

    def _update(self, name: str, error: Tensor, x: Tensor) -> None:
        """Take SGD's step on a plain layer: gradients are error @ x for weights, error summed over B for biases."""
        rate, momentum = self.optimiser.learning_rate, self.optimiser.momentum
        velocity, bias_velocity = self.velocity[name], self.velocity[f"{name}_bias"]
        baddbmm(velocity, error, x, beta=momentum, out=velocity)
        getattr(self, name).sub_(velocity, alpha=rate)
        bias_velocity.mul_(momentum).add_(error.sum(dim=2, keepdim=True))
        getattr(self, f"{name}_bias").sub_(bias_velocity, alpha=rate)

    @torch.no_grad()
    def logits(self, x_BD: Tensor) -> Tensor:
        """Compute every member's answers (K, B, C) to the same inputs, in evaluation mode."""
        K, B = len(self.cells), len(x_BD)
        # Own memory: a batch larger than a step's would move the step's buffers, whose addresses a CUDA graph holds.
        x, h = self._buffer("evaluated x", K, self.width, B), self._buffer("evaluated h", K, self.width, B)
        baddbmm(self.bottom_bias, self.bottom, x_BD.mT.expand(K, -1, -1), out=h)
        self.passes.evaluate(BOTTOM, h, x)
        if isinstance(self.passes, FusedPasses):
            x, h = self.passes.evaluate_layers(x, h)
        else:
            for layer in range(self.depth):
                torch.bmm(self._V[layer], x, out=h)
                self.passes.evaluate(layer, h, x)
        return self._logits(x).mT

    def _logits(self, x: Tensor) -> Tensor:
        return baddbmm(self.top_bias, self.top, x, out=x.new_empty(len(x), self.top.shape[1], x.shape[2]))

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Return a view of memory that is kept from call to call; batches differ in size."""
        size = 1
        for extent in shape:
            size *= extent
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self._buffers[name][:size].view(shape)

    # --- one member --------------------------------------------------------------------------------------------------

    def member(self, k: int) -> dict[str, Tensor]:
        """Copy all that a step changes of the k-th member to the CPU.

        These are its network's entries by their names in bsnn.network's state_dict, `velocity.<name>` for each
        parameter, and r.
        """
        return {name: part.to("cpu", copy=True) for name, part in self._parts(k)}

    def load_member(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Set the k-th member to what `member` returned. Raises ValueError if it doesn't fit."""
        copy_parts(self._parts(k), state)

    def _parts(self, k: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the k-th member as views, by their names in a checkpoint."""
        layers, velocity = self.layers, self.velocity
        yield "r", layers.r[:, k]
        parameters = [
            ("V", layers.V[:, k], layers.V_velocity[:, k]),
            ("bottom.weight", self.bottom[k], velocity["bottom"][k]),
            ("bottom.bias", self.bottom_bias[k, :, 0], velocity["bottom_bias"][k, :, 0]),
            ("top.weight", self.top[k], velocity["top"][k]),
            ("top.bias", self.top_bias[k, :, 0], velocity["top_bias"][k, :, 0]),
        ]
        j = k - layers.first_bn
        for layer in range(self.depth if j >= 0 else 0):
            name = f"batch_norms.{layer}"
            parameters.append((f"{name}.weight", layers.gamma[layer, j], layers.gamma_velocity[layer, j]))
            parameters.append((f"{name}.bias", layers.beta[layer, j], layers.beta_velocity[layer, j]))
            yield f"{name}.running_mean", layers.running_mean[layer, j]
            yield f"{name}.running_var", layers.running_var[layer, j]
        for name, value, speed in parameters:
            yield name, value
            yield f"velocity.{name}", speed


def _in_torch(cell: Cell, device: torch.device) -> ACTIVATIONS:
    """Return phi and phi' of a cell's function: by formula where the engine knows it, else by autograd."""
    activation = cell.make_activation().to(device, cell.torch_dtype)  # it may have buffers
    row = functions.function_of(activation)
    if row is not None:
        return lambda u: functions.value_and_slope(row, u)
    return lambda u: value_and_slope(activation, u)
