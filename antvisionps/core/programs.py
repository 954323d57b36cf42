"""git and DVC as this package calls them: what they print, or an error of one line."""

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError


def git(folder: Path, *arguments: str) -> str:
    """Raises AntVisionPSError with git's reason."""
    return _output(["git", *arguments], folder)


def dvc(folder: Path, *arguments: str) -> str:
    """Raises AntVisionPSError with DVC's reason."""
    if importlib.util.find_spec("dvc") is None:
        raise AntVisionPSError("DVC is not installed; `pip install 'antvisionps[pipeline]'`, or `make setup`")
    return _output([sys.executable, "-m", "dvc", *arguments], folder)


def experiment_ref(repository: Path, name: str) -> str | None:
    """git's name of the DVC experiment that is called so, of several the newest; or None."""
    refs = git(repository, "for-each-ref", "--sort=-creatordate", "--format=%(refname)", "refs/exps").splitlines()
    return next((ref for ref in refs if ref.endswith(f"/{name}")), None)


def _output(command: Sequence[str], folder: Path) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "LC_ALL": "C"}
    try:
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise AntVisionPSError(f"{command[0]} is not installed; install it with the system's package manager") from None
    if ran.returncode:
        raise AntVisionPSError(f"`{shlex.join(command)}` failed in {folder.resolve()}: {_reason(ran.stderr)}")
    return ran.stdout.strip()


def _reason(stderr: str) -> str:
    """The line that says what is wrong: both programs begin it so, and go on with hints."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for start in ("ERROR: ", "fatal: ", "error: "):
        for line in lines:
            if line.startswith(start):
                return line.removeprefix(start)
    return lines[0] if lines else "it does not say why"
