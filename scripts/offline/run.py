"""Check the GPU, train the paper's budget breadth first, and pack the records: on a machine without a network.

    python run.py                         until all is trained; Ctrl-C saves, and the same command goes on
    python run.py --seconds 3000          stops in time, with checkpoints, and packs what there is
    python run.py --budget smoke          a rehearsal, on a CPU too

It lies in the folder that `python -m scripts.offline` fills, beside its parts, and needs Python 3.11 with torch and
pip. Its results lie in out/: gpu_check.md (is the engine right here, and how fast?), records.tar.xz (bring it home,
then `make collect ARCHIVE=records.tar.xz` there), the published files in out/results/<budget>/, and log.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SOURCE = HERE / "bsnn"
PACKAGES = HERE / "packages"
MORE_TO_DO = 75
CHECK_SECONDS = 600


def main() -> int:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="for everything; default: no limit")
    parser.add_argument("--budget", default="paper", choices=("paper", "quick", "smoke"))
    parser.add_argument("settings", nargs="*", help="as for `make reproduce SET=...`: seed=0,1 until=8")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    prepare()
    environment = os.environ | {"BSNN_DATA_DIR": str(HERE), "PYTHONPATH": os.pathsep.join([str(SOURCE), str(PACKAGES)])}
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    cuda = subprocess.run([sys.executable, "-c", asked], env=environment).returncode == 0

    def run(*command: str) -> int:
        with (OUT / "log.txt").open("ab") as log:
            words, pipe, joined = [sys.executable, "-m", *command], subprocess.PIPE, subprocess.STDOUT
            process = subprocess.Popen(words, cwd=SOURCE, env=environment, stdout=pipe, stderr=joined)
            assert process.stdout is not None
            while True:
                try:
                    for line in process.stdout:
                        log.write(line)
                        sys.stdout.buffer.write(line)
                        sys.stdout.flush()
                    return process.wait()
                except KeyboardInterrupt:  # the terminal has sent it to the command, too, which saves its state
                    continue

    if not cuda:
        print("torch finds no GPU here: nothing to check, and the training runs on the CPU")
    elif not (OUT / "gpu_check.md").exists():
        sweep = 60 if arguments.seconds is None else min(60, arguments.seconds / 20)
        if run("scripts.gpu.check", str(OUT), "--sweep-seconds", f"{sweep:.0f}"):
            print("gpu_check.md says what is wrong; the training takes whatever way its own check finds right")
    settings = [*arguments.settings, "tracking=none"]
    if arguments.seconds is not None:
        left = arguments.seconds - (time.monotonic() - started)
        settings.append(f"time_limit={max(60.0, left - 30):.0f}")
    results = os.path.relpath(OUT / "results", SOURCE)  # records contain it, and must not name this machine's folders
    code = run("scripts.reproduce", arguments.budget, "--results", results, *settings)
    packed = run("scripts.pack", f"{results}/{arguments.budget}", str(OUT / "records.tar.xz"))
    return packed or code


def prepare() -> None:
    """Unpack the source, and install beside it what the machine's Python lacks; the Python itself stays as it is."""
    [archive] = HERE.rglob("source.tar.gz")
    if not SOURCE.exists():
        unfinished = HERE / ".unpacking"
        with tarfile.open(archive) as tar:
            tar.extractall(unfinished, filter="data")
        (unfinished / "bsnn").rename(SOURCE)
    wheels = [str(path) for path in sorted(HERE.glob("part-*/*.whl"))]
    if wheels and not PACKAGES.exists():
        unfinished = HERE / ".installing"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        subprocess.run([*install, "--target", str(unfinished), *wheels], check=True)
        unfinished.rename(PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
