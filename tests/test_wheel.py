"""The built wheel in an environment that has the base install's packages, as its metadata lists them, and no others."""

import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from packaging.requirements import Requirement
from panopticapi.utils import id2rgb
from PIL import Image

PROJECT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "antvisionps")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves folders beside its sources."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, sources / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", "dist", str(sources)], cwd=sources, check=True)
    (path,) = (sources / "dist").iterdir()
    return path


def base_packages(requirements):
    """Name → distribution of all that these need without an extra."""
    found, open_ones = {}, [Requirement(text) for text in requirements]
    while open_ones:
        requirement = open_ones.pop()
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_needed and requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            open_ones += map(Requirement, found[requirement.name].requires or [])
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of a fresh environment's programs."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False, symlinks=True)
    (site,) = root.glob("lib/python*/site-packages")
    with ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        lines = opened.read(metadata).decode().splitlines()
    requirements = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    for package in base_packages(requirements).values():
        tops = {path.parts[0] for path in package.files} - {"..", "__pycache__"}
        for top in tops:
            (site / top).symlink_to(package.locate_file(top))
    install = [sys.executable, "-m", "pip", f"--python={root / 'bin' / 'python'}", "install", "--quiet", "--no-index"]
    subprocess.run([*install, "--no-deps", "--no-compile", str(wheel)], check=True)
    return root / "bin"


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    """Runs a program of the environment in a folder with gt.json, pred.json and a folder of a map beside each."""
    folder = tmp_path_factory.mktemp("files")
    for which, shift in (("gt", 0), ("pred", 1)):
        (folder / which).mkdir()
        ids = np.roll(np.repeat([[1, 1, 1, 1, 2, 2]], 4, axis=0), shift, axis=1)
        Image.fromarray(id2rgb(ids)).save(folder / which / "1.png")
        segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
        document = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 6}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        }
        (folder / f"{which}.json").write_text(json.dumps(document))

    def run_in_folder(program, *words):
        command = [environment / program, *words]
        return subprocess.run(command, cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=False)

    return run_in_folder


def test_score_runs_from_the_wheel(run):
    ran = run("antvisionps", "score", "--gt", "gt.json", "gt", "--pred", "pred.json", "pred", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["summary"]["pred"]["All"]["PQ"] == pytest.approx(30)  # 3/5, and 1/3 is no match


def test_convert_runs_from_the_wheel(run):
    ran = run("antvisionps", "convert", "to-coco", "gt.json", "gt", "--out", "back", "--workers", "1")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("1 instances and 1 semantic PNGs")


def test_python_imports_it_without_torch(run):
    code = (
        "import sys, antvisionps\n"
        "print(antvisionps.panoptic_quality(('gt.json', 'gt'), ('pred.json', 'pred')).all.pq, 'torch' in sys.modules)"
    )
    ran = run("python", "-c", code)
    assert (ran.stdout.split(), ran.stderr) == (["0.3", "False"], "")


def test_help_comes_from_the_wheel(run):
    assert run("antvisionps", "--help").returncode == 0
    commands = ["score", "fuse", "convert coco", "new-profile", "import", "inspect", "export", "sweep"]
    code = (
        "import contextlib\n"
        "from antvisionps.cli.main import main\n"
        f"for words in {commands}:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([*words.split(), '--help'])\n"
    )
    ran = run("python", "-c", code)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split(" [")[0] for line in ran.stdout.splitlines() if line.startswith("usage: ")] == [
        f"usage: antvisionps {words}" for words in commands
    ]


def test_the_page_of_the_report_is_in_the_wheel(wheel):
    with ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {str(path.relative_to(PROJECT)) for path in (PROJECT / "antvisionps/report/site").iterdir()} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "stages/"))]


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["check", str(PROJECT / "params.yaml")], "torch", "models"),
        (["figure", "--image", "1", "--out", "x.pdf"], "matplotlib", "figures"),
    ],
)
def test_a_command_that_needs_more_names_the_extra(run, words, package, extra):
    ran = run("antvisionps", *words)
    assert ran.returncode == 1
    assert f"error: {package} is not installed; `pip install 'antvisionps[{extra}]'`" in ran.stderr
