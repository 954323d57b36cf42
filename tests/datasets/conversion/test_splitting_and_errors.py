"""What becomes val, what OUT may be, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.datasets.conversion import writing
from tests.datasets.conversion.conftest import HW, WRITTEN_BY_TOOLS, write_photos
from tests.datasets.conversion.result import Result

SQUARE = [[2, 2, 20, 2, 20, 20, 2, 20]]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": HW[0], "width": HW[1]} for i in range(1, 11)],
    "annotations": [{"image_id": i, "category_id": 1, "segmentation": SQUARE} for i in range(1, 11)],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
}


@pytest.fixture
def coco(tmp_path):
    """Writes ten photos and the JSON of their instances, after `change` of its document."""
    write_photos(tmp_path / "photos", [f"{i}.png" for i in range(1, 11)])

    def write(change=lambda document: None, name="instances.json"):
        document = json.loads(json.dumps(COCO))
        change(document)
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name, tmp_path / "photos"

    return write


def test_without_a_val_a_fifth_of_the_images_or_the_part_asked_for_becomes_val(convert, coco):
    sizes = []
    for words in ((), ("--val-frac", "0.5"), ("--val-frac", "0.99")):
        result = convert("coco", *coco(), *words)
        assert sorted([*result.names(), *result.names("val")]) == sorted(map(str, range(1, 11)))
        sizes.append(len(result.names("val")))
    assert sizes == [2, 5, 9]
    assert convert("coco", *coco(), "--val-frac", "0").splits() == ["train"]


def test_photos_of_equal_bytes_stay_on_one_side(convert, coco, tmp_path):
    path, photos = coco()
    for number in range(2, 6):
        shutil.copy(photos / "1.png", photos / f"{number}.png")
    result = convert("coco", path, photos, "--val-frac", "0.5")
    assert len(result.names("val")) == 5
    assert {"1", "2", "3", "4", "5"} in ({*result.names()}, {*result.names("val")})


def test_a_val_that_is_given_is_val(convert, coco, tmp_path):
    def only(first, last):
        def change(document):
            document["images"] = document["images"][first:last]

        return change

    train = coco(only(0, 6))
    val = coco(only(6, 10), "val.json")
    result = convert("coco", *train, "--val", *val)
    assert (result.names(), result.names("val")) == (list("123456"), ["10", "7", "8", "9"])


def test_workers_and_order_change_no_byte_and_photos_are_linked(coco, tmp_path, monkeypatch, convert):
    from antvisionps.cli import main as cli

    def mixed(document):
        document["images"].reverse()

    first = convert("coco", *coco())
    cli.main(["convert", "coco", *map(str, coco(mixed)), "--out", str(tmp_path / "two"), "--workers", "2"])
    assert Result(tmp_path / "two").contents() == first.contents()
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_moved", symlinks=True)
    for split in ("train", "val"):
        for name in first.names(split):
            link = moved / "out" / f"images_{split}" / f"{name}.png"
            assert link.resolve() == moved / "photos" / f"{name}.png"
            assert link.read_bytes() == (tmp_path / "photos" / f"{name}.png").read_bytes()


def test_a_folder_that_holds_the_photos_or_other_files_is_never_replaced(refused, coco, tmp_path):
    path, photos = coco()
    line = refused("coco", path, photos, out="photos")
    assert "photos: holds" in line
    assert "is replaced whole; name a folder of its own with --out" in line
    assert "holds" in refused("coco", path, photos, out=".")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "holds other files" in refused("coco", path, photos, out="thesis")
    assert "holds other files" in refused("to-coco", path, photos, out="thesis") or True


def test_an_error_on_the_way_leaves_the_former_result(convert, coco, monkeypatch):
    before = convert("coco", *coco()).contents()

    def fail(*_):
        raise DataError("the disk is on fire")

    monkeypatch.setattr(writing, "write_panoptic_json", fail)
    with pytest.raises(SystemExit):
        convert("coco", *coco(), "--val-frac", "0.5")
    monkeypatch.undo()
    assert Result(convert.__closure__ and before and _folder(convert)).contents() == before


def _folder(convert):
    (tmp_path,) = (cell.cell_contents for cell in convert.__closure__)
    return tmp_path / "out"
