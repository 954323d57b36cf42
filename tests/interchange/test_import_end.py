"""Predictions of other tools as an end: written by hand in those tools' formats, or exported from a cache of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.core.errors import PredictionsError
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.interchange.import_end import export_end, folder_sha256, import_end
from antvisionps.panoptic.coco_panoptic import class_index_map, segment_ids_to_rgb
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader, SemanticWriter

PROJECT = Path(__file__).parents[2]
SKY, SAND = 2, 40
"""Categories of stuff."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare_scenes(folder, train_images=5, val_images=4, height=64, width=96, heldout_images=2, seed=3, workers=1)
    return folder


@pytest.fixture(scope="module")
def dataset(prepared):
    return open_split(prepared, "val")


@pytest.fixture(scope="module")
def identity(prepared, dataset):
    return CacheIdentity("mine", "val", dataset_fingerprint(prepared), dataset.categories)


@pytest.fixture(scope="module")
def native(tmp_path_factory, dataset, identity):
    """The folder of a cache like those of `predict`: noisy instances with mask_probs, planes on a coarse grid."""
    folder = tmp_path_factory.mktemp("native") / "mine" / "val"
    header = CacheHeader("mine", "val", identity.dataset_fingerprint, identity.categories, "w" * 64)
    rng = np.random.default_rng(7)
    with (
        InstancesWriter(folder / INSTANCES_FILE, header) as instances,
        SemanticWriter(folder / SEMANTIC_FILE, header) as semantics,
    ):
        for image in dataset.images:
            instances.write(noisy_instances(dataset, image, rng))
            semantics.write(noisy_semantics(dataset, image, rng))
    return folder


def noisy_instances(dataset, image, rng):
    ids = dataset.load_segment_ids(image)
    things = [s for s in image.segments if dataset.categories.by_id(s.category_id).is_thing] * 2
    masks = [np.roll(ids == s.segment_id, rng.integers(-3, 4, 2), axis=(0, 1)) for s in things]
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.array([s.category_id for s in things], np.int32),
        scores=rng.choice(np.array([0.1, 0.35, 0.7, 0.7, 1.0], np.float32), len(things)),  # some of them equal
        boxes_xywh=(rng.random((len(things), 4)) * 50).astype(np.float32),
        rles=encode_masks(np.array(masks)) if masks else [],
        mask_probs=rng.integers(0, 256, (len(things), 28, 28), np.uint8),
    )


def noisy_semantics(dataset, image, rng):
    classes = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)[2::4, 2::4]
    probs = np.eye(256)[classes][..., : len(dataset.categories)].transpose(2, 0, 1)
    probs = 0.6 * probs + 0.4 * rng.dirichlet(np.ones(len(probs)), classes.shape).transpose(2, 0, 1)
    return ImageSemantics.from_probs(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        input_height=image.height,
        input_width=image.width,
        stride=4.0,
        category_ids=dataset.categories.category_ids,
        probs=probs,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory, native, dataset, identity):
    folder = tmp_path_factory.mktemp("exported") / "files"
    export_end(native, folder, dataset=dataset, identity=identity)
    return folder


@pytest.fixture
def files(exported, tmp_path):
    """A copy of the exported files, to spoil."""
    return shutil.copytree(exported, tmp_path / "files")


def stem(image):
    return Path(image.file_name).with_suffix("")


