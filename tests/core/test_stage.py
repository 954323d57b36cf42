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


def test_an_error_that_is_not_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: raise_error(ZeroDivisionError()))
