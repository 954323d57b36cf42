"""What `prepare` writes, what its fingerprint covers, and the leaks and gaps that it refuses."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.datasets.scenes import CATEGORIES, prepare_scenes, write_scenes
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import (
    SplitFiles,
    dataset_fingerprint,
    open_split,
    prepare_coco_panoptic,
    prepared_splits,
)
from tests.pipeline.workspace import PROJECT, change_params

TRAIN = SplitFiles("train.json", "panoptic", "images")
VAL = SplitFiles("val.json", "panoptic", "images")
SPLITS = ("train", "heldout", "val")


def prepare_few_scenes(out: Path, *, train_images: int = 6, monitor_images: int = 0, workers: int = 1) -> Path:
    sizes = {
        "monitor_images": monitor_images,
        "train_images": train_images,
        "val_images": 2,
        "heldout_images": 2,
        "height": 64,
        "width": 64,
    }
    prepare_scenes(out, **sizes, seed=3, workers=workers)
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_few_scenes(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture
def folder(tmp_path):
    """A COCO-panoptic folder of a user's: train 1 to 5, val 11 and 12."""
    for name, image_ids in (("train", range(1, 6)), ("val", range(11, 13))):
        images = write_scenes(tmp_path / "mine", seed=0, image_ids=image_ids, height=64, width=64)
        write_panoptic_json(tmp_path / "mine" / f"{name}.json", categories=CATEGORIES, images=images)
    return tmp_path / "mine"


def prepare_folder(folder: Path, *, heldout_images: int = 2, monitor_images: int = 0) -> Path:
    prepared = folder.parent / "prepared"
    counts = {"heldout_images": heldout_images, "monitor_images": monitor_images}
    prepare_coco_panoptic(prepared, root=str(folder), train=TRAIN, val=VAL, seed=0, **counts)
    return prepared


def ids_of_splits(prepared: Path) -> dict[str, list[int]]:
    return {name: [image.image_id for image in open_split(prepared, name).images] for name in prepared_splits(prepared)}


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scenes_are_split_into_train_heldout_and_val(prepared):
    ids = ids_of_splits(prepared)
    assert {name: len(of_split) for name, of_split in ids.items()} == {"train": 4, "heldout": 2, "val": 2}
    assert sorted(ids["train"] + ids["heldout"]) == [1, 2, 3, 4, 5, 6]
    assert not set(ids["val"]) & {1, 2, 3, 4, 5, 6}


def test_the_same_inputs_give_the_same_bytes_with_any_number_of_workers(prepared, tmp_path):
    again = prepare_few_scenes(tmp_path / "elsewhere" / "again", workers=3)
    assert contents(again) == contents(prepared)


def test_another_number_of_train_scenes_leaves_the_others_as_they_were(prepared, tmp_path):
    more = contents(prepare_few_scenes(tmp_path / "more", train_images=7))
    pictures = {name: data for name, data in contents(prepared).items() if name.endswith(".png")}
    assert {name: more[name] for name in pictures} == pictures
    assert len([name for name in more if name.endswith(".png")]) == len(pictures) + 2


def test_monitor_scenes_come_beside_the_others_which_stay_as_they_were(prepared, tmp_path):
    ids = ids_of_splits(prepared)
    more = prepare_few_scenes(tmp_path / "more", monitor_images=3)
    monitor = ids_of_splits(more).pop("monitor")
    assert ids_of_splits(more) == ids | {"monitor": monitor}
    assert len(monitor) == 3
    assert not set(monitor) & {image_id for of_split in ids.values() for image_id in of_split}
    assert contents(more).items() >= {(n, data) for n, data in contents(prepared).items() if n != "dataset.json"}
    assert dataset_fingerprint(more) != dataset_fingerprint(prepared)


