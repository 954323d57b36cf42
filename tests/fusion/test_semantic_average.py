import pickle

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from antvisionps.fusion.semantic_average import average_semantics
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set

# Class indices: 0 cat, 1 dog (things), 2 sky, 3 sea (stuff).
CATEGORIES = category_set({10: "cat", 20: "dog"}, {5: "sky", 15: "sea"})


def semantics(planes, *, category_ids=(10, 20, 5, 15), hw=(4, 4), input_hw=None, stride=2.0):
    planes = np.asarray(planes, dtype=np.uint8)
    input_hw = input_hw or (int(planes.shape[1] * stride), int(planes.shape[2] * stride))
    return ImageSemantics(1, *hw, *input_hw, stride, np.array(category_ids[: len(planes)], dtype=np.int32), planes)


def class_map(*ends, weights=None, average_of="probabilities"):
    weights = weights or [1.0] * len(ends)
    return average_semantics(ends, weights=weights, categories=CATEGORIES, average_of=average_of).class_map


def average_of_ends(*ends, weights=None, average_of="probabilities"):
    weights = weights or [1.0] * len(ends)
    return average_semantics(ends, weights=weights, categories=CATEGORIES, average_of=average_of)


def sample(plane, cells_hw, at_y, at_x):
    """The values at fractions of the photo's height and width, of a plane with so many cells on the photo."""
    valid = plane[: int(np.ceil(cells_hw[0])), : int(np.ceil(cells_hw[1]))]
    places = np.meshgrid(at_y * cells_hw[0] - 0.5, at_x * cells_hw[1] - 0.5, indexing="ij")
    return map_coordinates(valid, places, output=float, order=1, mode="nearest")


def slow_grid(ends, weights, average_of):
    """(classes, rows, columns) of the finest end: the definition in float64, as 255 p."""
    cells = [(end.input_height / end.stride, end.input_width / end.stride) for end in ends]
    finest = int(np.argmax([high * wide for high, wide in cells]))
    rows, columns = (min(n, int(np.ceil(c))) for n, c in zip(ends[finest].planes.shape[1:], cells[finest], strict=True))
    at = [(np.arange(n) + 0.5) / c for n, c in zip((rows, columns), cells[finest], strict=True)]
    on_grid = np.zeros((len(ends), len(CATEGORIES), rows, columns))
    for of_end, end, end_cells in zip(on_grid, ends, cells, strict=True):
        for category_id, plane in zip(end.category_ids, end.planes, strict=True):
            of_end[CATEGORIES.class_index(category_id)] = sample(plane, end_cells, *at)
    if average_of == "probabilities" or len(ends) == 1:
        return np.average(on_grid, axis=0, weights=weights)
    average = np.prod([np.maximum(p, 0.5) ** (w / sum(weights)) for p, w in zip(on_grid, weights, strict=True)], axis=0)
    average[(on_grid <= 0.5).all(axis=0)] = 0
    return average * 255 / np.maximum(average.sum(axis=0), 1e-9)


def slow_averages(ends, weights, average_of):
    """(classes, height, width): the same interpolated."""
    finest = max(ends, key=lambda end: end.input_height / end.stride * end.input_width / end.stride)
    cells = finest.input_height / finest.stride, finest.input_width / finest.stride
    at = [(np.arange(n) + 0.5) / n for n in (finest.height, finest.width)]
    return np.stack([sample(plane, cells, *at) for plane in slow_grid(ends, weights, average_of)])


def test_the_lowest_class_index_wins_a_tie_whatever_the_order_of_the_planes():
    planes = [[[100, 100], [100, 100]]] * 2
    assert (class_map(semantics(planes, category_ids=(15, 20))) == 1).all()
    assert (class_map(semantics(planes, category_ids=(15, 5))) == 2).all()


@pytest.mark.parametrize("average_of", ["probabilities", "log_probabilities"])
def test_an_average_of_mirrored_probabilities_is_a_tie(average_of):
    one = semantics([[[10]], [[20]]], category_ids=(5, 15), stride=4)
    other = semantics([[[20]], [[10]]], category_ids=(5, 15), stride=4)
    assert (class_map(one, other, average_of=average_of) == 2).all()


def test_an_end_of_weight_zero_counts_as_absent():
    coarse = semantics([[[255]]], category_ids=(5,), stride=4)
    fine = semantics(np.full((1, 4, 4), 255), category_ids=(15,), stride=1)
    np.testing.assert_array_equal(class_map(coarse, fine, weights=[1.0, 0.0]), class_map(coarse))


def test_without_any_weight_there_is_no_average():
    with pytest.raises(ValueError, match="positive weight"):
        class_map(semantics([[[1]]], stride=4), weights=[0.0])


def test_padding_is_never_read():
    planes = np.zeros((2, 2, 4), dtype=np.uint8)
    planes[0, :, :3], planes[1, :, 3] = 100, 255  # the last column sees padding only
    image = semantics(planes, category_ids=(5, 15), hw=(4, 12), input_hw=(4, 6), stride=2)
    assert (class_map(image) == 2).all()


def random_ends(rng, count):
    hw = tuple(rng.integers(5, 22, 2).tolist())
    ends = []
    for _ in range(count):
        stride = float(rng.choice([1.0, 2.0, 4.0]))
        input_hw = rng.integers(6, 20, 2).tolist()
        padding = rng.integers(-1, 3)  # a cell less than needed, just enough, more
        grid = [max(1, int(np.ceil(size / stride)) + int(padding)) for size in input_hw]
        grid = [n if n * stride > size - stride else n + 1 for n, size in zip(grid, input_hw, strict=True)]
        planes = rng.integers(0, 256, (3, *grid)) * (rng.random((3, *grid)) > 0.3)
        ends.append(
            semantics(planes, category_ids=rng.permutation([10, 20, 5, 15]), hw=hw, input_hw=input_hw, stride=stride)
        )
    return ends


