import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from antvisionps.panoptic.rle import encode_crop, encode_masks, parse_runs
from tests.drawing import draw, draw_box


def test_a_crop_is_as_large_as_the_mask():
    mask = draw("...... ..##.. ...#.. ......")
    left, top, crop = parse_runs(encode_masks(mask[None]), height=4, width=6).crop(0)
    assert (left, top) == (2, 1)
    np.testing.assert_array_equal(crop.T, draw("## .#"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_runs_are_what_pycocotools_encoded(seed, height, width, density):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, height, width)) < density
    masks[1] = draw_box((height, width), (rng.integers(width), rng.integers(height), 9, 7))
    rles = encode_masks(masks)
    as_coco = [{"size": [height, width], "counts": rle} for rle in rles]
    runs = parse_runs(rles, height=height, width=width)
    assert runs.areas_px().tolist() == coco_mask.area(as_coco).tolist()
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(runs.mask(index), mask)


def test_long_runs_of_a_large_image():
    mask = draw_box((2000, 3000), (700, 10, 2200, 1490))
    runs = parse_runs(encode_masks(mask[None]), height=2000, width=3000)
    np.testing.assert_array_equal(runs.mask(0), mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (b"", "mask 1: malformed RLE"),
        (b"04 ", "mask 1: malformed RLE"),
        (b"04P", "mask 1: malformed RLE"),  # P says that more characters follow
        (b"0" + b"o" * 12 + b"0", "mask 1: malformed RLE"),  # a number of 65 bits
        (b"O13", "mask 1: malformed RLE"),  # a run of -1 pixels
        (encode_masks(np.ones((1, 3, 2)))[0], "mask 1: RLE of another size: expected 4 pixels, got 6"),
    ],
)
def test_what_is_no_mask_of_this_image_is_refused(rle, message):
    good = encode_masks(np.ones((1, 2, 2)))[0]
    with pytest.raises(ValueError, match=message):
        parse_runs([good, rle], height=2, width=2)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_a_crop_is_encoded_as_the_mask_that_it_was_cut_from(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    (expected,) = encode_masks(mask[None])
    left, top, crop = parse_runs([expected], height=height, width=width).crop(0)
    assert encode_crop(left, top, crop, height=height, width=width) == expected
    assert encode_crop(0, 0, mask.T, height=height, width=width) == expected