def test_monitor_images_come_out_of_what_is_not_held_out(folder):
    ids = ids_of_splits(prepare_folder(folder))
    shutil.rmtree(folder.parent / "prepared")
    prepared = prepare_folder(folder, monitor_images=2)
    with_monitor = ids_of_splits(prepared)
    assert (with_monitor["heldout"], with_monitor["val"]) == (ids["heldout"], ids["val"])
    assert sorted(with_monitor["train"] + with_monitor["monitor"]) == ids["train"]
    assert len(with_monitor["monitor"]) == 2
    assert open_split(prepared, "monitor").images_dir == folder / "images"


def test_a_monitor_split_that_was_not_asked_for_is_told_with_both_params(prepared):
    with pytest.raises(DataError, match=r"no split monitor; prepare\.monitor_images is 0; .* evaluate_interval of"):
        open_split(prepared, "monitor")


def test_some_images_must_be_left_to_train_on_beside_the_monitor(folder):
    with pytest.raises(DataError, match=r"monitor_images is 3 and 3 images of train are not held out; expected 0 to 2"):
        prepare_folder(folder, monitor_images=3)


def test_a_prepared_folder_can_be_moved(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "moved")
    for name in SPLITS:
        dataset = open_split(tmp_path / "moved", name)
        assert dataset.categories == CATEGORIES
        for image in dataset.images:
            assert dataset.photo_path(image).is_relative_to(tmp_path / "moved")
            assert dataset.load_photo(image).shape == (64, 64, 3)
            assert dataset.load_segment_ids(image).shape == (64, 64)


def test_a_users_photos_and_annotations_are_used_as_they_are(folder):
    prepared = prepare_folder(folder)
    assert sorted(contents(prepared)) == ["dataset.json", "heldout.json", "train.json", "val.json", "val_runs.parquet"]
    train, heldout = (open_split(prepared, name) for name in ("train", "heldout"))
    assert heldout.photo_path(heldout.images[0]).parent == folder / "images"
    source = read_panoptic(folder / "train.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")
    assert sorted(train.images + heldout.images, key=lambda image: image.image_id) == list(source.images)


def test_a_relative_root_stays_relative(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    prepare_coco_panoptic(Path("out"), root="mine", train=TRAIN, val=VAL, heldout_images=1, seed=0)
    assert str(folder.parent) not in Path("out", "dataset.json").read_text()
    assert open_split(Path("out"), "val").images_dir == Path("mine", "images")


@pytest.mark.parametrize("count", [0, 5, 6])
def test_some_images_must_be_left_to_train_on_and_some_held_out(folder, count):
    with pytest.raises(DataError, match=f"heldout_images is {count} and the train annotations have 5 .* 1 to 4"):
        prepare_folder(folder, heldout_images=count)


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


def brighten(folder: Path) -> None:
    path = folder / "images" / f"{11:012d}.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)


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


TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    "options", [None, {"compress_level": 0}, {"exif": TURNED}, {"format": "WEBP", "lossless": True}]
)
def test_the_same_pixels_in_another_file_are_a_leak(folder, options):
    source, copy = (folder / "images" / f"{image_id:012d}.png" for image_id in (1, 12))
    shutil.copy(source, copy) if options is None else Image.open(source).save(copy, **options)
    assert (copy.read_bytes() == source.read_bytes()) == (options is None)
    message = r"leak: .*000001\.png in train and .*000012\.png in val are the same"
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


