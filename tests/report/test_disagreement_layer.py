"""The layer of where ends differ, in a real browser."""

from dataclasses import replace

from playwright.sync_api import expect

from antvisionps.predictions.schema import SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter
from tests.report.test_page import pixel, point_at


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
    assert pixel(page, "disagreement", 5, 5)[3] == 0
    assert pixel(page, "disagreement", 20, 5) == (255, 35, 6, 255)
    point_at(page, "disagreement", 20, 5)
    expect(page.locator("#tooltip b")).to_have_text("the ends' semantics differ by 100 %")
    point_at(page, "disagreement", 5, 5)
    expect(page.locator("#tooltip b")).to_have_text("the ends' semantics agree")
    assert page.locator("canvas[data-layer='disagreement']").get_attribute("aria-label") == "disagreement of ends"
