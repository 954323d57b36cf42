"""The page's colours in Python are those of its script."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.colors import DISTINCT_RGB, page_colors
from tests.report.test_colors import colors_in

SCRIPT = Path(__file__).parents[2] / "antvisionps" / "report" / "site" / "colors.js"


def test_the_distinct_colours_are_the_scripts():
    assert colors_in("DISTINCT_RGB").tolist() == [list(color) for color in DISTINCT_RGB]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("count", [1, 3, 11, 24, 25])
def test_each_category_has_the_colour_that_the_script_gives_it(count):
    rows = [{"id": 1 + i, "name": str(i), "isthing": i % 3 == 0, "color": [i, 2, 3]} for i in range(count)]
    categories = CategorySet.from_json(rows, where="test")
    page = json.dumps([{"thing": c.is_thing, "color": c.color_rgb} for c in categories.categories])
    code = f"{SCRIPT.read_text()}\nconsole.log(JSON.stringify(categoryRgb({page}, 'distinct')))"
    ran = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert page_colors(categories) == [tuple(color) for color in json.loads(ran.stdout)]
