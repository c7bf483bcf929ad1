"""bsnn.engine.interval.run_steps for a GPU: a step is captured once, as a CUDA graph, and replayed without the host.

A step is some hundred kernels of ten or twenty microseconds each. Launched one by one from Python they would wait for
the host. So everything that changes from step to step lies on the device: the samples' order, a counter of the steps
done, and the place for the measurements. A replay then needs no argument, and the measurements are read once, at the
end of the interval.

No step is wasted on warming up, and no weights are saved to be restored. The first steps are trained one by one; they
leave behind what a capture needs (compiled kernels, libraries' handles, memory). Capturing itself executes nothing.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from bsnn.data import Dataset
from bsnn.engine.interval import Measured, Trainable

log = logging.getLogger(__name__)
WARM_UP = 3  # steps before the capture


class GraphSteps:
    """A callable like `run_steps`, with the same result. Kept from call to call, it captures once.

    Args:
        capture: False runs the same steps one by one, on any device. By default they are captured on a GPU.

    From the first full mini-batch on, the stack must leave the memory that its `step` uses at the same addresses.
    """

    def __init__(self, capture: bool | None = None) -> None:
        self._capture = capture
        self._epoch: _Epoch | None = None

    def __call__(
        self,
        stack: Trainable,
        data: Dataset,
        order_KS: Tensor,
        batch_size: int,
        depth: int,
    ) -> Measured:
        """Take the steps of at most an epoch."""
        epoch = self._epoch
        if epoch is None or epoch.stack is not stack or epoch.data is not data or epoch.batch_size != batch_size:
            capture = data.train_x.is_cuda if self._capture is None else self._capture
            epoch = self._epoch = _Epoch(stack, data, batch_size, depth, len(order_KS), capture)
        return epoch.run(order_KS)


class _Epoch:
    """A stack, its data, and memory for the order and the measurements of an epoch, at addresses that a graph knows."""

    def __init__(
        self, stack: Trainable, data: Dataset, batch_size: int, depth: int, networks: int, capture: bool
    ) -> None:
        self.stack, self.data, self.batch_size = stack, data, batch_size
        self._device = data.train_x.device
        self._stream = torch.cuda.Stream(self._device) if capture else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0
        steps = -(-len(data.train_x) // batch_size)

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self._device)

        self._order_KS = zeros(networks, steps * batch_size, dtype=torch.int64)
        self._range_B = torch.arange(batch_size, device=self._device)
        self._done = zeros(1, dtype=torch.int64)  # steps of the interval
        self._loss_SK = zeros(steps, networks, dtype=data.train_x.dtype)
        self._correct_SK = zeros(steps, networks, dtype=torch.int64)
        self._norms_SLK = zeros(steps, depth, networks, dtype=torch.float64)
        self._norms_LK = zeros(depth, networks, dtype=torch.float64)

    def run(self, order_KS: Tensor) -> Measured:
        samples = order_KS.shape[1]
        full, rest = divmod(samples, self.batch_size)
        steps = full + (rest > 0)
        if steps > len(self._loss_SK):
            raise ValueError(f"expected at most an epoch, {len(self._loss_SK)} steps, found {steps}")
        self._order_KS[:, :samples] = order_KS
        self._done.zero_()
        for _ in range(full):
            if self._graph is None:
                self._first_step()
            else:
                self._graph.replay()
        if rest:
            self._step(rest)
        # Copies: the next interval's measurements take the same place.
        parts = self._loss_SK[:steps].double(), self._correct_SK[:steps], self._norms_SLK[:steps]
        return Measured(*(part.to("cpu", copy=True).numpy() for part in parts))

    def _first_step(self) -> None:
        """Launch a step from here; after WARM_UP of them, capture it."""
        if self._stream is None:
            self._step(self.batch_size)
            return
        main = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):  # the stream that captures: handles and workspaces belong to it
            self._step(self.batch_size)
        main.wait_stream(self._stream)
        self._warm += 1
        if self._warm == WARM_UP:
            self._record(self._stream)

    def _record(self, stream: torch.cuda.Stream) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: use of the GPU by other threads meanwhile is no error
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._step(self.batch_size)
        except RuntimeError as error:  # also out of memory: a graph needs some of its own
            self._stream = None
            log.warning("a step can't be captured as a CUDA graph (%s): it is launched kernel by kernel, slower", error)
            return
        self._graph = graph

    def _step(self, batch: int) -> None:
        """Take the next step. Only the device's memory differs from one step to the next."""
        place_B = self._done * self.batch_size + self._range_B[:batch]
        batch_KB = self._order_KS.index_select(1, place_B)
        flat = batch_KB.reshape(-1)
        x_KBD = self.data.train_x.index_select(0, flat).view(*batch_KB.shape, -1)
        labels_KB = self.data.train_y.index_select(0, flat).view(batch_KB.shape)
        loss_K, correct_K = self.stack.step(x_KBD, labels_KB, self._norms_LK)
        self._loss_SK.index_copy_(0, self._done, loss_K.unsqueeze(0))
        self._correct_SK.index_copy_(0, self._done, correct_K.unsqueeze(0))
        self._norms_SLK.index_copy_(0, self._done, self._norms_LK.unsqueeze(0))
        self._done += 1
