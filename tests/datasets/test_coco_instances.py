"""Instances from a COCO JSON against pycocotools, and one clear error for each way to break it."""

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from antvisionps.core.errors import DataError
from antvisionps.datasets.coco_instances import read_coco_instances
from antvisionps.datasets.scenes import CATEGORIES, write_scenes
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.gt_instances import GtInstances, GtInstancesReader, write_gt_instances
from antvisionps.panoptic.rle import parse_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.panoptic.splits import SplitFiles, dataset_fingerprint, open_split, prepare_coco_panoptic

SIDE = 64
BALL, CRATE, SKY = 3, 8, 2
SQUARE = [[10, 10, 40, 10, 40, 40, 10, 40]]
TWO_PARTS = [[1.5, 2.25, 20.75, 2.5, 10.5, 30.125], [50, 50, 66.5, 50, 60, 63]]
CROWD = {"size": [SIDE, SIDE], "counts": [100, 50, SIDE * SIDE - 150]}
EYE = np.eye(SIDE, dtype=np.uint8, order="F")
PACKED = {"size": [SIDE, SIDE], "counts": coco_mask.encode(EYE)["counts"].decode()}


def annotation(number, image_id, category_id, segmentation, iscrowd=0):
    place = {"id": number, "image_id": image_id, "category_id": category_id, "area": 1.0, "bbox": [0, 0, 1, 1]}
    return place | {"segmentation": segmentation, "iscrowd": iscrowd}