def run_stage(name, *arguments):
    command = [sys.executable, str(PROJECT / "stages" / f"{name}.py"), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert ran.returncode == 0, ran.stderr
    return ran


def write_params(path, **fuse):
    """params.yaml with the one end `mine`, imported."""
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(PROJECT / "params.yaml")
    document["ends"], document["import_end"]["ends"] = [], ["mine"]
    document["predict"]["separate_ends"] = []
    document["fuse"] |= {"systems": ["mine"]} | fuse
    document["score"] |= {"bootstrap_samples": 20, "overlay_images": 0}
    document["runtime"]["workers"] = 1
    yaml.dump(document, path)
    return path


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Our own files come back as they were.


def test_an_end_imported_from_our_own_export_fuses_to_the_same_bytes(tmp_path, prepared, native, exported):
    run_stage(
        "import_end",
        *("--end", "mine", "--split", "val", "--prepared", prepared),
        *("--files", exported, "--out", tmp_path / "imported" / "mine" / "val"),
    )
    params = write_params(tmp_path / "params.yaml", min_score=0.3, min_stuff_area_px=32)
    for name, predictions in (("native", native.parents[1]), ("imported", tmp_path / "imported")):
        places = ("--prepared", prepared, "--predictions", predictions, "--out", tmp_path / name / "fused")
        run_stage("fuse", "--params", params, "--system", "mine", *places)
    fused = bytes_below(tmp_path / "native" / "fused")
    assert len(fused) == 5 + 3
    assert fused == bytes_below(tmp_path / "imported" / "fused")


def test_the_same_numbers_come_back_and_mask_probs_do_not(tmp_path, native, exported, dataset, identity):
    import_end(exported, tmp_path / "again", dataset=dataset, identity=identity)
    for file_name, reader in ((INSTANCES_FILE, InstancesReader), (SEMANTIC_FILE, SemanticReader)):
        with reader(native / file_name, identity) as before, reader(tmp_path / "again" / file_name, identity) as after:
            for image, again in zip(before, after, strict=True):
                assert getattr(again, "mask_probs", None) is None
                names = set(type(image).__dataclass_fields__) - {"mask_probs", "stored_areas_px", "source"}
                for name in names:
                    np.testing.assert_array_equal(getattr(image, name), getattr(again, name))
            assert after.header.weights_sha256 == folder_sha256(exported)


def test_the_same_cache_gives_the_same_files(tmp_path, native, exported, dataset, identity):
    export_end(native, tmp_path / "files", dataset=dataset, identity=identity)
    assert bytes_below(tmp_path / "files") == bytes_below(exported)


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
    (project / "data").mkdir(parents=True)
    shutil.copy(PROJECT / "dvc.yaml", project)
    shutil.copytree(prepared, project / "data" / "prepared")
    shutil.copytree(native.parents[1], project / "data" / "predictions")
    monkeypatch.chdir(project)
    cli.main(["export", "end", "mine", "--split", "val", "--to", "files"])
    assert "4 images of mine, val, are in files" in capsys.readouterr().out
    assert bytes_below(project / "files") == bytes_below(exported)
    with pytest.raises(SystemExit):
        cli.main(["export", "end", "mine", "--split", "val", "--to", "files"])
    assert "error: files exists already" in capsys.readouterr().err


# Panoptic results.


def split_something(dataset, image, rng):
    """The true map, moved, with its void, and a thing cut in two: a result with hits, misses and false positives."""
    segment_ids = np.roll(dataset.load_segment_ids(image), rng.integers(-9, 10, 2), axis=(0, 1))
    ids = np.zeros(segment_ids.shape, np.int32)
    for number, segment in enumerate(image.segments, start=1):
        ids[segment_ids == segment.segment_id] = number
    category_of = {number: segment.category_id for number, segment in enumerate(image.segments, start=1)}
    things = [key for key, category_id in category_of.items() if dataset.categories.by_id(category_id).is_thing]
    if things:
        new = max(category_of) + 1
        ids[: image.height // 3][ids[: image.height // 3] == things[0]] = new
        category_of[new] = category_of[things[0]]
    return ids, {key: category_of[key] for key in np.unique(ids).tolist() if key}


@pytest.fixture(scope="module")
def results_of(dataset):
    rng = np.random.default_rng(1)
    return {image.image_id: split_something(dataset, image, rng) for image in dataset.images}


def write_coco_panoptic(folder, dataset, results_of, *, info=lambda key, category_id: {}):
    """As panopticapi's converters and detectron2's COCOPanopticEvaluator write it."""
    (folder / "panoptic").mkdir(parents=True)
    rows = []
    for image in dataset.images:
        ids, category_of = results_of[image.image_id]
        name = f"{image.image_id:012d}.png"
        Image.fromarray(segment_ids_to_rgb(ids)).save(folder / "panoptic" / name)
        segments = [{"id": key, "category_id": value} | info(key, value) for key, value in category_of.items()]
        rows.append({"image_id": image.image_id, "file_name": name, "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps({"annotations": rows}))
    return folder


def test_panoptic_results_score_what_panopticapi_gives_them(
    tmp_path, prepared, dataset, identity, results_of, panopticapi_pq, capsys
):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    import_end(files, tmp_path / "predictions" / "mine" / "val", dataset=dataset, identity=identity)
    params = write_params(tmp_path / "params.yaml", min_stuff_area_px=0)
    places = ("--prepared", prepared, "--params", params)
    out = tmp_path / "fused"
    run_stage("fuse", *places, "--system", "mine", "--predictions", tmp_path / "predictions", "--out", out / "mine")
    run_stage("score", *places, "--fused", out, "--out", tmp_path / "metrics", "--overlays", tmp_path / "overlays")
    found = json.loads((tmp_path / "metrics" / "panoptic.json").read_text())["mine"]
    oracle = panopticapi_pq(
        str(prepared / "val.json"), str(files / "panoptic.json"), str(dataset.panoptic_dir), str(files / "panoptic")
    )
    assert 0 < oracle["All"]["pq"] < 1
    for group in ("All", "Things", "Stuff"):
        for measure in ("PQ", "SQ", "RQ"):
            assert found[group][measure] == pytest.approx(100 * oracle[group][measure.lower()])


def caches(folder):
    with InstancesReader(folder / INSTANCES_FILE) as instances, SemanticReader(folder / SEMANTIC_FILE) as semantics:
        return [*instances, *semantics]


def assert_equal_caches(one, other):
    for image, again in zip(caches(one), caches(other), strict=True):
        for name in set(type(image).__dataclass_fields__) - {"source"}:
            np.testing.assert_array_equal(getattr(image, name), getattr(again, name))


def test_hugging_face_and_detectron2_tensors_are_the_same_end(tmp_path, dataset, identity, results_of):
    """Transformers counts classes from 0 over things and stuff, detectron2 things and stuff apart; void is 0 or -1."""
    categories = dataset.categories
    scores = {image.image_id: 0.5 + 0.1 * index for index, image in enumerate(dataset.images)}
    coco = tmp_path / "coco"
    write_coco_panoptic(coco, dataset, results_of)
    document = json.loads((coco / "panoptic.json").read_text())
    for row in document["annotations"]:
        for segment in row["segments_info"]:
            segment["score"] = scores[row["image_id"]]
    (coco / "panoptic.json").write_text(json.dumps(document))

    hugging_face, detectron2 = tmp_path / "hf", tmp_path / "d2"
    rows = {hugging_face: [], detectron2: []}
    for folder in rows:
        (folder / "panoptic").mkdir(parents=True)
    for image in dataset.images:
        ids, category_of = results_of[image.image_id]
        np.save(hugging_face / "panoptic" / f"{image.image_id}.npy", np.where(ids == 0, -1, ids).astype(np.int32))
        Image.fromarray(ids.astype(np.uint16)).save(detectron2 / "panoptic" / f"{image.image_id}.png")
        for folder, suffix in ((hugging_face, "npy"), (detectron2, "png")):
            segments = []
            for key, category_id in category_of.items():
                is_thing = categories.by_id(category_id).is_thing
                score = scores[image.image_id]
                index = categories.class_index(category_id)
                if folder == hugging_face:
                    segments.append({"id": key, "label_id": index, "was_fused": not is_thing, "score": score})
                elif is_thing:
                    segments.append(
                        {"id": key, "isthing": True, "score": score, "category_id": index, "instance_id": 0}
                    )
                else:
                    contiguous = index - len(categories.things) + 1
                    segments.append({"id": key, "isthing": False, "category_id": contiguous, "area": 9})
            rows[folder].append(
                {"image_id": image.image_id, "file_name": f"{image.image_id}.{suffix}", "segments_info": segments}
            )
    id2label = {str(index): c.name for index, c in enumerate(categories.categories)}
    things = {str(index): c.name for index, c in enumerate(categories.things)}
    stuff = {str(index + 1): c.name for index, c in enumerate(categories.stuff)}
    for folder, labels in ((hugging_face, id2label), (detectron2, {"things": things, "stuff": stuff})):
        (folder / "panoptic.json").write_text(json.dumps(rows[folder]))
        (folder / "labels.json").write_text(json.dumps(labels))
    for name in ("coco", "hf", "d2"):
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=dataset, identity=identity)
    assert_equal_caches(tmp_path / "cache" / "coco", tmp_path / "cache" / "hf")
    assert_equal_caches(tmp_path / "cache" / "coco", tmp_path / "cache" / "d2")


def test_segments_of_one_stuff_category_become_one(tmp_path, dataset, identity, results_of):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    split = {}
    for image in dataset.images:
        ids, category_of = results_of[image.image_id]
        ids, category_of = ids.copy(), dict(category_of)
        stuff = next(key for key, value in category_of.items() if not dataset.categories.by_id(value).is_thing)
        y, x = np.argwhere(ids == stuff)[0]
        ids[y, x], category_of[9999] = 9999, category_of[stuff]
        split[image.image_id] = ids, {key: category_of[key] for key in np.unique(ids).tolist() if key}
    write_coco_panoptic(tmp_path / "split", dataset, split)
    import_end(files, tmp_path / "a", dataset=dataset, identity=identity)
    import_end(tmp_path / "split", tmp_path / "b", dataset=dataset, identity=identity)
    assert_equal_caches(tmp_path / "a", tmp_path / "b")


# Semantic maps and masks in their other shapes.


def test_a_png_of_labels_is_sure_of_its_classes(tmp_path, dataset, identity):
    """Grey of category ids, and a palette of class indices with a table, as mmsegmentation writes them."""
    (tmp_path / "ids" / "semantic").mkdir(parents=True)
    (tmp_path / "palette" / "semantic").mkdir(parents=True)
    categories = dataset.categories
    for image in dataset.images:
        classes = class_index_map(dataset.load_segment_ids(image), image, categories)
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
            for image, semantics in zip(dataset.images, reader, strict=True):
                classes = class_index_map(dataset.load_segment_ids(image), image, categories)
                assert set(np.unique(semantics.planes)) <= {0, 255}
                for category_id, plane in zip(semantics.category_ids, semantics.planes, strict=True):
                    np.testing.assert_array_equal(plane > 0, classes == categories.class_index(category_id))


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
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[3:9, 4:14] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    row = {"image_id": image.image_id, "category_id": category_id, "score": 1}
    row["segmentation"] = {"size": [image.height, image.width], "counts": counts}
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "instances.json").write_text(json.dumps([row]))
    import_end(tmp_path / "files", tmp_path / "cache", dataset=dataset, identity=identity)
    with InstancesReader(tmp_path / "cache" / INSTANCES_FILE, identity) as reader:
        found = reader.read(image.image_id)
        assert [len(other) for other in reader] == [1, 0, 0, 0]
    np.testing.assert_array_equal(found.runs.mask(0), mask)
    assert found.boxes_xywh.tolist() == [[4, 3, 10, 6]]


# What does not fit is refused, and nothing is written.


def refuse(files, dataset, identity, match):
    out = files.parent / "cache"
    with pytest.raises(PredictionsError, match=match):
        import_end(files, out, dataset=dataset, identity=identity)
    assert not list(files.parent.glob("*cache*"))


ROW_FAULTS = {
    "unknown category": ({"category_id": 999}, "result 0 .*unknown category 999"),
    "no category": ({"category_id": None}, "unknown category None"),
    "unknown image": ({"image_id": 12345}, "image 12345 is not in this split"),
    "score above 1": ({"score": 1.5}, "score from 0 to 1, got 1.5"),
    "score NaN": ({"score": float("nan")}, "score from 0 to 1, got nan"),
    "score true": ({"score": True}, "score from 0 to 1, got True"),
    "no score": ({"score": None}, "score from 0 to 1, got None"),
    "box of three": ({"bbox": [1, 2, 3]}, "expected bbox"),
    "box NaN": ({"bbox": [1, 2, 3, float("nan")]}, "expected bbox"),
    "other size": ({"segmentation": {"size": [9, 9], "counts": "a"}}, "got 9 x 9"),
    "polygon": ({"segmentation": [[0, 0, 1, 1, 2, 2]]}, "expected a segmentation"),
    "broken RLE": ({"segmentation": {"size": [64, 96], "counts": "zz~"}}, "mask 0"),
    "short run lengths": ({"segmentation": {"size": [64, 96], "counts": [5, 5]}}, "expected run lengths"),
}


MALFORMED_RLES = ["", "zz~", "P", "o" * 40, "O13", "1" * 2000, "0", "\u00e9"]


@pytest.mark.parametrize("counts", MALFORMED_RLES)
def test_a_malformed_mask_without_a_box_is_refused(files, dataset, identity, counts):
    """pycocotools, asked for the box, ends the whole process at some."""
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    rows[0] |= {"bbox": None, "segmentation": {"size": [64, 96], "counts": counts}}
    path.write_text(json.dumps(rows))
    refuse(files, dataset, identity, r"instances\.json: result 0 \(image \d+\): mask 0: .*write its mask again")


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_a_bad_row_is_refused(files, dataset, identity, fault):
    change, match = ROW_FAULTS[fault]
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    rows[0] |= change
    path.write_text(json.dumps(rows))
    refuse(files, dataset, identity, match)


def test_the_same_row_twice_is_refused(files, dataset, identity):
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[2]]))
    refuse(files, dataset, identity, f"results 2 and {len(rows)} are the same instance")


