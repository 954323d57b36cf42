"""Each kind of error on maps drawn as text, and that the kinds add up to what PQ lacks."""

import numpy as np
import pytest

from antvisionps.evaluation.error_kinds import KINDS, ErrorCounts, find_kinds
from antvisionps.evaluation.panoptic_quality import class_quality, match_overlaps, total_counts
from antvisionps.evaluation.segment_overlaps import SegmentOverlaps
from antvisionps.evaluation.segment_scores import SegmentMaps, score_segments
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import measure_segments
from tests.drawing import draw_ids
from tests.evaluation.test_counts_of_many_maps import KINDS as KINDS_OF_PAIRS
from tests.evaluation.test_counts_of_many_maps import random_pair

CAT, DOG = 1, 2
CATS = {1: CAT, 2: CAT, 3: CAT}


def kinds_of(gt, predicted, gt_categories, predicted_categories, *, crowds=()):
    """The kinds of the missed and of the wrong segments, in ascending id."""
    maps = {}
    for name, drawn, categories, of_crowd in (
        ("gt", gt, gt_categories, crowds),
        ("predicted", predicted, predicted_categories, ()),
    ):
        ids = draw_ids(drawn)
        present = {key: categories[key] for key in np.unique(ids).tolist() if key}
        segments = measure_segments(ids, category_ids=present, crowd_ids=frozenset(of_crowd))
        maps |= {f"{name}_runs": find_runs(ids, segments), name: [segments]}
    overlaps = SegmentOverlaps.of(**maps)
    found = find_kinds(overlaps, match_overlaps(overlaps))
    return tuple([KINDS[place].value for place in places.tolist()] for places in found)


@pytest.mark.parametrize(
    ("gt", "predicted", "predicted_categories", "missed", "wrong"),
    [
        ("aaaa....", "aaaa....", CATS, [], []),
        ("aaaabbbb", "aaaa.b..", {1: CAT, 2: CAT}, ["location"], ["location"]),
        ("aaaabbbb", "aaaabbbb", {1: DOG, 2: CAT}, ["class"], ["class"]),
        ("aaaabbbb", "aaaa..b.", {1: CAT, 2: DOG}, ["both"], ["both"]),
        ("aaaabbbb", "aaaaaaaa", {1: CAT}, ["merged", "merged"], ["merged"]),  # an IoU of just a half is no match
        ("aaaaabbb", "aaaaaaaa", {1: CAT}, ["merged"], []),  # the first is matched, the second swallowed
        ("aaaa", "aabb", CATS, ["split"], ["split", "split"]),
        ("aaaa", "aaab", CATS, [], ["duplicate"]),
        ("aaaa", "....", {}, ["missed"], []),
        ("aaaaaaaaaaaaaaaaaaaabb", "....................bb", {2: CAT}, ["missed"], []),
        ("aaaaaaaaaaaaaaaaaaaabb", "aaaaaaaaaaaaaaaaaaacbb", {1: CAT, 2: CAT, 3: DOG}, [], ["background"]),
    ],
)
def test_a_kind_for_each_error(gt, predicted, predicted_categories, missed, wrong):
    assert kinds_of(gt, predicted, CATS, predicted_categories) == (missed, wrong)


def test_a_crowd_is_nobodys_partner():
    assert kinds_of("aaaabbbb", "aaaabbbb", CATS, {1: DOG, 2: CAT}, crowds=[1]) == ([], ["background"])


def test_what_lies_on_void_does_not_count():
    """The prediction's half on labels lies in the matched cat, of which it takes a tenth."""
    assert kinds_of("aaaaaaaaaa.", "aaaaaaaaabb", CATS, CATS) == ([], ["duplicate"])


def test_kinds_add_up_to_what_pq_lacks_on_random_maps():
    """With void, crowds, and maps without a segment."""
    rng = np.random.default_rng(3)
    scores = []
    for index in range(40 * len(KINDS_OF_PAIRS)):
        pair = random_pair(rng, KINDS_OF_PAIRS[index % len(KINDS_OF_PAIRS)])
        maps = [
            SegmentMaps.of(find_runs(ids, listed), [listed], sizes_hw=[ids.shape], with_bands=False)
            for ids, listed in ((pair.gt_ids, pair.gt), (pair.predicted_ids, pair.predicted))
        ]
        scores.append(score_segments(*maps))
    errors = ErrorCounts.total([one.errors for one in scores])
    counts = total_counts([one.matches.counts()[0] for one in scores])
    of_class = class_quality(counts)
    segments = dict(zip(KINDS, errors.of_categories(of_class)[0].tolist(), strict=True))
    assert min(segments.values()) > 0, segments
    matches = np.concatenate([one.matches.ious for one in scores])
    assert segments.pop("outline") == np.count_nonzero(matches < 1)
    assert sum(segments.values()) == counts.fp.sum() + counts.fn.sum()
    for category_id, quality in of_class.items():
        assert errors.of_categories([category_id])[1].sum() == pytest.approx(1 - quality.pq, abs=1e-12)
    mean = np.mean([quality.pq for quality in of_class.values()])
    assert errors.of_categories(of_class)[1].sum() == pytest.approx(1 - mean, abs=1e-12)


def test_a_group_without_a_category_lost_nothing_that_is_known():
    segments, lost = ErrorCounts(*(np.zeros((0, *rest)) for rest in ((), (9,), (9,), ()))).of_categories([CAT])
    assert segments.tolist() == [0] * 9
    assert np.isnan(lost).all()
