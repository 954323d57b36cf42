"""Finding images on the report page, looking at a part of them, taking a list of them along; links keep all of it."""

import csv
import re

import pytest
from playwright.sync_api import expect

from tests.report.conftest import CRATE, NAMES, RING, SKY
from tests.report.test_page import chosen, pixel, point_at, shown_images


@pytest.mark.parametrize(
    ("text", "found"), [("B.PN", [13]), ("40", [40]), ("4", []), ("png", [12, 13, 40]), ("é", [12])]
)
def test_the_search_finds_parts_of_file_names_and_whole_ids(opened, text, found):
    page = opened("images")
    page.keyboard.press("/")
    page.keyboard.type(text)
    assert sorted(shown_images(page)) == found
    expect(page.locator("#find")).to_be_focused()
    page.reload()
    assert sorted(shown_images(page)) == found


def test_a_cell_of_the_confusion_leads_to_its_images(opened):
    page = opened("overview?confusion=fusion")
    page.get_by_role("link", name=f"100.0 % of {NAMES[CRATE]} is called {NAMES[RING]}").click()
    expect(page.locator("#found")).to_have_text("1 image of 3")
    assert shown_images(page) == [12]
    expect(page.locator("#confused")).to_contain_text(f"{NAMES[CRATE]} called {NAMES[RING]} (pixels)")
    page.locator("#confused").click()
    assert sorted(shown_images(page)) == [12, 13, 40]


def test_the_confusion_of_segments_counts_segments(opened):
    page = opened("overview?confusion=e_ups&counted=segments")
    cell = page.get_by_role("link", name=f"50.0 % of {NAMES[RING]} is called nothing")
    cell.click()  # of two rings, that of image 13 is missed
    expect(page.locator("#found")).to_have_text("1 image of 3")
    assert shown_images(page) == [13]


def test_a_bar_leads_to_the_images_of_its_category_and_system(opened):
    page = opened("overview")
    page.locator(".bars li", has_text="crate").locator("a.bar").first.click()
    expect(chosen(page, "System")).to_have_value("e_ups")
    assert shown_images(page) == [12]


def test_one_category_alone_is_shown_in_all_panels(opened):
    page = opened("image/12")
    page.locator("#only-0").click()
    expect(page.locator("#only-0")).to_have_attribute("aria-pressed", "true")
    for layer in ("truth", "system", "instances:e_ups"):
        assert pixel(page, layer, 5, 5)[3] == 255
        assert pixel(page, layer, 12, 5)[3] == 0
    assert pixel(page, "truth", 23, 5)[3] == 0  # the crate, that the system calls a ring
    assert pixel(page, "errors", 23, 5)[3] == 255
    assert pixel(page, "errors", 12, 5)[3] == 0
    page.evaluate("scrollTo(0, 0)")
    point_at(page, "truth", 23, 5)
    assert page.locator("#tooltip b").text_content() == NAMES[CRATE]  # what is not shown can be asked


def test_a_panel_is_enlarged_by_a_click_and_by_a_key(opened):
    page = opened("image/12")
    views = page.locator("figure.view")
    count = views.count()
    width = views.first.bounding_box()["width"]
    page.get_by_role("button", name="Enlarge errors of fusion").click()
    expect(views).to_have_count(1)
    assert views.first.bounding_box()["width"] > 2 * width
    page.keyboard.press("Escape")
    expect(views).to_have_count(count)
    page.locator('figure[data-layer="truth"] .window').hover()
    page.keyboard.press("e")
    expect(page.locator('figure[data-layer="truth"]')).to_be_visible()
    expect(views).to_have_count(1)
    page.keyboard.press("e")
    expect(views).to_have_count(count)


def test_overlaid_the_photo_stays_in_sight_and_the_truth_is_a_line(opened):
    page = opened("image/12")
    page.keyboard.press("o")
    expect(page.locator("figcaption")).to_contain_text("photo + ground truth + fusion")
    assert pixel(page, "truth", 2, 2)[3] == 255  # on the edge
    assert pixel(page, "truth", 5, 5)[3] == 0
    assert pixel(page, "system", 5, 5)[3] == 255


def test_thumbnails_show_the_map_that_is_asked_for(opened):
    page = opened("images?thumbs=system")
    expect(page.locator('.card[data-id="12"] canvas')).to_have_attribute(
        "aria-label", f"fusion: 1 {NAMES[SKY]}, 2 {NAMES[RING]}, 1 __proto__"
    )
    chosen(page, "Thumbnails").select_option("photo")
    expect(page.locator(".card canvas")).to_have_count(0)


def test_tagged_images_are_a_list_to_take_along_and_a_link_keeps_the_tags(opened):
    page = opened("images?system=fusion")
    page.get_by_role("button", name="Tag b.png").click()
    page.locator('.card[data-id="40"]').click()
    page.wait_for_selector("#image .panels")
    for is_tagged in ("true", "false", "true"):
        page.keyboard.press("t")
        expect(page.locator("#tag")).to_have_attribute("aria-pressed", is_tagged)
    page.keyboard.press("g")
    chosen(page, "Tagged").select_option("only")
    assert sorted(shown_images(page)) == [13, 40]
    page.reload()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save list").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image_id"], row["name"], row["tagged"]) for row in rows] == [
        ("13", "b.png", "1"),
        ("40", "${window.hacked=1}.png", "1"),
    ]


def test_the_address_keeps_zoom_and_what_the_overview_shows(opened):
    page = opened("image/12")
    page.get_by_role("button", name="Zoom in").click()
    expect(page).to_have_url(re.compile("zoom=1.5%2C-0.25%2C-0.25"))
    page.reload()
    page.wait_for_selector("#image .panels")
    transform = page.locator(".zoomed").first.evaluate("node => getComputedStyle(node).transform")
    assert transform.startswith("matrix(1.5, 0, 0, 1.5")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("#image/13$"))
    page.keyboard.press("h")
    chosen(page, "Measure").select_option("SQ")
    chosen(page, "Order").select_option("name")
    page.locator("#tab-images").click()
    page.reload()
    page.locator("#tab-overview").click()
    expect(chosen(page, "Measure")).to_have_value("SQ")
    expect(chosen(page, "Order")).to_have_value("name")


def test_keys_number_the_layers_that_there_are_the_tenth_with_shift(opened):
    page = opened("image/12")
    chips = [chip.split("\n") for chip in page.locator(".chip").all_inner_texts()]
    last = [("lwl_htc instances", "7"), ("hrnet semantics", "8"), ("disagreement of ends", "9")]
    assert [(name.strip(), key) for name, key in chips][-3:] == last
    expect(page.locator('canvas[data-layer="semantic:hrnet"]')).to_have_count(1)
    page.keyboard.press("8")
    expect(page.locator('canvas[data-layer="semantic:hrnet"]')).to_have_count(0)
    assert page.evaluate('numberedLayer({key: "!", code: "Digit1", shiftKey: true})') == 9
