"""What `prepare` writes, what its fingerprint covers, and the leaks and gaps that it refuses."""

import json
import os
import shutil
import subprocess
import sys
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

ROOT = Path(__file__).parents[2]
TRAIN = SplitFiles("train.json", "panoptic", "images")
VAL = SplitFiles("val.json", "panoptic", "images")


def prepare_few_scenes(out: Path, *, seed: int = 3, train_images: int = 6, workers: int = 1) -> Path:
    prepare_scenes(
        out, train_images=train_images, val_images=2, height=64, width=64, heldout_images=2, seed=seed, workers=workers
    )
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


def prepare_folder(folder: Path, *, heldout_images: int = 2, val: SplitFiles = VAL, out: str = "prepared") -> Path:
    prepared = folder.parent / out
    prepare_coco_panoptic(
        prepared, root=str(folder), train=TRAIN, val=val, heldout_images=heldout_images, seed=0, workers=2
    )
    return prepared


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_scenes_are_split_into_train_heldout_and_val(prepared):
    ids = {name: [image.image_id for image in open_split(prepared, name).images] for name in SPLITS}
    assert {name: len(of_split) for name, of_split in ids.items()} == {"train": 4, "heldout": 2, "val": 2}
    assert sorted(ids["train"] + ids["heldout"]) == [1, 2, 3, 4, 5, 6]
    assert not set(ids["val"]) & {1, 2, 3, 4, 5, 6}


def test_every_file_of_every_split_can_be_loaded(prepared):
    for name in SPLITS:
        dataset = open_split(prepared, name)
        assert dataset.categories == CATEGORIES
        for image in dataset.images:
            assert dataset.load_photo(image).shape == (64, 64, 3)
            assert dataset.load_segment_ids(image).shape == (64, 64)


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
    dataset = open_split(tmp_path / "moved", "heldout")
    assert dataset.photo_path(dataset.images[0]).is_relative_to(tmp_path / "moved")
    assert dataset.load_photo(dataset.images[0]).shape == (64, 64, 3)


def test_a_users_photos_are_used_where_they_lie(folder):
    prepared = prepare_folder(folder)
    assert sorted(contents(prepared)) == ["dataset.json", "heldout.json", "train.json", "val.json", "val_runs.parquet"]
    dataset = open_split(prepared, "heldout")
    assert dataset.photo_path(dataset.images[0]).parent == folder / "images"
    assert dataset.load_segment_ids(dataset.images[0]).shape == (64, 64)


def test_splits_keep_the_users_annotations(folder):
    prepared = prepare_folder(folder)
    source = read_panoptic(folder / "train.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")
    kept = open_split(prepared, "train").images + open_split(prepared, "heldout").images
    assert sorted(kept, key=lambda image: image.image_id) == list(source.images)


