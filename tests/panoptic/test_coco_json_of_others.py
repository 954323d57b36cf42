"""COCO panoptic JSONs as other tools write them: what may be left out, what is skipped, and what is no id."""

import json

import pytest

from antvisionps.core.errors import DataError
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from tests.panoptic.drawn_split import SCENE, image_of, segments, write_split

NAN, INF = float("nan"), float("inf")


def read_foreign(split: PanopticDataset, change) -> PanopticDataset:
    """The split with its JSON changed by `change(document)`, read as another tool's."""
    document = json.loads(split.annotations.read_text())
    change(document)
    split.annotations.write_text(json.dumps(document))
    return read_panoptic(
        split.annotations, images_dir=split.images_dir, panoptic_dir=split.panoptic_dir, is_foreign=True
    )


def every_segment(change):
    return lambda d: [change(segment) for annotation in d["annotations"] for segment in annotation["segments_info"]]


@pytest.mark.parametrize("keys", [["area"], ["bbox"], ["area", "bbox"]])
@pytest.mark.parametrize("leave_out", [dict.pop, lambda row, key: row.update({key: None})])
def test_what_a_map_tells_of_its_segments_may_be_left_out(split, keys, leave_out):
    whole = image_of(split, 12)
    dataset = read_foreign(split, every_segment(lambda segment: [leave_out(segment, key) for key in keys]))
    image = image_of(dataset, 12)
    assert image.segments != whole.segments
    assert dataset.measure(image, dataset.load_segment_ids(image)) == whole


@pytest.mark.parametrize("leave_out", [lambda row: row.pop("iscrowd"), lambda row: row.update(iscrowd=None)])
def test_without_iscrowd_a_segment_is_no_crowd(split, leave_out):
    dataset = read_foreign(split, every_segment(leave_out))
    assert not any(segment.is_crowd for image in dataset.images for segment in image.segments)


def test_a_given_area_is_checked_also_where_other_segments_have_none(split):
    def spoil(document):
        del segments(document)[0]["area"]
        segments(document)[1]["area"] = 3

    dataset = read_foreign(split, spoil)
    image = image_of(dataset, 3)
    with pytest.raises(DataError, match=r"segment 300: expected as area .*, 2, got 3"):
        dataset.measure(image, dataset.load_segment_ids(image))


def test_images_without_annotation_and_the_reverse_are_skipped_with_a_warning_each(split, capsys):
    def make_poor(document):
        document["images"] += [
            document["images"][0] | {"id": number, "file_name": f"{number}.png"} for number in (5, 6)
        ]
        document["annotations"].append({"image_id": 7, "file_name": "7.png", "segments_info": []})

    dataset = read_foreign(split, make_poor)
    assert dataset.images == split.images
    where = f"warning: {split.annotations}"
    assert capsys.readouterr().err.splitlines() == [
        f"{where}: 2 images without annotation are skipped; first: image 5",
        f"{where}: 1 annotations of images that `images` does not list are skipped; first: image 7",
    ]


@pytest.mark.parametrize(
    "change", [lambda d: d["annotations"].clear(), lambda d: d["annotations"][0].update(image_id=9)]
)
def test_a_foreign_json_without_one_whole_image_is_refused(split, change):
    with pytest.raises(DataError, match="at least one image with an annotation"):
        read_foreign(split, lambda d: (d["annotations"].pop(), change(d)))


def test_ids_that_pandas_wrote_as_floats_are_the_numbers(split):
    def as_floats(document):
        for row in (*document["images"], *document["categories"], *segments(document)):
            row["id"] = float(row["id"])
        for annotation in document["annotations"]:
            annotation["image_id"] = float(annotation["image_id"])
        segments(document)[0]["category_id"] = 4.0

    assert read_foreign(split, as_floats).images == split.images


def name_images(document, names=("b", "a/ä")):
    for image, annotation, name in zip(document["images"], document["annotations"], names, strict=True):
        image["id"] = annotation["image_id"] = name