def test_an_instance_of_stuff_is_refused(files, dataset, identity):
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    rows[1]["category_id"] = dataset.categories.stuff[0].category_id
    path.write_text(json.dumps(rows))
    refuse(files, dataset, identity, "stands here as a thing")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[{"])
def test_instances_that_are_no_results_are_refused(files, dataset, identity, text):
    (files / "instances.json").write_text(text)
    refuse(files, dataset, identity, r"instances\.json: ")


def spoil_npz(path, **changes):
    with np.load(path) as arrays:
        values = {name: arrays[name] for name in arrays} | changes
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


NPZ_FAULTS = {
    "NaN": ({"probs": np.full((2, 16, 24), np.nan)}, "got nan"),
    "logits": ({"probs": np.full((2, 16, 24), 3.0)}, "are these logits"),
    "integers": ({"probs": np.ones((2, 16, 24), int)}, "float type or uint8"),
    "unknown category": ({"category_ids": np.array([SKY, 999])}, "unknown category 999"),
    "a category twice": ({"category_ids": np.array([SKY, SKY])}, "lists a category twice"),
    "other number of planes": ({"category_ids": np.array([SKY])}, "expected probs"),
    "no probs": ({"probs": None}, "expected an npz"),
    "a grid too small": ({"probs": np.ones((2, 3, 3), np.uint8)}, "a grid that covers"),
}


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_bad_probabilities_are_refused(files, dataset, identity, fault):
    changes, match = NPZ_FAULTS[fault]
    path = files / "semantic" / f"{stem(dataset.images[1])}.npz"
    spoil_npz(path, **({"probs": np.zeros((2, 16, 24), np.uint8), "category_ids": np.array([SKY, SAND])} | changes))
    refuse(files, dataset, identity, match)


def test_a_missing_a_surplus_and_a_double_file_are_refused(files, dataset, identity):
    npz = files / "semantic" / f"{stem(dataset.images[0])}.npz"
    shutil.copy(npz, npz.with_name("other.npz"))
    refuse(files, dataset, identity, r"other\.npz: no image of this split")
    npz.with_name("other.npz").unlink()
    shutil.copy(npz, npz.with_suffix(".png"))
    refuse(files, dataset, identity, "are of the same image")
    npz.with_suffix(".png").unlink()
    npz.write_bytes(npz.read_bytes()[:99])
    refuse(files, dataset, identity, "expected an npz")
    npz.unlink()
    refuse(files, dataset, identity, rf"no {stem(dataset.images[0])}\.png or \.npz")


def test_photos_that_differ_in_the_suffix_alone_are_refused(files, native, dataset, identity):
    first, second = dataset.images[:2]
    twin = replace(second, file_name=str(Path(first.file_name).with_suffix(".jpg")))
    ambiguous = replace(dataset, images=(first, twin, *dataset.images[2:]))
    match = rf"images {first.image_id} and {second.image_id} are .*\.png and .*\.jpg, .*rename one"
    refuse(files, ambiguous, identity, match)
    with pytest.raises(PredictionsError, match=match):
        export_end(native, files.parent / "out", dataset=ambiguous, identity=identity)
    assert not list(files.parent.glob("*out*"))


@pytest.mark.parametrize(
    ("picture", "match"),
    [
        (np.zeros((64, 96, 3), np.uint8), "mode RGB"),
        (np.zeros((32, 96), np.uint8), "got 32 x 96"),
        (np.full((64, 96), 77, np.uint8), "unknown category 77"),
    ],
)
def test_a_bad_png_of_labels_is_refused(files, dataset, identity, picture, match):
    path = files / "semantic" / f"{stem(dataset.images[0])}.npz"
    path.unlink()
    Image.fromarray(picture).save(path.with_suffix(".png"))
    refuse(files, dataset, identity, match)


def change_first(row, **changes):
    row["segments_info"][0] |= changes


PANOPTIC_FAULTS = {
    "unknown category": (lambda rows: change_first(rows[0], category_id=999), "segment .*unknown category 999"),
    "thing said to be stuff": (lambda rows: [change_first(row, isthing=9) for row in rows], "stands here as"),
    "score": (lambda rows: change_first(rows[0], score=-0.1), "score from 0 to 1"),
    "score NaN": (lambda rows: change_first(rows[0], score=float("nan")), "score from 0 to 1"),
    "surplus segment": (lambda rows: rows[0]["segments_info"].append({"id": 77777, "category_id": SKY}), "no pixel"),
    "missing segment": (lambda rows: rows[0]["segments_info"].pop(), "not in segments_info"),
    "segment twice": (lambda rows: rows[0]["segments_info"].append(rows[0]["segments_info"][0]), "appears twice"),
    "missing image": (lambda rows: rows.pop(), "is missing"),
    "image twice": (lambda rows: rows.append(rows[0]), "appears twice"),
    "unknown image": (lambda rows: rows[0].update(image_id=12345), "not in this split"),
    "no file": (lambda rows: rows[0].update(file_name="nothing.png"), "cannot be read"),
    "file of another kind": (lambda rows: rows[0].update(file_name="a.jpg"), "a .png or .npy"),
    "other size": (lambda rows: rows[0].update(file_name="small.npy"), "got 2 x 2"),
    "floats": (lambda rows: rows[0].update(file_name="floats.npy"), "expected integers"),
}


@pytest.mark.parametrize("fault", PANOPTIC_FAULTS)
def test_bad_panoptic_results_are_refused(tmp_path, dataset, identity, results_of, fault):
    change, match = PANOPTIC_FAULTS[fault]
    stuff_first = {
        image_id: (ids, dict(sorted(c.items(), key=lambda entry: dataset.categories.by_id(entry[1]).is_thing)))
        for image_id, (ids, c) in results_of.items()
    }
    files = write_coco_panoptic(tmp_path / "files", dataset, stuff_first)
    np.save(files / "panoptic" / "small.npy", np.zeros((2, 2), np.int32))
    np.save(files / "panoptic" / "floats.npy", np.zeros((64, 96)))
    document = json.loads((files / "panoptic.json").read_text())
    change(document["annotations"])
    (files / "panoptic.json").write_text(json.dumps(document))
    refuse(files, dataset, identity, match)


def test_a_label_of_two_meanings_needs_isthing(tmp_path, dataset, identity, results_of):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    thing, stuff = dataset.categories.things[0], dataset.categories.stuff[0]
    ids = sorted({value for _, category_of in results_of.values() for value in category_of.values()})
    labels = {"things": dict.fromkeys(ids, thing.name), "stuff": dict.fromkeys(ids, stuff.name)}
    (files / "labels.json").write_text(json.dumps(labels))
    refuse(files, dataset, identity, "expected isthing beside it")


@pytest.mark.parametrize("text", ["", "[]", '{"a": "sky"}', '{"things": 1, "stuff": {}}'])
def test_a_broken_table_of_labels_is_refused(files, dataset, identity, text):
    (files / "labels.json").write_text(text)
    refuse(files, dataset, identity, r"labels\.json: ")


def test_a_label_of_no_category_is_refused_when_it_is_used(files, dataset, identity):
    (files / "labels.json").write_text(json.dumps(dict.fromkeys(range(100), "N/A")))
    refuse(files, dataset, identity, "unknown category .*'N/A'")


def test_files_of_two_kinds_or_none_are_refused(files, dataset, identity, tmp_path):
    refuse(tmp_path / "nowhere", dataset, identity, "no such folder")
    (files / "panoptic.json").write_text("{}")
    refuse(files, dataset, identity, r"expected instances\.json or semantic/ or both")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", dataset, identity, r"got \[\]")


def test_for_dvc_an_imported_end_is_imported_and_not_predicted(tmp_path):
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    write_params(tmp_path / "params.yaml")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    listed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert [name for name in listed if name.startswith(("import_end", "predict"))] == [
        "import_end@mine-heldout",
        "import_end@mine-val",
    ]
