"""A SLURM cluster of two nodes on this machine, of Debian's own daemons, for one command or one test.

    python -m tests.slurm_cluster sbatch --wait --nodes=2 --ntasks-per-node=1 job.sh

starts munged, slurmctld and a slurmd a node, runs the command, prints nothing of its own and stops them. Runs as any
user, whose jobs alone it takes. Configuration, keys, state and logs lie in a temporary folder.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("127.0.0.1", "127.0.0.2")
"""Node names that every machine can resolve, as tasks meet at the first node by its name."""

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}
"""Program → Debian's package; slurm-wlm depends on all of them."""

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
"""Users who are not root lack the daemons' folder."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
MailProg=/bin/true
# Any number of cores, no control groups.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
NodeName={nodes} CPUs=8 Port=[{ports[1]},{ports[2]}]
PartitionName=all Nodes=ALL Default=YES
"""

LONGEST_S = 120
"""What takes longer to start or to stop hangs."""


def missing_packages() -> list[str]:
    """Debian's packages that are not installed here."""
    return [package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None]


@contextmanager
def slurm_cluster() -> Iterator[str]:
    """Yields the value of SLURM_CONF for commands that are to use the cluster."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, ExitStack() as running:
        folder = Path(name)
        configuration = _configure(folder)
        munged = running.enter_context(_daemon("munged", *_munge_options(folder), folder=folder))
        _wait(lambda: (folder / "munge.socket").exists(), [munged], folder)
        daemons = [running.enter_context(_daemon("slurmctld", "-D", folder=folder))]
        daemons += [running.enter_context(_daemon("slurmd", "-D", "-N", node, folder=folder)) for node in NODES]
        _wait(lambda: _idle_nodes(configuration) == len(NODES), daemons, folder)
        try:
            yield str(configuration)
        finally:
            _run(configuration, "scancel", "--signal=KILL", "--full", "--me")
            _wait(lambda: _idle_nodes(configuration) == len(NODES), daemons, folder)


def _configure(folder: Path) -> Path:
    for name in ("state", *NODES):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(64))
    user = pwd.getpwuid(os.getuid()).pw_name
    names = {"folder": folder, "host": socket.gethostname(), "user": user, "nodes": ",".join(NODES)}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**names, ports=_free_ports(3)))
    return configuration


def _free_ports(number: int) -> list[int]:
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def _munge_options(folder: Path) -> list[str]:
    names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munged.seed"}
    # Of the socket's folder munged asks that all users may enter it; the daemons here have one user.
    return ["--foreground", "--force", *(f"--{option}={folder / name}" for option, name in names.items())]


@contextmanager
def _daemon(program: str, *options: str, folder: Path) -> Iterator[subprocess.Popen]:
    """Runs while the context does, and not longer than this process."""
    command = ["setpriv", "--pdeathsig=TERM", program, *options]
    environment = os.environ | {"PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LONGEST_S)
        finally:
            process.kill()


def _idle_nodes(configuration: Path) -> int:
    return _run(configuration, "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").count("\n")


def _run(configuration: Path, *command: str) -> str:
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(condition: Callable[[], bool], daemons: list[subprocess.Popen], folder: Path) -> None:
    begin = time.monotonic()
    while not condition():
        if any(daemon.poll() is not None for daemon in daemons) or time.monotonic() > begin + LONGEST_S:
            raise RuntimeError(
                f"the cluster does not start, or its jobs do not stop:\n{(folder / 'daemons.log').read_text()}"
            )
        time.sleep(0.1)


def main() -> None:
    if missing := missing_packages():
        sys.exit(f"no SLURM here: install Debian's {', '.join(missing)}")
    with slurm_cluster() as configuration:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | {"SLURM_CONF": configuration}, check=False).returncode)


if __name__ == "__main__":
    main()
