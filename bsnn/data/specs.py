"""The facts about each dataset: sizes, normalisation, checksums. There is no code here that reads or fetches.

The SHA-256 sums are those of the uint8 arrays' bytes in C order, so they hold for every source and packing. They stand
for the original data for these reasons:

* MNIST: taken from IDX files whose MD5 sums are the published ones.
* Fashion-MNIST: taken from Debian's gzipped IDX files, whose headers lack name and time. With these put back (times
  1504176606 for the training files, 1504176627 for the test files) they have the published MD5 sums, `archives`.
* CIFAR-10: taken from the PNG copy. Its channel statistics and its labels per batch are those of the original. The
  original tarball could not be reached to be compared; should it differ, it is refused and the copy used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bsnn.errors import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

Arrays = dict[str, NDArray[np.uint8]]
"""One uint8 array for each name in `ARRAYS`, of the shape that `DatasetSpec.array_shape` returns."""


class DataError(UserError):
    """Data that is missing, damaged or cannot be stored; the message is one sentence and says what to do."""


@dataclass(frozen=True)
class DatasetSpec:
    name: str
    label: str
    """The name in tables and figures."""
    image_shape: tuple[int, int, int]
    """(channels, height, width)."""
    classes: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    """Per channel, of pixels / 255, with the values of the paper's reference implementation."""
    std: tuple[float, ...]
    torchvision: str
    """The class in `torchvision.datasets` that downloads `archives`."""
    archives: Mapping[str, str] = field(hash=False)
    """Published file name -> published MD5 (a test compares both with torchvision's)."""
    sha256: Mapping[str, str] = field(hash=False)
    """Name in `ARRAYS` -> SHA-256 of the array's bytes."""

    @property
    def features(self) -> int:
        """The length of a flattened image, D."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def command(self) -> str:
        """The command that fetches it; `make data` fetches what the paper trains on."""
        return f"python -m scripts.data {self.name}" if self.name == "fashion_mnist" else "make data"

    def array_shape(self, array: str) -> tuple[int, ...]:
        """Return the shape of a stored array: labels (n,), grey images (n, H, W), colour images (n, H, W, C)."""
        split, kind = array.split("_")
        n = {"train": self.train_size, "test": self.test_size}[split]
        if kind == "labels":
            return (n,)
        channels, height, width = self.image_shape
        return (n, height, width) if channels == 1 else (n, height, width, channels)


MNIST = DatasetSpec(
    name="mnist",
    label="MNIST",
    image_shape=(1, 28, 28),
    classes=10,
    train_size=60_000,
    test_size=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    torchvision="MNIST",
    archives={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    sha256={
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
)

CIFAR10 = DatasetSpec(
    name="cifar10",
    label="CIFAR-10",
    image_shape=(3, 32, 32),
    classes=10,
    train_size=50_000,
    test_size=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    # This is not the standard deviation over all pixels (0.2470, 0.2435, 0.2616) but the mean of the images' own. Many
    # implementations share this slip, the paper's among them. So the inputs' standard deviation is about 1.2 or 1.3.
    std=(0.2023, 0.1994, 0.2010),
    torchvision="CIFAR10",
    archives={"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    sha256={
        "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
)

FASHION_MNIST = DatasetSpec(
    name="fashion_mnist",
    label="Fashion-MNIST",
    image_shape=(1, 28, 28),
    classes=10,
    train_size=60_000,
    test_size=10_000,
    mean=(0.2860,),
    std=(0.3530,),
    torchvision="FashionMNIST",
    archives={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    sha256={
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
)

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (MNIST, CIFAR10, FASHION_MNIST)}
