"""Predictions of other tools as an end: written by hand in those tools' formats, or exported from a cache of ours."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from antvisionps.cli import main as cli
from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.import_end import export_end, folder_sha256, import_end
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.drawing import draw_box
from tests.pipeline.workspace import PROJECT, bytes_below, succeed

SKY, SAND = 2, 40
"""Categories of stuff."""


def stem(image):
    return Path(image.file_name).with_suffix("")


# Our own files come back as they were.


def test_the_stage_brings_the_same_numbers_back_but_no_mask_probs(tmp_path, prepared, native, exported, identity):
    command = [sys.executable, "stages/import_end.py", "--end", "mine", "--split", "val", "--prepared", prepared]
    command += ["--files", exported, "--out", tmp_path / "again"]
    succeed(subprocess.run(command, capture_output=True, text=True, cwd=PROJECT))
    for file_name, reader in ((INSTANCES_FILE, InstancesReader), (SEMANTIC_FILE, SemanticReader)):
        with reader(native / file_name, identity) as before, reader(tmp_path / "again" / file_name, identity) as after:
            for image, again in zip(before, after, strict=True):
                assert getattr(again, "mask_probs", None) is None
                for name in set(type(image).__dataclass_fields__) - {"mask_probs"}:
                    np.testing.assert_array_equal(getattr(image, name), getattr(again, name))
            assert after.header.weights_sha256 == folder_sha256(exported)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_what_we_export(tmp_path, exported, native, dataset, identity):
    truth = {
        "info": {},
        "images": [{"id": i.image_id, "height": i.height, "width": i.width} for i in dataset.images],
        "annotations": [],
        "categories": [{"id": c.category_id, "name": c.name} for c in dataset.categories.things],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = COCO(str(tmp_path / "truth.json")).loadRes(str(exported / "instances.json"))
    with InstancesReader(native / INSTANCES_FILE, identity) as ours:
        for image in ours:
            found = results.loadAnns(results.getAnnIds(imgIds=[image.image_id]))
            assert [row["category_id"] for row in found] == image.category_ids.tolist()
            np.testing.assert_array_equal([row["score"] for row in found], image.scores)
            for index, row in enumerate(found):
                np.testing.assert_array_equal(results.annToMask(row), image.runs.mask(index))


def test_export_is_a_command(tmp_path, prepared, native, exported, monkeypatch, capsys):
    project = tmp_path / "project"
    shutil.copytree(prepared, project / "data" / "prepared")
    shutil.copy(PROJECT / "dvc.yaml", project)
    shutil.copytree(native.parents[1], project / "data" / "predictions")
    monkeypatch.chdir(project)
    cli.main(["export", "end", "mine", "--split", "val", "--to", "files"])
    assert "4 images of mine, val, are in files" in capsys.readouterr().out
    assert bytes_below(project / "files") == bytes_below(exported)
    with pytest.raises(SystemExit):
        cli.main(["export", "end", "mine", "--split", "val", "--to", "files"])
    assert "error: files exists already" in capsys.readouterr().err


# Semantic maps and masks in their other shapes.


def test_a_png_of_labels_is_sure_of_its_classes(tmp_path, dataset, identity):
    """Grey of category ids, and a palette of class indices with a table, as mmsegmentation writes them."""
    for name in ("ids", "palette"):
        (tmp_path / name / "semantic").mkdir(parents=True)
    categories = dataset.categories
    classes_of = {i: class_index_map(dataset.load_segment_ids(i), i, categories) for i in dataset.images}
    for image, classes in classes_of.items():
        lut = np.zeros(256, np.uint8)
        lut[: len(categories)] = categories.category_ids
        Image.fromarray(lut[classes]).save(tmp_path / "ids" / "semantic" / f"{stem(image)}.png")
        palette = Image.fromarray(classes).convert("P")
        palette.putdata(classes.ravel().tolist())
        palette.save(tmp_path / "palette" / "semantic" / f"{stem(image)}.png")
    names = {index: category.name for index, category in enumerate(categories.categories)}
    (tmp_path / "palette" / "labels.json").write_text(json.dumps(names))
    for name in ("ids", "palette"):
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=dataset, identity=identity)
        assert not (tmp_path / "cache" / name / INSTANCES_FILE).exists()
        with SemanticReader(tmp_path / "cache" / name / SEMANTIC_FILE, identity) as reader:
            for classes, semantics in zip(classes_of.values(), reader, strict=True):
                assert set(np.unique(semantics.planes)) <= {0, 255}
                for category_id, plane in zip(semantics.category_ids, semantics.planes, strict=True):
                    np.testing.assert_array_equal(plane > 0, classes == categories.class_index(category_id))


def test_hidden_files_are_ignored_in_every_folder(files, tmp_path, dataset, identity):
    import_end(files, tmp_path / "without", dataset=dataset, identity=identity)
    for name in (".DS_Store", "Thumbs.db", "semantic/.DS_Store", "semantic/desktop.ini", "semantic/__MACOSX/a.npz"):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).touch()
    (files / "semantic" / f"._{stem(dataset.images[0])}.npz").write_bytes(b"\0\5\x16\7")
    import_end(files, tmp_path / "with", dataset=dataset, identity=identity)
    assert bytes_below(tmp_path / "with") == bytes_below(tmp_path / "without")


@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_what_is_no_file_is_refused_at_once(files, dataset, refuse, suffix):
    path = files / "semantic" / f"{stem(dataset.images[0])}.npz"
    path.unlink()
    os.mkfifo(path.with_suffix(f".{suffix}"))
    refuse(files, "expected a file, got a FIFO")


def test_float_probabilities_of_any_grid_span_the_photo(tmp_path, dataset, identity):
    rng = np.random.default_rng(2)
    (tmp_path / "files" / "semantic").mkdir(parents=True)
    ids = dataset.categories.category_ids
    probs = {i.image_id: rng.dirichlet(np.ones(len(ids)), (5, 7)).transpose(2, 0, 1) for i in dataset.images}
    for image in dataset.images:
        name = tmp_path / "files" / "semantic" / f"{stem(image)}.npz"
        np.savez(name, probs=probs[image.image_id].astype(np.float16), category_ids=ids)
    import_end(tmp_path / "files", tmp_path / "cache", dataset=dataset, identity=identity)
    with SemanticReader(tmp_path / "cache" / SEMANTIC_FILE, identity) as reader:
        for semantics in reader:
            assert (semantics.input_height, semantics.input_width, semantics.stride) == (5, 7, 1.0)
            np.testing.assert_allclose(semantics.planes / 255, probs[semantics.image_id], atol=0.004)


def test_uncompressed_counts_and_a_missing_box(tmp_path, dataset, identity):
    image = dataset.images[0]
    category_id = dataset.categories.things[0].category_id
    mask = draw_box((image.height, image.width), (4, 3, 10, 6))
    counts = np.diff([0, *np.flatnonzero(np.diff(mask.ravel(order="F"))) + 1, mask.size]).tolist()
    segmentation = {"size": [image.height, image.width], "counts": counts}
    row = {"image_id": image.image_id, "category_id": category_id, "score": 1, "segmentation": segmentation}
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "instances.json").write_text(json.dumps([row]))
    import_end(tmp_path / "files", tmp_path / "cache", dataset=dataset, identity=identity)
    with InstancesReader(tmp_path / "cache" / INSTANCES_FILE, identity) as reader:
        found = reader.read(image.image_id)
        assert [len(other) for other in reader] == [1, 0, 0, 0]
    np.testing.assert_array_equal(found.runs.mask(0), mask)
    assert found.boxes_xywh.tolist() == [[4, 3, 10, 6]]


# What does not fit is refused, and nothing is written.


def change(**values):
    return lambda rows: rows[0].update(values)


def change_mask(**values):
    return change(bbox=None, segmentation={"size": [64, 96]} | values)


ROW_FAULTS = [
    (change(category_id=999), "result 0 .*unknown category 999"),
    (change(category_id=None), "unknown category None"),
    (change(category_id=SKY), "stands here as a thing"),
    (change(image_id=12345), "image_id 12345 is not in this split"),
    (change(image_id="12345"), "image_id '12345' is text, images have number ids"),
    (change(score=1.5), "score from 0 to 1, got 1.5"),
    (change(score=float("nan")), "no readable list of COCO results"),
    (change(score=True), "score from 0 to 1, got True"),
    (change(score=None), "score from 0 to 1, got None"),
    (change(bbox=[1, 2, 3]), "expected bbox"),
    (change(bbox=[1, 2, 3, "4"]), "expected bbox"),
    (change_mask(size=[9, 9], counts="a"), "got 9 x 9"),
    (change(segmentation=[]), "expected a segmentation"),
    (change(segmentation=[0, 0, 1, 1, 2, 0]), "got a flat one"),
    (change(segmentation=[[0, 0, 1]]), r"expected polygons \[x, y"),
    (change(segmentation=[[0, 0, 1, 1e9, 2, 2]]), "expected corners in the image of 96x64 px"),
    (change_mask(counts=[5, 5]), "expected run lengths"),
    (change_mask(counts=None), "expected counts to be a list or a string"),
    (lambda rows: rows.append(rows[2]), r"results 2 and \d+ are the same instance"),
    (lambda rows: rows.append(1), r"result \d+: expected an object, got 1"),
    (change(image_id=True), "image_id expected a whole number or text, got True"),
    (change(image_id=1000001.5), "image_id expected a whole number or text, got 1000001.5"),
    (change(category_id="3"), r"unknown category '3' \(text\)"),
    (change(category_id=3.5), "unknown category 3.5"),
    (change(category_id=True), "unknown category True"),
    (change(score="0.9"), "score from 0 to 1, got '0.9'"),
    (change(score=10**400), "no readable list of COCO results"),
    (change(bbox=[0, 0, 1e39, 1]), "expected bbox"),
    (change(bbox={"x": 1}), "expected bbox"),
    (change(segmentation=None), "got a box alone"),
    # Without a box, pycocotools is asked for it, and ends the whole process at some of these.
    *[
        (change_mask(counts=counts), r"instances\.json: result 0 \(image \d+\): mask 0: .*write its mask again")
        for counts in ("", "zz~", "P", "o" * 40, "O13", "1" * 2000, "0", "\u00e9")
    ],
]


@pytest.mark.parametrize(("spoil", "match"), ROW_FAULTS)
def test_a_bad_row_is_refused(files, refuse, spoil, match):
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    spoil(rows)
    path.write_text(json.dumps(rows))
    refuse(files, match)


BROKEN = [
    ("instances", text) for text in ("", "{}", "[1]", "[{", "[] []", "1", "null", '{"annotations": {}}', '{"rows": []}')
]
BROKEN += [("labels", text) for text in ("", "[]", '{"a": "sky"}', '{"things": 1, "stuff": {}}')]


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_a_broken_json_is_refused(files, refuse, name, text):
    (files / f"{name}.json").write_text(text)
    refuse(files, rf"{name}\.json: ")


NPZ_FAULTS = [
    ({"probs": np.full((2, 16, 24), np.nan)}, "got nan"),
    ({"probs": np.full((2, 16, 24), 3.0)}, "are these logits"),
    ({"probs": np.ones((2, 16, 24), int)}, "float type or uint8"),
    ({"category_ids": np.array([SKY, 999])}, "unknown category 999"),
    ({"category_ids": np.array([SKY, SKY])}, "lists a category twice"),
    ({"category_ids": np.array([SKY])}, "expected probs"),
    ({"probs": None}, "expected an npz"),
    ({"probs": np.ones((2, 3, 3), np.uint8)}, "a grid that covers"),
]


@pytest.mark.parametrize(("changes", "match"), NPZ_FAULTS)
def test_bad_probabilities_are_refused(files, dataset, refuse, changes, match):
    path = files / "semantic" / f"{stem(dataset.images[1])}.npz"
    sound = {"probs": np.zeros((2, 16, 24), np.uint8), "category_ids": np.array([SKY, SAND])}
    with np.load(path) as arrays:
        values = dict(arrays) | sound | changes
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    refuse(files, match)


def test_a_missing_a_surplus_and_a_double_file_are_refused(files, dataset, refuse):
    npz = files / "semantic" / f"{stem(dataset.images[0])}.npz"
    shutil.copy(npz, npz.with_name("other.npz"))
    refuse(files, r"other\.npz: no image of this split")
    npz.with_name("other.npz").unlink()
    shutil.copy(npz, npz.with_suffix(".png"))
    refuse(files, "are of the same image")
    npz.with_suffix(".png").unlink()
    npz.write_bytes(npz.read_bytes()[:99])
    refuse(files, "expected an npz")
    npz.unlink()
    refuse(files, rf"no {stem(dataset.images[0])}\.png or \.npz")


def test_photos_that_differ_in_the_suffix_alone_are_refused(files, native, dataset, identity, refuse):
    first, second = dataset.images[:2]
    twin = replace(second, file_name=str(Path(first.file_name).with_suffix(".jpg")))
    ambiguous = replace(dataset, images=(first, twin, *dataset.images[2:]))
    match = rf"images {first.image_id} and {second.image_id} are .*\.png and .*\.jpg, .*rename one"
    refuse(files, match, ambiguous)
    with pytest.raises(PredictionsError, match=match):
        export_end(native, files.parent / "out", dataset=ambiguous, identity=identity)
    assert not list(files.parent.glob("*out*"))


@pytest.mark.parametrize(
    ("picture", "match"),
    [
        (np.zeros((64, 96, 3), np.uint8), "a grey or palette PNG.*, got RGB"),
        (np.zeros((32, 96), np.uint8), "got 32 x 96; resize"),
        (np.zeros((96, 64), np.uint8), "got 96 x 64; turn photos upright by their EXIF orientation"),
        (np.full((64, 96), 77, np.uint8), "unknown category 77"),
    ],
)
def test_a_bad_png_of_labels_is_refused(files, dataset, refuse, picture, match):
    path = files / "semantic" / f"{stem(dataset.images[0])}.npz"
    path.unlink()
    Image.fromarray(picture).save(path.with_suffix(".png"))
    refuse(files, match)


def test_labels_of_no_category_and_files_of_two_kinds_or_none_are_refused(files, refuse, tmp_path):
    (files / "labels.json").write_text(json.dumps(dict.fromkeys(range(100), "N/A")))
    refuse(files, "unknown category .*'N/A'")
    refuse(tmp_path / "nowhere", "no such folder")
    (files / "panoptic.json").write_text("{}")
    refuse(files, r"expected instances\.json or semantic/ or both")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", r"got \[\]")
