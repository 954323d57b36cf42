"""Counts and PQ of thousands of random pairs of maps, each in turn and all together, against two other scorers."""

import contextlib
import io
import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb

from antvisionps import panoptic_quality
from antvisionps.evaluation.panoptic_quality import SIZES, class_quality, group_quality, match_segments, total_counts
from antvisionps.panoptic.segment_runs import SegmentRuns, find_runs
from antvisionps.panoptic.segments import measure_segments
from tests.evaluation.test_panoptic_quality import rows

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 3, "name": "sky", "isthing": 0},
]
IDS = [category["id"] for category in CATEGORIES]
KINDS = (
    *("noisy", "noisy", "noisy", "other"),
    *("void truth", "void prediction", "void", "crowds", "the same", "one over all", "boundary"),
)
PAIRS = 190 * len(KINDS)


@dataclass
class Pair:
    kind: str
    gt_ids: np.ndarray
    gt: list
    predicted_ids: np.ndarray
    predicted: list


def random_ids(rng, hw):
    """Blobs, some of them void, with ids as large as COCO's."""
    segments = int(rng.integers(1, 8))
    ids = np.concatenate([[0], rng.choice(2**24 - 1, segments, replace=False) + 1])
    coarse = rng.integers(0, segments + 1, (4, 4)).repeat(6, axis=0).repeat(6, axis=1)
    return ids[np.roll(coarse, rng.integers(0, 6, 2), axis=(0, 1))[: hw[0], : hw[1]]]


