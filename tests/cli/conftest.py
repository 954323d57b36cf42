from __future__ import annotations

import pytest

from antvisionps.cli import main as cli


@pytest.fixture
def refused(capsys):
    """Runs a command, which has to fail with one line, and returns that."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, arguments)])
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def in_the_run(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
