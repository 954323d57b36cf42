"""Panoptic results of panopticapi, Hugging Face and detectron2, as an end."""

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.interchange.import_end import import_end
from antvisionps.params.whole import load_params
from antvisionps.pipeline.fuse import fuse_systems
from antvisionps.pipeline.score import score
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.interchange.guide import assert_equal_caches
from tests.pipeline.workspace import PROJECT, change_params

SKY = 2


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


def write_coco_panoptic(folder, dataset, results_of, score_of=None):
    """As panopticapi's converters and detectron2's COCOPanopticEvaluator write it."""
    (folder / "panoptic").mkdir(parents=True)
    rows = []
    for image in dataset.images:
        ids, category_of = results_of[image.image_id]
        name = f"{image.image_id:012d}.png"
        Image.fromarray(id2rgb(ids)).save(folder / "panoptic" / name)
        score = {"score": score_of[image.image_id]} if score_of else {}
        segments = [{"id": key, "category_id": value} | score for key, value in category_of.items()]
        rows.append({"image_id": image.image_id, "file_name": name, "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps({"annotations": rows}))
    return folder


def test_panoptic_results_score_what_panopticapi_gives_them(
    tmp_path, prepared, dataset, identity, results_of, panopticapi_pq
):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    import_end(files, tmp_path / "predictions" / "mine" / "val", dataset=dataset, identity=identity)
    weights = {"semantic_weights": {"mine": 1.0}, "instance_weights": {"mine": 1.0}}
    changes = {
        "ends": [],
        "import_end": {"ends": ["mine"]},
        "predict": {"separate_ends": []},
        "fuse": {"systems": ["mine"], "method": "heuristic", "min_stuff_area_px": 0} | weights,
        "score": {"bootstrap_samples": 20, "overlay_images": 0},
        "runtime": {"workers": 1},
    }
    params = load_params(change_params(PROJECT / "params.yaml", tmp_path / "params.yaml", **changes))
    places = {name: tmp_path / name for name in ("predictions", "routing", "calibration")} | {"prepared": prepared}
    fuse_systems(params, **places, out=tmp_path / "fused")
    written = {"out": tmp_path / "metrics", "scores": tmp_path / "scores", "with_budget": False}
    score(params, **places, fused=tmp_path / "fused", **written)
    found = json.loads((tmp_path / "metrics" / "panoptic.json").read_text())["mine"]
    places = prepared / "val.json", files / "panoptic.json", dataset.panoptic_dir, files / "panoptic"
    oracle = panopticapi_pq(*map(str, places))
    assert 0 < oracle["All"]["pq"] < 1
    for group in ("All", "Things", "Stuff"):
        for measure in ("PQ", "SQ", "RQ"):
            assert found[group][measure] == pytest.approx(100 * oracle[group][measure.lower()])


def hugging_face_row(key, category_id, categories, score):
    is_thing = categories.by_id(category_id).is_thing
    return {"id": key, "label_id": categories.class_index(category_id), "was_fused": not is_thing, "score": score}


def detectron2_row(key, category_id, categories, score):
    index = categories.class_index(category_id)
    if categories.by_id(category_id).is_thing:
        return {"id": key, "isthing": True, "score": score, "category_id": index, "instance_id": 0}
    return {"id": key, "isthing": False, "category_id": index - len(categories.things) + 1, "area": 9}


def test_hugging_face_and_detectron2_tensors_are_the_same_end(tmp_path, dataset, identity, results_of):
    """Transformers counts classes from 0 over things and stuff, detectron2 things and stuff apart; void is 0 or -1."""
    categories = dataset.categories
    score_of = {image.image_id: 0.5 + 0.1 * index for index, image in enumerate(dataset.images)}
    write_coco_panoptic(tmp_path / "coco", dataset, results_of, score_of)
    for name in ("hf", "d2"):
        (tmp_path / name / "panoptic").mkdir(parents=True)
    for image_id, (ids, _) in results_of.items():
        np.save(tmp_path / "hf" / "panoptic" / f"{image_id}.npy", np.where(ids == 0, -1, ids).astype(np.int32))
        Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "d2" / "panoptic" / f"{image_id}.png")
    id2label = {str(index): c.name for index, c in enumerate(categories.categories)}
    things = {str(index): c.name for index, c in enumerate(categories.things)}
    stuff = {str(index + 1): c.name for index, c in enumerate(categories.stuff)}
    import_end(tmp_path / "coco", tmp_path / "cache" / "coco", dataset=dataset, identity=identity)
    d2_labels = {"things": things, "stuff": stuff}
    formats = ("hf", "npy", hugging_face_row, id2label), ("d2", "png", detectron2_row, d2_labels)
    for name, suffix, segment_row, labels in formats:
        rows = []
        for image_id, (_, category_of) in results_of.items():
            segments = [segment_row(key, c, categories, score_of[image_id]) for key, c in category_of.items()]
            rows.append({"image_id": image_id, "file_name": f"{image_id}.{suffix}", "segments_info": segments})
        (tmp_path / name / "panoptic.json").write_text(json.dumps(rows))
        (tmp_path / name / "labels.json").write_text(json.dumps(labels))
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=dataset, identity=identity)
        assert_equal_caches(tmp_path / "cache" / "coco", tmp_path / "cache" / name)


