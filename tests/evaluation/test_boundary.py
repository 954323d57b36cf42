"""Boundary PQ of random maps with void and crowds against another package and the authors' formula, pixel by pixel."""

import json

import cv2
import numpy as np
import pytest

from antvisionps.core.errors import DataError
from antvisionps.evaluation.boundary import BoundaryMaps, band_width_px
from antvisionps.evaluation.panoptic_quality import class_quality, group_quality, total_counts
from antvisionps.evaluation.segment_scores import SegmentMaps, SegmentScores, score_segments
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import measure_segments
from tests.drawing import draw_ids
from tests.evaluation.test_counts_of_many_maps import CATEGORIES, IDS
from tests.evaluation.test_panoptic_quality import rows


def random_ids(rng, hw):
    """Large smooth regions with ids as large as COCO's; the first is void."""
    ids = np.append(0, rng.choice(2**24 - 1, int(rng.integers(1, 7)), replace=False) + 1)
    heights = [cv2.GaussianBlur(rng.normal(size=hw), (0, 0), 6) for _ in ids]
    return ids[np.argmax(heights, axis=0)]


def random_pair(rng, *, is_square):
    height, width = rng.integers(30, 120, 2).tolist()
    hw = (height, height if is_square else width)
    gt_ids = random_ids(rng, hw)
    predicted_ids = np.roll(gt_ids, rng.integers(-2, 3, 2), axis=(0, 1)) if rng.random() < 0.8 else random_ids(rng, hw)
    cut = rng.integers(0, hw[0])
    predicted_ids = np.where((np.arange(hw[0])[:, None] > cut) & (rng.random() < 0.5), 0, predicted_ids)

    def segments(ids, *, with_crowds):
        categories = {
            i: 1 + i % 3 if rng.random() < 0.9 else int(rng.integers(1, 4)) for i in np.unique(ids).tolist() if i
        }
        crowds = {i for i in categories if with_crowds and rng.random() < 0.15}
        return list(measure_segments(ids, category_ids=categories, crowd_ids=crowds))

    return (gt_ids, segments(gt_ids, with_crowds=True)), (predicted_ids, segments(predicted_ids, with_crowds=False))


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(5)
    return [random_pair(rng, is_square=index % 2 == 0) for index in range(80)]


def maps_of(ids, segments):
    return SegmentMaps.of(find_runs(ids, segments), [segments], sizes_hw=[ids.shape], with_bands=True)


@pytest.fixture(scope="module")
def scores(pairs):
    return [score_segments(*(maps_of(*one) for one in pair)) for pair in pairs]


def slow_band(mask):
    """The authors' recipe: as many erosions by one pixel as the band is wide, and the image's edge is no segment."""
    height, width = mask.shape
    times = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    eroded = cv2.erode(np.pad(mask.astype(np.uint8), 1), np.ones((3, 3), np.uint8), iterations=times)
    return mask & (eroded[1:-1, 1:-1] == 0)


def slow_iou(gt, predicted, void):
    def iou(one, other):
        return (one & other).sum() / ((one | other).sum() - (other & void).sum())

    return min(iou(gt, predicted), iou(slow_band(gt), slow_band(predicted)))


def slow_counts(pair, category_ids=IDS):
    """category_id → [tp, fp, fn, IoUs] by the definition."""
    (gt_ids, gt), (predicted_ids, predicted) = pair
    counts = {category_id: [0, 0, 0, 0.0] for category_id in category_ids}
    matched = set()
    for one in gt:
        for other in predicted:
            if one.category_id == other.category_id and not one.is_crowd:
                iou = slow_iou(gt_ids == one.segment_id, predicted_ids == other.segment_id, gt_ids == 0)
                if iou > 0.5:
                    matched |= {("gt", one.segment_id), ("predicted", other.segment_id)}
                    counts[one.category_id][0] += 1
                    counts[one.category_id][3] += iou
    for one in gt:
        counts[one.category_id][2] += not one.is_crowd and ("gt", one.segment_id) not in matched
    for other in predicted:
        crowds = [one.segment_id for one in gt if one.is_crowd and one.category_id == other.category_id][-1:]
        ignored = np.isin(gt_ids[predicted_ids == other.segment_id], [0, *crowds]).mean() > 0.5
        counts[other.category_id][1] += not ignored and ("predicted", other.segment_id) not in matched
    return counts


