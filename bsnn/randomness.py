"""Random streams: one generator for each purpose, so that nothing depends on what was drawn before it.

A stream is named by (seed, purpose, index). Draws happen on the CPU whatever the training device is, so a seed means
the same initial weights and the same order of mini-batches on a laptop and on a GPU, and resuming needs no generator
state.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """The purpose of a stream. The numbers are part of every result: never renumber, only append."""

    INITIAL_WEIGHTS = 0
    BATCH_ORDER = 1  # index: epoch
    SYNTHETIC = 2  # Figs 1-3, index: draw
    # the studies; each chooses what its index means
    THEORY = 3
    VANISHING = 4
    SHRINKAGE = 5
    COLLAPSE = 6
    BRIDGE = 7
    BEYOND = 8


def generator(seed: int, purpose: Purpose, *index: int) -> torch.Generator:
    """Make a CPU generator for the stream (seed, purpose, *index); streams are independent (SeedSequence)."""
    state = np.random.SeedSequence([seed, int(purpose), *index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def device_of(generator: torch.Generator | None) -> torch.device:
    """Return the device on which `generator` draws; without a generator, torch's default device."""
    return torch.get_default_device() if generator is None else generator.device


def batch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return the permutation of range(n), int64, in which epoch `epoch` (from 0) visits the training set."""
    return torch.randperm(n, generator=generator(seed, Purpose.BATCH_ORDER, epoch), device="cpu")
