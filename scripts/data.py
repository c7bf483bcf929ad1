"""Fetches and verifies the datasets, so that everything else runs without a network.

    python -m scripts.data                  # MNIST and CIFAR-10, what the paper trains on
    python -m scripts.data fashion_mnist

Cost: 150 to 180 MB of downloads (10 to 25 s each on a fast line, half of it importing torchvision) and 240 MB of disk.
Output: one folder per dataset below $BSNN_DATA_DIR (default ~/.cache/bsnn). Running it again only verifies.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from bsnn.data import DATASETS, DataError, dataset_spec
from bsnn.data.cache import dataset_folder, load_arrays

DEFAULT = ("mnist", "cifar10")


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch and verify; exit code 0, or 1 if a dataset is missing or damaged. The others are still fetched."""
    parser = argparse.ArgumentParser(prog="python -m scripts.data", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="DATASET", help=f"{', '.join(DATASETS)}; default {' '.join(DEFAULT)}"
    )
    names = parser.parse_args(argv).names or DEFAULT
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = False
    for name in names:
        start = time.perf_counter()
        try:
            spec = dataset_spec(name)
            folder = dataset_folder(spec)
            arrays = load_arrays(spec, folder)
        except DataError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        sizes = f"{len(arrays['train_labels'])} train, {len(arrays['test_labels'])} test"
        print(f"{spec.label}: {folder}, {sizes}, SHA-256 ok, {time.perf_counter() - start:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
