"""MNIST, CIFAR-10 and Fashion-MNIST as the paper feeds them to its networks.

    data = load("mnist", device="cuda")
    data.train_x        # (60000, 784), normalised, on the device
    data.train_y        # (60000,), int64

The whole dataset is one tensor per split on the device: the largest, CIFAR-10, takes 0.74 GB in float32. Data that is
not cached is fetched first (`python -m scripts.data` does only that). `bsnn.data.sources` lists where it comes from;
`bsnn.data.bundle` serves a machine without a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bsnn.data.cache import dataset_folder, load_arrays
from bsnn.data.specs import DATASETS, DataError, DatasetSpec

__all__ = ["DATASETS", "DataError", "Dataset", "DatasetSpec", "dataset_spec", "load", "normalise"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs (n, D), flattened channel-first: feature c * H * W + i * W + j is pixel (i, j) of channel c."""

    spec: DatasetSpec
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def majority_share(self, split: Literal["train", "test"] = "test") -> float:
        """Compute the share of the largest class: the accuracy of the best constant prediction, and of a dead network.

        0.1 where the classes are balanced; MNIST: 0.1124 in training, 0.1135 in test.
        """
        labels = self.train_y if split == "train" else self.test_y
        return labels.bincount().max().item() / len(labels)


def load(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    data_dir: Path | str | None = None,
) -> Dataset:
    """Load the dataset `name` (a key of `DATASETS`), verified and normalised, on `device`.

    data_dir: the cache; by default $BSNN_DATA_DIR, or else ~/.cache/bsnn. Raises DataError.
    """
    spec = dataset_spec(name)
    arrays = load_arrays(spec, dataset_folder(spec, data_dir))

    def labels(split: str) -> Tensor:
        return torch.from_numpy(arrays[f"{split}_labels"]).to(device, torch.int64)

    return Dataset(
        spec=spec,
        train_x=normalise(arrays["train_images"], spec, device, dtype),
        train_y=labels("train"),
        test_x=normalise(arrays["test_images"], spec, device, dtype),
        test_y=labels("test"),
    )


def dataset_spec(name: str) -> DatasetSpec:
    """Return `DATASETS[name]`; raises DataError if there is none."""
    if name not in DATASETS:
        raise DataError(f"Unknown dataset {name!r}: expected one of {', '.join(DATASETS)}.")
    return DATASETS[name]


def normalise(
    images: NDArray[np.uint8], spec: DatasetSpec, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Compute (pixels / 255 - mean) / std per channel, (n, H, W) or (n, H, W, C) -> (n, C * H * W).

    The pixels are moved to the device as bytes and computed there, in `dtype` or float32, whichever is wider. The
    operations and their order are those of torchvision's ToTensor and Normalize.
    """
    channels, height, width = spec.image_shape
    pixels = torch.from_numpy(images).to(device).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    wide = torch.promote_types(dtype, torch.float32)
    mean, std = (torch.tensor(v, dtype=wide, device=device).reshape(channels, 1, 1) for v in (spec.mean, spec.std))
    x = torch.empty(pixels.shape, dtype=wide, device=device).copy_(pixels)
    return x.div_(255).sub_(mean).div_(std).flatten(1).to(dtype)