def test_a_photo_turned_and_the_same_with_a_tag_that_turns_it_are_a_leak(folder):
    source, copy = (folder / "images" / f"{image_id:012d}.png" for image_id in (1, 12))
    Image.open(source).rotate(90, expand=True).save(copy, exif=TURNED)
    with pytest.raises(DataError, match=r"leak: .*000001\.png .*000012\.png in val are the same"):
        prepare_folder(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_that_are_turned_in_doubt_are_counted_in_one_line(folder, capsys, orientation):
    """They are square, so their size is the same either way."""
    for image_id in (11, 12):
        path = folder / "images" / f"{image_id:012d}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(path).save(path, exif=exif)
    prepare_folder(folder)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    if orientation == 1:
        assert warnings == []
    else:
        (line,) = warnings
        assert f"2 photos carry an EXIF orientation ({folder}/images/000000000011.png first" in line
        assert f"orientation {orientation}); they are turned upright, as viewers show them" in line


def test_a_map_that_is_too_large_is_refused_by_its_header_alone(folder):
    path = folder / "panoptic" / f"{12:012d}.png"
    png = path.read_bytes()
    for side, message in ((13_000, "expected 64x64 pixels .*, got 13000x13000"), (30_000, "more than 178956970")):
        path.write_bytes(png[:16] + struct.pack(">II", side, side) + png[24:])
        with pytest.raises(DataError, match=rf"000012\.png.*{message}"):
            prepare_folder(folder)


@pytest.mark.parametrize("place", ["images/000000000012.png", "panoptic/000000000012.png", "val.json"])
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "a socket"])
def test_what_is_no_file_is_refused_at_once(folder, monkeypatch, place, kind):
    monkeypatch.chdir(folder)  # a socket's path is short
    path = Path(place)
    path.unlink()
    make = {"a FIFO": os.mkfifo, "a folder": os.mkdir, "a device": lambda path: path.symlink_to("/dev/zero")}
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(place)
    else:
        make[kind](path)
    with pytest.raises(DataError, match=rf"{path.name}.*expected a file, got {kind}"):
        prepare_folder(folder)


def test_the_same_pixels_in_another_shape_are_no_leak(folder):
    flat = np.full((64, 64, 3), 90, np.uint8)
    for image_id, shape in ((1, (64, 64, 3)), (12, (32, 128, 3))):
        Image.fromarray(flat.reshape(shape)).save(folder / "images" / f"{image_id:012d}.png")
    path = folder / "panoptic" / f"{12:012d}.png"
    Image.fromarray(np.asarray(Image.open(path)).reshape(32, 128, 3)).save(path)
    edit(folder / "val.json", lambda document: document["images"][1].update(height=32, width=128))
    prepare_folder(folder)


def test_the_same_photo_twice_in_one_split_is_no_leak(folder):
    shutil.copy(folder / "images" / f"{11:012d}.png", folder / "images" / f"{12:012d}.png")
    prepare_folder(folder)


def number_from_1(folder: Path, name: str) -> None:
    def renumber(document):
        for place, (image, row) in enumerate(zip(document["images"], document["annotations"], strict=True), start=1):
            image["id"] = row["image_id"] = place

    edit(folder / f"{name}.json", renumber)


def test_train_and_val_may_both_number_their_images_from_1(folder):
    number_from_1(folder, "val")
    prepared = prepare_folder(folder)
    val = open_split(prepared, "val")
    assert [(image.image_id, image.file_name) for image in val.images] == [(1, f"{11:012d}.png"), (2, f"{12:012d}.png")]
    ids = [image.image_id for name in ("train", "heldout") for image in open_split(prepared, name).images]
    assert sorted(ids) == [1, 2, 3, 4, 5]


def test_equal_photos_of_train_are_kept_on_one_side_and_the_number_held_out_is_said(folder, capsys):
    for image_id in (2, 3, 4):
        shutil.copy(folder / "images" / f"{1:012d}.png", folder / "images" / f"{image_id:012d}.png")
    prepared = prepare_folder(folder)
    ids = ids_of_splits(prepared)
    assert ids == {"train": [1, 2, 3, 4], "heldout": [5], "val": [11, 12]}
    said = (
        "1 images are held out, not prepare.heldout_images = 2: photos that are equal pixel by pixel stay on one side\n"
    )
    assert capsys.readouterr().out == said


def no_crowds(document):
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = 0


def leave_measures_out(document):
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            for key in ("area", "bbox", "iscrowd"):
                del segment[key]


def test_what_prepare_writes_has_the_measures_that_the_users_json_lacks(folder):
    for name in ("train", "val"):
        edit(
            folder / f"{name}.json",
            lambda d: [s.update(iscrowd=0) for a in d["annotations"] for s in a["segments_info"]],
        )
    whole = contents(prepare_folder(folder))
    for name in ("train", "val"):
        edit(folder / f"{name}.json", leave_measures_out)
    assert contents(prepare_folder(folder)) == whole


