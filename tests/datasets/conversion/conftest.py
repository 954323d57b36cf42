import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from antvisionps.cli import main as cli
from tests.datasets.conversion.result import Result

WRITTEN_BY_TOOLS = Path(__file__).parents[1] / "written_by_tools"
HW = (48, 64)


@pytest.fixture
def convert(tmp_path):
    """Runs `antvisionps convert`, and returns what it wrote."""

    def run(*words, out="out"):
        cli.main(["convert", *map(str, words), "--out", str(tmp_path / out), "--workers", "1"])
        return Result(tmp_path / out)

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs the command, which has to fail with one line of error and leave nothing, and returns that line."""

    def run(*words, out="out"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            cli.main(["convert", *map(str, words), "--out", str(tmp_path / out), "--workers", "1"])
        assert stopped.value.code == 1
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        return line

    return run


@pytest.fixture
def photos(tmp_path):
    """The two photos of `written_by_tools`."""
    return write_photos(tmp_path / "photos", ["yard.png", "street.png"])


@pytest.fixture
def labelme(tmp_path, photos):
    """A folder of Labelme's, written by it."""
    folder = tmp_path / "labelme"
    shutil.copytree(WRITTEN_BY_TOOLS / "labelme", folder, ignore=shutil.ignore_patterns("*_*.png"))
    return shutil.copytree(photos, folder, dirs_exist_ok=True)


def write_photos(folder: Path, names, hw=HW) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)).save(folder / name)
    return folder