def random_pair(rng, kind):
    hw = tuple(rng.integers(3, 24, 2).tolist())
    gt_ids = random_ids(rng, hw)
    if kind == "other":
        predicted_ids = random_ids(rng, hw)
    elif kind == "the same":
        predicted_ids = gt_ids
    elif kind == "one over all":
        predicted_ids = np.full(hw, 9)
    elif kind == "boundary":  # halves: IoUs and forgiven parts of just a half
        gt_ids, predicted_ids = np.zeros(hw, int), np.zeros(hw, int)
        gt_ids[:, : hw[1] // 2 * 2] = 5
        gt_ids[hw[0] // 2 :, : hw[1] // 2 * 2] = int(rng.choice([0, 5, 6]))
        predicted_ids[:, : hw[1] // 2] = 5
        predicted_ids[:, hw[1] // 2 : hw[1] // 2 * 2] = int(rng.choice([0, 5, 6]))
    else:
        predicted_ids = np.roll(gt_ids, rng.integers(-2, 3, 2), axis=(0, 1))
        predicted_ids = np.where(rng.random(hw) < 0.1, 0, predicted_ids)
    if kind in ("void truth", "void"):
        gt_ids = np.zeros_like(gt_ids)
    if kind in ("void prediction", "void"):
        predicted_ids = np.zeros_like(predicted_ids)

    def categories(ids):
        # Of one segment in two maps the category is mostly the same.
        return {i: 1 + i % 3 if rng.random() < 0.8 else int(rng.integers(1, 4)) for i in np.unique(ids).tolist() if i}

    gt_categories = categories(gt_ids)
    crowds = frozenset(i for i in gt_categories if rng.random() < (0.9 if kind == "crowds" else 0.15))
    gt = list(measure_segments(gt_ids, category_ids=gt_categories, crowd_ids=crowds))
    rng.shuffle(gt)  # the last crowd listed counts, not the one of the largest id
    predicted = list(measure_segments(predicted_ids, category_ids=categories(predicted_ids)))
    return Pair(kind, gt_ids, gt, predicted_ids, predicted)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(11)
    return [random_pair(rng, KINDS[index % len(KINDS)]) for index in range(PAIRS)]


def match(pairs):
    """All together."""
    return match_segments(
        gt_runs=join([find_runs(pair.gt_ids, pair.gt) for pair in pairs]),
        gt=[pair.gt for pair in pairs],
        predicted_runs=join([find_runs(pair.predicted_ids, pair.predicted) for pair in pairs]),
        predicted=[pair.predicted for pair in pairs],
    )


def join(runs):
    lengths, indices = (np.concatenate([getattr(one, name) for one in runs]) for name in ("lengths", "segment_indices"))
    return SegmentRuns(lengths, indices, np.cumsum([0, *(len(one.lengths) for one in runs)]))


@pytest.fixture(scope="module")
def matches(pairs):
    """Of each pair alone."""
    return [match([pair]) for pair in pairs]


@pytest.fixture(scope="module")
def counts(matches):
    return [alone.counts()[0] for alone in matches]


@pytest.fixture(scope="module")
def folder(pairs, tmp_path_factory):
    """The pairs as files of the COCO panoptic format: gt.json, predicted.json and a folder of PNGs beside each."""
    root = tmp_path_factory.mktemp("maps")
    for which in ("gt", "predicted"):
        (root / which).mkdir()
        annotations = []
        for index, pair in enumerate(pairs):
            rgb = id2rgb(getattr(pair, f"{which}_ids").astype(np.uint32))
            cv2.imwrite(str(root / which / f"{index}.png"), rgb[..., ::-1])
            segments = [
                {"id": s.segment_id, "category_id": s.category_id, "area": s.area_px, "iscrowd": int(s.is_crowd)}
                | {"bbox": list(s.bbox_xywh)}
                for s in getattr(pair, which)
            ]
            annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
        images = [
            {"id": i, "file_name": f"{i}.jpg", "height": p.gt_ids.shape[0], "width": p.gt_ids.shape[1]}
            for i, p in enumerate(pairs)
        ]
        document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / f"{which}.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def panopticapi_stat(folder):
    """panopticapi's counts of the images at some positions, added up in that order."""
    names = ("gt", "predicted")
    gt, predicted = (json.loads((folder / f"{name}.json").read_text())["annotations"] for name in names)
    categories = {category["id"]: category for category in CATEGORIES}

    def count(positions):
        matched = [(gt[index], predicted[index]) for index in positions]
        with contextlib.redirect_stdout(io.StringIO()):
            return pq_compute_single_core(0, matched, str(folder / "gt"), str(folder / "predicted"), categories)

    return count


def test_every_image_counts_as_panopticapi_has_it(pairs, counts, panopticapi_stat):
    for index, (pair, found) in enumerate(zip(pairs, counts, strict=True)):
        expected = panopticapi_stat([index])
        for category_id in IDS:
            stat = expected[category_id]
            assert rows(found).get(category_id, (0, 0, 0, 0)) == (stat.tp, stat.fp, stat.fn, stat.iou), pair.kind


def test_images_matched_together_count_as_each_alone(pairs, matches):
    together = match(pairs)
    assert list(map(rows, together.counts())) == [rows(*alone.counts()) for alone in matches]
    assert [c.ious.tolist() for c in together.counts()] == [alone.counts()[0].ious.tolist() for alone in matches]
    for size in SIZES:
        found = list(map(rows, together.of_size(size, IDS[:2]).counts()))
        assert found == [rows(*alone.of_size(size, IDS[:2]).counts()) for alone in matches]


def test_files_and_arrays_score_what_panopticapi_gives_them_to_the_last_bit(pairs, folder, panopticapi_stat):
    stat = panopticapi_stat(range(PAIRS))
    documents = {which: json.loads((folder / f"{which}.json").read_text()) for which in ("gt", "predicted")}
    rows_of = {which: document["annotations"] for which, document in documents.items()}
    arrays = [
        [(getattr(pair, f"{which}_ids"), row["segments_info"]) for pair, row in zip(pairs, rows, strict=True)]
        for which, rows in rows_of.items()
    ]
    files = [(folder / f"{which}.json", folder / which) for which in rows_of]
    for found in (panoptic_quality(*files, workers=2), panoptic_quality(*arrays, categories=CATEGORIES)):
        for quality, is_thing in ((found.all, None), (found.things, True), (found.stuff, False)):
            mean, per_class = stat.pq_average({category["id"]: category for category in CATEGORIES}, isthing=is_thing)
            assert (quality.pq, quality.sq, quality.rq, quality.n_categories) == tuple(mean.values())
            of_class = {key: [*values.values()] for key, values in per_class.items()}
            assert {key: [one.pq, one.sq, one.rq] for key, one in found.classes.items() if key in of_class} == of_class


def test_every_kind_of_pair_has_what_it_is_for(pairs, counts):
    total = {kind: total_counts([c for p, c in zip(pairs, counts, strict=True) if p.kind == kind]) for kind in KINDS}
    assert total["void"].tp.sum() == total["void"].fp.sum() == total["void"].fn.sum() == 0
    assert total["void truth"].fp.sum() == total["void prediction"].tp.sum() == 0  # all is forgiven
    assert total["void prediction"].fn.sum() > 100
    assert total["the same"].iou_sum.sum() == total["the same"].tp.sum() > 100
    for kind in ("noisy", "crowds", "boundary", "one over all"):
        assert min(total[kind].tp.sum(), total[kind].fp.sum(), total[kind].fn.sum()) > 0, kind


def test_together_they_have_hotcocos_pq(counts, folder, capfd):
    panoptic = pytest.importorskip("hotcoco.panoptic")
    places = [folder / name for name in ("gt.json", "predicted.json", "gt", "predicted")]
    expected = panoptic.pq_compute(*map(str, places))
    of_class = class_quality(total_counts(counts))
    groups = {"All": IDS, "Things": IDS[:2], "Stuff": IDS[2:]}
    for name, ids in groups.items():
        quality = group_quality(of_class, ids)
        found = (quality.pq, quality.sq, quality.rq, quality.n_categories)
        assert found == pytest.approx([expected[name][key] for key in ("pq", "sq", "rq", "n")], abs=1e-12)
