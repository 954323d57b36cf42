"""Tables as a terminal, a pipe and a file get them."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from tests.tiny_run import PROJECT

LONG = "a_very_long_name_of_an_end_that_another_tool_predicted_with_many_settings_and_twice"
MEASURES = {"PQ": 100.0, "SQ": 100.0, "RQ": 100.0}
HEADER = ["system", "PQ", "SQ", "RQ", "PQTh", "SQTh", "RQTh", "PQSt", "SQSt", "RQSt"]


@pytest.fixture
def command(tmp_path):
    groups = dict.fromkeys(("All", "Things", "Stuff"), MEASURES)
    (tmp_path / "panoptic.json").write_text(json.dumps({LONG: groups, "[red]fusion": groups}))
    return [sys.executable, "-m", "antvisionps.cli.main", "results", str(tmp_path / "panoptic.json")]


def environment(columns):
    return os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": str(columns), "TERM": "xterm"}


def on_a_terminal(command, columns):
    reading, writing = pty.openpty()
    subprocess.run(command, stdout=writing, env=environment(columns), check=True)
    os.close(writing)
    printed = b""
    while True:
        try:
            part = os.read(reading, 4096)
        except OSError:  # the end of a terminal nobody writes to any more
            return re.sub(r"\x1b\[[0-9;]*m", "", printed.decode()).replace("\r\n", "\n")
        printed += part


def assert_whole(printed):
    lines = [line.split() for line in printed.splitlines()]
    assert HEADER in lines
    rows = [cells for cells in lines if cells[-9:] == ["100.0"] * 9]
    assert [len(cells) for cells in rows] == [10, 10]
    assert "…" not in printed
    assert "[red]fusion" in printed


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_a_pipe_gets_every_number_header_and_name_in_one_line(command, columns):
    printed = subprocess.run(command, capture_output=True, text=True, env=environment(columns), check=True).stdout
    assert_whole(printed)
    assert LONG in printed


@pytest.mark.parametrize("columns", [20, 80, 100])
def test_a_narrow_terminal_folds_names_and_never_numbers_or_headers(command, columns):
    printed = on_a_terminal(command, columns)
    assert_whole(printed)
    folded = [line.split()[0] for line in printed.splitlines() if line.split() and line.split()[0] in LONG]
    assert "".join(folded) == LONG
    if columns >= 100:
        assert max(map(len, printed.splitlines())) <= columns
