import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from antvisionps.cli import main as cli
from tests.datasets.conversion.result import Result, paint, write_result

WRITTEN_BY_TOOLS = Path(__file__).parents[1] / "written_by_tools"
HW = (48, 64)

SCENE = [("a", (6, 8, 20, 30)), ("b", (16, 24, 20, 24)), ("a", (30, 2, 12, 14)), ("b", (2, 44, 40, 16))]
"""Labels of ellipses in (top, left, height, width)."""


@pytest.fixture
def convert(tmp_path):
    """Runs `antvisionps convert`, and returns what it wrote."""

    def run(*words, out="out"):
        cli.main(["convert", *map(str, words), "--out", str(tmp_path / out), "--workers", "1"])
        return Result(tmp_path / out)

    return run


@pytest.fixture
def refused(refused, tmp_path):
    """The same of the command convert, which has to leave nothing."""

    def run(*words, out="out"):
        before = sorted(tmp_path.rglob("*"))
        line = refused("convert", *words, "--out", tmp_path / out, "--workers", 1)
        assert sorted(tmp_path.rglob("*")) == before
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


@pytest.fixture
def written_by_supervision(photos):
    """SCENE in both photos, as supervision's own data set."""
    import supervision as sv

    masks = np.array([ellipse(*box) for _, box in SCENE])
    class_id = np.array(["ab".index(name) for name, _ in SCENE])
    detections = sv.Detections(xyxy=sv.mask_to_xyxy(masks).astype(float), mask=masks, class_id=class_id)
    paths = sorted(map(str, photos.glob("*.png")))
    return sv.DetectionDataset(["a", "b"], paths, dict.fromkeys(paths, detections))


@pytest.fixture
def exact(tmp_path):
    """SCENE as it is, without polygons between."""
    regions = [(1 + "ab".index(name), 0, ellipse(*box)) for name, box in SCENE]
    ids = np.zeros(HW, dtype=np.int32)
    segments = []
    for number, (category_id, _, mask) in enumerate(sorted(paint(HW, regions, {1, 2})), start=1):
        ids[np.frombuffer(mask, dtype=bool).reshape(HW)] = number
        segments.append((number, category_id))
    categories = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 1}]
    return write_result(tmp_path / "exact", [(name, ids, segments) for name in ("street", "yard")], categories)


def ellipse(top, left, height, width, hw=HW):
    y, x = np.mgrid[: hw[0], : hw[1]] + 0.5
    return ((y - top) / height - 0.5) ** 2 + ((x - left) / width - 0.5) ** 2 < 0.25
