import shutil

import pytest

from antvisionps.datasets.scenes import CATEGORIES, write_scenes
from antvisionps.panoptic.coco_json import write_panoptic_json
from tests.panoptic.drawn_split import SCENE, write_split


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for name, image_ids in (("train", range(1, 6)), ("val", range(11, 13))):
        images = write_scenes(folder, seed=0, image_ids=image_ids, height=64, width=64)
        write_panoptic_json(folder / f"{name}.json", categories=CATEGORIES, images=images)
    return folder


@pytest.fixture
def folder(scenes, tmp_path):
    """A COCO-panoptic folder of a user's: train 1 to 5, val 11 and 12."""
    return shutil.copytree(scenes, tmp_path / "mine")


@pytest.fixture
def split(tmp_path):
    return write_split(tmp_path / "split", {12: SCENE, 3: "SS DD"})
