from __future__ import annotations

import subprocess
import sys

import pytest

from antvisionps.core.errors import DataError
from antvisionps.core.stage import run_stage


def raise_error(error: BaseException) -> None:
    raise error


def test_a_stage_that_works_prints_nothing_and_returns(capsys):
    done = []
    run_stage(lambda: done.append(1))
    assert done == [1]
    assert capsys.readouterr() == ("", "")


def test_an_error_of_ours_is_one_line_on_stderr_and_status_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_stage(lambda: raise_error(DataError("image 7: missing")))
    assert stopped.value.code == 1
    assert capsys.readouterr() == ("", "error: image 7: missing\n")


def test_an_error_of_several_lines_marks_each(capsys):
    with pytest.raises(SystemExit):
        run_stage(lambda: raise_error(DataError("first\nsecond")))
    assert capsys.readouterr().err == "error: first\nerror: second\n"


def test_ctrl_c_is_status_130(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_stage(lambda: raise_error(KeyboardInterrupt()))
    assert stopped.value.code == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_an_error_that_is_not_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: raise_error(ZeroDivisionError()))


def test_a_script_that_fails_prints_no_traceback():
    script = (
        "from antvisionps.core.stage import run_stage; from antvisionps.core.errors import CacheError\n"
        "def main():\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
        "        raise CacheError('a.parquet: truncated') from error\n"
        "run_stage(main)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "error: a.parquet: truncated\n")
