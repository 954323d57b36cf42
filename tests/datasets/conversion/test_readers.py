"""Every format that `antvisionps convert` reads: files that its tool wrote, against that tool's own masks."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.datasets.conversion.conftest import HW, WRITTEN_BY_TOOLS, write_photos
from tests.datasets.conversion.result import paint, panopticapi_pq, renumbered_pq, write_result

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools

# COCO instances.


def random_segmentation(rng, height, width):
    """Polygons, or run lengths as text or as a list."""
    if rng.random() < 0.6:
        return [(rng.random((rng.integers(3, 7), 2)) * [width, height]).round(2).ravel().tolist() for _ in range(2)]
    mask = np.asfortranarray(rng.random((height, width)) < 0.3, dtype=np.uint8)
    if rng.random() < 0.5:
        return {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
    bounds = np.flatnonzero(np.diff(mask.ravel("F"), prepend=0))
    return {"size": [height, width], "counts": np.diff([0, *bounds, mask.size]).tolist()}


@pytest.fixture
def coco(tmp_path):
    """The path of a JSON of random segmentations, some of crowds, in photos of three sizes; pycocotools' reading."""
    rng = np.random.default_rng(4)
    document = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"c{i}"} for i in (90, 0, 4)]}
    for image_id, (height, width) in {7: (40, 56), 0: (31, 20), 12: (16, 16)}.items():
        write_photos(tmp_path / "photos", [f"{image_id}.png"], (height, width))
        image = {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
        document["images"].append(image)
        for _ in range(8):
            row = {"id": len(document["annotations"]) + 1, "image_id": image_id, "area": 1, "bbox": [0, 0, 1, 1]}
            row |= {"category_id": int(rng.choice([0, 4, 90])), "iscrowd": int(rng.random() < 0.25)}
            document["annotations"].append(row | {"segmentation": random_segmentation(rng, height, width)})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path, COCO(str(path))


def test_coco_instances_become_what_pycocotools_masks_painted_by_the_rule_give(convert, coco, tmp_path):
    path, oracle = coco
    result = convert("coco", path, tmp_path / "photos", "--stuff", "c4", "--val-frac", "0")
    assert result.names() == ["0", "12", "7"]
    for image_id, image in oracle.imgs.items():
        rows = oracle.loadAnns(oracle.getAnnIds(imgIds=[image_id]))
        regions = [(row["category_id"], row["iscrowd"], oracle.annToMask(row)) for row in rows]
        assert result.segments(str(image_id)) == paint((image["height"], image["width"]), regions, {0, 90})
    assert {key: row["isthing"] for key, row in result.categories().items()} == {0: 1, 4: 0, 90: 1}
    assert [row["id"] for row in result.document()["images"]] == [0, 7, 12]


def test_crowds_become_instances_where_the_user_says_so(convert, coco, tmp_path):
    path, oracle = coco
    result = convert("coco", path, tmp_path / "photos", "--no-crowds", "--val-frac", "0")
    rows = oracle.loadAnns(oracle.getAnnIds(imgIds=[7]))
    regions = [(row["category_id"], 0, oracle.annToMask(row)) for row in rows]
    assert result.segments("7") == paint((40, 56), regions, {0, 4, 90})


def test_semantic_pngs_give_the_stuff_below_and_their_things_are_void(convert, coco, tmp_path):
    path, oracle = coco
    rng = np.random.default_rng(0)
    labels = {}
    (tmp_path / "semantic").mkdir()
    for image_id, image in oracle.imgs.items():
        labels[image_id] = rng.choice(np.array([0, 4, 50, 90, 200], dtype=np.uint8), (image["height"], image["width"]))
        Image.fromarray(labels[image_id]).save(tmp_path / "semantic" / f"{image_id}.png")
    table = tmp_path / "table.yaml"
    table.write_text("- {id: 50, name: sky, isthing: 0}\n- {id: 4, name: c4, isthing: 0}\n")
    words = ("--semantic", tmp_path / "semantic", "--categories", table, "--val-frac", 0)
    result = convert("coco", path, tmp_path / "photos", *words)
    for image_id, image in oracle.imgs.items():
        regions = [(stuff, 0, labels[image_id] == stuff) for stuff in (4, 50)]
        rows = oracle.loadAnns(oracle.getAnnIds(imgIds=[image_id]))
        regions += [(row["category_id"], row["iscrowd"], oracle.annToMask(row)) for row in rows]
        found, wanted = result.segments(str(image_id)), paint((image["height"], image["width"]), regions, {0, 90})
        # A region of c4 hides sky below it, which the slow way paints by area.
        assert {one for one in found if one[0] in (0, 90)} == {one for one in wanted if one[0] in (0, 90)}
        c4 = (labels[image_id] == 4) | np.any([oracle.annToMask(r) for r in rows if r["category_id"] == 4], axis=0)
        things = np.any([mask for category_id, _, mask in regions if category_id in (0, 90)], axis=0)
        assert {mask for category_id, _, mask in found if category_id == 4} == {(c4 & ~things).tobytes()}


def test_cvats_painted_masks_are_crowds_of_which_it_warns_or_instances(convert, tmp_path, capsys):
    """Its JSON names yard.jpg and street.jpg; a box without outline is left out."""
    photos = write_photos(tmp_path / "photos", ["yard.jpg", "street.jpg"])
    path = WRITTEN_BY_TOOLS / "cvat_instances_default.json"
    words = (path, photos, "--stuff", "grass", "--val-frac", "0")
    result = convert("coco", *words)
    errors = capsys.readouterr().err
    assert "1 of 5 annotations are crowds" in errors
    assert "1 annotations without a pixel are skipped; first: annotation 6 of image 1" in errors
    oracle = COCO(str(path))
    rows = [row for row in oracle.loadAnns(oracle.getAnnIds(imgIds=[1])) if row["segmentation"]]
    regions = [(row["category_id"], row["iscrowd"], oracle.annToMask(row)) for row in rows]
    assert result.segments("yard") == paint(HW, regions, {1, 2})
    assert [crowd for category_id, crowd, _ in result.segments("yard") if category_id == 1] == [1]
    result = convert("coco", *words, "--no-crowds")
    assert [crowd for category_id, crowd, _ in result.segments("yard") if category_id == 1] == [0]


@pytest.mark.parametrize("prefix", ["", "4f3a9c1b-"])
def test_label_studios_uploads_are_found_under_their_own_names_too(convert, tmp_path, prefix):
    photos = write_photos(tmp_path / "photos", [f"images/{prefix}yard.png", f"images/{prefix}street.png"])
    path = WRITTEN_BY_TOOLS / "label_studio_result.json"
    result = convert("coco", path, photos, "--stuff", "grass", "--val-frac", "0")
    oracle = COCO(str(path))
    for image_id, name in ((0, "yard"), (1, "street")):
        rows = oracle.loadAnns(oracle.getAnnIds(imgIds=[image_id]))
        regions = [(row["category_id"], 0, oracle.annToMask(row)) for row in rows]
        assert result.segments(f"{prefix}{name}") == paint(HW, regions, {0, 1})
    assert [row["name"] for row in result.categories().values()] == ["cat", "dog", "grass"]


def test_supervisions_coco_gives_its_masks(convert, written_by_supervision, exact, photos, tmp_path):
    written_by_supervision.as_coco(annotations_path=str(tmp_path / "sv.json"))
    result = convert("coco", tmp_path / "sv.json", photos, "--val-frac", "0")
    assert renumbered_pq(result, exact) > 0.85  # polygons go through the middles of pixels


# YOLO.


def test_supervisions_yolo_gives_its_masks(convert, written_by_supervision, exact, tmp_path):
    folder = tmp_path / "yolo"
    places = {"images_directory_path": folder / "images", "annotations_directory_path": folder / "labels"}
    written_by_supervision.as_yolo(
        **{key: str(path) for key, path in places.items()}, data_yaml_path=str(folder / "d.yaml")
    )
    with (folder / "d.yaml").open("a") as file:
        file.write("train: images\n")
    assert renumbered_pq(convert("yolo", folder / "d.yaml", "--val-frac", "0"), exact) > 0.85


def test_ultralytics_yolo_of_a_coco_json_gives_the_same_maps_as_the_json(convert, photos, tmp_path):
    folder = tmp_path / "yolo"
    shutil.copytree(WRITTEN_BY_TOOLS / "yolo", folder / "labels" / "all")
    shutil.copytree(photos, folder / "images" / "all")
    names = "{0: cat, 1: dog, 2: grass}"
    (folder / "data.yaml").write_text(f"path: .\ntrain: ../images/all\nval:\nnames: {names}\n")  # as Roboflow's
    path = WRITTEN_BY_TOOLS / "label_studio_result.json"
    result = convert("yolo", folder / "data.yaml", "--stuff", "grass", "--val-frac", "0")
    again = convert("coco", path, photos, "--stuff", "grass", "--val-frac", "0", out="again")
    assert panopticapi_pq(again, result) > 0.99
    assert result.categories().keys() == {0, 1, 2}


def test_a_yolo_set_of_two_splits_by_lists_keeps_them_and_boxes_are_skipped(convert, tmp_path, capsys):
    folder = tmp_path / "yolo"
    write_photos(folder / "images", ["train/1.png", "train/2.png", "val/3.png"])
    for name in ("train", "val"):
        (folder / "labels" / name).mkdir(parents=True)
        listed = sorted((folder / "images" / name).iterdir())
        (folder / f"{name}.txt").write_text("".join(f"./images/{name}/{path.name}\n" for path in listed))
    (folder / "labels/train/1.txt").write_text(
        "1 0 0 0.5 0 0.5 0.5 0 0.5\n0 0.5 0.5 0.2 0.2\n\n1 0.1 0.1 0.2 0.2 0.3 0.3\n"
    )
    (folder / "labels/val/3.txt").write_text("0 0 0 1 0 1 1 0 1\n")
    (folder / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [a, b]\n")
    result = convert("yolo", folder / "data.yaml")
    assert (result.names(), result.names("val")) == (["1", "2"], ["3"])
    mask = np.zeros(HW, bool)
    mask[:24, :32] = True
    assert result.segments("1") == {(1, 0, mask.tobytes())}
    assert result.segments("2") == set()
    assert result.segments("3", "val") == {(0, 0, np.ones(HW, bool).tobytes())}
    out = capsys.readouterr()
    assert "1 boxes without outline are skipped; first: 1.png" in out.err
    assert "outlines without area" in out.err
    assert "1 images without a segment" in out.out


# Label PNGs.

CITY = "[{id: 7, name: road, isthing: 0}, {id: 24, name: person, isthing: 1}, {id: 26, name: car, isthing: 1}]"


@pytest.fixture
def city(tmp_path):
    """A table, photos, and label · 1000 + number of each pixel of two of them."""
    rng = np.random.default_rng(3)
    write_photos(tmp_path / "photos", ["ulm/ulm_1_leftImg8bit.png", "ulm/ulm_2_leftImg8bit.png"])
    (tmp_path / "table.yaml").write_text(CITY)
    blocks = rng.choice([0, 1, 7, 24, 24000, 24001, 26003, 255], (2, 6, 8)).repeat(8, axis=1).repeat(8, axis=2)
    return tmp_path / "table.yaml", dict(zip(("ulm_1", "ulm_2"), blocks.astype(np.uint16), strict=True))


def segments_of_ids(ids):
    """{(category_id, iscrowd, mask)} of label · 1000 + number."""
    found = set()
    for value in np.unique(ids).tolist():
        label = value // 1000 if value >= 1000 else value
        if label in (7, 24, 26):
            found.add((label, int(label > 7 and value < 1000), (ids == value).tobytes()))
    return found


def test_ids_of_label_and_number_are_segments_and_a_things_label_alone_is_a_crowd(convert, city, tmp_path):
    table, ids = city
    (tmp_path / "labels").mkdir()
    for name, one in ids.items():
        Image.fromarray(one).save(tmp_path / "labels" / f"{name}_gtFine_instanceIds.png")
    words = (tmp_path / "labels", tmp_path / "photos", "--categories", table, "--val-frac", 0)
    result = convert("pngs", *words)
    for name, one in ids.items():
        assert result.segments(f"{name}_leftImg8bit") == segments_of_ids(one)


def test_numbers_in_pngs_of_their_own_give_the_same(convert, city, tmp_path):
    table, ids = city
    for folder in ("labels", "numbers"):
        (tmp_path / folder).mkdir()
    for name, one in ids.items():
        labels = np.where(one >= 1000, one // 1000, one).astype(np.uint8)
        numbers = np.where(one >= 1000, 1 + one % 1000, labels == 7).astype(np.uint8)  # a number on stuff says nothing
        Image.fromarray(labels).save(tmp_path / "labels" / f"{name}_leftImg8bit.png")
        picture = Image.fromarray(numbers, mode="P")
        picture.putpalette(list(range(256)) * 3)
        picture.save(tmp_path / "numbers" / f"{name}_leftImg8bit.png")
    words = ("--instances", tmp_path / "numbers", "--categories", table, "--val-frac", 0)
    result = convert("pngs", tmp_path / "labels", tmp_path / "photos", *words)
    for name, one in ids.items():
        assert result.segments(f"{name}_leftImg8bit") == segments_of_ids(one)


def test_val_has_labels_and_numbers_of_its_own(convert, city, tmp_path):
    table, ids = city
    places = []
    for name, one in ids.items():
        labels, numbers = np.where(one >= 1000, one // 1000, one), np.where(one >= 1000, 1 + one % 1000, 0)
        places.append([tmp_path / name / folder for folder in ("labels", "photos", "numbers")])
        write_photos(tmp_path / name / "photos", [f"{name}.png"])
        for folder, values in (("labels", labels), ("numbers", numbers)):
            (tmp_path / name / folder).mkdir()
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / name / folder / f"{name}.png")
    train, val = places
    words = ("--instances", train[2], "--val-instances", val[2], "--categories", table)
    result = convert("pngs", *train[:2], "--val", *val[:2], *words)
    assert result.segments("ulm_1") == segments_of_ids(ids["ulm_1"])
    assert result.segments("ulm_2", "val") == segments_of_ids(ids["ulm_2"])


def test_of_cityscapes_three_pngs_a_photo_those_with_numbers_are_read(convert, city, tmp_path):
    table, ids = city
    (tmp_path / "gtFine" / "ulm").mkdir(parents=True)
    for name, one in ids.items():
        colors = Image.fromarray(np.zeros((*HW, 3), np.uint8))
        labels = Image.fromarray(np.where(one >= 1000, one // 1000, one).astype(np.uint8))
        for kind, picture in {"color": colors, "instanceIds": Image.fromarray(one), "labelIds": labels}.items():
            picture.save(tmp_path / "gtFine" / "ulm" / f"{name}_gtFine_{kind}.png")
    result = convert("pngs", tmp_path / "gtFine", tmp_path / "photos", "--categories", table, "--val-frac", 0)
    for name, one in ids.items():
        assert result.segments(f"{name}_leftImg8bit") == segments_of_ids(one)


FRAMES = [f"seq{number}/{frame:06d}" for number in (1, 2) for frame in (1, 20)]


@pytest.mark.parametrize("labelled", [FRAMES, FRAMES[1:3]], ids=["all", "two"])
@pytest.mark.parametrize("place", ["labels", "labels/train"])
def test_frames_of_one_name_have_the_labels_of_their_own_folder(convert, tmp_path, labelled, place):
    write_photos(tmp_path / "photos" / "train", [f"{frame}.png" for frame in FRAMES])
    for value, frame in enumerate(labelled, start=1):
        path = tmp_path / place / f"{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(HW, value, np.uint8)).save(path)
    table = tmp_path / "table.json"
    rows = [{"id": value, "name": f"c{value}", "isthing": 0} for value in (1, 2, 3, 4)]
    table.write_text(json.dumps(rows))
    result = convert("pngs", tmp_path / "labels", tmp_path / "photos", "--categories", table, "--val-frac", 0)
    assert len(result.names()) == len(labelled)
    for value, frame in enumerate(labelled, start=1):
        assert result.segments(frame) == {(value, 0, np.ones(HW, bool).tobytes())}


def test_semantic_pngs_of_frames_of_one_name_are_those_of_their_own_folder(convert, tmp_path):
    photos = write_photos(tmp_path / "photos", [f"{frame}.png" for frame in FRAMES])
    write_photos(tmp_path / "semantic", [f"{frame}.png" for frame in FRAMES])
    for value, frame in enumerate(FRAMES, start=1):
        Image.fromarray(np.full(HW, value, np.uint8)).save(tmp_path / "semantic" / f"{frame}.png")
    images = [{"id": number, "file_name": f"{frame}.png"} for number, frame in enumerate(FRAMES)]
    box = {"id": 1, "image_id": 0, "category_id": 5, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]}
    document = {"images": images, "annotations": [box], "categories": [{"id": 5, "name": "a"}]}
    (tmp_path / "instances.json").write_text(json.dumps(document))
    rows = [{"id": value, "name": f"c{value}", "isthing": 0} for value in (1, 2, 3, 4)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    words = ("--semantic", tmp_path / "semantic", "--categories", tmp_path / "table.json", "--val-frac", 0)
    result = convert("coco", tmp_path / "instances.json", photos, *words)
    for value, frame in enumerate(FRAMES, start=1):
        assert {category_id for category_id, *_ in result.segments(frame)} - {5} == {value}


def test_labels_may_count_from_0(convert, tmp_path):
    labels = np.arange(48 * 64).reshape(HW) % 3
    write_photos(tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "table.json").write_text(
        '[{"id": 0, "name": "road", "isthing": 0}, {"id": 1, "name": "sky", "isthing": 0}]'
    )
    words = ("--categories", tmp_path / "table.json", "--val-frac", 0)
    result = convert("pngs", tmp_path / "labels", tmp_path / "photos", *words)
    assert result.segments("a") == {(label, 0, (labels == label).tobytes()) for label in (0, 1)}


# What is COCO panoptic already.


@pytest.fixture
def vistas(tmp_path, exact):
    """The layout of Mapillary Vistas 2.0, beside annotations of version 1.2, with its text ids."""
    root = tmp_path / "vistas"
    for folder in ("training", "validation"):
        write_photos(root / folder / "images", ["street.jpg", "yard.jpg"])
        for version, year in (("v1.2", 2018), ("v2.0", 2020)):
            maps = shutil.copytree(exact.folder / "panoptic_train", root / folder / version / "panoptic")
            document = exact.document()
            for image, row in zip(document["images"], document["annotations"], strict=True):
                image["id"] = row["image_id"] = f"{image['file_name'][:-4]}-Xy_{folder}"
                image["file_name"] = image["file_name"].replace(".png", ".jpg")
            document["categories"][0]["name"] = f"animal--bird of {version}"
            (maps / f"panoptic_{year}.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(("words", "version"), [((), "v2.0"), (("--version", "v1.2"), "v1.2")])
def test_vistas_is_read_in_its_own_layout(convert, vistas, exact, words, version):
    result = convert("vistas", vistas, *words)
    assert result.splits() == ["train", "val"]
    assert result.categories()[1]["name"] == f"animal--bird of {version}"
    for split in result.splits():
        for name in ("street", "yard"):
            assert result.segments(name, split) == exact.segments(name)
    assert {row["id"] for row in result.document("val")["images"]} == {"street-Xy_validation", "yard-Xy_validation"}
    assert panopticapi_pq(exact, result) == 1


def test_a_set_of_one_json_is_split_and_its_maps_stay_as_they_are(convert, exact, photos):
    result = convert("panoptic", exact.folder / "panoptic_train.json", exact.folder / "panoptic_train", photos)
    assert sorted([*result.names(), *result.names("val")]) == ["street", "yard"]
    for split in ("train", "val"):
        (name,) = result.names(split)
        assert result.segments(name, split) == exact.segments(name)


# And back.


def test_panoptic_becomes_instances_that_pycocotools_reads_and_the_same_panoptic_again(convert, coco, tmp_path):
    path, _ = coco
    first = convert("coco", path, tmp_path / "photos", "--stuff", "c4", "--val-frac", "0")
    back = convert("to-coco", first.folder / "panoptic_train.json", first.folder / "panoptic_train", out="back").folder
    oracle = COCO(str(back / "instances.json"))
    for image_id, image in oracle.imgs.items():
        name = str(image_id)
        rows = oracle.loadAnns(oracle.getAnnIds(imgIds=[image_id]))
        masks = {(row["category_id"], row["iscrowd"], oracle.annToMask(row).astype(bool).tobytes()) for row in rows}
        assert masks == {one for one in first.segments(name) if one[0] != 4}
        assert all(row["area"] == oracle.annToMask(row).sum() for row in rows)
        assert all(row["bbox"] == coco_mask.toBbox(oracle.annToRLE(row)).tolist() for row in rows)
        semantic = np.array(Image.open(back / "semantic" / image["file_name"]))
        wanted = np.full(semantic.shape, 255)
        for category_id, _, mask in first.segments(name):
            wanted[np.frombuffer(mask, dtype=bool).reshape(wanted.shape)] = category_id
        np.testing.assert_array_equal(semantic, wanted)
    words = ("--semantic", back / "semantic", "--categories", back / "categories.json", "--val-frac", "0")
    again = convert("coco", back / "instances.json", tmp_path / "photos", *words, out="again")
    for name in first.names():
        assert again.segments(name) == first.segments(name)


def test_large_category_ids_get_pngs_of_16_bits(convert, tmp_path):
    ids = np.repeat([[1, 1, 2, 0]], 4, axis=0)
    categories = [{"id": 1, "name": "a", "isthing": 1}, {"id": 4000, "name": "b", "isthing": 0}]
    one = write_result(tmp_path / "one", [("x", ids, [(1, 1), (2, 4000)])], categories)
    back = convert("to-coco", one.folder / "panoptic_train.json", one.folder / "panoptic_train")
    assert np.array(Image.open(back.folder / "semantic" / "x.png")).tolist() == [[1, 1, 4000, 0]] * 4