@pytest.mark.parametrize("names", [("b", "a/ä"), ("000000000012", "000000000003"), (2**60, -5)])
def test_images_of_other_ids_are_numbered_in_the_order_of_these_and_keep_them(split, names):
    named = read_foreign(split, lambda d: name_images(d, names))
    assert [(image.image_id, image.source_id) for image in named.images] == list(enumerate(sorted(names), start=1))
    assert [image.file_name for image in named.images] == ["12.png", "3.png"]
    other = named.annotations.with_name("other.json")
    write_panoptic_json(other, categories=named.categories, images=named.images)
    assert sorted(row["id"] for row in json.loads(other.read_text())["images"]) == sorted(names)
    again = read_panoptic(other, images_dir=split.images_dir, panoptic_dir=split.panoptic_dir)
    assert again.images == named.images
    (named.images_dir / "12.png").unlink()
    with pytest.raises(DataError, match=f"image {sorted(names)[0]} in"):
        named.load_photo(named.images[0])


@pytest.mark.parametrize("wrong", [None, True, 1.5, NAN, INF, 2**63, -(2**63), [], {}, "", "a\nb", "\ud800"])
@pytest.mark.parametrize(
    ("set_id", "where"),
    [
        (lambda d, value: d["images"][0].update(id=value), "image at position 0: id: "),
        (lambda d, value: d["annotations"][1].update(image_id=value), "annotation 1: image_id: "),
    ],
)
def test_what_only_looks_like_an_image_id_is_refused(split, set_id, where, wrong):
    with pytest.raises(DataError, match=where) as caught:
        read_foreign(split, lambda d: set_id(d, wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, True, 1.5, NAN, "7", -1, 2**31])
def test_what_only_looks_like_a_category_id_is_refused_with_its_segment(split, wrong):
    with pytest.raises(DataError, match=r"panoptic\.json: image 3: segment 5: category_id: expected a "):
        read_foreign(split, lambda d: segments(d)[0].update(category_id=wrong))


@pytest.mark.parametrize(
    ("key", "wrong"), [("area", 2.5), ("area", "2"), ("area", -1), ("bbox", "xywh"), ("iscrowd", 0.5)]
)
def test_a_given_value_of_another_type_is_not_taken_for_a_missing_one(split, key, wrong):
    with pytest.raises(DataError, match=f"image 3: segment 5: {key}: expected "):
        read_foreign(split, lambda d: segments(d)[0].update({key: wrong}))


def test_a_number_that_is_given_as_text_is_named_so(split):
    with pytest.raises(DataError, match=r"annotation 0: image_id '3' is text, images have number ids, as 3"):
        read_foreign(split, lambda d: d["annotations"][0].update(image_id="3"))
    split = write_split(split.annotations.parent / "text", {12: SCENE, 3: "SS DD"})
    with pytest.raises(DataError, match=r"annotation 1: image_id 12 is a number, images have text ids, as 'b'"):
        read_foreign(split, lambda d: (name_images(d), d["annotations"][1].update(image_id=12)))


def test_more_pixels_than_areas_can_count_are_refused(split):
    with pytest.raises(DataError, match="image 3: expected at most 2147483647 pixels"):
        read_foreign(split, lambda d: d["images"][0].update(height=2**16, width=2**15))


def test_an_instances_json_is_named_with_its_converter(split):
    def as_instances(document):
        document["annotations"] = [{"id": 1, "image_id": 3, "category_id": 7, "segmentation": [[0, 0, 1, 0, 1, 1]]}]
        document["categories"] = [{"id": 7, "name": "dog"}]

    message = (
        "expected a COCO panoptic JSON, got a COCO instances JSON: "
        ".*`segmentation` and no `segments_info`.*antvisionps convert coco"
    )
    with pytest.raises(DataError, match=message):
        read_foreign(split, as_instances)


@pytest.mark.parametrize("wrong", [None, 5, "", "a\nb", "a\0b", "\ud800"])
@pytest.mark.parametrize("rows", ["images", "annotations"])
def test_what_is_no_file_name_is_refused_with_its_image(split, rows, wrong):
    with pytest.raises(DataError, match=r"image 3: .*file_name: expected a line of text, got") as caught:
        read_foreign(split, lambda d: d[rows][0].update(file_name=wrong))
    assert "\n" not in str(caught.value)
