"""A Slurm cluster of one node, this machine, for tests: its daemons keep all that is theirs in one folder."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

START_SECONDS = 20
PROGRAMS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment variables by which sbatch and the like find it; skips the test where it can't be started.

    It has no accounting, like many small clusters: sacct tells nothing.
    """
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = {program: shutil.which(program, path=search) for program in PROGRAMS}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        pytest.skip(f"no {missing[0]}: it comes with the system's package {PROGRAMS[missing[0]]}")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=platform.node().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    environment = {"SLURM_CONF": str(configuration)}
    in_folder = {name: f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("socket", "log-file",
                 "pid-file", "seed-file")}  # fmt: skip
    daemons = (
        [found["munged"], "--foreground", "--force", f"--key-file={key}", *in_folder.values()],
        [found["slurmctld"], "-D", "-c", "-f", str(configuration)],
        [found["slurmd"], "-D", "-c", "-f", str(configuration)],
    )
    with ExitStack() as stack:
        for command in daemons:
            stack.enter_context(_daemon([str(word) for word in command], folder, environment))
        deadline = time.monotonic() + START_SECONDS
        while "idle" not in _output(["sinfo", "--noheader", "--format=%T"], environment):
            if time.monotonic() > deadline:
                said = "".join(path.read_text() for path in sorted(folder.glob("*.err")))
                pytest.skip(f"Slurm could not be started: {' '.join(said.splitlines()[-3:]) or 'no reason given'}")
            time.sleep(0.1)
        try:
            yield environment
        finally:
            _output(["scancel", f"--user={getpass.getuser()}"], environment)
            while "idle" not in _output(["sinfo", "--noheader", "--format=%T"], environment):
                assert time.monotonic() < deadline + 120, "the cluster's jobs don't end"
                time.sleep(0.1)


@contextmanager
def _daemon(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Ends with the context; what it says is in the folder."""
    with (folder / f"{Path(command[0]).name}.err").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
    return done.stdout


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
