"""A run goes from one clone to another through a DVC remote on an S3 server, by the commands of docs/scale.md."""

import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dvc_project import dvc, stages_run
from tests.tiny_run import PROJECT


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """The address of `s3://bucket`, empty; AWS's own variables lead there."""
    from moto.server import ThreadedMotoServer  # 1.4 s that the other workers' collection does without

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    settings = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
    yield f"{url}/bucket"
    server.stop()


def commands_of_the_page() -> tuple[list[list[str]], list[list[str]]]:
    """What the section shows for the one machine, and for the other."""
    page = (PROJECT / "docs" / "scale.md").read_text()
    section = page.partition("## Push and pull a run\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    commands = [shlex.split(line, comments=True) for line in lines]
    first_pull = [words[:2] for words in commands].index(["dvc", "pull"])
    return commands[:first_pull], commands[first_pull:]


def run(folder: Path, words: list[str]) -> str:
    if words[0] == "dvc":
        return dvc(folder, *words[1:])
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_run_that_was_pushed_is_scored_elsewhere_without_a_network(bucket, dvc_run, tmp_path):
    here = shutil.copytree(dvc_run, tmp_path / "here", symlinks=True)
    push, pull = commands_of_the_page()
    for words in push:
        run(here, words)
    with urllib.request.urlopen(f"{bucket}?list-type=2&prefix=path/") as listing:
        assert b"<Key>path/files/md5/" in listing.read()

    there = tmp_path / "there"
    run(tmp_path, ["git", "clone", "--quiet", str(here), str(there)])
    shutil.copytree(here / "antvisionps", there / "antvisionps", dirs_exist_ok=True)  # with what numba compiled
    shutil.rmtree(there / "metrics")
    printed = [run(there, words) for words in pull]
    assert sorted(stages_run(printed[-1])) == ["fuse", "prepare", "score"]
    assert (there / "metrics" / "panoptic.json").read_bytes() == (here / "metrics" / "panoptic.json").read_bytes()
