"""Files as the tools write them: Ultralytics' own code writes its, queries are as one saves them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch

from antvisionps import Writer
from antvisionps.interchange.import_end import import_end
from tests.interchange.guide import assert_equal_caches, names
from tests.interchange.two_masks import HW, LEFT, assert_left_and_right, prediction, thing_names

# COCO results.


def test_polygons_without_a_pixel_are_a_mask_without_one(empty, cached, dataset):
    row = {"image_id": dataset.images[0].image_id, "category_id": dataset.categories.things[0].category_id, "score": 1}
    Path("instances.json").write_text(json.dumps([row | {"segmentation": [[0, 0, 1, 1, 2, 2], [4, 4]]}]))
    instances, _ = cached()[dataset.images[0].image_id]
    assert instances.areas_px.tolist() == [0]


def test_a_number_that_is_a_photos_name_is_told_by_the_file_name_beside_it(empty, cached, dataset):
    """Ultralytics writes 7 for 0007.jpg, which may be another image's id."""
    first, second = dataset.images[:2]
    rle = pycocotools.mask.encode(np.asfortranarray(LEFT, dtype=np.uint8))
    row = {"image_id": second.image_id, "file_name": Path(first.file_name).name, "score": 1, "segmentation": rle}
    rle["counts"] = rle["counts"].decode()
    Path("predictions.json").write_text(json.dumps([row | {"category_id": dataset.categories.things[0].category_id}]))
    found = cached()
    assert [len(found[image.image_id][0]) for image in dataset.images] == [1, 0, 0, 0]


# Ultralytics.


@pytest.fixture
def save_txt(dataset, ultralytics):
    """Writes files of what was found; one photo has none, as nothing was."""
    return partial(_save_txt, dataset, ultralytics.engine.results.Results)


def _save_txt(dataset, results_class, **how):
    found = prediction()
    for image in dataset.images[1:]:
        boxes = torch.cat([found["bboxes"], found["conf"][:, None], found["cls"][:, None]], dim=1)
        results = results_class(np.zeros((*HW, 3), np.uint8), image.file_name, {}, boxes=boxes, masks=found["masks"])
        results.save_txt(f"labels/{Path(image.file_name).stem}.txt", **how)
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))


def test_save_txt_of_ultralytics(empty, cached, dataset, save_txt):
    save_txt(save_conf=True)
    nothing, *found = cached().values()
    assert len(nothing[0]) == 0
    for instances, semantics in found:
        assert_left_and_right(instances, dataset)
        assert semantics is None


def test_masks_of_a_pixel_or_two_are_left_out_as_ultralytics_gives_them_no_outline(
    empty, cached, dataset, save_txt, capsys
):
    save_txt(save_conf=True)
    paths = [empty / "labels" / f"{Path(image.file_name).stem}.txt" for image in dataset.images]
    paths[0].write_text("1 0.9\n1 0.1 0.2 0.9\n")
    paths[1].write_text(paths[1].read_text() + "1 0.1 0.2 0.1 0.3 0.9\n")
    nothing, *found = cached().values()
    assert len(nothing[0]) == 0
    for instances, _ in found:
        assert_left_and_right(instances, dataset)
    assert "labels: 3 rows of fewer than three corners are left out; first: " in capsys.readouterr().err


