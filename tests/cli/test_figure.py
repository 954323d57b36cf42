import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from antvisionps.cli import main as cli
from antvisionps.panoptic.segments import Segment
from antvisionps.report.figure import Panel, write_figure
from tests.drawing import category_set
from tests.tiny_run import PROJECT

DPI, WIDTH_IN = 300, 7

pytestmark = pytest.mark.usefixtures("in_the_run")


@pytest.fixture(scope="module")
def image_ids(tiny_run):
    return [image["id"] for image in json.loads((tiny_run / "data/prepared/val.json").read_text())["images"]]


def draw(out, *image_ids, **options):
    arguments = [word for name, values in options.items() for word in (f"--{name}", *values)]
    cli.main(["figure", "--out", str(out), "--image", *map(str, image_ids), *arguments])
    return out


def texts_in(pdf):
    """What the PDF shows as text, not as outlines: glyph by glyph, as matplotlib kerns it, in UTF-16."""
    shown = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        if b"\nBT\n" not in content:  # a picture or a font
            continue
        for block in re.findall(rb"\nBT\n(.*?)\nET\n", content, re.DOTALL):
            glyphs = re.findall(rb"\(((?:..)+?)\)", block, re.DOTALL)
            shown.append(b"".join(glyphs).decode("utf-16-be"))
    return shown


def names_in(path, image_ids):
    """Of the categories of these images' segments."""
    document = json.loads(Path(path).read_text())
    name_of = {category["id"]: category["name"] for category in document["categories"]}
    annotations = [one for one in document["annotations"] if one["image_id"] in image_ids]
    return {name_of[segment["category_id"]] for annotation in annotations for segment in annotation["segments_info"]}


def test_a_pdf_has_titles_and_the_legend_of_what_appears_as_text(image_ids, tmp_path):
    shown = texts_in(draw(tmp_path / "figure.pdf", *image_ids[:2]))
    assert shown[:5] == ["Photo", "E-UPS", "LWL-HTC", "Fusion", "Truth"]
    files = ["data/prepared/val.json", *(f"data/fused/{name}/panoptic.json" for name in ("e_ups", "lwl_htc", "fusion"))]
    assert set(shown[5:]) - {"void"} == set().union(*(names_in(path, image_ids[:2]) for path in files))
    assert len(shown[5:]) == len(set(shown[5:]))
    one = draw(tmp_path / "one.pdf", image_ids[0], systems=["fusion"])
    assert texts_in(one)[:3] == ["Photo", "Fusion", "Truth"]


def test_a_png_shows_photo_maps_and_truth_in_rows(image_ids, tmp_path):
    figure = cv2.imread(str(draw(tmp_path / "figure.png", *image_ids[:3])))
    assert figure.shape[1] == DPI * WIDTH_IN
    column = (DPI * WIDTH_IN - 4 * 0.04 * DPI) / 5
    row = column * 64 / 80
    top = round(0.2 * DPI)
    for index, image_id in enumerate(image_ids[:3]):
        photo = cv2.imread(f"data/prepared/images/{image_id:012d}.png")
        first = top + round(index * (row + 0.04 * DPI))
        panel = figure[first + 5 : first + round(row) - 5, 5 : round(column) - 5]
        wanted = cv2.resize(photo, (round(column), round(row)), interpolation=cv2.INTER_CUBIC)[5:-5, 5:-5]
        wanted = wanted[: panel.shape[0], : panel.shape[1]]
        assert np.abs(panel[: wanted.shape[0], : wanted.shape[1]].astype(int) - wanted).mean() < 12
    assert (figure[top - 3 : top - 1] == 255).mean() > 0.9


def test_the_same_figure_has_the_same_bytes_in_another_process(image_ids, tmp_path):
    script = "import sys; from antvisionps.cli import main as cli\n"
    for name in ("figure.pdf", "figure.png"):
        draw(tmp_path / name, image_ids[0])
        again = ["figure", "--image", str(image_ids[0]), "--out", str(tmp_path / "again" / name)]
        script += f"cli.main({again!r})\n"
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    for name in ("figure.pdf", "figure.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_names_are_shown_as_they_are_and_many_wrap(tmp_path):
    names = {n: f"_$x_{n}$ and a long name" for n in range(1, 40)}
    ids = np.arange(1, 41, dtype=np.int32).reshape(5, 8) % 40
    segments = [Segment(n, n, 1, (0, 0, 1, 1), is_crowd=False) for n in range(1, 40)]
    photo = np.zeros((5, 8, 3), np.uint8)
    panels = [Panel(photo), Panel(photo, ids, segments)]
    write_figure(tmp_path / "figure.pdf", [panels], titles=["a", "b"], categories=category_set({}, names))
    assert sorted(texts_in(tmp_path / "figure.pdf")[2:]) == sorted([*names.values(), "void"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("12 --out {}/f.png", "no image 12; its 4 images go from 1000001 to 1000004"),
        ("1000001 --out {}/f.gif", "expected a name that ends in .pdf or .png"),
        ("1000001 --out {}/f.png --systems x", "no panoptic.json; there are e_ups, fusion"),
        ("1000001 --out {0}/f.png --data {0}", "dataset.json: no readable manifest"),
        ("12 --out /dev/null/f.png", "/dev/null/f.png: Not a directory; a part of this path is no folder"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, refused, arguments, message):
    assert message in refused("figure", "--image", *arguments.format(tmp_path).split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("matplotlib", ("figure", "--image", "1000001", "--out", "f.png"), "figures"),
        ("torch", ("predict", "data/prepared/images/000001000001.png", "--out", "out"), "models"),
    ],
)
def test_a_missing_package_is_one_line_that_names_its_extra(module, command, extra):
    script = f"import sys; sys.modules[{module!r}] = None\nfrom antvisionps.cli.main import main; main()"
    ran = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True)
    assert ran.returncode == 1
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert f"{module} is not installed; `pip install 'antvisionps[{extra}]'`" in line
    assert "Traceback" not in ran.stderr
