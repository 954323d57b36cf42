"""Where ends differ against scipy's divergence and entropy, cell by cell."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from antvisionps.evaluation.disagreement import (
    DISAGREEMENT_COLUMNS,
    DisagreementCounts,
    disagreement,
    disagreement_rows,
)
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.predictions.semantic import ImageSemantics

CATEGORIES = CategorySet.from_json(
    [{"id": key, "name": name, "isthing": int(key < 5)} for key, name in ((2, "cat"), (4, "dog"), (7, "sky"))],
    where="categories",
)
IDS = CATEGORIES.category_ids.tolist()


def semantics(planes, ids=IDS, *, stride=4.0, hw=(12, 20)):
    """An end that sees the photo at its own size."""
    height, width = hw
    sizes = {"height": height, "width": width, "input_height": height, "input_width": width}
    return ImageSemantics(
        image_id=1, **sizes, stride=stride, category_ids=np.array(ids, np.int32), planes=np.asarray(planes, np.uint8)
    )


def random_end(rng, *, stride=4.0, ids=IDS):
    cells = (len(ids), round(12 / stride), round(20 / stride))
    return semantics(rng.integers(0, 256, cells) * (rng.random(cells) < 0.8), ids, stride=stride)


def probs_at(end, y, x):
    """Of the classes in order, at a pixel, by the definition of the grid."""
    row, column = int((y + 0.5) / end.stride), int((x + 0.5) / end.stride)
    of = dict(zip(end.category_ids.tolist(), end.planes[:, row, column].tolist(), strict=True))
    probs = np.array([of.get(key, 0) for key in IDS], float)
    return probs / max(probs.sum(), 1)


def test_of_two_ends_it_is_scipys_divergence():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pair = [random_end(rng), random_end(rng, ids=[7, 2])]
        found = disagreement(pair, CATEGORIES, grid="finest")
        assert found.divergence.shape == (3, 5)
        for (row, column), value in np.ndenumerate(found.divergence):
            probs = [probs_at(end, found.rows[row], found.columns[column]) for end in pair]
            if all(of.any() for of in probs):
                assert value == pytest.approx(jensenshannon(*probs, base=2) ** 2, abs=1e-5)
            assert found.differs[row, column] == (probs[0].argmax() != probs[1].argmax())


@pytest.mark.parametrize(("grid", "shape"), [("finest", (6, 10)), ("coarsest", (3, 5))])
def test_of_three_ends_of_different_grids_it_follows_from_scipys_entropy(grid, shape):
    rng = np.random.default_rng(1)
    ends = [random_end(rng, stride=stride) for stride in (2.0, 4.0, 4.0)]
    found = disagreement(ends, CATEGORIES, grid=grid)
    assert found.divergence.shape == shape
    for (row, column), value in np.ndenumerate(found.divergence):
        probs = [probs_at(end, found.rows[row], found.columns[column]) for end in ends]
        if all(of.any() for of in probs):
            expected = (entropy(np.mean(probs, axis=0)) - np.mean([entropy(of) for of in probs])) / np.log(3)
            assert value == pytest.approx(expected, abs=1e-5)
            assert found.likeliest[row, column] == np.mean(probs, axis=0).argmax()


def sure_of(class_indices):
    return semantics(255 * np.stack([np.array(class_indices) == index for index in range(len(IDS))]))


def test_the_same_is_0_and_each_sure_of_another_class_is_1():
    row = [[0, 1, 2, 2, 0]] * 3
    same, other = sure_of(row), sure_of([[0, 1, 1, 2, 2]] * 3)
    found = disagreement([same, other], CATEGORIES, grid="finest")
    np.testing.assert_allclose(found.divergence, [[0, 0, 1, 0, 1]] * 3, atol=1e-6)
    np.testing.assert_array_equal(found.at_pixels((12, 20)), np.repeat(np.repeat(found.divergence, 4, 0), 4, 1))
    assert not disagreement([same, same], CATEGORIES, grid="finest").differs.any()


def test_a_cell_without_any_probability_says_nothing():
    nothing = semantics(np.zeros((3, 3, 5)))
    found = disagreement([nothing, nothing], CATEGORIES, grid="finest")
    assert not found.divergence.any()
    assert not found.differs.any()


def test_rows_count_cells_by_their_true_class_and_leave_void_out():
    ids = np.zeros((12, 20), int)
    ids[:, :8], ids[:, 8:16] = 1, 2  # two columns of cells each; the last one is void
    segments = measure_segments(ids, category_ids={1: 2, 2: 7})
    image = PanopticImage(
        image_id=1, file_name="a.jpg", height=12, width=20, panoptic_file_name="a.png", segments=tuple(segments)
    )
    ends = [sure_of([[0, 1, 2, 2, 0]] * 3), sure_of([[0, 1, 1, 2, 2]] * 3)]
    counts = DisagreementCounts.of(disagreement(ends, CATEGORIES, grid="finest"), ids, image, CATEGORIES)
    rows = list(disagreement_rows(counts, CATEGORIES))
    assert DISAGREEMENT_COLUMNS[2:] == ("disagreement", "differ", "wrong_where_same", "wrong_where_differ")
    # Of equal probabilities the lowest class, the dog, is the likeliest.
    assert rows[0] == ["All", 12, *(pytest.approx(value, abs=1e-4) for value in (25, 25, 100 / 3, 100))]
    assert rows[1] == ["cat", 6, *(pytest.approx(value, abs=1e-4) for value in (0, 0, 50)), None]
    assert rows[2] == ["sky", 6, *(pytest.approx(value, abs=1e-4) for value in (50, 50, 0, 100))]
    assert len(rows) == 3
    total = DisagreementCounts.total([counts, counts])
    assert next(disagreement_rows(total, CATEGORIES))[1] == 24
