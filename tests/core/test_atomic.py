"""Files and folders that appear whole: what is left by errors and kills, by two writers at once, and by bad places."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from antvisionps.core import atomic, locks
from antvisionps.core.atomic import atomic_file, atomic_folder, refuse_unwritable, unfinished
from antvisionps.core.errors import OutputError
from antvisionps.core.os_errors import explain
from tests.programs import TEST_PACKAGES

WRITER = """
import sys, time
from pathlib import Path
from antvisionps.core.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("writes", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes tmp_path/a/out and never comes to an end."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a" / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writes\n"
    yield process
    process.kill()
    process.communicate()


def write(path: Path, text: str = "new") -> None:
    with atomic_folder(path) as folder:
        (folder / "file").write_text(text)


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_replaces_the_former_one_whole_and_nothing_else_is_left(tmp_path):
    out = tmp_path / "a" / "b" / "out"
    write(out)
    (out / "surplus").touch()
    write(out, "newer")
    assert below(tmp_path) == ["a", "a/b", "a/b/out", "a/b/out/file"]
    assert (out / "file").read_text() == "newer"


@pytest.mark.parametrize("opened", [atomic_file, atomic_folder])
def test_an_error_leaves_neither_the_output_nor_folders_that_were_made_for_it(tmp_path, opened):
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "there" / "a" / "b" / "out"):
        raise ZeroDivisionError
    assert below(tmp_path) == ["there"]


def test_an_error_keeps_the_former_folder_and_file(tmp_path):
    write(tmp_path / "out", "old")
    for path in (tmp_path / "out", tmp_path / "out" / "file"):
        with pytest.raises(ZeroDivisionError), (atomic_folder if path.is_dir() else atomic_file)(path):
            raise ZeroDivisionError
    assert below(tmp_path) == ["out", "out/file"]
    assert (tmp_path / "out" / "file").read_text() == "old"


