"""What becomes val, what OUT may be, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import antvisionps
from antvisionps.cli import main as cli
from antvisionps.core.errors import DataError
from tests.datasets.conversion.conftest import HW, write_photos
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


def test_photos_of_equal_bytes_stay_on_one_side(convert, coco):
    path, photos = coco()
    for number in range(2, 6):
        shutil.copy(photos / "1.png", photos / f"{number}.png")
    result = convert("coco", path, photos, "--val-frac", "0.5")
    assert len(result.names("val")) == 5
    assert {"1", "2", "3", "4", "5"} in ({*result.names()}, {*result.names("val")})


def test_a_val_that_is_given_is_val(convert, coco):
    def only(first, last):
        def change(document):
            document["images"] = document["images"][first:last]

        return change

    train = coco(only(0, 6))
    val = coco(only(6, 10), "val.json")
    result = convert("coco", *train, "--val", *val)
    assert (result.names(), result.names("val")) == (list("123456"), ["10", "7", "8", "9"])


def test_workers_and_order_change_no_byte_and_photos_are_linked(coco, tmp_path, convert):
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


def test_python_takes_lists_and_says_what_is_in_the_folder(coco, tmp_path):
    path, photos = coco()
    rows = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 1}]
    made = antvisionps.convert.coco(str(path), photos, out=str(tmp_path / "out"), stuff="b", categories=rows)
    assert made.folder == tmp_path / "out"
    assert [one.name for one in made.categories.stuff] == ["b"]
    assert {name: (of_split.images, of_split.segments[1]) for name, of_split in made.counts.items()} == {
        "train": (8, 8), "val": (2, 2)
    }  # fmt: skip
    for val in (path, (path,)):
        with pytest.raises(DataError, match="val: expected 2 places, as train has them, got "):
            antvisionps.convert.coco(path, photos, out=tmp_path / "out", val=val)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stuf'"):
        antvisionps.convert.coco(path, photos, out=tmp_path / "out", stuf=["b"])


def test_a_folder_that_holds_the_photos_or_other_files_is_never_replaced(refused, convert, coco, tmp_path):
    path, photos = coco()
    line = refused("coco", path, photos, out="photos")
    assert "photos: holds" in line
    assert "is replaced whole; name a folder of its own with --out" in line
    assert "holds" in refused("coco", path, photos, out=".")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "thesis: holds chapter.txt, and is replaced whole; name a new" in refused("coco", path, photos, out="thesis")
    panoptic = convert("coco", path, photos).folder
    words = ("to-coco", panoptic / "panoptic_train.json", panoptic / "panoptic_train")
    assert "thesis: holds chapter.txt" in refused(*words, out="thesis")
    assert "out: holds " in refused(*words, out="out")
    (panoptic / "images_train").unlink()
    write_photos(panoptic / "images_train", ["my.png"])
    assert "out: holds images_train" in refused("coco", path, photos)


def test_an_error_on_the_way_leaves_the_former_result(convert, coco, refused, tmp_path):
    before = convert("coco", *coco()).contents()
    write_semantic(tmp_path / "semantic")
    (tmp_path / "semantic" / "9.png").write_bytes((tmp_path / "semantic" / "9.png").read_bytes()[:40])
    assert "9.png: no readable label PNG" in refused("coco", *coco(), "--semantic", tmp_path / "semantic")
    assert Result(tmp_path / "out").contents() == before


def write_semantic(folder, hw=HW):
    folder.mkdir()
    for number in range(1, 11):
        Image.fromarray(np.full(hw, 2, dtype=np.uint8)).save(folder / f"{number}.png")


# What is refused.


def change_annotation(**values):
    return lambda document: document["annotations"][3].update(values)


def change_image(**values):
    return lambda document: document["images"][3].update(values)


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (change_annotation(category_id=3), (), "position 3 of image 4: expected a category of instances"),
        (change_annotation(segmentation=[[1, 2, 3]]), (), "image 4: segmentation: expected polygons"),
        (
            change_annotation(segmentation={"size": [48, 60], "counts": [1]}),
            (),
            "expected run lengths of size [48, 64]",
        ),
        (change_image(id=3), (), "image id 3 appears twice"),
        (change_image(id=None), (), "an image: id: expected a whole number or text, got None"),
        (change_image(file_name="no.png"), (), "image 4: no photo 'no.png' in"),
        (change_image(file_name=None), (), "image 4: file_name: expected a line of text, got 'None'"),
        (change_image(height=2**40), (), "image 4: expected a height and width from 1 and at most 178956970 pixels"),
        (change_image(width=0), (), "image 4: expected a height and width from 1 and at most 178956970 pixels"),
        (change_image(height="48"), (), "image 4: expected a whole number, got text '48'"),
        (lambda document: document["categories"].append({"id": 1, "name": "c"}), (), "category id 1 appears twice"),
        (
            lambda document: document["categories"].append({"id": [1]}),
            (),
            "category [1] (None): id: expected a whole number",
        ),
        (lambda document: document["categories"].append(7), (), "expected categories with id and name, got 7"),
        (lambda document: document.pop("categories"), (), "expected rows under 'categories', got none"),
        (lambda document: document["annotations"].clear(), (), "expected rows under 'annotations', got none"),
        (lambda document: document["annotations"][0].update(segments_info=[]), (), "`convert panoptic`"),
        (lambda document: None, ("--val-frac", "1"), "--val-frac 1: expected a part of the images"),
        (lambda document: None, ("--val-frac", "-1"), "--val-frac -1: expected a part of the images"),
        (lambda document: None, ("--stuff", "sky"), "--stuff sky: expected names of ['a', 'b']"),
        (lambda document: document.update(images=COCO["images"][:1]), (), "1 image: expected at least 2, so that one"),
    ],
)
def test_a_json_that_breaks_the_format_is_one_line(refused, coco, change, words, message):
    assert message in refused("coco", *coco(change), *words)


def test_a_semantic_png_of_another_size_and_a_missing_one_are_named(refused, coco, tmp_path):
    write_semantic(tmp_path / "semantic", hw=(10, 20))
    line = refused("coco", *coco(), "--semantic", tmp_path / "semantic")
    assert ".png: expected 64x48 pixels (width x height of the photo), got 20x10" in line
    (tmp_path / "semantic" / "7.png").unlink()
    assert "no PNG for " in refused("coco", *coco(), "--semantic", tmp_path / "semantic")


def test_splits_of_other_categories_are_refused(refused, coco):
    other = coco(lambda document: document["categories"][0].update(name="z"), "other.json")
    assert "other.json: other categories than in " in refused("coco", *coco(), "--val", *other)


def test_colours_of_categories_may_differ_between_splits_and_be_those_of_coco_annotator(convert, coco):
    colored = coco(lambda document: document["categories"][0].update(color="#69db90"), "other.json")
    result = convert("coco", *colored, "--val", *coco())
    colors = [
        json.loads((result.folder / f"panoptic_{split}.json").read_text())["categories"][0]["color"]
        for split in ("train", "val")
    ]
    assert colors == [[0x69, 0xDB, 0x90]] * 2


def test_roboflows_root_is_no_category(convert, coco):
    def as_roboflow(document):
        root = {"id": 0, "name": "b", "supercategory": "none"}
        document["categories"] = [root, *(row | {"supercategory": "b"} for row in document["categories"])]

    result = convert("coco", *coco(as_roboflow))
    listed = json.loads((result.folder / "panoptic_train.json").read_text())["categories"]
    assert [(row["id"], row["name"]) for row in listed] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "yard.json: expected Labelme's object with `shapes`"),
        ("{", "yard.json: no readable Labelme JSON"),
        ('{"shapes": [], "imagePath": "yarn.png"}', "yard.json: no photo 'yarn.png' in "),
        ('{"shapes": [{"label": "a", "points": [1, 2]}], "imagePath": "yard.png"}', "yard.json: shape 0 (a): "),
        ('{"shapes": [{"label": "a"}], "imagePath": "yard.png"}', "yard.json: shape 0 (a): 'points'"),
        ('{"shapes": [{"label": "", "points": []}], "imagePath": "yard.png"}', "expected a line of text, got ''"),
        (
            '{"imagePath": "yard.png", "shapes": [{"label": "a", "shape_type": "mask", "points": [[0, 0]]}]}',
            "yard.json: shape 0 (a): argument should be",
        ),
    ],
)
def test_a_broken_json_of_labelme_is_one_line(refused, labelme, text, message):
    (labelme / "yard.json").write_text(text)
    assert message in refused("labelme", labelme)


def test_a_folder_without_jsons_or_without_shapes_is_named(refused, photos):
    assert "photos: no JSON in this folder" in refused("labelme", photos)
    assert "nowhere: no such folder of photos" in refused("labelme", photos.parent / "nowhere")


@pytest.mark.parametrize(
    ("yaml", "labels", "message"),
    [
        ("train: images", "0 0 0 1 0 1 1", "expected `names`, a list or a table"),
        ("names: [a]", "0 0 0 1 0 1 1", "expected the photos' folder under `train`, got none"),
        ("names: [a]\ntrain: images", "1 0 0 1 0 1 1", "1.txt: line 1: expected a class of [0], got 1"),
        ("names: [a]\ntrain: images", "inf 0 0 1 0 1 1", "1.txt: line 1: expected a whole number, got inf"),
        ("names: [a]\ntrain: images", "0 0 0 1 0 1", "1.txt: line 1: expected pairs of corners"),
        ("names: [a]\ntrain: images", "0 0 0 1 0 1 x", "1.txt: line 1: could not convert"),
        ("names: [a]\ntrain: images", "0 0 0 9 0 9 9", "1.txt: line 1: expected corners in the image"),
        ("names: [a]\ntrain: images", "0 .5 .5 .1 .1", "no outline in the labels of 2 photos"),
        ("names: [a]\ntrain: nowhere", "0 0 0 1 0 1 1", "nowhere: no such picture or folder"),
        ("names: [a", "", "not valid YAML"),
    ],
)
def test_a_broken_yolo_folder_is_one_line(refused, tmp_path, yaml, labels, message):
    write_photos(tmp_path / "images", ["1.png", "2.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text(labels)
    (tmp_path / "data.yaml").write_text(yaml)
    assert message in refused("yolo", tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("7", "expected a list of categories, [{id: 1, name: cat, isthing: 1}, …]"),
        ("[]", "expected 1 to 255 categories, got 0"),
        ("[{id: 1, name: a}]", "no 'isthing'"),
        ("[{id: 1000, name: a, isthing: 0}]", "a: expected an id from 0, of a thing from 1, to 999"),
        ("[{id: 0, name: a, isthing: 1}]", "a: expected an id from 0, of a thing from 1, to 999"),
    ],
)
def test_a_table_that_is_none_is_one_line(refused, photos, tmp_path, table, message):
    (tmp_path / "table.yaml").write_text(table)
    assert message in refused("pngs", photos, photos, "--categories", tmp_path / "table.yaml")


def test_labels_that_are_rgb_and_two_of_one_photo_are_refused(refused, photos, tmp_path):
    (tmp_path / "table.yaml").write_text("[{id: 1, name: a, isthing: 0}]")
    words = ("pngs", photos, photos, "--categories", tmp_path / "table.yaml")
    assert "expected one channel of labels (a grey or palette PNG), got RGB" in refused(*words)
    for folder in ("labels/a", "labels/b"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(photos / "yard.png", tmp_path / folder)
    line = refused("pngs", tmp_path / "labels", *words[2:])
    assert re.search(r"a/yard.png and .*b/yard.png: both would be of photo .*photos/yard.png", line)


def test_photos_without_a_label_png_are_left_out_as_most_of_pascal_voc(convert, refused, photos, tmp_path, capsys):
    (tmp_path / "table.yaml").write_text("[{id: 1, name: a, isthing: 0}]")
    labels = tmp_path / "labels"
    labels.mkdir()
    Image.fromarray(np.ones(HW, np.uint8)).save(labels / "yard.png")
    words = ("pngs", labels, photos, "--categories", tmp_path / "table.yaml", "--val-frac", "0")
    assert convert(*words).names() == ["yard"]
    assert "photos: 1 photos without a PNG are left out; first: street.png" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    (labels / "yard.png").rename(labels / "garden.png")
    assert "no PNG for " in refused(*words)


def test_a_png_of_two_photos_is_refused(refused, tmp_path):
    """The folders do not tell which of them it is of."""
    photos = write_photos(tmp_path / "photos", ["left/seq1/1.png", "right/seq1/1.png"])
    write_photos(tmp_path / "labels" / "seq1", ["1.png"])
    (tmp_path / "table.yaml").write_text("[{id: 1, name: a, isthing: 0}]")
    line = refused("pngs", tmp_path / "labels", photos, "--categories", tmp_path / "table.yaml")
    assert re.search(r"seq1/1.png: would be of photo .*left/seq1/1.png and of .*right/seq1/1.png", line)


def test_two_photos_whose_maps_would_have_one_name_are_refused(refused, coco, tmp_path):
    shutil.copy(tmp_path / "photos" / "1.png", tmp_path / "photos" / "2.jpg")
    path, photos = coco(lambda document: document["images"][0].update(file_name="2.jpg"))
    assert "the maps of both would be called 2.png; rename one" in refused("coco", path, photos, "--val-frac", "0")


def test_two_images_of_one_photo_are_refused(refused, coco):
    path, photos = coco(lambda document: document["images"][1].update(file_name="elsewhere/1.png"))
    assert "1.png: the maps of both would be called 1.png; rename one, or keep" in refused("coco", path, photos)


def test_vistas_that_is_not_there_is_named(refused, tmp_path):
    assert "training: expected **/panoptic/panoptic_*.json there, as Mapillary" in refused("vistas", tmp_path)


def test_maps_that_do_not_fit_their_json_are_refused(refused, convert, coco):
    folder = convert("coco", *coco()).folder
    Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(folder / "panoptic_train" / "1.png")
    files = (folder / "panoptic_train.json", folder / "panoptic_train")
    assert "has no pixel of segment 1" in refused("panoptic", *files, folder / "images_train", out="two")
    assert "has no pixel of segment 1" in refused("to-coco", *files, out="two")