UNSIGNED = [np.uint8, np.uint16, np.uint64]
SIGNED = [np.int64, ">i4", np.float16, np.float32, np.float64]


@pytest.mark.parametrize(
    ("dtype", "void"), [(dtype, 0) for dtype in (*UNSIGNED, *SIGNED)] + [(dtype, -1) for dtype in SIGNED]
)
def test_maps_of_whole_numbers_of_any_type_are_the_same_end(tmp_path, dataset, identity, results_of, dtype, void):
    expected = write_coco_panoptic(tmp_path / "coco", dataset, results_of)
    import_end(expected, tmp_path / "a", dataset=dataset, identity=identity)
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    rows = json.loads((files / "panoptic.json").read_text())["annotations"]
    for row in rows:
        ids, _ = results_of[row["image_id"]]
        row["file_name"] = f"{row['image_id']}.NPY"
        with (files / "panoptic" / row["file_name"]).open("wb") as file:
            np.save(file, np.where(ids == 0, void, ids).astype(dtype))
        row["image_id"] = f"{row['image_id']:012d}"  # the photo's name
        row["segments_info"] = [{name: float(value) for name, value in one.items()} for one in row["segments_info"]]
    (files / "panoptic.json").write_text(json.dumps(rows))
    import_end(files, tmp_path / "b", dataset=dataset, identity=identity)
    assert_equal_caches(tmp_path / "a", tmp_path / "b")


def test_segment_0_is_a_segment_where_it_is_listed_and_void_where_not(tmp_path, dataset, identity):
    sky, sand = SKY, 40
    for name, rows in {"listed": [(0, sand), (1, sky)], "not": [(1, sky)]}.items():
        (tmp_path / name / "panoptic").mkdir(parents=True)
        segments = [{"id": key, "category_id": category} for key, category in rows]
        ids = np.full((64, 96), -1, np.float32)
        ids[:20], ids[20:40] = 1, 0
        for image in dataset.images:
            np.save(tmp_path / name / "panoptic" / f"{image.image_id}.npy", ids)
        row = {"segments_info": segments}
        listed = [row | {"image_id": i.image_id, "file_name": f"{i.image_id}.npy"} for i in dataset.images]
        (tmp_path / name / "panoptic.json").write_text(json.dumps(listed))
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=dataset, identity=identity)
        with SemanticReader(tmp_path / "cache" / name / SEMANTIC_FILE) as reader:
            planes = reader.read(dataset.images[0].image_id)
        areas = dict(zip(planes.category_ids.tolist(), (planes.planes > 0).sum(axis=(1, 2)).tolist(), strict=True))
        assert areas == ({sky: 1920, sand: 1920} if name == "listed" else {sky: 1920})


