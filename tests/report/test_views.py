"""Every view as wide as a laptop and as a phone, light and dark: nothing hides, overflows or bars anyone."""

from pathlib import Path

import axe_playwright_python
import pytest

from tests.report.conftest import LAPTOP, PHONE

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

VIEWS = {
    "overview": "overview",
    "segments of the confusion": "overview?counted=segments&measure=SQ&bars=name",
    "images": "images",
    "all numbers of a category": "overview?lost=1&precision=0&measure=boundary+PQ&lrp=fusion",
    "images of a bin": "images?bin=fusion/segments/12&sort=errors",
    "images of a slice": "images?slice=time%3Dnight&error=outline",
    "filtered images": "images?find=png&confused=1-0&tags=12&thumbs=errors&sort=best",
    "no image left": "images?find=nowhere",
    "an image": "image/12",
    "an image with nothing in it": "image/40",
    "overlaid": "image/12?mode=overlaid&zoom=2,-0.5,-0.25",
    "one panel": "image/12?enlarged=errors&only=0",
    "every layer hidden": "image/12?layers=none",
    "an image that is not there": "image/999",
}

COVERED = """() => {
  const isNear = (node, top) => node === top || node.contains(top) || top?.contains(node);
  const isClipped = (node, { left, top, right, bottom }) => {
    for (let box = node.parentElement; box; box = box.parentElement) {
      if (getComputedStyle(box).overflow === "visible") continue;
      const frame = box.getBoundingClientRect();
      if (left < frame.left - 1 || right > frame.right + 1) return true;
      if (top < frame.top - 1 || bottom > frame.bottom + 1) return true;
    }
    return false;
  };
  const named = "main :is(h2, h3, label, button, legend, th, a, figcaption, dt)";
  return [...document.querySelectorAll(named)].filter((node) => {
    const box = node.getBoundingClientRect();
    const isInSight = box.width && box.top < innerHeight && box.bottom > 0 && !isClipped(node, box);
    if (!isInSight || !node.checkVisibility()) return false;
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    if (y < 0 || y >= innerHeight) return false;
    return !isNear(node, document.elementFromPoint(x, y));
  }).map((node) => `${node.tagName} ${node.textContent || node.getAttribute("aria-label")}`);
}"""
"""What carries a name, lies in the window, and has something else in front of its middle."""


def violations(page, scheme):
    """What axe finds; in the dark scheme only of colours, as all else is the same."""
    page.emulate_media(color_scheme=scheme)
    options = {"resultTypes": ["violations"], "preload": False}  # a page on disk may not fetch its own style sheets
    if scheme == "dark":
        options["runOnly"] = ["color-contrast"]
    found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
    return [(rule["id"], node["html"], node["failureSummary"]) for rule in found for node in rule["nodes"]]


def assert_sound(page, view, width):
    assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert page.evaluate(COVERED) == [], view


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_view_hides_overflows_and_bars_nothing(opened, viewport):
    page = opened("overview", viewport=viewport)
    page.evaluate(AXE)
    for view, fragment in VIEWS.items():
        page.evaluate("(fragment) => { location.hash = fragment; }", fragment)
        page.wait_for_selector(f'html[data-shown="#{fragment}"]')
        assert_sound(page, view, viewport["width"])
        for scheme in ("light", "dark") if viewport == LAPTOP else ("light",):  # the same colours on both
            assert violations(page, scheme) == [], (view, scheme)


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_tab_begins_below_the_header_from_wherever_the_reader_was(opened, viewport):
    page = opened("overview", viewport=viewport)
    assert_sound(page, "overview", viewport["width"])
    for tab in ("images", "overview", "overview"):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.locator(f"#tab-{tab}").click()
        page.wait_for_selector(f"#{tab}:visible")
        for _ in range(100):
            if page.evaluate("scrollY") < 20:
                break
            page.wait_for_timeout(20)
        assert page.evaluate("scrollY") < 20
        assert_sound(page, tab, viewport["width"])


def test_the_list_of_keys_bars_nobody(opened):
    page = opened("overview")
    page.evaluate(AXE)
    page.keyboard.press("?")
    page.wait_for_selector("#help:visible")
    assert violations(page, "light") == []