def test_counts_are_those_of_the_definition(pairs, scores):
    for pair, found in zip(pairs, scores, strict=True):
        (counts,) = found.boundary.counts()
        for category_id, expected in slow_counts(pair).items():
            assert list(rows(counts).get(category_id, [0, 0, 0, 0.0])) == pytest.approx(expected)


def test_squares_have_verniers_boundary_pq(pairs, scores):
    """Of other images vernier 0.5.4 has bands that are too wide."""
    pairs, scores = pairs[::2], scores[::2]
    vernier = pytest.importorskip("vernier.panoptic")
    arrays = []
    for side in (0, 1):
        ids = {index: pair[side][0].astype(np.uint32) for index, pair in enumerate(pairs)}
        rows = {index: [to_json(segment) for segment in pair[side][1]] for index, pair in enumerate(pairs)}
        arrays.append((ids, json.dumps(rows).encode()))
    gt = vernier.Dataset.from_arrays(*arrays[0], json.dumps(CATEGORIES).encode())
    predicted = vernier.Predictions.from_arrays(*arrays[1])
    joined = SegmentScores.join(scores)
    for boundary, matches in ((False, joined.matches), (True, joined.boundary)):
        expected = vernier.Evaluator(parity_mode="strict", boundary=boundary).evaluate(gt, predicted)
        quality = group_quality(class_quality(total_counts(matches.counts())), IDS)
        assert (quality.pq, quality.sq, quality.rq) == pytest.approx((expected.pq, expected.sq, expected.rq), abs=1e-12)
    assert len(joined.boundary.ious) > 25
    assert joined.boundary.ious.sum() < joined.matches.ious.sum()


def to_json(segment):
    keys = {"id": segment.segment_id, "category_id": segment.category_id, "iscrowd": int(segment.is_crowd)}
    return keys | {"area": segment.area_px, "bbox": list(segment.bbox_xywh)}


def test_a_band_is_a_frame_and_void_and_the_insides_have_labels_of_their_own():
    ids = draw_ids("aaaaa aaaaa aaaaa ....b")
    bands = BoundaryMaps.of(
        find_runs(ids, measure_segments(ids, category_ids={1: 1, 2: 1})), sizes_hw=[(4, 5)], segments=[2]
    )
    assert bands.maps[0].tolist() == [[1, 1, 1, 1, 1], [1, 3, 3, 3, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 2]]
    assert bands.labels == [4]


def test_bands_are_two_hundredths_of_the_diagonal_wide():
    assert [band_width_px(hw) for hw in ((4, 5), (480, 640), (1024, 2048))] == [1, 16, 46]


def test_more_segments_than_a_byte_can_number():
    ids = np.arange(1, 401).reshape(20, 20).repeat(3, axis=0).repeat(3, axis=1)
    segments = measure_segments(ids, category_ids=dict.fromkeys(range(1, 401), 1))
    found = score_segments(*[maps_of(ids, segments)] * 2)
    assert (len(found.boundary.ious), found.boundary.ious.min()) == (400, 1.0)


def test_an_image_without_segments_counts_nothing():
    empty = maps_of(np.zeros((3, 4), int), [])
    found = score_segments(empty, empty)
    assert [len(part) for part in (found.boundary.ious, found.boundary.missed, found.boundary.wrong)] == [0, 0, 0]


def test_more_segments_than_16_bits_number_are_an_error():
    ids = np.arange(1, 65_537).reshape(256, 256)
    segments = measure_segments(ids, category_ids=dict.fromkeys(range(1, 65_537), 1))
    with pytest.raises(DataError, match=r"65536 segments; .*score.boundary_pq: false"):
        maps_of(ids, segments)