def test_segments_of_one_stuff_category_become_one(tmp_path, dataset, identity, results_of):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    split = {}
    for image_id, (ids, category_of) in results_of.items():
        ids, category_of = ids.copy(), dict(category_of)
        stuff = next(key for key, value in category_of.items() if not dataset.categories.by_id(value).is_thing)
        y, x = np.argwhere(ids == stuff)[0]
        ids[y, x], category_of[9999] = 9999, category_of[stuff]
        split[image_id] = ids, {key: category_of[key] for key in np.unique(ids).tolist() if key}
    write_coco_panoptic(tmp_path / "split", dataset, split)
    import_end(files, tmp_path / "a", dataset=dataset, identity=identity)
    import_end(tmp_path / "split", tmp_path / "b", dataset=dataset, identity=identity)
    assert_equal_caches(tmp_path / "a", tmp_path / "b")


def change_first(row, **changes):
    row["segments_info"][0] |= changes


PANOPTIC_FAULTS = {
    "unknown category": (lambda rows: change_first(rows[0], category_id=999), "segment .*unknown category 999"),
    "stuff said to be a thing": (lambda rows: [change_first(row, isthing=1) for row in rows], "stands here as"),
    "isthing": (lambda rows: change_first(rows[0], isthing="0"), "isthing: expected 0, 1, false or true, got '0'"),
    "score": (lambda rows: change_first(rows[0], score=-0.1), "score from 0 to 1"),
    "score NaN": (lambda rows: change_first(rows[0], score=float("nan")), "score from 0 to 1"),
    "surplus segment": (lambda rows: rows[0]["segments_info"].append({"id": 77777, "category_id": SKY}), "no pixel"),
    "missing segment": (lambda rows: rows[0]["segments_info"].pop(), "not in segments_info"),
    "thing twice": (lambda rows: rows[0]["segments_info"].append(rows[0]["segments_info"][-1]), "appears twice"),
    "segment of two categories": (
        lambda rows: rows[0]["segments_info"].append(rows[0]["segments_info"][0] | {"category_id": 40}),
        "appears twice",
    ),
    "fractional id": (lambda rows: change_first(rows[0], id=1.5), "segment id from 0 on, got 1.5"),
    "missing image": (lambda rows: rows.pop(), "is missing"),
    "image twice": (lambda rows: rows.append(rows[0]), "appears twice"),
    "unknown image": (lambda rows: rows[0].update(image_id=12345), "not in this split"),
    "no file": (lambda rows: rows[0].update(file_name="nothing.png"), "cannot be read"),
    "file of another kind": (lambda rows: rows[0].update(file_name="a.jpg"), "a .png or .npy"),
    "other size": (lambda rows: rows[0].update(file_name="small.npy"), "got 2 x 2"),
    "fractions": (lambda rows: rows[0].update(file_name="fractions.npy"), "expected whole numbers, got 0.5"),
    "NaN": (lambda rows: rows[0].update(file_name="nan.npy"), "expected whole numbers, got nan"),
    "infinity": (lambda rows: rows[0].update(file_name="infinity.npy"), "expected whole numbers, got inf"),
    "ids beyond int64": (lambda rows: rows[0].update(file_name="huge.npy"), "expected whole numbers, got 18446744073"),
    "flags": (lambda rows: rows[0].update(file_name="flags.npy"), "expected integers, got bool"),
    "objects": (lambda rows: rows[0].update(file_name="objects.npy"), "Python objects"),
    "pickle": (lambda rows: rows[0].update(file_name="pickle.npy"), "cannot be read as a map"),
    "records": (lambda rows: rows[0].update(file_name="records.npy"), "cannot be read as a map"),
    "truncated": (lambda rows: rows[0].update(file_name="truncated.npy"), "announces 49152 bytes, int64 .*are 49100"),
    "121 GiB": (lambda rows: rows[0].update(file_name="bomb.npy"), r"announces \d+ bytes"),
    "file elsewhere": (lambda rows: rows[0].update(file_name="../panoptic/small.npy"), "would leave it"),
    "absolute file": (lambda rows: rows[0].update(file_name="/maps/small.npy"), "would leave it"),
}