def test_bad_rows_of_save_txt_are_refused(empty, dataset, refuse, save_txt):
    save_txt()
    refuse(empty, r"\.txt: line 1: expected a class, three corners .* with save_conf=True")
    for path in (empty / "labels").iterdir():
        path.write_text("1 0.5 0.5 0.1 0.1 0.9\n")  # boxes
    refuse(empty, r"line 1: expected a class, three corners .* with save_conf=True, got no outline in any file")
    path = empty / "labels" / f"{Path(dataset.images[1].file_name).stem}.txt"
    sound = "1 0.1 0.1 0.5 0.1 0.5 0.5 0.9"
    for text, match in (
        ("1 a 0.1", "line 1: expected numbers, got '1 a 0.1'"),
        (f"{sound}\n\n1 0.1 0.9", "line 3: expected a class"),
        ("99 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "unknown category 99"),
        ("1.5 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "unknown category 1.5"),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5 9", "a score from 0 to 1, got 9.0"),
        ("1 0.1 0.1 0.5 nan 0.5 0.5 0.9", "corners as fractions"),
        ("1 10 10 50 10 50 50 0.9", "corners as fractions"),
        (f"{sound}\n{sound}\n", "the same row twice; save_txt appends"),
        ("\xff".encode("latin1").decode("latin1"), "expected numbers"),
    ):
        path.write_text(text)
        refuse(empty, match)
    path.write_bytes(b"\xff")
    refuse(empty, "cannot be read")
    path.rename(path.with_name("other.txt"))
    refuse(empty, r"other\.txt: no image of this split")


# Raw queries.


def queries(dataset, image):
    rng = np.random.default_rng(image.image_id)
    return {
        "class_logits": rng.normal(size=(6, len(dataset.categories) + 1)).astype(np.float32),
        "mask_logits": rng.normal(size=(6, 18, 26)).astype(np.float32),
    }


PADDING = {"input_hw": (64, 96), "padded_hw": (72, 104)}


def test_raw_queries_are_what_writer_makes_of_them(empty, dataset, identity, tmp_path):
    (empty / "queries").mkdir()
    labels = list(names(dataset).values())
    Path("labels.json").write_text(json.dumps(labels))
    with Writer("mine", gt=dataset.annotations, to=tmp_path / "written", labels=labels) as writer:
        for image in dataset.images:
            found = queries(dataset, image)
            sides = {name: np.array(side) for name, side in PADDING.items()}
            np.savez(f"queries/{Path(image.file_name).stem}.npz", **found, **sides)
            raw = {"pred_logits": found["class_logits"], "pred_masks": found["mask_logits"]}
            writer.add(image.image_id, raw, **PADDING)
    import_end(empty, tmp_path / "cache", dataset=dataset, identity=identity)
    assert_equal_caches(tmp_path / "written", tmp_path / "cache")


def test_bad_query_files_are_refused(empty, dataset, refuse):
    (empty / "queries").mkdir()
    Path("labels.json").write_text(json.dumps(list(names(dataset).values())))
    for image in dataset.images:
        np.savez(f"queries/{Path(image.file_name).stem}.npz", **queries(dataset, image))
    path = empty / "queries" / f"{Path(dataset.images[0].file_name).stem}.npz"
    sound = queries(dataset, dataset.images[0])
    for change, match in (
        ({"class_logits": None}, "it has no class_logits"),
        ({"mask_logits": np.ones((6, 4, 4), int)}, "expected mask_logits of a float type"),
        ({"mask_logits": sound["mask_logits"][:5]}, "expected class logits"),
        ({"class_logits": np.full_like(sound["class_logits"], np.nan)}, "got NaN or infinity"),
        ({"input_hw": [64, 96]}, "expected input_hw and padded_hw together"),
        ({"input_hw": [64], "padded_hw": [72, 104]}, r"expected input_hw \[height, width\]"),
        ({"input_hw": [0, 96], "padded_hw": [72, 104]}, r"expected input_hw \[height, width\]"),
    ):
        np.savez(path, **{name: value for name, value in (sound | change).items() if value is not None})
        refuse(empty, match)
    path.unlink()
    refuse(empty, rf"no {path.stem}\.npz, image .* is missing")


def test_files_of_one_kind_twice_are_refused(empty, refuse):
    twice = (["instances.json", "predictions.json"], ["a.pkl", "instances.json"], ["a.pkl", "b.pkl"])
    for files in (*twice, ["panoptic"], ["panoptic.json"], ["panoptic.json", "panoptic", "labels"]):
        for name in files:
            (empty / name).touch()
        refuse(empty, "the files of another tool that docs/your_own_data.md lists")
        for name in files:
            (empty / name).unlink()
