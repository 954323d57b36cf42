from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from antvisionps.core.errors import ParamsError
from antvisionps.params.profiles import use_profile

ROOT = Path(__file__).parents[2]
BUILT_IN = (ROOT / "params.yaml").read_bytes()
PROFILE = BUILT_IN.replace(b"min_score: 0.5", b"min_score: 0.4")
OTHER_PROFILE = BUILT_IN.replace(b"min_score: 0.5", b"min_score: 0.3")
OWN = BUILT_IN.replace(b"min_score: 0.5", b"min_score: 0.2")


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with the built-in params.yaml committed and two profiles."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "facades.yaml").write_bytes(PROFILE)
    (tmp_path / "profiles" / "coco.yaml").write_bytes(OTHER_PROFILE)
    (tmp_path / "params.yaml").write_bytes(BUILT_IN)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--no-verify", "--message", "Start"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


@pytest.mark.parametrize("current", [BUILT_IN, OTHER_PROFILE, PROFILE, None])
def test_a_profile_replaces_params_that_are_kept_elsewhere(project, current):
    params = project / "params.yaml"
    params.unlink()
    if current is not None:
        params.write_bytes(current)
    use_profile(project / "profiles" / "facades.yaml", project_root=project, force=False)
    assert params.read_bytes() == PROFILE


def test_changes_of_the_users_own_are_refused_and_stay(project):
    params = project / "params.yaml"
    params.write_bytes(OWN)
    with pytest.raises(ParamsError, match=r"changes of your own.*--force"):
        use_profile(project / "profiles" / "facades.yaml", project_root=project, force=False)
    assert params.read_bytes() == OWN


def test_force_overwrites_them(project):
    (project / "params.yaml").write_bytes(OWN)
    use_profile(project / "profiles" / "facades.yaml", project_root=project, force=True)
    assert (project / "params.yaml").read_bytes() == PROFILE


def test_an_invalid_profile_is_refused_and_changes_nothing(project):
    bad = project / "profiles" / "bad.yaml"
    bad.write_bytes(PROFILE + b"\nspeed: 1\n")
    with pytest.raises(ParamsError, match=r"bad\.yaml: speed: unknown key"):
        use_profile(bad, project_root=project, force=True)
    assert (project / "params.yaml").read_bytes() == BUILT_IN


def test_a_missing_profile_is_refused(project):
    with pytest.raises(ParamsError, match="no such file"):
        use_profile(project / "profiles" / "facade.yaml", project_root=project, force=True)


def test_outside_a_repository_only_the_profiles_count_as_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "facades.yaml").write_bytes(PROFILE)
    (tmp_path / "params.yaml").write_bytes(BUILT_IN)
    with pytest.raises(ParamsError, match="changes of your own"):
        use_profile(tmp_path / "profiles" / "facades.yaml", project_root=tmp_path, force=False)


@pytest.mark.parametrize(("key", "profiles"), [("name", ["facades"]), ("workers", ["facades", "coco_paper"])])
def test_a_profile_explains_a_choice_as_the_built_in_params_do(key, profiles):
    def comments(path):
        return [line.split(" # ")[1] for line in path.read_text().splitlines() if re.match(rf" *{key}: .* # ", line)]

    wanted = comments(ROOT / "params.yaml")
    assert wanted
    for profile in profiles:
        assert comments(ROOT / "profiles" / f"{profile}.yaml") == wanted
