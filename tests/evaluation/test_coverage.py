"""PQ by coverage against panopticapi, which scores what is given up under categories of its own."""

import numpy as np
import pytest
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.evaluation.coverage import COVERAGE_COLUMNS, STEPS, coverage_rows
from antvisionps.evaluation.lrp import SegmentConfidence
from antvisionps.panoptic.categories import CategorySet
from tests.evaluation.test_counts_of_many_maps import CATEGORIES, IDS, KINDS, match, random_pair

WRONG, GIVEN_UP = 90, 100
"""The category of wrong segments that are given up, and what is added to those of matches."""
ALL_CATEGORIES = {
    key: {"id": key, "isthing": 1} for key in (*IDS, *(base + key for base in (WRONG, GIVEN_UP) for key in IDS))
}
CATEGORY_SET = CategorySet.from_json(CATEGORIES, where="categories")


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(3)
    return [random_pair(rng, KINDS[index % len(KINDS)]) for index in range(4 * len(KINDS))]


@pytest.fixture(scope="module")
def scores(pairs):
    """(image, segment id) → a confidence, of which many are equal; a tenth has none."""
    rng = np.random.default_rng(4)
    keys = [(index, s.segment_id) for index, pair in enumerate(pairs) for s in pair.predicted]
    return {key: rng.integers(1, 40) / 40 for key in keys if rng.random() < 0.9}


@pytest.fixture(scope="module")
def rows(pairs, scores):
    return rows_of(match(pairs), scores)


def rows_of(matches, scores):
    keys = np.array([*scores], dtype=np.int64).reshape(-1, 2)
    confidence = SegmentConfidence.of(keys[:, 0], keys[:, 1], np.array([*scores.values()]))
    found = coverage_rows({"one": matches}, {"one": confidence}, CATEGORY_SET)
    return [dict(zip(COVERAGE_COLUMNS, row, strict=True)) for row in found]


def partner(pair, predicted):
    """The true segment that matches a predicted one."""
    mask = pair.predicted_ids == predicted.segment_id
    for one in pair.gt:
        true = pair.gt_ids == one.segment_id
        union = (true | mask) & ~((pair.gt_ids == 0) & mask)
        if one.category_id == predicted.category_id and not one.is_crowd and 2 * (true & mask).sum() > union.sum():
            return one.segment_id
    return None


def panopticapi_counts(pairs, folder, categories):
    """panopticapi's counts of pairs of truth and prediction, each the (H, W) ids of a map and its segments."""
    annotations = []
    for name, maps in zip(("gt", "predicted"), zip(*pairs, strict=True), strict=True):
        (folder / name).mkdir(parents=True)
        rows = []
        for index, (ids, segments) in enumerate(maps):
            Image.fromarray(id2rgb(ids.astype(np.uint32))).save(folder / name / f"{index}.png")
            info = [
                {"id": s.segment_id, "category_id": s.category_id, "area": s.area_px, "iscrowd": int(s.is_crowd)}
                for s in segments
            ]
            rows.append({"image_id": index, "file_name": f"{index}.png", "segments_info": info})
        annotations.append(rows)
    matched = [*zip(*annotations, strict=True)]
    return pq_compute_single_core(0, matched, str(folder / "gt"), str(folder / "predicted"), categories)


def give_up(pair, segment_ids):
    """The pair's maps, with these predicted segments and the true ones that match them in categories of their own."""
    gt, predicted = ({one.segment_id: one for one in segments} for segments in (pair.gt, pair.predicted))
    for one in [predicted[segment_id] for segment_id in segment_ids]:
        matched = partner(pair, one)
        if matched is not None:
            gt[matched] = gt[matched]._replace(category_id=GIVEN_UP + gt[matched].category_id)
        base = WRONG if matched is None else GIVEN_UP
        predicted[one.segment_id] = one._replace(category_id=base + one.category_id)
    return (pair.gt_ids, gt.values()), (pair.predicted_ids, predicted.values())


@pytest.mark.parametrize("step", [0, 3, 11, STEPS])
def test_what_is_kept_and_mended_is_what_panopticapi_counts(pairs, scores, rows, step, tmp_path, capsys):
    row = [row for row in rows if row["group"] == "All"][step]
    threshold = row["min_confidence"] or np.inf
    given_up = {key for key, score in scores.items() if score < threshold}
    assert row["segments"] == len(scores) - len(given_up)
    assert row["coverage"] == pytest.approx(100 * row["segments"] / len(scores))
    assert len(given_up) <= len(scores) * step / STEPS
    maps = [give_up(pair, [key for image, key in given_up if image == index]) for index, pair in enumerate(pairs)]
    stat = panopticapi_counts(maps, tmp_path, ALL_CATEGORIES)
    kept, mended = [], []
    for key in IDS:
        of, mended_tp = stat[key], stat[GIVEN_UP + key].tp
        assert stat[GIVEN_UP + key].fp == stat[GIVEN_UP + key].fn == 0
        for qualities, more in ((kept, 0), (mended, mended_tp)):
            if weight := of.tp + more + of.fp / 2 + of.fn / 2:
                qualities.append(100 * (of.iou + more) / weight)
    assert (row["PQ_kept"], row["PQ_mended"]) == pytest.approx((np.mean(kept), np.mean(mended)))


def test_a_person_never_makes_it_worse(rows):
    for group in ("All", "Things", "Stuff"):
        mended = [row["PQ_mended"] for row in rows if row["group"] == group]
        assert len(mended) == STEPS + 1
        assert mended == sorted(mended)


def test_without_confidences_or_segments_there_is_no_curve(pairs):
    assert rows_of(match(pairs), {}) == []
    empty = [pair for pair in pairs if pair.kind == "void"]
    assert rows_of(match(empty), {}) == []
