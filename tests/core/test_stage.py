import errno
import os
import subprocess
import sys
from io import UnsupportedOperation
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import DataError
from antvisionps.core.stage import CLOSED_PIPE, run_stage
from tests.tiny_run import PROJECT


def raise_error(error: BaseException) -> None:
    raise error


def test_a_stage_that_works_prints_nothing_and_returns(capsys):
    done = []
    run_stage(lambda: done.append(1))
    assert done == [1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (DataError("image 7: missing"), 1, "error: image 7: missing\n"),
        (DataError("first\nsecond"), 1, "error: first\nerror: second\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_ours_and_ctrl_c_are_lines_on_stderr_and_a_status(capsys, error, status, printed):
    with pytest.raises(SystemExit) as stopped:
        run_stage(lambda: raise_error(error))
    assert stopped.value.code == status
    assert capsys.readouterr() == ("", printed)


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (OSError(errno.ENOSPC, "No space", "a/b"), "a/b: No space left on device; make room on that disk, or write"),
        (OSError(errno.EDQUOT, "", "a"), "a: Disk quota exceeded; make room within your quota"),
        (PermissionError(errno.EACCES, "", "a"), "a: Permission denied; change its permissions, or name another place"),
        (OSError(errno.EROFS, "", "a"), "a: Read-only file system; that disk is mounted read-only"),
        (
            OSError(errno.EMFILE, "", "a"),
            "a: Too many open files; raise the limit of open files (`ulimit -n 4096`), or",
        ),
        (OSError(errno.ENOTTY, "", "a"), "a: Inappropriate ioctl for device; mend that, and run the command again"),
        (OSError(errno.ENOSPC, "from", "from", None, "to"), "to: No space left on device; make room"),
        (
            OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]"),
            "No space left on device; make room",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "Connection refused; mend that"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe; mend that"),  # of another pipe than stdout
    ],
)
def test_errors_of_the_system_are_a_line_with_path_reason_and_remedy(capsys, error, printed):
    with pytest.raises(SystemExit) as stopped:
        run_stage(lambda: raise_error(error))
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {printed}")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), OSError("a library's own"), UnsupportedOperation("fileno"), KeyError("key")]
)
def test_an_error_that_is_neither_ours_nor_the_systems_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_stage(lambda: raise_error(error))


@pytest.mark.parametrize("name", ["disk/full", "disk", "nowhere/a"])
def test_errors_of_arrow_are_the_systems(capsys, tmp_path, name):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "full").symlink_to("/dev/full")
    table = pa.table({"a": list(range(100_000))})
    with pytest.raises(SystemExit):
        run_stage(lambda: pq.write_table(table, tmp_path / name))
    assert capsys.readouterr().err.count("\n") == 1


def run(code: str, **streams) -> subprocess.CompletedProcess:
    code = f"import sys\nfrom antvisionps.core.stage import run_stage\nrun_stage(lambda: {code})"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False, **streams)


def test_output_that_nobody_reads_any_more_ends_a_stage_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    ended = run("print(1)", stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (CLOSED_PIPE, "")


def test_a_locale_that_lacks_a_character_stops_nothing():
    program = "from antvisionps.core.stage import run_stage; run_stage(lambda: print('an …'))"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert ran.stdout == b"an \\u2026\n"


def test_output_to_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        ended = run("print(1)", stdout=full)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("error: No space left on device; make room on that disk")


def test_a_stage_without_an_output_works():
    assert run("print(1)", preexec_fn=lambda: os.close(1)).returncode == 0
    ended = run("open('/nowhere/a')", preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (1, "error: /nowhere/a: No such file or directory; check the path\n")


@pytest.mark.parametrize("program", ["stages.fuse", "antvisionps.cli.main"])
def test_numpys_sums_do_not_depend_on_how_many_cores_there_are(program):
    """OpenBLAS reads its number of threads when numpy is imported."""
    code = f"""
import importlib, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_NUM_THREADS"))
sys.meta_path.insert(0, Watch())
importlib.import_module("{program}")
import numpy
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=PROJECT, env=environment, text=True).split() == ["1"]
