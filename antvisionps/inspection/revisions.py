"""Outputs of DVC as another revision has them: a commit, tag, branch or experiment, out of the local DVC cache."""

import os
import subprocess
import sys
from pathlib import Path

from antvisionps.core.errors import CacheError


def fetch_revision(path: Path, *, rev: str, into: Path) -> Path:
    """A copy of `path`, a file or folder that DVC tracks, as it was in `rev`; written below `into`, returned.

    Raises CacheError outside of a DVC repository, on an unknown revision, and where neither the local DVC cache nor a
    configured remote has the data.
    """
    root = next((place for place in path.resolve().parents if (place / ".dvc").is_dir()), None)
    if root is None:
        raise CacheError(f"{path}: not in a DVC repository, so it has no revisions; compare two paths instead")
    inside = path.resolve().relative_to(root)
    out = into / inside.name
    command = [sys.executable, "-m", "dvc", "get", str(root), str(inside), "--rev", rev, "--out", str(out)]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    ran = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False, env=environment, cwd=into)
    if ran.returncode != 0 or not out.exists():
        said = [line for line in ran.stderr.strip().splitlines() if line.strip()] or ["dvc said nothing"]
        raise CacheError(f"{inside} of revision {rev}: {said[0].removeprefix('ERROR: ')}; `dvc fetch` may get it")
    return out
