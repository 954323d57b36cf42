"""What the fingerprint of a prepared data set covers."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from antvisionps.panoptic.splits import SplitFiles, dataset_fingerprint, prepare_coco_panoptic
from tests.panoptic.users_folder import brighten, edit, prepare_folder


def test_fingerprint_is_of_contents_not_of_paths(folder, tmp_path):
    before = dataset_fingerprint(prepare_folder(folder))
    assert len(before) == 64
    moved = tmp_path / "other" / "theirs"
    shutil.copytree(folder, moved)
    (moved / "images").rename(moved / "photos")
    for path in (moved / "photos").iterdir():
        path.rename(path.with_name(f"renamed_{path.name}"))
    for name in ("train.json", "val.json"):
        edit(moved / name, lambda d: [row.update(file_name=f"renamed_{row['file_name']}") for row in d["images"]])
    files = [SplitFiles(name, "panoptic", "photos") for name in ("train.json", "val.json")]
    prepare_coco_panoptic(tmp_path / "out", root=str(moved), train=files[0], val=files[1], heldout_images=2, seed=0)
    assert dataset_fingerprint(tmp_path / "out") == before


def recode(folder: Path) -> None:
    path = folder / "panoptic" / f"{11:012d}.png"
    Image.open(path).save(path, compress_level=0)


def rename_category(folder: Path) -> None:
    for name in ("train.json", "val.json"):
        edit(folder / name, lambda document: document["categories"][0].update(name="heaven"))


def make_crowd(folder: Path) -> None:
    edit(folder / "val.json", lambda document: document["annotations"][0]["segments_info"][-1].update(iscrowd=1))


@pytest.mark.parametrize("change", [brighten, recode, rename_category, make_crowd])
def test_fingerprint_changes_with_photos_pngs_categories_and_annotations(folder, change):
    before = dataset_fingerprint(prepare_folder(folder))
    change(folder)
    assert dataset_fingerprint(prepare_folder(folder)) != before
