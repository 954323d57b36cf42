import pytest

from antvisionps.cli import main as cli
from antvisionps.params.profiles import compose
from tests.tiny_run import PROJECT

BUILT_IN, STREET, FACADES, COCO = (f"profiles/{name}.yaml" for name in ("built_in", "street", "facades", "coco_paper"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project without git, with our profiles and the built-in run's params.yaml."""
    (tmp_path / "profiles").mkdir()
    for profile in (BUILT_IN, STREET, FACADES, COCO):
        (tmp_path / profile).write_bytes((PROJECT / profile).read_bytes())
    (tmp_path / "params.yaml").write_bytes((PROJECT / BUILT_IN).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_profile_follows_every_other_and_none(project, capsys):
    (project / "params.yaml").unlink()
    for profile in (FACADES, FACADES, COCO, FACADES, BUILT_IN, COCO, BUILT_IN):
        cli.main(["use", profile])
        assert f"params.yaml is now {profile}" in capsys.readouterr().out
        assert (project / "params.yaml").read_text() == compose(PROJECT / profile)


def test_a_profile_whose_data_are_not_there_says_so_and_what_to_do(project, capsys):
    cli.main(["use", BUILT_IN])
    assert "`dvc repro` runs it" in capsys.readouterr().out
    for profile, remedy in ((COCO, "antvisionps download coco --to data/coco"), (FACADES, "put it there")):
        cli.main(["use", profile])
        out = capsys.readouterr().out
        assert "`dvc repro` cannot run it yet: " in out
        assert f"({project}/" in out
        assert "not there" in out
        assert f"first: {remedy}" in out


def test_changes_of_the_users_own_are_refused_and_forced(project, refused):
    params = project / "params.yaml"
    own = compose(PROJECT / FACADES).replace("min_score: 0.5", "min_score: 0.2")
    params.write_text(own)
    for free in ("own_1", "own_2"):
        line = refused("use", BUILT_IN)
        assert (
            f"`cp params.yaml profiles/{free}.yaml`, or overwrite it with `antvisionps use {BUILT_IN} --force`" in line
        )
        (project / "profiles" / f"{free}.yaml").touch()
    assert params.read_text() == own
    cli.main(["use", BUILT_IN, "--force"])
    assert params.read_text() == compose(PROJECT / BUILT_IN)


def test_changes_that_are_kept_as_a_profile_of_their_own_come_back(project):
    own = compose(PROJECT / COCO).replace("min_score: 0.5", "min_score: 0.2")
    for name in ("params.yaml", "profiles/mine.yaml"):
        (project / name).write_text(own)
    (project / "profiles" / "broken.yaml").write_text("extends: nowhere.yaml")
    cli.main(["use", FACADES])
    cli.main(["use", "profiles/mine.yaml"])
    assert (project / "params.yaml").read_text() == own


def test_an_invalid_profile_is_refused_and_changes_nothing(project, refused):
    (project / "bad.yaml").write_text(f"extends: {BUILT_IN}\nspeed: 1\n")
    assert refused("use", "bad.yaml", "--force").startswith("error: bad.yaml: speed: unknown key")
    assert refused("use", "none.yaml").startswith("error: none.yaml: no such file")
    assert (project / "params.yaml").read_text() == compose(PROJECT / BUILT_IN)
