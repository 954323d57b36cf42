"""Where a stage cannot write, it says so in a line, before the work, and leaves nothing behind."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from antvisionps.cli import main as cli
from antvisionps.core import locks
from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import OutputError
from antvisionps.datasets.scenes import prepare_scenes
from tests.pipeline.workspace import STAGES, bytes_below, fail, write_params

EVERY_STAGE = pytest.mark.parametrize("stage", STAGES)


@contextmanager
def small_files_only() -> Iterator[None]:
    """Files of 256 bytes at most, as with a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(done, stage: str, out: Path, **places: Path) -> str:
    """The one line that it prints, without a progress bar before it."""
    ran = done.run(stage, out=out, **({"scores": out.with_name("scores")} if stage == "score" else {}) | places)
    line = fail(ran)
    assert ran.stderr == f"{line}\n"
    return line


@EVERY_STAGE
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "file: expected a folder to write, got a file; name another"),
        ("link", "link: expected a folder to write, got a symbolic link to folder; name where it leads"),
        ("dangling", "dangling: expected a folder to write, got a symbolic link to gone"),
        ("file/a/out", "Not a directory; a part of this path is no folder"),
        ("n" * 256, "File name too long"),
    ],
)
def test_a_bad_place_is_told_before_the_work(done, tmp_path, stage, place, message):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("gone")
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(done, stage, tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_score_knows_both_of_its_folders_before_the_work(done, tmp_path):
    (tmp_path / "pictures").touch()
    assert "pictures: expected a folder to write" in refused(
        done, "score", tmp_path / "out", scores=tmp_path / "pictures"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(("stage", "workers"), [*product(STAGES, [1]), ("fuse", 2), ("score", 2), ("report", 2)])
def test_a_disk_without_room_is_one_line_and_leaves_nothing(done, tmp_path, tmp_path_factory, stage, workers):
    systems = {"systems": ["e_ups"]} if stage == "calibrate" else {}  # which writes when all is done
    params = write_params(tmp_path_factory.mktemp("params") / "params.yaml", workers=workers, **systems)
    places = {"out": tmp_path / "a" / "out"} | ({"scores": tmp_path / "a" / "scores"} if stage == "score" else {})
    with small_files_only():
        line = fail(done.run(stage, params=params, **places))
    assert line.startswith(f"error: {tmp_path / 'a'}")
    assert "unfinished" not in line
    assert "File too large; raise the limit of file sizes" in line
    assert list(tmp_path.iterdir()) == []


@EVERY_STAGE
def test_a_second_run_at_a_time_is_refused_and_the_first_one_is_not_disturbed(done, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        assert f"out: process {os.getpid()} on " in refused(done, stage, tmp_path / "out")
        assert (folder / "half").exists()


def test_too_many_open_files_are_told_with_the_remedy(done, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 6, hard))
    try:
        line = fail(done.run("fuse", out=tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files; raise the limit of open files (`ulimit -n 4096`)" in line
    assert list(tmp_path.iterdir()) == []


def test_prepare_tells_a_bad_place_before_it_renders(tmp_path):
    (tmp_path / "out").touch()
    sizes = {"train_images": 10**9, "val_images": 1, "height": 64, "width": 64, "heldout_images": 1, "seed": 1}
    with pytest.raises(OutputError, match="got a file"):
        prepare_scenes(tmp_path / "out", **sizes)


@pytest.mark.parametrize("picture", ["gone.png", "broken.png", "empty"])
def test_predict_leaves_no_folder_after_an_error(tmp_path, monkeypatch, capsys, picture):
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_text("no picture")
    Path("empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["predict", picture, "--out", "a/b/out"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.count("error: ") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_replaced_is_whole_at_the_end(done, tmp_path):
    out = shutil.copytree(done.routing, tmp_path / "out")
    (out / "surplus.json").touch()
    done.run("evaluate_heldout", out=out)
    assert bytes_below(out) == bytes_below(done.routing)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