def test_the_map_agrees_with_the_literal_formula():
    rng = np.random.default_rng(0)
    for index in range(18):
        average_of = ("probabilities", "log_probabilities")[index % 2]
        ends = random_ends(rng, 1 + index // 2 % 3)
        weights = rng.uniform(0.2, 2, len(ends)).tolist()
        averages = slow_averages(ends, weights, average_of)
        average = average_of_ends(*ends, weights=weights, average_of=average_of)
        found = average.class_map
        on_grid = 255 / average.total * average.sums
        np.testing.assert_allclose(on_grid, slow_grid(ends, weights, average_of)[average.class_indices], atol=2e-2)
        second, best = np.sort(averages, axis=0)[-2:]
        clear = best - second > 1e-2  # of 255; float32 may decide a closer race the other way
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(found[clear], averages.argmax(axis=0)[clear])


@pytest.mark.parametrize(("grid", "hw"), [((6, 5), (24, 20)), ((6, 5), (17, 31)), ((9, 9), (9, 9)), ((9, 12), (7, 7))])
def test_without_padding_it_is_torchs_bilinear_interpolation(grid, hw):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 256, (4, *grid)).astype(np.uint8)
    resampled = torch.nn.functional.interpolate(
        torch.from_numpy(planes.astype(np.float32))[None], size=hw, mode="bilinear", align_corners=False
    )[0].numpy()
    order = [CATEGORIES.class_index(category_id) for category_id in (10, 20, 5, 15)]
    second, best = np.sort(resampled, axis=0)[-2:]
    clear = best - second > 1e-2
    expected = np.array(order)[resampled.argmax(axis=0)]
    np.testing.assert_array_equal(class_map(semantics(planes, hw=hw))[clear], expected[clear])


def test_under_the_log_an_impossible_class_counts_as_half_of_an_8_bit_step():
    one, other = semantics([[[255]]], category_ids=(5,), stride=4), semantics([[[255]]], category_ids=(15,), stride=4)
    unsure = semantics([[[100]], [[155]]], category_ids=(5, 15), stride=4)
    assert (class_map(one, other, average_of="log_probabilities") == 2).all()  # a tie
    average = average_of_ends(one, unsure, average_of="log_probabilities")
    expected = np.array([0, np.sqrt(255 * 100), np.sqrt(0.5 * 155)])
    np.testing.assert_allclose(average.sums[:, 0, 0], expected / expected.sum(), rtol=1e-5)


def test_one_end_is_what_it_says_whatever_is_averaged():
    end = semantics(np.random.default_rng(0).integers(0, 256, (4, 3, 3)))
    absent = semantics(np.full((1, 9, 9), 255), stride=1)
    for ends, weights in (((end,), [0.3]), ((end, absent), [0.3, 0.0])):
        logs = average_of_ends(*ends, weights=weights, average_of="log_probabilities")
        np.testing.assert_array_equal(logs.sums, average_of_ends(*ends, weights=weights).sums)


def test_confidence_is_the_largest_probability():
    image = semantics([[[255, 51]], [[0, 204]]], category_ids=(5, 15), hw=(1, 2), stride=1)
    np.testing.assert_allclose(average_of_ends(image, weights=[3.0]).confidence(), [[1, 0.8]])


def test_logits_are_zero_for_the_impossible_and_differ_by_the_log_of_the_odds():
    image = semantics([[[255]], [[0]], [[51]], [[204]]], hw=(1, 1), stride=1)
    average = average_of_ends(image)
    logits = dict(zip(average.class_indices.tolist(), average.logits[:, 0, 0].tolist(), strict=True))
    assert logits[0] == pytest.approx(np.log(510), abs=1e-5)
    assert logits[1] == 0
    assert logits[3] - logits[2] == pytest.approx(np.log(4), abs=1e-5)


def test_probabilities_are_those_of_the_literal_formula_in_any_window():
    rng = np.random.default_rng(2)
    on_grid = semantics(rng.integers(0, 256, (3, 6, 7)), hw=(6, 7), stride=1)
    for ends in ([on_grid], *(random_ends(rng, 2) for _ in range(6))):
        average = average_of_ends(*ends)
        of_class = slow_averages(ends, [1.0] * len(ends), "probabilities") / 255
        rows, columns = (
            slice(first, first + 1 + size // 3) for first, size in zip((2, 1), of_class.shape[1:], strict=True)
        )
        for class_index, expected in enumerate(of_class):
            whole = average.probabilities(class_index)
            np.testing.assert_allclose(whole, expected, atol=1e-4)
            np.testing.assert_array_equal(average.probabilities(class_index, rows, columns), whole[rows, columns])


def test_an_average_can_be_pickled():
    rng = np.random.default_rng(0)
    ends = [semantics(rng.integers(0, 99, (4, size, size))) for size in (5, 9)]
    average = average_of_ends(*ends)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(average)).class_map, class_map(*ends))


@pytest.mark.parametrize("average_of", ["probabilities", "log_probabilities"])
def test_without_things_too_what_nobody_sees_is_void(average_of):
    stuff_only = category_set({}, {3: "sky", 4: "sea"})
    sea = semantics([[[255, 255], [0, 0]]], category_ids=(4,))
    average = average_semantics([sea, sea], weights=[1, 1], categories=stuff_only, average_of=average_of)
    assert average.class_map.tolist() == [[1] * 4] * 3 + [[VOID_CLASS_INDEX] * 4]