def test_a_relative_root_stays_relative(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    prepare_coco_panoptic(Path("out"), root="mine", train=TRAIN, val=VAL, heldout_images=1, seed=0)
    assert str(folder.parent) not in Path("out", "dataset.json").read_text()
    assert open_split(Path("out"), "val").images_dir == Path("mine", "images")


# Held-out images


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


# Fingerprint


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


# What is refused


def recompress(source: Path, copy: Path) -> None:
    Image.open(source).save(copy, compress_level=0)


def add_orientation(source: Path, copy: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).save(copy, exif=exif)


def change_format(source: Path, copy: Path) -> None:
    Image.open(source).save(copy, format="WEBP", lossless=True)


@pytest.mark.parametrize("encode", [shutil.copy, recompress, add_orientation, change_format])
def test_the_same_pixels_in_another_file_are_a_leak(folder, encode):
    source, copy = (folder / "images" / f"{image_id:012d}.png" for image_id in (1, 12))
    encode(source, copy)
    assert (copy.read_bytes() == source.read_bytes()) == (encode is shutil.copy)
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


def add_a_moon(val):
    val["categories"].append({"id": 99, "name": "moon", "isthing": 1})


def empty(val):
    val["images"].clear()
    val["annotations"].clear()


def edit_val(change):
    return lambda folder: edit(folder / "val.json", change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_val(share_an_id), r"leak: image 2 .*train\.json.* in val .*val\.json"),
        (truncate_photo, r"000004\.png: photo of image 4 .* cannot be read whole"),
        (lambda folder: (folder / "panoptic" / f"{11:012d}.png").unlink(), "1 of 2 panoptic PNG files"),
        (edit_val(lambda val: val["annotations"][1]["segments_info"].pop()), "segments_info of image 12 does not list"),
        (edit_val(add_a_moon), r"category 99 \('moon', thing\) is only in val"),
        (edit_val(empty), r"val\.json: .* this split is empty"),
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


# The stage


def run_stage(params: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "stages/prepare.py", "--params", str(params), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_stage_writes_the_scenes_of_params_yaml(tmp_path):
    params = (ROOT / "params.yaml").read_text().replace("train_images: 360", "train_images: 41")
    (tmp_path / "params.yaml").write_text(params.replace("val_images: 60", "val_images: 2"))
    ran = run_stage(tmp_path / "params.yaml", tmp_path / "prepared")
    assert ran.returncode == 0, ran.stderr
    assert [len(open_split(tmp_path / "prepared", name).images) for name in SPLITS] == [1, 40, 2]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("instances", ["panoptic", "things.json"])
def test_the_stage_prepares_a_folder_or_says_in_one_line_why_not(tmp_path, folder, exists, instances):
    images = [{"id": image_id, "height": 64, "width": 64} for image_id in range(1, 6)]
    square = {"id": 1, "image_id": 4, "category_id": 3, "iscrowd": 0, "segmentation": [[9, 9, 20, 9, 20, 20, 9, 20]]}
    things = {"images": images, "annotations": [square], "categories": [{"id": 3, "name": "ball"}]}
    (folder / "things.json").write_text(json.dumps(things))
    root = folder if exists else tmp_path / "nowhere"
    files = "{annotations: NAME.json, panoptic_dir: panoptic, images_dir: images}"
    coco = f"{{root: {root}, train: {files.replace('NAME', 'train')}, val: {files.replace('NAME', 'val')}}}"
    params = (ROOT / "params.yaml").read_text()
    for old, new in (
        ("source: scenes", "source: coco_panoptic"),
        ("coco_panoptic: null", f"coco_panoptic: {coco}"),
        ("heldout_images: 40", "heldout_images: 2"),
        ("instances: panoptic", f"instances: {instances}"),
    ):
        assert old in params
        params = params.replace(old, new, 1)
    (tmp_path / "params.yaml").write_text(params)
    ran = run_stage(tmp_path / "params.yaml", tmp_path / "prepared")
    if exists:
        assert ran.returncode == 0, ran.stderr
        splits = [open_split(tmp_path / "prepared", name) for name in SPLITS]
        assert [len(split.images) for split in splits] == [3, 2, 2]
        files = ["train_instances.parquet", "heldout_instances.parquet"] if instances != "panoptic" else []
        assert [split.instances.name for split in splits if split.instances is not None] == files
    else:
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert line.startswith(
            f"error: {root}/train.json: no readable COCO panoptic JSON (no such file); check the paths"
        )


def test_real_facades_are_prepared(tmp_path, real_data):
    files = [SplitFiles(f"panoptic_{name}.json", f"panoptic_{name}", "images") for name in ("train", "val")]
    prepare_coco_panoptic(
        tmp_path / "out",
        root=str(real_data / "cmp_facade"),
        train=files[0],
        val=files[1],
        heldout_images=40,
        seed=0,
        workers=2,
    )
    assert [len(open_split(tmp_path / "out", name).images) for name in SPLITS] == [260, 40, 40]