def name_images(document):
    for image, row in zip(document["images"], document["annotations"], strict=True):
        image["id"] = row["image_id"] = f"berlin_{image['id']}"


def test_the_users_own_text_ids_are_in_what_is_written_and_images_are_numbered_by_split(folder):
    before = prepare_folder(folder)
    chosen = [[image.file_name for image in open_split(before, name).images] for name in SPLITS]
    for name in ("train", "val"):
        edit(folder / f"{name}.json", name_images)
    splits = [open_split(prepare_folder(folder), name) for name in SPLITS]
    assert [[image.file_name for image in split.images] for split in splits] == chosen
    for split in splits:
        assert [image.image_id for image in split.images] == list(range(1, len(split.images) + 1))
        listed = json.loads(split.annotations.read_text())
        assert [row["id"] for row in listed["images"]] == [image.source_id for image in split.images]
        assert all(image.source_id == f"berlin_{int(image.file_name[:12])}" for image in split.images)


def test_a_thing_may_have_category_id_0(folder):
    def from_0(document):
        for row in (*document["categories"], *(s for a in document["annotations"] for s in a["segments_info"])):
            key = "category_id" if "category_id" in row else "id"
            row[key] = 0 if row[key] == 3 else row[key]

    for name in ("train", "val"):
        edit(folder / f"{name}.json", from_0)
    val = open_split(prepare_folder(folder), "val")
    assert val.categories.things[0].category_id == 0
    image = val.images[0]
    classes = class_index_map(val.load_segment_ids(image), image, val.categories)
    balls = [segment.area_px for segment in image.segments if segment.category_id == 0]
    assert np.count_nonzero(classes == 0) == sum(balls)


@pytest.mark.parametrize("missing", ["train.json", "val.json", "panoptic", "images"])
def test_of_a_relative_root_the_whole_path_is_named(folder, monkeypatch, missing):
    monkeypatch.chdir(folder.parent)
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(DataError) as caught:
        prepare_coco_panoptic(Path("out"), root="mine", train=TRAIN, val=VAL, heldout_images=1, seed=0)
    whole = f"that is {folder / missing}: a relative root starts at {folder.parent}"
    assert str(caught.value).startswith(f"mine/{missing}: no such file or folder ({whole});")


def truncate_photo(folder: Path) -> None:
    path = folder / "images" / f"{4:012d}.png"
    path.write_bytes(path.read_bytes()[:-500])


MOON = {"id": 99, "name": "moon", "isthing": 1}


def edit_val(change):
    return lambda folder: edit(folder / "val.json", change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate_photo, r"000004\.png: photo of image 4 .* cannot be read whole"),
        (lambda folder: (folder / "panoptic" / f"{11:012d}.png").unlink(), "1 of 2 panoptic PNG files"),
        (edit_val(lambda val: val["annotations"][1]["segments_info"].pop()), "segments_info of image 12 does not list"),
        (edit_val(lambda val: val["categories"].append(MOON)), r"category 99 \('moon', thing\) is only in val"),
    ],
)
def test_what_would_spoil_a_training_is_found_before_it(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


@pytest.mark.parametrize("name", ["train", "val"])
def test_an_area_that_is_not_the_number_of_pixels_is_found(folder, name):
    image_id, first = {"train": 1, "val": 11}[name], {}

    def enlarge(document):
        first.update(document["annotations"][0]["segments_info"][0])
        document["annotations"][0]["segments_info"][0]["area"] += 1

    edit(folder / f"{name}.json", enlarge)
    segment_ids = rgb2id(np.asarray(Image.open(folder / "panoptic" / f"{image_id:012d}.png")))
    pixels = np.count_nonzero(segment_ids == first["id"])
    message = rf"{name}\.json: image {image_id}: segment {first['id']}: .*, {pixels}, got {pixels + 1}; correct"
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


def test_an_error_leaves_the_last_good_folder_and_nothing_else(folder):
    prepared = prepare_folder(folder)
    before = contents(prepared)
    brighten(folder)
    (folder / "images" / f"{1:012d}.png").write_bytes(b"")
    with pytest.raises(DataError):
        prepare_folder(folder)
    assert contents(prepared) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "prepared"]


