"""Packs MNIST and CIFAR-10 into files of at most 48 MB, for a machine without a network.

    python -m scripts.bundle                # into data-bundle/
    python -m scripts.bundle FOLDER mnist

There: BSNN_DATA_DIR=FOLDER python -m experiments.train ... The parts may arrive one by one; they are unpacked on first
use. Cost: 5 s to pack and 2 s to unpack on one core of an AMD EPYC. Output: four parts, 121 MB together, and
SHA256SUMS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bsnn.data import dataset_spec
from bsnn.data.bundle import write_bundle
from bsnn.data.cache import dataset_folder, load_arrays
from bsnn.files import user_path
from bsnn.results import cli
from scripts.data import DEFAULT


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bundle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=user_path, default=Path("data-bundle"), help="default data-bundle")
    parser.add_argument("names", nargs="*", metavar="DATASET", help=f"default {' '.join(DEFAULT)}")
    arguments = parser.parse_args(argv)
    specs = [dataset_spec(name) for name in arguments.names or DEFAULT]
    for path in write_bundle({spec: load_arrays(spec, dataset_folder(spec)) for spec in specs}, arguments.folder):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
