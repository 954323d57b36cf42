"""What `prepare` writes."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from antvisionps.core.errors import DataError
from antvisionps.datasets.scenes import CATEGORIES, prepare_scenes
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import SplitFiles, dataset_fingerprint, open_split, prepare_coco_panoptic
from tests.panoptic.users_folder import TRAIN, VAL, contents, edit, ids_of_splits, prepare_folder
from tests.pipeline.workspace import PROJECT, change_params

SPLITS = ("train", "heldout", "val")


def prepare_few_scenes(out: Path, *, train_images: int = 6, monitor_images: int = 0, workers: int = 1) -> Path:
    counts = {"train_images": train_images, "val_images": 2, "heldout_images": 2, "monitor_images": monitor_images}
    sizes = counts | {"height": 64, "width": 64}
    prepare_scenes(out, **sizes, seed=3, workers=workers)
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_few_scenes(tmp_path_factory.mktemp("data") / "prepared")


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


def test_categories_of_val_may_have_other_colours(folder):
    edit(folder / "val.json", lambda document: document["categories"][0].update(color=[1, 2, 3]))
    prepared = prepare_folder(folder)
    assert open_split(prepared, "val").categories == open_split(prepared, "train").categories


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
