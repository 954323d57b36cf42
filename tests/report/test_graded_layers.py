"""The layers of where ends differ, and of how doubtful a map is, in a real browser."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from antvisionps.core.errors import CacheError
from antvisionps.predictions.schema import SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter
from tests.report.conftest import HEIGHT, TRUTH, WIDTH
from tests.report.test_page import pixel, point_at


def assert_graded(page, layer, name, *, color, in_words):
    """Clear in the left half, of that colour in the right one."""
    assert pixel(page, layer, 5, 5)[3] == 0
    assert pixel(page, layer, 20, 5) == color
    for x, words in zip((5, 20), in_words, strict=True):
        point_at(page, layer, x, 5)
        expect(page.locator("#tooltip b")).to_have_text(words)
    assert page.locator(f"canvas[data-layer='{layer}']").get_attribute("aria-label") == name


def test_where_the_ends_differ_is_coloured_and_says_how_much(opened, small_report, tmp_path):
    path = small_report.root / "predictions" / "hrnet" / "val" / SEMANTIC_FILE
    with SemanticReader(path) as reader:
        header, images = reader.header, list(reader)
    with SemanticWriter(path, header) as writer:
        for image in images:
            planes = image.planes.copy()
            planes[:, :, 16:] = planes[[1, 2, 0], :, 16:]  # sure of other classes in the right half
            writer.write(replace(image, planes=planes))
    page = opened("image/12?layers=disagreement", base=small_report.write(tmp_path / "report").as_uri())
    in_words = ("the ends' semantics agree", "the ends' semantics differ by 100 %")
    assert_graded(page, "disagreement", "disagreement of ends", color=(255, 35, 6, 255), in_words=in_words)


def write_doubt(small_report, system):
    """The left half sure, the right half doubtful by 102 / 255."""
    folder = small_report.root / "fused" / system / "doubt"
    folder.mkdir()
    doubt = np.zeros((HEIGHT, WIDTH), np.uint8)
    doubt[:, WIDTH // 2 :] = 102
    for image_id in TRUTH:
        cv2.imwrite(str(folder / f"{image_id}.png"), doubt)
    return folder


def test_how_doubtful_a_map_is_shows_where_the_system_says_it(opened, small_report, tmp_path):
    write_doubt(small_report, "fusion")
    page = opened("image/12?layers=doubt&system=fusion", base=small_report.write(tmp_path / "report").as_uri())
    in_words = ("no doubt", "doubt 40 %")
    assert_graded(page, "doubt", "doubt of fusion", color=(255, 155, 42, 255), in_words=in_words)
    page.keyboard.press("s")
    expect(page.locator("canvas[data-layer='doubt']")).to_have_count(0)


def test_without_doubt_there_is_no_such_layer(opened):
    page = opened("image/12")
    assert not any("doubt" in chip for chip in page.locator(".chip").all_inner_texts())


@pytest.mark.parametrize("damage", ["missing", "other size", "truncated"])
def test_a_doubt_that_is_missing_or_does_not_fit_is_named(small_report, tmp_path, damage):
    path = write_doubt(small_report, "fusion") / "12.png"
    png = path.read_bytes()
    path.unlink()
    if damage == "other size":
        cv2.imwrite(str(path), np.zeros((HEIGHT, 7), np.uint8))
    elif damage == "truncated":
        path.write_bytes(png[: len(png) // 2])
    with pytest.raises(CacheError, match=r"fusion/doubt/12\.png: expected a picture of 32x24, got .*fuse\.doubt: true"):
        small_report.write(tmp_path / "report")
