"""What `prepare` writes, what its fingerprint covers, and the leaks and gaps that it refuses."""

import json
import shutil
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
from antvisionps.panoptic.splits import (
    SPLITS,
    SplitFiles,
    choose_heldout,
    dataset_fingerprint,
    open_split,
    prepare_coco_panoptic,
)
from tests.pipeline.workspace import PROJECT, change_params

TRAIN = SplitFiles("train.json", "panoptic", "images")
VAL = SplitFiles("val.json", "panoptic", "images")


def prepare_few_scenes(out: Path, *, train_images: int = 6, workers: int = 1) -> Path:
    sizes = {"train_images": train_images, "val_images": 2, "heldout_images": 2, "height": 64, "width": 64}
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


def prepare_folder(folder: Path, *, heldout_images: int = 2) -> Path:
    prepared = folder.parent / "prepared"
    prepare_coco_panoptic(prepared, root=str(folder), train=TRAIN, val=VAL, heldout_images=heldout_images, seed=0)
    return prepared


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scenes_are_split_into_train_heldout_and_val(prepared):
    ids = {name: [image.image_id for image in open_split(prepared, name).images] for name in SPLITS}
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


def test_heldout_is_a_function_of_the_set_of_ids_and_the_seed():
    ids = range(100, 200)
    chosen = choose_heldout(ids, count=10, seed=1)
    assert len(chosen) == 10
    assert chosen <= set(ids)
    assert choose_heldout(reversed(ids), count=10, seed=1) == chosen
    assert choose_heldout(ids, count=10, seed=2) != chosen


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
    message = r"leak: .*000001\.png in (train|heldout) and .*000012\.png in val are the same"
    with pytest.raises(DataError, match=message):
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


def truncate_photo(folder: Path) -> None:
    path = folder / "images" / f"{4:012d}.png"
    path.write_bytes(path.read_bytes()[:-500])


def share_an_id(val):
    val["images"][0].update(id=2)
    val["annotations"][0].update(image_id=2)


MOON = {"id": 99, "name": "moon", "isthing": 1}


def edit_val(change):
    return lambda folder: edit(folder / "val.json", change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_val(share_an_id), r"leak: image 2 .*train\.json.* in val .*val\.json"),
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
    [("panoptic", []), ("things.json", ["train_instances.parquet", "heldout_instances.parquet"])],
)
def test_the_stage_prepares_a_folder_of_the_users(tmp_path, folder, instances, files):
    images = [{"id": image_id, "height": 64, "width": 64} for image_id in range(1, 6)]
    square = {"id": 1, "image_id": 4, "category_id": 3, "iscrowd": 0, "segmentation": [[9, 9, 20, 9, 20, 20, 9, 20]]}
    things = {"images": images, "annotations": [square], "categories": [{"id": 3, "name": "ball"}]}
    (folder / "things.json").write_text(json.dumps(things))
    coco = {"root": str(folder), "train": asdict(TRAIN), "val": asdict(VAL)}
    changes = {"source": "coco_panoptic", "coco_panoptic": coco, "heldout_images": 2, "instances": instances}
    params = change_params(PROJECT / "params.yaml", tmp_path / "params.yaml", prepare=changes)
    arguments = ["--params", str(params), "--out", str(tmp_path / "prepared")]
    subprocess.run([sys.executable, PROJECT / "stages" / "prepare.py", *arguments], check=True, cwd=PROJECT)
    splits = [open_split(tmp_path / "prepared", name) for name in SPLITS]
    assert [len(split.images) for split in splits] == [3, 2, 2]
    assert [split.instances.name for split in splits if split.instances is not None] == files


def test_real_facades_are_prepared(tmp_path, real_data):
    files = [SplitFiles(f"panoptic_{name}.json", f"panoptic_{name}", "images") for name in ("train", "val")]
    choices = {"train": files[0], "val": files[1], "heldout_images": 40, "seed": 0, "workers": 2}
    prepare_coco_panoptic(tmp_path / "out", root=str(real_data / "cmp_facade"), **choices)
    assert [len(open_split(tmp_path / "out", name).images) for name in SPLITS] == [260, 40, 40]
