import pytest

from antvisionps.cli import main as cli


@pytest.fixture
def refused(capsys):
    """Runs a command, which has to fail with one line of error, and returns that."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, arguments)])
        assert stopped.value.code == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        (line,) = (line for line in error.splitlines() if line.startswith("error: "))
        return line

    return run


@pytest.fixture
def in_the_run(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
