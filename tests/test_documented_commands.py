"""Every command of README and docs is run on a tiny run of the pipeline, or read by the parser of its program.

A command that is shown in a block has to work as it stands; one that a sentence mentions may leave its arguments out.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from dvc.cli.parser import get_main_parser as dvc_parser
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser as torchrun_parser

from antvisionps.cli import main as cli
from antvisionps.params.whole import load_params
from tests.dvc_project import dvc, environment, stages_run
from tests.test_docs import PAGES, ROOT

PROGRAMS = (
    *("make", "dvc", "antvisionps", "python", "pip", "git", "sed", "torchrun", "dask", "duckdb", "cp", "cat"),
    *("source", "export", "bash", "curl", "docker", "npm", "pytest", "srun"),
)
COMMAND = rf"(?:{'|'.join(PROGRAMS)})(?= )[^\n`]*"
IN_A_BLOCK = re.compile(rf"^(?: {{4,}}|(?<=```sh\n))(?:\$ )?({COMMAND})", re.MULTILINE)
IN_A_SENTENCE = re.compile(rf"`({COMMAND})`")

NOT_RUN = {
    "source": "activates the environment that runs these tests",
    "export": "line of a SLURM script, whose variables SLURM sets",
}
"""Program → why its commands are not looked at."""

ONLY_PARSED = {
    "check": "builds networks at full width, minutes; tests/preflight",
    "convert": "wants annotated photos; tests/datasets/conversion/test_documented.py",
    "coco": "wants test-dev2017's 20,288 images; tests/interchange",
    "diff": "tests/cli/test_inspect.py",
    "doctor": "tests/preflight/test_doctor.py",
    "download": "21 GB; tests/datasets/test_download.py",
    "import": "wants folders of predictions; tests/test_toolbox.py",
    "fuse": "wants folders of predictions; tests/test_toolbox.py",
    "new-profile": "wants annotated photos; tests/test_toolbox.py",
    "predict": "tests/pipeline/test_predictor.py",
    "table": "trains for hours; tests/experiments",
    "use": "refuses to overwrite the changed params of the tiny run; tests/cli/test_use.py",
}
"""Commands of antvisionps that the real parser reads, and why no more: what runs them instead."""

OTHER_IMAGE = {"1000015": "1000002"}
"""The tiny run has four images."""


class Shown(NamedTuple):
    page: str
    text: str
    is_whole: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def shown_on(page: Path) -> list[Shown]:
    text, name = page.read_text().replace("\\\n", ""), str(page.relative_to(ROOT))
    blocks = [Shown(name, command, True) for command in IN_A_BLOCK.findall(text)]
    mentioned = [command.replace("\\|", "|") for command in IN_A_SENTENCE.findall(text) if "…" not in command]
    parts = [part for command in mentioned for part in command.split(" && ")]
    return blocks + [Shown(name, part, False) for part in parts]


ALL = [shown for page in PAGES for shown in shown_on(page)]


def shown(*start: str, whole: bool | None = None) -> list:
    """The commands that begin so, each once, as parameters of a test."""
    found = {}
    for one in ALL:
        if tuple(one.words[: len(start)]) == start and whole in (None, one.is_whole):
            found.setdefault(" ".join(one.words), one)
    return [pytest.param(one.words, id=f"{one.page}: {name}") for name, one in found.items()]


@pytest.fixture(scope="module")
def tiny(dvc_run, tmp_path_factory) -> Path:
    """A project whose DAG has run in this commit and the one before it, v1 and v2."""
    folder = shutil.copytree(dvc_run, tmp_path_factory.mktemp("documented") / "project", symlinks=True)
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "--message", "Same"], cwd=folder, check=True)
    for tag in ("v1", "v2"):
        subprocess.run(["git", "tag", tag], cwd=folder, check=True)
    return folder


@pytest.fixture
def project(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return tiny


def test_every_command_is_of_a_program_that_is_tried_here():
    assert len(ALL) > 100
    assert {one.words[0] for one in ALL} <= {*PROGRAMS[: PROGRAMS.index("source")], *NOT_RUN}


@pytest.mark.parametrize("words", shown("make"))
def test_make_has_the_target(words):
    subprocess.run([words[0], "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("words", shown("antvisionps", whole=True))
@pytest.mark.usefixtures("project")
def test_antvisionps_runs_it(words):
    arguments = [OTHER_IMAGE.get(word, word) for word in words[1:]]
    cli._parser().parse_args(arguments)
    if not ONLY_PARSED.keys() & set(arguments[:2]):
        cli.main(arguments)


@pytest.mark.parametrize("words", shown("antvisionps", whole=False))
def test_antvisionps_has_the_command_and_its_options(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*takewhile(lambda word: not word.startswith("-"), words[1:]), "--help"])
    assert stopped.value.code == 0
    described = capsys.readouterr().out
    assert [word for word in words if word.startswith("-") and word not in described] == []


@pytest.mark.parametrize("words", shown("dvc"))
def test_dvc_reads_it_and_has_the_stages(words):
    arguments = dvc_parser().parse_args(words[1:])
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    targets = getattr(arguments, "targets", None) or []
    assert [target for target in targets if target.partition("@")[0] not in stages] == []


@pytest.mark.parametrize("words", [one for one in shown("dvc", "exp", "run") if "-S" in one.values[0]])
def test_an_experiment_changes_the_params(words, tmp_path):
    changed = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    apply_overrides(changed, [after for option, after in pairwise(words) if option == "-S"])
    assert load_params(changed) != load_params(ROOT / "params.yaml") or "fuse.calibrated=false" in words


@pytest.mark.parametrize("words", shown("dvc", "repro"))
def test_dvc_repro_finds_what_to_run(words, project):
    assert dvc(project, *words[1:], *({"--dry"} - set(words)))


@pytest.mark.parametrize("words", shown("git"))
def test_git_runs_it(words, project):
    words = [word.replace("REV", "HEAD") for word in words] + ["--allow-empty"] * ("commit" in words)
    subprocess.run(words, check=True, capture_output=True)


def test_try_a_change_of_the_readme_compares_an_experiment_with_the_users_own_run(project):
    """From HEAD's results of another machine on: the lines of the section, as a user types them."""
    section = (ROOT / "README.md").read_text().partition("## Try a change\n")[2].partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    before = (project / "params.yaml").read_bytes()
    metrics = project / "metrics" / "panoptic.json"
    own = metrics.read_text()
    metrics.write_text(own.replace("0.0", "50.0"))
    subprocess.run(["git", "commit", "--quiet", "-am", "Another machine's"], check=True)
    metrics.write_text(own)
    assert "50.0" in dvc(project, "metrics", "diff")

    run, diffs, experiment = [], [], []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in ("source", "make") or words[:3] == ["dvc", "plots", "show"]:
            continue
        if words[:2] == ["antvisionps", "sweep"]:
            words = [sys.executable, "-m", "antvisionps.cli.main", *words[1:]]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        run.append(" ".join(words[:2]))
        diffs += [done.stdout] if words[:3] == ["dvc", "metrics", "diff"] else []
        experiment += stages_run(done.stdout) if words[:3] == ["dvc", "exp", "run"] else []
    assert run[:5] == ["dvc repro", "git commit", "dvc exp", "dvc metrics", "git checkout"]
    assert experiment == ["fuse", "score", "report"]
    assert "50.0" not in "".join(diffs)
    assert (project / "params.yaml").read_bytes() == before
    subprocess.run(["git", "checkout", "--quiet", "."], check=True)
    # DVC gives back what it has cached; the metrics are in git, so that scoring may run again.
    assert set(stages_run(dvc(project, "repro"))) <= {"score"}
    assert metrics.read_text() == own