def instances_json():
    """Of images 1 to 5: overlapping things, a crowd, and two images without any; annotations in no order of images."""
    return {
        "info": {"year": 2017, "text": 'a "[" in a string, and ]}'},
        "licenses": [],
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": SIDE, "width": SIDE} for n in range(1, 6)],
        "annotations": [
            annotation(7, 5, BALL, SQUARE),
            annotation(3, 1, CRATE, TWO_PARTS),
            annotation(9, 1, BALL, SQUARE),
            annotation(4, 2, BALL, CROWD, 1),
            annotation(2, 5, CRATE, PACKED),
        ],
        "categories": [{"id": BALL, "name": "ball"}, {"id": CRATE, "name": "crate"}, {"id": 999, "name": "unused"}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """A COCO-panoptic folder of a user's, train 1 to 5 and val 11, with instances.json beside it."""
    for name, image_ids in (("train", range(1, 6)), ("val", range(11, 12))):
        images = write_scenes(tmp_path / "mine", seed=0, image_ids=image_ids, height=SIDE, width=SIDE)
        write_panoptic_json(tmp_path / "mine" / f"{name}.json", categories=CATEGORIES, images=images)
    write_json(tmp_path / "mine", instances_json())
    return tmp_path / "mine"


def write_json(folder: Path, document) -> None:
    (folder / "instances.json").write_text(document if isinstance(document, str) else json.dumps(document, indent=1))


def prepare(folder: Path, *, instances: str | None = "instances.json") -> Path:
    prepared = folder.parent / "prepared"
    prepare_coco_panoptic(
        prepared,
        root=str(folder),
        train=SplitFiles("train.json", "panoptic", "images"),
        val=SplitFiles("val.json", "panoptic", "images"),
        heldout_images=2,
        seed=0,
        read_instances=None if instances is None else partial(read_coco_instances, folder / instances),
    )
    return prepared


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own decoder
def test_masks_categories_and_crowds_are_pycocotools_own(folder):
    prepared = prepare(folder)
    oracle = COCO(str(folder / "instances.json"))
    seen = []
    for split in ("train", "heldout"):
        dataset = open_split(prepared, split)
        reader = GtInstancesReader(dataset.instances, dataset.images)
        for image in dataset.images:
            wanted = oracle.loadAnns(oracle.getAnnIds(imgIds=[image.image_id]))
            found = reader.read(image.image_id)
            assert found.category_ids.tolist() == [row["category_id"] for row in wanted]
            assert found.is_crowd.tolist() == [bool(row["iscrowd"]) for row in wanted]
            runs = parse_runs(found.rles, height=SIDE, width=SIDE)
            for index, row in enumerate(wanted):
                np.testing.assert_array_equal(runs.mask(index), oracle.annToMask(row))
            seen.append(image.image_id)
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert open_split(prepared, "val").instances is None


def test_the_fingerprint_is_of_the_instances_not_of_the_order_of_their_images(folder):
    prints = [dataset_fingerprint(prepare(folder, instances=None)), dataset_fingerprint(prepare(folder))]
    document = instances_json()
    document["annotations"].sort(key=lambda row: row["image_id"])
    write_json(folder, dict(reversed(document.items())))
    assert dataset_fingerprint(prepare(folder)) == prints[1]
    document["annotations"][0]["segmentation"] = SQUARE
    write_json(folder, document)
    assert len({*prints, dataset_fingerprint(prepare(folder))}) == 3


def change_annotation(**values):
    return lambda document: document["annotations"][1].update(values)


ANNOTATION = r"annotation 3 of image 1: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_annotation(image_id="1"), "annotation 3: image_id '1' is text, images have number ids, as 1"),
        (change_annotation(image_id=1.5), "annotation 3: image_id: expected a whole number or text, got 1.5"),
        (change_annotation(category_id=SKY), ANNOTATION + "expected a category of instances, got 2"),
        (change_annotation(category_id=77), ANNOTATION + "expected a category of instances, got 77"),
        (change_annotation(iscrowd="0"), ANNOTATION + "iscrowd: expected 0, 1, false or true, got '0'"),
        (change_annotation(id=9), "annotation 9 is there twice"),
        (change_annotation(segmentation="x"), ANNOTATION + "segmentation: expected polygons"),
        (change_annotation(segmentation=[1, 2, 3, 4, 5, 6]), r"a list of polygons, \[\[x, y, .*, got a flat one"),
        (change_annotation(segmentation=[[[1, 2], [3, 4], [5, 6]]]), r"expected polygons \[x, y, .*, got \[\[1, 2\]"),
        (change_annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), ANNOTATION + r"segmentation: expected polygons \[x"),
        (
            change_annotation(segmentation=[[1, 2, 3, 4, 5, 1e9]]),
            "corners in the image of 64x64 px, got 2 to 1000000000.0",
        ),
        (change_annotation(segmentation=[[1, 2, 3, 4, 5, "6"]]), "corners that are numbers, got"),
        (
            change_annotation(segmentation=[[1, 2, float("nan"), 4, 5, 6]]),
            "no readable COCO instances JSON|corners in the",
        ),
        (change_annotation(segmentation={**CROWD, "size": [64, 63]}), r"run lengths of size .*, got \[64, 63\]"),
        (change_annotation(segmentation={**CROWD, "counts": [1, 2]}), "expected run lengths of 4096 px"),
        (change_annotation(segmentation={**CROWD, "counts": "\u00e9"}), ANNOTATION + "segmentation: .*malformed"),
        (change_annotation(segmentation={**CROWD, "counts": "11"}), ANNOTATION + "segmentation: .*another size"),
        (lambda d: d["images"][2].update(height=60), r"image 3: expected 64x64 pixels .*, got 64x60"),
        (lambda d: d["images"].pop(2), r"image 3 of the panoptic annotations \(1 like it\) is not among `images`"),
        (lambda d: d["categories"][0].update(name="cat"), "category 3: expected the name 'ball' .*, got 'cat'"),
        (lambda d: d.pop("annotations"), "expected rows under 'annotations', got none"),
        (lambda d: d["annotations"].append(None), "expected annotations that are objects, got None"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, change, message):
    document = instances_json()
    change(document)
    write_json(folder, document)
    with pytest.raises(DataError, match=message) as caught:
        prepare(folder)
    assert str(caught.value).startswith(f"{folder / 'instances.json'}: ")
    assert not (folder.parent / "prepared").exists()


def test_poor_rows_are_skipped_and_counted_and_the_others_are_as_without_them(folder, capsys):
    before = dataset_fingerprint(prepare(folder))
    capsys.readouterr()
    document = instances_json()
    line, point, dots = [[1, 1, 9, 9, 5, 5, 3, 3], [4, 4, 4, 4, 4, 4], [1, 2, 3, 4]]
    document["annotations"][1]["segmentation"] = [line, *TWO_PARTS, point, dots]
    for number, segmentation in enumerate((None, [], [line], [[]], {**CROWD, "counts": [SIDE * SIDE]}), start=20):
        document["annotations"].append(annotation(number, 2, BALL, segmentation))
    document["annotations"] += [annotation(30, 77, BALL, SQUARE), annotation(31, 78, 12345, "no matter what")]
    write_json(folder, document)
    assert dataset_fingerprint(prepare(folder)) == before
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.removeprefix(f"warning: {folder / 'instances.json'}: ") for line in warnings] == [
        "1 annotations have polygons without area, which are left out; first: annotation 3 of image 1",
        "5 annotations without a pixel are skipped; first: annotation 20 of image 2",
        "2 annotations of images that are not listed are skipped; first: image 77",
    ]


def test_a_bow_tie_whose_halves_cancel_out_is_no_line(folder):
    document = instances_json()
    document["annotations"][0]["segmentation"] = [[10, 10, 20, 20, 30, 30, 30, 10, 20, 20, 10, 30]]
    write_json(folder, document)
    splits = [open_split(prepare(folder), name) for name in ("train", "heldout")]
    counts = {
        image.image_id: len(GtInstancesReader(split.instances, split.images).read(image.image_id).rles)
        for split in splits
        for image in split.images
    }
    assert counts == {1: 2, 2: 1, 3: 0, 4: 0, 5: 2}