def write_bad_maps(folder):
    np.save(folder / "small.npy", np.zeros((2, 2), np.int32))
    for name, value in {"fractions": 0.5, "nan": np.nan, "infinity": np.inf, "flags": False}.items():
        np.save(folder / f"{name}.npy", np.full((64, 96), value))
    np.save(folder / "huge.npy", np.full((64, 96), 2**64 - 1, np.uint64))
    np.save(folder / "objects.npy", np.full((64, 96), None), allow_pickle=True)
    np.save(folder / "records.npy", np.zeros((64, 96), [("é", int)]))
    (folder / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    np.save(folder / "truncated.npy", np.zeros((64, 96), np.int64))
    whole = (folder / "truncated.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[:-52])
    # As long a header, which announces 130 GB.
    (folder / "bomb.npy").write_bytes(whole.replace(b"(64, 96), }     ", b"(64, 254000000)}"))


@pytest.mark.parametrize(("change", "match"), PANOPTIC_FAULTS.values(), ids=PANOPTIC_FAULTS)
def test_bad_panoptic_results_are_refused(tmp_path, dataset, results_of, refuse, change, match):
    stuff_first = {
        image_id: (ids, dict(sorted(c.items(), key=lambda entry: dataset.categories.by_id(entry[1]).is_thing)))
        for image_id, (ids, c) in results_of.items()
    }
    files = write_coco_panoptic(tmp_path / "files", dataset, stuff_first)
    write_bad_maps(files / "panoptic")
    document = json.loads((files / "panoptic.json").read_text())
    change(document["annotations"])
    (files / "panoptic.json").write_text(json.dumps(document))
    refuse(files, match)


def test_a_label_of_two_meanings_needs_isthing(tmp_path, dataset, results_of, refuse):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    thing, stuff = dataset.categories.things[0], dataset.categories.stuff[0]
    ids = sorted({value for _, category_of in results_of.values() for value in category_of.values()})
    labels = {"things": dict.fromkeys(ids, thing.name), "stuff": dict.fromkeys(ids, stuff.name)}
    (files / "labels.json").write_text(json.dumps(labels))
    refuse(files, "expected isthing beside it")


def test_a_palette_and_alpha_mean_in_a_prediction_what_they_mean_in_the_truth(tmp_path, dataset, identity, results_of):
    """As PNG optimisers write them: the colours stay."""
    plain = write_coco_panoptic(tmp_path / "plain", dataset, results_of)
    import_end(plain, tmp_path / "cache", dataset=dataset, identity=identity)
    (tmp_path / "with").mkdir()
    for kind in ("palette", "alpha"):
        files = write_coco_panoptic(tmp_path / "with" / kind, dataset, results_of)
        for path in (files / "panoptic").iterdir():
            picture = Image.open(path)
            if kind == "palette":
                picture.quantize(256).save(path)
            else:
                picture.putalpha(0)
                picture.save(path)
        import_end(files, tmp_path / "with" / "cache", dataset=dataset, identity=identity)
        for name in (INSTANCES_FILE, SEMANTIC_FILE):
            read = [pq.read_table(tmp_path / place / "cache" / name) for place in (".", "with")]
            assert read[0].equals(read[1])


def test_a_map_that_disagrees_says_how_its_png_is_read(tmp_path, dataset, refuse, results_of):
    files = write_coco_panoptic(tmp_path / "files", dataset, results_of)
    image = dataset.images[0]
    hw = image.height, image.width
    Image.fromarray(np.full(hw, 200, np.uint8)).save(files / "panoptic" / f"{image.image_id:012d}.png")
    refuse(files, "its PNG is grey, its values are the ids.*segment .* has no pixel in the map")