@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_or_an_error_between_the_two_names_gives_the_former_output_back(tmp_path, monkeypatch, moment):
    """The first renaming puts the former output aside, the second gives the new one its name."""
    out, code = (
        tmp_path / "out",
        f"""
import os, signal, sys
from antvisionps.core import atomic
from tests.core.test_atomic import write
from pathlib import Path
rename, calls = os.replace, []
def replace(*names):
    calls.append(names)
    if len(calls) == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
atomic.os.replace = replace
write(Path(sys.argv[1]))
""",
    )
    write(out, "old")
    environment = os.environ | {"PYTHONPATH": TEST_PACKAGES}
    killed = subprocess.run([sys.executable, "-c", code, str(out)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert out.exists() == (moment == 1)
    with pytest.raises(ZeroDivisionError), atomic_folder(out):
        raise ZeroDivisionError  # before there is anything new
    assert (out / "file").read_text() == "old"
    assert below(tmp_path) == ["out", "out/file"]

    rename, calls = os.replace, []

    def fail_once(*names):
        calls.append(names)
        if len(calls) == moment:
            raise KeyboardInterrupt
        rename(*names)

    monkeypatch.setattr(atomic.os, "replace", fail_once)
    with pytest.raises(KeyboardInterrupt):
        write(out)
    assert (out / "file").read_text() == "old"
    assert below(tmp_path) == ["out", "out/file"]


def test_a_second_writer_is_refused_and_the_first_ones_files_stay(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_S", 0.2)
    out = tmp_path / "a" / "out"
    before = below(tmp_path)
    for attempt in (write, refuse_unwritable):
        with pytest.raises(OutputError, match=rf"{out}: process {writer.pid} on .* writes it; wait for its end"):
            attempt(out)
    assert below(tmp_path) == before
    assert (unfinished(out) / "half").read_text() == "half"
    write(out.with_name("other"))


def test_what_a_killed_writer_leaves_is_gone_after_the_next(tmp_path, writer):
    out = tmp_path / "a" / "out"
    writer.kill()
    writer.wait()
    assert below(out.parent) == [".out.unfinished", ".out.unfinished.lock", ".out.unfinished/half"]
    write(out)
    assert below(out.parent) == ["out", "out/file"]


def test_a_writer_that_ends_soon_is_waited_for(tmp_path, writer):
    """A process that is being killed holds its lock for a moment; its workers, half a second."""
    killing = subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -9 {writer.pid}"])
    write(tmp_path / "a" / "out")
    assert killing.wait() == 0
    assert below(tmp_path / "a") == ["out", "out/file"]


def test_many_writers_at_once_leave_one_whole_output(tmp_path):
    code = """
import sys, time
from pathlib import Path
from antvisionps.core.atomic import atomic_folder
for turn in range(10):
    with atomic_folder(Path(sys.argv[1])) as folder:
        for name in "abc":
            (folder / name).write_text(sys.argv[2])
"""
    out = tmp_path / "x" / "out"
    running = [subprocess.Popen([sys.executable, "-c", code, str(out), str(n)]) for n in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert below(tmp_path) == ["x", "x/out", "x/out/a", "x/out/b", "x/out/c"]
    assert len({(out / name).read_text() for name in "abc"}) == 1


def test_a_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    write(tmp_path / "out")
    assert below(tmp_path) == ["out", "out/file"]


def link_to_folder(path: Path) -> None:
    (path.parent / "kept").mkdir()
    path.symlink_to("kept")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.touch, "out: expected a folder to write, got a file; name another"),
        (os.mkfifo, "out: expected a folder to write, got a device or pipe"),
        (link_to_folder, "out: expected a folder to write, got a symbolic link to kept; name where it leads"),
        (lambda path: path.symlink_to("gone"), "out: expected a folder to write, got a symbolic link to gone"),
    ],
)
def test_what_is_no_folder_of_its_own_is_refused_before_the_work_and_stays(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    make(out)
    before = below(tmp_path)
    with pytest.raises(OutputError, match=message), atomic_folder(out):
        raise AssertionError("the work began")
    assert below(tmp_path) == before


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_the_working_folder_and_those_around_it_are_never_replaced(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="holds the working folder"), atomic_folder(Path(name)):
        raise AssertionError("the work began")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_no_place_for_a_file(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(OutputError, match="out: expected a file to write, got a"), atomic_file(tmp_path / "out"):
        raise AssertionError("the work began")
    with pytest.raises(OutputError, match="out: expected a file to write, got a"):
        refuse_unwritable(tmp_path / "out")
    assert below(tmp_path) == ["out"]


def test_a_link_to_a_file_is_replaced_and_what_it_leads_to_stays(tmp_path):
    """DVC's cache of type symlink has such links."""
    (tmp_path / "cached").write_text("old")
    (tmp_path / "out").symlink_to("cached")
    with atomic_file(tmp_path / "out") as path:
        path.write_text("new")
    assert (tmp_path / "cached").read_text() == "old"
    assert (tmp_path / "out").read_text() == "new"
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/out", "Not a directory; a part of this path is no folder"),
        ("pipe/a/out", "Not a directory; a part of this path is no folder"),
        ("n" * 300, "File name too long; choose a shorter name"),
        ("n" * 250, "File name too long; choose a shorter name"),
        ("/proc/out", "No such file or directory; check the path"),
        ("loop/out", "Too many levels of symbolic links; symbolic links there lead in a circle"),
    ],
)
@pytest.mark.parametrize("opened", [atomic_file, atomic_folder])
def test_a_place_that_cannot_be_is_told_before_the_work(tmp_path, monkeypatch, opened, place, reason):
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = below(tmp_path)
    with pytest.raises(OSError) as raised, opened(tmp_path / place):
        raise AssertionError("the work began")
    assert reason in explain(raised.value)
    assert str(tmp_path / place)[:100] in explain(raised.value)
    assert below(tmp_path) == before


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 64 KiB, mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("opened", [atomic_file, atomic_folder])
def test_a_full_disk_is_told_with_the_name_of_the_output_and_leaves_nothing(tiny_disk, opened):
    out = tiny_disk / "a" / "out"
    with pytest.raises(OSError) as raised, opened(out) as path:
        (path / "file" if path.is_dir() else path).write_bytes(bytes(100_000))
    assert explain(raised.value) == f"{out}: No space left on device; make room on that disk, or write to another one"
    assert below(tiny_disk) == []


def test_a_mounted_disk_and_a_read_only_one_are_refused_before_the_work(tiny_disk):
    with pytest.raises(OutputError, match="a disk is mounted there"), atomic_folder(tiny_disk):
        raise AssertionError("the work began")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for opened in (atomic_file, atomic_folder):
        with pytest.raises(OSError) as raised, opened(tiny_disk / "out"):
            raise AssertionError("the work began")
        assert "Read-only file system; that disk is mounted read-only" in explain(raised.value)
        assert str(tiny_disk / "out") in explain(raised.value)


def test_a_limit_on_the_size_of_files_names_the_file_of_the_output(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as raised, atomic_folder(tmp_path / "out") as folder:
            shutil.copyfile(sys.executable, folder / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert explain(raised.value).startswith(f"{tmp_path / 'out' / 'copy'}: File too large; raise the limit")
    assert below(tmp_path) == []
