"""Profiles: whole params.yaml files for other data and scales, one of which `antvisionps use` makes params.yaml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import ParamsError
from antvisionps.params.whole import load_params


def use_profile(profile: Path, *, project_root: Path, force: bool) -> None:
    """Makes `profile` the project's params.yaml.

    Raises ParamsError on an invalid profile, and, unless `force`, when params.yaml holds changes of the user's own:
    that is, when it equals neither the committed params.yaml nor any file of profiles/.
    """
    load_params(profile)
    params_path = project_root / "params.yaml"
    if not force and params_path.exists() and not _is_kept_elsewhere(params_path):
        raise ParamsError(
            f"{params_path} holds changes of your own, which {profile} would overwrite; keep them with "
            "`cp params.yaml profiles/mine.yaml`, or drop them with --force"
        )
    content = profile.read_bytes()
    with atomic_file(params_path) as unfinished:
        unfinished.write_bytes(content)


def _is_kept_elsewhere(params_path: Path) -> bool:
    content = params_path.read_bytes()
    profiles = (params_path.parent / "profiles").glob("*.yaml")
    return content == _committed(params_path) or any(content == profile.read_bytes() for profile in profiles)


def _committed(path: Path) -> bytes | None:
    """The file's content in git's HEAD; None without git, repository or commit."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return shown.stdout if shown.returncode == 0 else None
