import json
import os
import re
import subprocess
import sys

import pytest

from antvisionps.cli import main as cli
from antvisionps.core.stage import CLOSED_PIPE
from antvisionps.preflight import doctor
from antvisionps.preflight.doctor import Finding


def stub_doctor(monkeypatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda project_root: iter(findings))


def test_doctor_succeeds_when_nothing_is_wrong(monkeypatch, capsys):
    stub_doctor(monkeypatch, Finding("ok", "numpy", "2.2.6"), Finding("note", "cuda", "no device"))
    cli.main(["doctor"])
    assert capsys.readouterr().out.splitlines() == [
        "ok    numpy                             2.2.6",
        "note  cuda                              no device",
    ]


def test_doctor_fails_and_prints_each_remedy_once(monkeypatch, capsys):
    stub_doctor(
        monkeypatch,
        Finding("wrong", "torch", "missing", "pip install it"),
        Finding("wrong", "timm", "missing", "pip install it"),
        Finding("note", "PATH", "other python", "source activate"),
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.endswith(
        "\nTo mend what is wrong:\n  pip install it\n\nWorth a look:\n  source activate\n"
    )


def test_a_long_subject_keeps_apart_from_its_message(monkeypatch, capsys):
    stub_doctor(monkeypatch, Finding("ok", "s" * 40, "message"))
    cli.main(["doctor"])
    assert capsys.readouterr().out == f"ok    {'s' * 40} message\n"


def test_results_prints_pq_of_every_system(tmp_path, capsys):
    measures = {"PQ": 41.234, "SQ": 70.0, "RQ": None}
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({name: {"All": measures, "Things": measures} for name in ("e_ups", "fusion")}))
    cli.main(["results", str(path)])
    rows = {cells[0]: cells[1:] for line in capsys.readouterr().out.splitlines() if (cells := line.split())}
    assert rows["system"] == ["PQ", "SQ", "RQ", "PQTh", "SQTh", "RQTh"]
    assert rows["fusion"] == ["41.2", "70.0", "–"] * 2
    assert "e_ups" in rows


@pytest.mark.parametrize("text", [None, "{", "[]", '{"e_ups": 1}', '{"e_ups": {"All": {"PQ": "high"}}}'])
def test_results_of_a_missing_or_broken_summary_is_one_line(tmp_path, refused, text):
    path = tmp_path / "panoptic.json"
    if text is not None:
        path.write_text(text)
    assert refused("results", path).startswith(f"error: {path}: ")


@pytest.mark.parametrize("arguments", [[], ["cure"]])
def test_no_or_an_unknown_command_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: antvisionps" in capsys.readouterr().err


def test_help_lists_every_command_below_its_purpose(capsys):
    for words in (["--help"], ["no-command"]):
        with pytest.raises(SystemExit):
            cli.main(words)
    printed = capsys.readouterr()
    listed = re.findall(r"^  (\w[\w-]*)  +\w", printed.out, flags=re.MULTILINE)
    modules = [module.__name__.rpartition(".")[2] for modules in cli.COMMANDS.values() for module in modules]
    assert listed == [name.removesuffix("_end").replace("_", "-") for name in modules]
    choices = printed.err.partition("choose from ")[2]
    assert sorted(listed) == sorted(re.findall(r"[a-z][a-z-]*", choices))


@pytest.mark.parametrize("command", ["report", "score"])
def test_help_writes_a_percent_as_one(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert "95" in printed
    assert "%%" not in printed


def test_help_comes_without_importing_anything_heavy():
    script = (
        "import sys; from antvisionps.cli import main as cli\n"
        "for command in (['--help'], ['check', '--help']):\n"
        "    try:\n        cli.main(command)\n    except SystemExit:\n        pass\n"
        "assert not {'torch', 'cv2', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "doctor" in ran.stdout
    assert "A dry run before a long one" in ran.stdout


def test_output_that_nobody_reads_any_more_ends_the_command_without_a_traceback():
    code = """
from antvisionps.cli import main as cli
from antvisionps.preflight import doctor
doctor.examine = lambda project_root: iter([doctor.Finding("ok", "numpy", "2.2.6")])
cli.main(["doctor"])
"""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (CLOSED_PIPE, "")