@pytest.mark.filterwarnings("default", "ignore:.* found in sys.modules after import:RuntimeWarning")
def test_benchmarks_and_stages_take_their_documented_options(monkeypatch, capsys):
    """An option that none has makes argparse name it, and only it, before anything is run."""
    commands = [param.values[0][2:] for param in shown("python", "-m")]
    for param in shown("torchrun", whole=True):
        launched = torchrun_parser().parse_args(param.values[0][1:])
        commands.append([launched.training_script, *launched.training_script_args])
    assert len(commands) > 6
    monkeypatch.chdir(ROOT)
    for name, *options in commands:
        monkeypatch.setattr(sys, "argv", [name, *options, "--no-such-option"])
        run = runpy.run_path if name.endswith(".py") else runpy.run_module
        with pytest.raises(SystemExit):
            run(name, run_name="__main__")
        assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no-such-option\n")


@pytest.mark.parametrize("words", [*shown("python", "-c"), *shown("cat"), *shown("cp")])
def test_small_ones_run(words, project):
    (project / "profiles").mkdir(exist_ok=True)
    command = words if words[0] == "python" else ["bash", "-c", " ".join(words)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("words", shown("sed"))
def test_sed_sets_what_the_page_says(words, tmp_path):
    subprocess.run(words, cwd=shutil.copy(ROOT / "params.yaml", tmp_path) and tmp_path, check=True)
    runtime = load_params(tmp_path / "params.yaml").runtime
    assert (runtime.launcher, runtime.processes) == ("pytorch", 8)


@pytest.mark.parametrize("words", shown("duckdb"))
@pytest.mark.usefixtures("project")
def test_duckdb_answers(words):
    assert words[1] == "-c"
    assert len(duckdb.sql(words[2]).fetchall()) == 1


@pytest.mark.parametrize("words", shown("pip"))
def test_pip_finds_the_extras(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[1] in ("install", "wheel")
    for package in (word for word in words[2:] if not word.startswith("-")):
        name, _, extras = package.rstrip("]").partition("[")
        assert name in (".", project["name"])
        assert {*extras.split(",")} - {""} <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("words", shown("dask"))
def test_dask_reads_it(words):
    scheduler, worker = (pytest.importorskip(f"distributed.cli.dask_{name}").main for name in ("scheduler", "worker"))
    {"scheduler": scheduler, "worker": worker}[words[1]].make_context(words[1], words[2:])


PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_tours_python_fuses_again(project):
    (code,) = PYTHON.findall((ROOT / "docs" / "tour.md").read_text())
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    for file in (project / "data" / "fused").rglob("*.png"):
        assert file.read_bytes() == (project / "fused_again" / file.relative_to(project / "data/fused")).read_bytes()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_is_python(page):
    for code in PYTHON.findall(page.read_text()):
        compile(code, str(page), "exec")