def test_nothing_left_is_an_error(folder):
    document = instances_json()
    for row in document["annotations"]:
        row["segmentation"] = []
    write_json(folder, document)
    with pytest.raises(DataError, match=r"instances\.json: none of its 5 annotations is an instance of an image of"):
        prepare(folder)


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        ("annotations", ["iscrowd"]),
        ("annotations", ["area", "bbox", "id"]),
        ("images", ["height", "width", "file_name"]),
    ],
)
def test_what_can_be_told_otherwise_may_be_left_out(folder, rows, keys):
    document = instances_json()
    for row in document["annotations"]:
        row["iscrowd"] = 0
    write_json(folder, document)
    before = dataset_fingerprint(prepare(folder))
    for row in document[rows]:
        for key in keys:
            del row[key]
    write_json(folder, document)
    assert dataset_fingerprint(prepare(folder)) == before


def test_images_are_found_by_their_own_text_ids(folder):
    for name in ("train", "val"):
        document = json.loads((folder / f"{name}.json").read_text())
        for image, row in zip(document["images"], document["annotations"], strict=True):
            image["id"] = row["image_id"] = f"ulm_{image['id']}"
        (folder / f"{name}.json").write_text(json.dumps(document))
    document = instances_json()
    for image in document["images"]:
        image["id"] = f"ulm_{image['id']}"
    for row in document["annotations"]:
        row["image_id"] = f"ulm_{row['image_id']}"
    write_json(folder, document)
    counts = {}
    for name in ("train", "heldout"):
        split = open_split(prepare(folder), name)
        reader = GtInstancesReader(split.instances, split.images)
        counts |= {image.source_id: len(reader.read(image.image_id).rles) for image in split.images}
    assert counts == {"ulm_1": 2, "ulm_2": 1, "ulm_3": 0, "ulm_4": 0, "ulm_5": 2}


def test_a_byte_order_mark_and_other_encodings_of_json_are_read(folder):
    before = dataset_fingerprint(prepare(folder))
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (folder / "instances.json").write_bytes(json.dumps(instances_json()).encode(encoding))
        assert dataset_fingerprint(prepare(folder)) == before


def test_a_panoptic_json_is_named(folder):
    with pytest.raises(
        DataError, match=r"train\.json: expected .* instances JSON, got a COCO panoptic JSON: .*panoptic"
    ):
        prepare(folder, instances="train.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"licenses": [1', '{"images": [], }', '{"images" []}', '{"images": [] 1}']
)
def test_a_broken_json_is_refused_before_any_photo_is_read(folder, text):
    (folder / "images" / f"{4:012d}.png").write_bytes(b"")
    write_json(folder, text)
    with pytest.raises(DataError, match=r"instances\.json: no readable COCO instances JSON"):
        prepare(folder)
    with pytest.raises(DataError, match=r"other\.json: no readable .* \(no such file\); check prepare\.instances"):
        prepare(folder, instances="other.json")


# The file


def many(images):
    """Of each image as many instances as its id says."""
    for count in (image.image_id for image in images):
        rles = [f"{count}-{index}".encode() for index in range(count)]
        yield count, GtInstances(np.arange(count, dtype=np.int32), rles, np.arange(count) % 2 == 1)


IMAGES = [PanopticImage(n, f"{n}.png", f"{n}.png", SIDE, SIDE, ()) for n in range(70)]
"""More than a row group."""


def test_any_image_comes_back_in_any_order_and_process(tmp_path):
    write_gt_instances(tmp_path / "a.parquet", many(IMAGES))
    reader = GtInstancesReader(tmp_path / "a.parquet", IMAGES)
    for copy in (reader, pickle.loads(pickle.dumps(reader))):
        for image_id in (69, 0, 64, 63, 1):
            found, (_, wanted) = copy.read(image_id), next(many([IMAGES[image_id]]))
            assert found.category_ids.tolist() == wanted.category_ids.tolist()
            assert (found.rles, found.is_crowd.tolist()) == (wanted.rles, wanted.is_crowd.tolist())


def test_a_file_of_other_images_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "a.parquet"

    def refuse(message, images=IMAGES, image_id=5):
        with pytest.raises(DataError, match=message):
            GtInstancesReader(path, images).read(image_id)

    refuse(r"a\.parquet: no such file; run `dvc repro -f prepare`")
    write_gt_instances(path, many(IMAGES))
    refuse("expected the instances of 69 images, got 70", IMAGES[1:])
    refuse("expected image 69, got image 0", IMAGES[::-1], 69)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse("not a whole Parquet file")
    path.write_bytes(whole[:200] + bytes(64) + whole[264:])
    refuse("row group 0 is damaged")
