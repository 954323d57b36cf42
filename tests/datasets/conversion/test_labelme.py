"""Folders of Labelme: files that it wrote, against its own masks, and photos beside and in them."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.datasets.conversion.conftest import HW, WRITTEN_BY_TOOLS, write_photos
from tests.datasets.conversion.result import panopticapi_pq, renumbered_pq, write_result


def test_labelmes_shapes_give_labelmes_own_masks(convert, labelme, tmp_path, capsys):
    """It paints the outline itself as well, so that its masks are up to a pixel larger."""
    result = convert("labelme", labelme, "--stuff", "grass", "--val-frac", "0")
    categories = [dict(row, color=None) for row in result.categories().values()]
    assert [row["name"] for row in categories] == ["ball", "cat", "dog", "grass"]
    own = []
    for name in ("street", "yard"):
        pictures = (WRITTEN_BY_TOOLS / "labelme" / f"{name}_{kind}.png" for kind in ("labels", "numbers"))
        labels, numbers = (np.array(Image.open(picture)).astype(np.int32) for picture in pictures)
        found = [(value, int(labels[numbers == value][0])) for value in np.unique(numbers).tolist() if value]
        own.append((name, numbers, found))
    theirs = write_result(tmp_path / "own", own, categories)
    assert panopticapi_pq(theirs, result) > 0.85
    assert [len(result.segments(name)) for name in ("street", "yard")] == [3, 4]
    assert "1 shapes without area are skipped (line); first: yard.json" in capsys.readouterr().err


def test_supervisions_labelme_gives_its_masks(convert, written_by_supervision, exact, photos):
    written_by_supervision.as_labelme(annotations_directory_path=str(photos))
    assert renumbered_pq(convert("labelme", photos, "--val-frac", "0"), exact) > 0.85


def test_labelmes_photos_are_found_in_other_folders_and_its_void_labels_are_void(convert, labelme, capsys):
    document = json.loads((labelme / "street.json").read_text())
    (labelme / "more").mkdir()
    (labelme / "street.png").rename(labelme / "more" / "street.png")
    write_photos(labelme, ["unlabelled.png"])
    document["imagePath"] = "..\\photos\\street.png"
    document["shapes"][0]["label"] = "__ignore__"
    del document["imageHeight"], document["imageWidth"]
    (labelme / "street.json").write_text(json.dumps(document))
    result = convert("labelme", labelme, "--val-frac", "0")
    assert {row["name"] for row in result.categories().values()} == {"ball", "cat", "dog", "grass"}
    assert len(result.segments("street")) == 2
    assert (result.folder / "images_train" / "more/street.png").is_file()
    assert "1 photos without a JSON are left out; first: unlabelled.png" in capsys.readouterr().err


def test_labelmes_val_may_have_labels_of_its_own_and_ids_go_on(convert, labelme, tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("yard.json", "yard.png"):
        (labelme / name).rename(tmp_path / "val" / name)
    result = convert("labelme", labelme, "--val", tmp_path / "val", "--stuff", "grass")
    assert (result.names(), result.names("val")) == (["street"], ["yard"])
    assert [result.document(split)["images"][0]["id"] for split in ("train", "val")] == [1, 2]
    assert result.document("val")["categories"] == result.document()["categories"]
    assert {row["name"] for row in result.categories().values()} == {"ball", "cat", "dog", "grass"}


def test_a_table_gives_labelmes_labels_their_ids_and_kinds(convert, labelme, refused, tmp_path):
    table = tmp_path / "table.json"
    rows = [
        {"id": 20 + i, "name": name, "isthing": int(name != "grass")} for i, name in enumerate(["dog", "grass", "cat"])
    ]
    table.write_text(json.dumps(rows))
    line = refused("labelme", labelme, "--categories", table)
    assert "label 'ball' is not in --categories; add it there" in line
    table.write_text(json.dumps([*rows, {"id": 9, "name": "ball", "isthing": 1}]))
    result = convert("labelme", labelme, "--categories", table, "--val-frac", "0")
    assert {key: (row["name"], row["isthing"]) for key, row in result.categories().items()} == {
        20: ("dog", 1), 21: ("grass", 0), 22: ("cat", 1), 9: ("ball", 1)
    }  # fmt: skip


@pytest.fixture
def embed(labelme):
    """Has Labelme's JSON of this name hold its photo, which no file has any more, and returns the photo's bytes."""

    def hold(name, **changes):
        photo = labelme / f"{name}.png"
        data = photo.read_bytes()
        photo.unlink()
        path = labelme / f"{name}.json"
        embedded = {"imageData": base64.b64encode(data).decode(), "imagePath": None}
        path.write_text(json.dumps(json.loads(path.read_text()) | embedded | changes))
        return data

    return hold


@pytest.mark.parametrize("path", [None, "gone.png", "..\\photos\\yard.png"])
def test_a_photo_that_is_no_file_is_read_from_the_json(convert, labelme, embed, path):
    words = ("labelme", labelme, "--stuff", "grass", "--val-frac", "0")
    before = convert(*words)
    data = embed("yard", imagePath=path, imageHeight=None)
    after = convert(*words, out="after")
    assert after.names() == before.names()
    for name in after.names():
        assert after.segments(name) == before.segments(name)
    assert (after.folder / "images_train" / "yard.png").read_bytes() == data
    assert (after.folder / "images_train" / "street.png").resolve() == labelme / "street.png"
    again = convert(*words, out="after")
    assert (again.folder / "images_train" / "yard.png").read_bytes() == data


def test_a_photo_of_another_format_gets_its_suffix_and_equal_ones_stay_on_one_side(convert, labelme, embed):
    file = io.BytesIO()
    Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(file, "JPEG")
    (labelme / "copy.json").write_text((labelme / "yard.json").read_text())
    data = base64.b64encode(file.getvalue()).decode()
    embed("yard", imageData=data)
    (labelme / "copy.json").write_text((labelme / "yard.json").read_text())
    result = convert("labelme", labelme, "--val-frac", "0.5")
    (split,) = (split for split in result.splits() if "yard" in result.names(split))
    assert "copy" in result.names(split)
    assert (result.folder / f"images_{split}" / "yard.jpg").read_bytes() == file.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imageData": None}, "yard.json: expected a photo under imagePath or imageData, got neither"),
        ({"imageData": None, "imagePath": "yard.png"}, "yard.json: no photo 'yard.png' in "),
        ({"imageData": "AAAA"}, "yard.json: imageData: expected the base64 of a photo, got 'AAAA'; save it again"),
        ({"imageData": "A"}, "yard.json: imageData: expected the base64 of a photo, got 'A'"),
        ({"imageData": 7}, "yard.json: imageData: expected the base64 of a photo, got '7'"),
    ],
)
def test_a_photo_that_is_nowhere_or_none_is_one_line(refused, labelme, embed, changes, message):
    embed("yard", **changes)
    assert message in refused("labelme", labelme)
