"""The page's colours as colour-blind people see them: Machado et al. 2009, severity 1, in linear RGB."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

SOURCE = (Path(__file__).parents[2] / "antvisionps" / "report" / "site" / "colors.js").read_text()
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def colors_in(name):
    """(N, 3) of the colours in a constant of the script."""
    body = re.search(rf"const {name} = (.*?);\n", SOURCE, re.DOTALL)[1]
    return np.array([list(bytes.fromhex(color)) for color in re.findall(r'"#([0-9a-f]{6})"', body)])


def linear_rgb(rgb):
    """Of sRGB from 0 to 255, from 0 to 1."""
    return np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)


def smallest_difference(rgb, matrix):
    """CIE 1976 colour difference of the two nearest colours; about 2 is just visible."""
    seen = np.clip(linear_rgb(rgb) @ np.transpose(matrix), 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    return min(np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2))


@pytest.mark.parametrize("sight", SIGHT)
def test_categories_can_be_told_apart(sight):
    distinct = colors_in("DISTINCT_RGB")
    assert len(distinct) == 24
    assert smallest_difference(distinct[:14], SIGHT[sight]) > 20
    assert smallest_difference(distinct, SIGHT[sight]) > 12


@pytest.mark.parametrize("sight", SIGHT)
def test_right_wrong_missed_ignored_and_void_can_be_told_apart(sight):
    errors = np.unique(colors_in("ERRORS"), axis=0)
    assert len(errors) == 7  # two of them are the stripes of void
    assert smallest_difference(errors, SIGHT[sight]) > 12


def test_no_error_has_the_colour_of_a_category():
    both = np.concatenate([np.unique(colors_in("ERRORS"), axis=0), colors_in("DISTINCT_RGB")])
    assert smallest_difference(both, SIGHT["normal"]) > 15
