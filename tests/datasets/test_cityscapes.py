"""Cityscapes' official layout in small, with the benchmark's rules as a slow conversion beside ours."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from antvisionps.core.errors import DataError
from antvisionps.datasets.cityscapes import CATEGORIES, prepare_cityscapes
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import dataset_fingerprint, open_split, prepared_splits
from tests.pipeline.workspace import bytes_below

SKY, CAR, PERSON, CARAVAN, EGO_VEHICLE = 23, 26, 24, 29, 1
TRAIN_ID = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
            28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
"""The benchmark's own numbering of its 19 classes; 24 and up have instances."""
FIRST_THING = 24


def write_image(root, split, city, name, rng, instance_ids=None):
    if instance_ids is None:
        values = [7, SKY, EGO_VEHICLE, 0, CAR, 1000 * CAR, 1000 * CAR + 1, 1000 * PERSON, CARAVAN, 1000 * CARAVAN]
        instance_ids = np.kron(rng.choice(values, (4, 8)), np.ones((8, 8))).astype(np.uint16)
    photo = rng.integers(0, 256, (*instance_ids.shape, 3), np.uint8)
    place = f"{split}/{city}/{name}"
    pictures = {f"leftImg8bit/{place}_leftImg8bit.png": photo, f"gtFine/{place}_gtFine_instanceIds.png": instance_ids}
    for path, picture in pictures.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / path), picture)
    (root / f"gtFine/{place}_gtFine_polygons.json").write_text("{}")


@pytest.fixture
def root(tmp_path):
    """Five images of train, two of val, one of test without truth."""
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "ulm", 3), ("train", "aachen", 2), ("val", "lindau", 2), ("test", "bonn", 1)):
        for index in range(count):
            write_image(tmp_path / "cityscapes", split, city, f"{city}_{index:06d}_000019", rng)
    return tmp_path / "cityscapes"


def prepare(root, out, workers=1):
    prepare_cityscapes(out, root=root, heldout_images=2, seed=1, workers=workers)
    return out


def test_every_split_holds_what_instance_ids_say(root, tmp_path):
    prepared = prepare(root, tmp_path / "prepared")
    for split in prepared_splits(prepared):
        dataset = open_split(prepared, split)
        assert dataset.categories == CATEGORIES
        for image in dataset.images:
            labels = root / "gtFine" / ("val" if split == "val" else "train") / image.file_name
            labels = str(labels).replace("leftImg8bit", "gtFine_instanceIds")
            instance_ids = cv2.imread(labels, cv2.IMREAD_UNCHANGED)
            found = dataset.load_segment_ids(image)
            crowd_of = {segment.segment_id: segment.is_crowd for segment in image.segments}
            for value in np.unique(instance_ids).tolist():
                label = value // 1000 if value >= 1000 else value
                here = instance_ids == value
                assert (found[here] == (value if label in TRAIN_ID else 0)).all()
                if label in TRAIN_ID:
                    assert crowd_of.pop(value) == (label >= FIRST_THING and value < 1000)
            assert not crowd_of
            assert dataset.load_photo(image).shape == (*instance_ids.shape, 3)
    assert [len(open_split(prepared, split).images) for split in ("train", "heldout", "val")] == [3, 2, 2]


def test_the_19_classes_are_the_benchmarks(root, tmp_path):
    dataset = open_split(prepare(root, tmp_path / "prepared"), "val")
    assert sorted(TRAIN_ID) == sorted(CATEGORIES.category_ids.tolist())
    assert [c.category_id for c in CATEGORIES.things] == [label for label in TRAIN_ID if label >= FIRST_THING]
    # In the order of train ids stuff comes first, in class order things do: the same order within each.
    class_of = [CATEGORIES.class_index(label) for label in sorted(TRAIN_ID, key=TRAIN_ID.get)]
    assert class_of == [*range(8, 19), *range(8)]
    classes = class_index_map(dataset.load_segment_ids(dataset.images[0]), dataset.images[0], dataset.categories)
    assert set(np.unique(classes)) <= {*range(19), 255}


def test_nothing_is_copied_and_neither_workers_nor_the_working_folder_matter(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (prepare(root.relative_to(tmp_path), Path(name), workers) for name, workers in (("one", 1), ("two", 2)))
    assert bytes_below(one) == bytes_below(two)
    assert dataset_fingerprint(one) == dataset_fingerprint(two)
    assert not list(one.rglob("*leftImg8bit*"))
    assert str(tmp_path) not in (one / "dataset.json").read_text()
    monkeypatch.chdir("/")
    dataset = open_split(tmp_path / "one", "train")
    assert dataset.load_photo(dataset.images[0]).any()


def test_what_is_missing_is_named(root, tmp_path):
    photo = next((root / "leftImg8bit" / "val" / "lindau").iterdir())
    photo.unlink()
    with pytest.raises(DataError, match=r"leftImg8bit/val: expected lindau/lindau_\d+_000019_leftImg8bit\.png"):
        prepare(root, tmp_path / "prepared")
    shutil.rmtree(root / "leftImg8bit" / "val")
    shutil.rmtree(root / "gtFine" / "val")
    with pytest.raises(DataError, match=r"gtFine/val: expected CITY/NAME_gtFine_instanceIds\.png, found none"):
        prepare(root, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_unreadable_labels_and_unknown_ones_are_named(root, tmp_path):
    for content in (b"", b"no png"):
        next((root / "gtFine" / "train" / "ulm").glob("*instanceIds.png")).write_bytes(content)
        with pytest.raises(DataError, match=r"ulm_\d+_000019_gtFine_instanceIds\.png: expected a grey 16-bit PNG"):
            prepare(root, tmp_path / "prepared")
    shutil.rmtree(root)
    write_image(root, "train", "ulm", "ulm_000009_000019", np.random.default_rng(1), np.full((8, 8), 34000, np.uint16))
    with pytest.raises(DataError, match="labels from 0 to 33, got instance id 34000"):
        prepare(root, tmp_path / "prepared")


def test_what_macos_leaves_beside_the_pictures_is_ignored(root, tmp_path):
    plain = prepare(root, tmp_path / "plain")
    for path in [*root.rglob("*_leftImg8bit.png"), *root.rglob("*_instanceIds.png")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert dataset_fingerprint(prepare(root, tmp_path / "with")) == dataset_fingerprint(plain)