@pytest.mark.parametrize(("text", "reason"), [(None, "no such file"), ("{", "Expecting property name")])
def test_a_missing_or_broken_manifest_is_refused(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    for ask in (dataset_fingerprint, lambda folder: open_split(folder, "train")):
        with pytest.raises(DataError, match=rf"dataset\.json: no readable manifest \({reason}.*`dvc repro -f prepare`"):
            ask(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: {}, "fingerprint: Field required"),
        (lambda found: None, "not the manifest that is expected"),
        (lambda found: [found], "not the manifest"),
        (lambda found: found | {"fingerprint": 5}, "fingerprint: .*got 5"),
        (lambda found: found | {"root": ["a"]}, "root: "),
        (lambda found: found | {"splits": None}, "splits: "),
        (lambda found: found | {"splits": {"test": {}}}, "splits.test"),
        (lambda found: found | {"splits": {}}, "no split train"),
        (lambda found: found | {"categories": [{"id": "x"}]}, "categor"),
        (lambda found: found | {"categories": found["categories"][:1]}, "other images or categories than dataset.json"),
        (
            lambda found: found | {"splits": {"train": found["splits"]["train"] | {"images": 77}}},
            "other images or categ",
        ),
        (lambda found: found | {"splits": {"train": found["splits"]["train"] | {"images_dir": 1e400}}}, "images_dir: "),
        (lambda found: found | {"seed": 1}, "seed: "),
    ],
)
def test_a_manifest_that_prepare_cannot_have_written_is_refused(folder, change, problem):
    prepared = prepare_folder(folder)
    path = prepared / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=rf"^{prepared}/[a-z.]*json: [^\n]*{problem}[^\n]*$"):
        open_split(prepared, "train")


@pytest.mark.parametrize(
    ("instances", "files"),
    [("panoptic", []), ("things.json", [f"{name}_instances.parquet" for name in ("train", "heldout", "monitor")])],
)
def test_the_stage_prepares_a_folder_of_the_users(tmp_path, folder, instances, files):
    images = [{"id": image_id, "height": 64, "width": 64} for image_id in range(1, 6)]
    square = {"id": 1, "image_id": 4, "category_id": 3, "iscrowd": 0, "segmentation": [[9, 9, 20, 9, 20, 20, 9, 20]]}
    things = {"images": images, "annotations": [square], "categories": [{"id": 3, "name": "ball"}]}
    (folder / "things.json").write_text(json.dumps(things))
    coco = {"root": str(folder), "train": asdict(TRAIN), "val": asdict(VAL)}
    changes = {"source": "coco_panoptic", "coco_panoptic": coco, "instances": instances}
    changes |= {"heldout_images": 1, "monitor_images": 1}
    params = change_params(PROJECT / "params.yaml", tmp_path / "params.yaml", prepare=changes)
    arguments = ["--params", str(params), "--out", str(tmp_path / "prepared")]
    subprocess.run([sys.executable, PROJECT / "stages" / "prepare.py", *arguments], check=True, cwd=PROJECT)
    splits = [open_split(tmp_path / "prepared", name) for name in (*SPLITS, "monitor")]
    assert [len(split.images) for split in splits] == [3, 1, 2, 1]
    assert [split.instances.name for split in splits if split.instances is not None] == files


def test_real_facades_are_prepared(tmp_path, real_data):
    files = [SplitFiles(f"panoptic_{name}.json", f"panoptic_{name}", "images") for name in ("train", "val")]
    choices = {"train": files[0], "val": files[1], "heldout_images": 40, "seed": 0, "workers": 2}
    prepare_coco_panoptic(tmp_path / "out", root=str(real_data / "cmp_facade"), **choices)
    assert [len(open_split(tmp_path / "out", name).images) for name in SPLITS] == [260, 40, 40]
