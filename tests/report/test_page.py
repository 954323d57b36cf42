"""The report page in a real browser, as people open it: from disk, with pointer and keyboard."""

import functools
import http.server
import json
import re
import threading

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.report.conftest import CRATE, LAPTOP, NAMES, PHONE, RING, SKY
from tests.report.test_colors import linear_rgb

SCRIPT_NAME, CRATE_NAME, SKY_NAME = NAMES[RING], NAMES[CRATE], NAMES[SKY]
COLORS = [(255, 119, 0), (0, 255, 187), (0, 114, 178), (102, 51, 34)]
"""Of the four categories in class order: of the first four distinct colours stuff has the duller ones."""


COPIED = """((original) => {
  const copy = new OffscreenCanvas(original.width, original.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(original, 0, 0);
  return copy;
})"""
"""A canvas is read off a copy: Chromium remarks on those that are drawn on and read."""


def pixel(page, layer, x, y):
    """RGBA of a layer's canvas at a pixel of the image of 32 x 24."""
    script = f"""([x, y]) => {{
      const original = document.querySelector('canvas[data-layer="{layer}"]');
      const step = original.width / 32;
      return [...{COPIED}(original).getImageData((x + 0.4) * step, (y + 0.4) * step, 1, 1).data];
    }}"""
    return tuple(page.evaluate(script, [x, y]))


def is_outlined(page):
    outline = "document.querySelector('canvas.outline')"
    return page.evaluate(f"() => {COPIED}({outline}).getImageData(0, 0, 640, 480).data.some(Boolean)")


def point_at(page, layer, x, y):
    box = page.locator(f'figure[data-layer="{layer}"] .window').bounding_box()
    page.mouse.move(box["x"] + (x + 0.5) / 32 * box["width"], box["y"] + (y + 0.5) / 24 * box["height"])


def chosen(page, label):
    """The list of choices below this label."""
    return page.locator(f'section:visible label.choice:has(> span:text-is("{label}")) select').first


def shown_images(page):
    return [int(card.get_attribute("data-id")) for card in page.locator("#images .card").all()]


def test_the_overview_opens_from_disk_and_asks_nobody_else(opened):
    page = opened("overview")
    assert page.locator("#overview h2").all_inner_texts() == [
        "Panoptic quality", "By category", "Differences of PQ", "Error budget of the fusion",
        "PQ lost, by kind of error", "LRP, and the best score threshold", "PQ of slices", "Choice of ends",
        "Things by size", "Routing", "Ends before the fusion", "Reliability", "Training curves",
        "Confusion of categories", "Provenance",
    ]  # fmt: skip
    expect(page.get_by_role("table", name="Panoptic quality of every system")).to_contain_text("63.4")
    expect(page.locator("#overview .plot circle")).to_have_count(2)  # a short curve shows its points
    ignored = "Ignored: fuse.min_score=0.3 (<b>for a reason</b>)"
    expect(page.locator("#overview article").first).to_contain_text(ignored)
    (tab,) = opened.tabs
    assert all(url.startswith(("file://", "data:", "about:")) for url in tab.requested)
    assert not [url for url in tab.requested if "/images/" in url]  # nothing of an image before one is shown


def test_the_page_works_from_a_web_server_in_any_folder(opened, page_folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=page_folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = opened("image/12", base=f"http://127.0.0.1:{server.server_port}/{page_folder.name}")
        assert pixel(page, "truth", 1, 1)[:3] == COLORS[2]
        server.shutdown()


def test_the_overview_tells_why_method_auto_took_its_ends(opened):
    rows = opened("overview").get_by_role("table", name="Choice of ends").get_by_role("row")
    expect(rows).to_have_text(
        [
            "endspasted byPQleadstandard errortaken",
            "e_ups + lwl_htc + hrnetheuristic50.0––",
            "e_upsheuristic60.0+10.06.3",
            "lwl_htcheuristic–––",
            "e_upspanoptic head62.5+12.56.3yes",
        ]
    )


def test_names_that_look_like_code_are_shown_as_they_are(opened):
    page = opened("overview")
    expect(page.get_by_role("table", name="Routing table")).to_contain_text(SCRIPT_NAME)
    page = opened("images")
    expect(page.locator("#images")).to_contain_text("<img src=x onerror=window.hacked=1> é\"'.png")
    assert page.locator("#images img").first.get_attribute("alt").startswith("Photo ")
    page = opened("image/12?layers=truth")
    point_at(page, "truth", 23, 5)
    assert page.locator("#tooltip b").text_content() == CRATE_NAME
    assert page.locator("script:not([src]), img[src=x]").count() == 0


def test_bars_sort_by_name_and_by_system(opened):
    page = opened("overview")
    first = page.locator(".bars li a").first
    chosen(page, "Order").select_option("system|e_ups")
    expect(first).to_contain_text("crate")
    chosen(page, "Order").select_option("gain|e_ups|fusion")
    expect(first).to_contain_text("<script>")
    assert page.locator(".bars .bar output").first.inner_text() == "20.5"
    chosen(page, "Order").select_option(label="loss of fusion to e_ups")
    expect(first).to_contain_text("crate")


def test_the_worst_image_comes_first_in_the_chosen_system(opened):
    assert shown_images(opened("images?system=e_ups")) == [13, 12, 40]
    page = opened.tabs[0].go("images")
    assert shown_images(page) == [12, 13, 40]
    # A ring of IoU 56 / 72 beside a wrong one, a missed crate, and the sky.
    sky = (18 * 32 - 128 - 8) / (18 * 32 - 128 + 8)
    expected = 100 * ((56 / 72) / 1.5 + 0 + sky) / 3
    assert page.locator(".card b").first.inner_text() == f"{expected:.1f}"


def test_a_filter_leaves_the_images_that_it_names(opened):
    page = opened("images")
    for label, option, left in (  # the ring of image 12 lies one column off
        ("Category", CRATE_NAME, [12]),
        ("Size", "small", [12, 13]),
        ("Size", "medium", []),
        ("Error", "any error", [12]),
        ("Error", "class", [12]),
        ("Error", "location", []),
        ("Error", "outline", [12]),
        ("Slice", "time night", [12, 13]),
        ("is", "worse", [12]),
        ("is", "better", [13]),
    ):
        chosen(page, label).select_option(label=option)
        assert shown_images(page) == left, (label, option)
        page.get_by_role("button", name="Clear").click()
        assert sorted(shown_images(page)) == [12, 13, 40]


def test_a_link_opens_its_image_with_its_layers_or_says_that_there_is_none(opened):
    page = opened("image/13?system=e_ups&layers=truth,errors&mode=overlaid&opacity=30")
    expect(page.locator("#image h2").first).to_have_text("b.png")
    assert page.locator("canvas.layer").count() == 2
    assert page.locator("figure.view").count() == 1
    assert page.locator("canvas.layer").first.evaluate("node => getComputedStyle(node).opacity") == "0.3"
    assert page.locator("#system").input_value() == "e_ups"
    page.evaluate("location.hash = 'image/999'")
    expect(page.get_by_role("alert").last).to_contain_text("no image 999")
    for key in ("t", "[", "+", "ArrowRight"):
        page.keyboard.press(key)


def test_layers_show_their_maps_in_the_colours_of_their_categories(opened):
    page = opened("image/12?score=0.5")
    assert pixel(page, "truth", 4, 4) == (*COLORS[0], 255)
    assert pixel(page, "truth", 23, 5) == (*COLORS[1], 255)
    assert pixel(page, "truth", 5, 20)[3] == 0  # void lets the photo through
    assert pixel(page, "system", 2, 5) == (*COLORS[2], 255)  # the ring lies one column to the right
    assert pixel(page, "semantic:hrnet", 5, 20) == (*COLORS[3], 255)
    assert pixel(page, "instances:e_ups", 5, 5) == (*COLORS[0], 255)
    assert pixel(page, "instances:e_ups", 23, 5)[3] == 0  # below the score
    assert page.locator('[data-layer="instances:hrnet"]').count() == 0


def test_errors_have_their_own_colours_and_so_has_void(opened):
    page = opened("image/12?layers=errors")
    green, sky_blue, orange, purple = (0, 158, 115), (86, 180, 233), (230, 159, 0), (204, 121, 167)

    def near(color, expected):  # a half transparent colour is stored premultiplied
        return all(abs(one - other) <= 2 for one, other in zip(color, expected, strict=False))

    assert near(pixel(page, "errors", 5, 5), green)
    assert near(pixel(page, "errors", 2, 5), sky_blue)
    assert {pixel(page, "errors", x, 5)[:3] for x in range(21, 27)} <= {orange, purple}
    red, other, third, alpha = pixel(page, "errors", 5, 20)  # void
    assert (red == other == third, alpha) == (True, 255)


def test_hiding_a_layer_and_opacity_change_what_is_seen(opened):
    page = opened("image/12?layers=photo,truth,system&mode=overlaid")
    panel = page.locator(".window")
    before = panel.screenshot()
    page.locator("#layer-system").uncheck()
    without = panel.screenshot()
    assert without != before
    page.locator("#opacity").fill("0")
    invisible = panel.screenshot()
    assert invisible != without
    page.locator("#layer-truth").uncheck()
    assert panel.screenshot() == invisible
    assert "opacity=0" in page.url


def test_hovering_names_the_segment_below_the_pointer(opened):
    page = opened("image/12")
    tooltip = page.locator("#tooltip")
    wrong, missed = f"wrong class: the truth is {CRATE_NAME}, IoU 1.00", f"missed: called {SCRIPT_NAME}, IoU 1.00"
    fits, below = f"IoU 1.00 with a true {CRATE_NAME}", "in fusion: score below the threshold"
    for layer, x, y, title, lines in (
        ("system", 5, 5, SCRIPT_NAME, ["score 0.90", "from e_ups", "matched, IoU 0.78", "64 px"]),
        ("system", 23, 5, SCRIPT_NAME, ["score 0.80", "lwl_htc", wrong]),
        ("system", 5, 20, "__proto__", ["stuff, no score", "from e_ups+hrnet", "not counted (void or crowd)"]),
        ("truth", 23, 5, CRATE_NAME, [f"fusion: {missed}"]),
        ("truth", 5, 20, "void", []),
        ("errors", 23, 5, "wrong and missed", [f"truth: {CRATE_NAME}"]),
        ("instances:e_ups", 23, 5, CRATE_NAME, ["score 0.40", fits, below]),
        ("instances:lwl_htc", 23, 5, SCRIPT_NAME, ["score 0.80", "in fusion: in the map"]),
        ("semantic:e_ups", 5, 20, "__proto__", ["most probable class"]),
    ):
        point_at(page, layer, x, y)
        assert tooltip.locator("b").text_content() == title
        for line in lines:
            assert line in tooltip.text_content()
        assert page.locator("#readout h3").inner_text() == f"Pixel {x}, {y}"
    page.mouse.move(2, 2)
    expect(tooltip).to_be_hidden()


def test_panels_zoom_and_point_in_step(opened):
    page = opened("image/12")
    page.get_by_role("button", name="Zoom in").click()
    transforms = {view.evaluate("node => getComputedStyle(node).transform") for view in page.locator(".zoomed").all()}
    assert len(transforms) == 1
    assert transforms.pop().startswith("matrix(1.5, 0, 0, 1.5")
    box = page.locator('figure[data-layer="truth"] .window').bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#readout h3")).to_have_text("Pixel 16, 12")  # zoomed about the middle
    assert page.locator(".crosshair:visible").count() == page.locator(".window").count()
    page.keyboard.press("0")
    transform = page.locator(".zoomed").first.evaluate("node => getComputedStyle(node).transform")
    assert transform == "matrix(1, 0, 0, 1, 0, 0)"


def test_rejected_candidates_stand_with_their_reasons_and_show_where_they_lay(opened):
    page = opened("image/12")
    rows = page.locator("#rejected tbody tr")
    assert rows.count() == 3
    expect(rows.first).to_contain_text("score below the threshold, but it fits a missed one")
    expect(rows.nth(1)).to_contain_text("e_ups+lwl_htc")
    expect(rows.last).to_contain_text("too small")
    assert not is_outlined(page)
    for row, has_mask in ((rows.first, True), (rows.nth(1), False), (rows.last, True)):
        row.focus()
        assert is_outlined(page) == has_mask


def test_the_keyboard_walks_through_images_layers_and_views(opened):
    page = opened("images")
    page.locator(".card").first.click()
    page.wait_for_selector("#image .panels")
    heading = page.locator("#image h2").first
    page.locator("#layer-photo").click()  # a ticked box does not keep the keys to itself
    page.keyboard.press("ArrowRight")
    expect(heading).to_have_text("b.png")
    page.keyboard.press("ArrowLeft")
    expect(heading).to_contain_text("é")
    for count in (0, 1):
        page.keyboard.press("2")
        expect(page.locator('canvas[data-layer="truth"]')).to_have_count(count)
    page.keyboard.press("o")
    expect(page.locator("figure.view")).to_have_count(1)
    page.keyboard.press("[")
    assert "opacity=55" in page.url
    page.keyboard.press("s")
    expect(page.locator("#system")).to_have_value("e_ups")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("#images")).to_be_visible()
    expect(page.locator('.card[data-id="12"]')).to_be_focused()
    page.keyboard.press("h")
    expect(page.locator("#overview")).to_be_visible()
    page.go_back()
    expect(page.locator("#images")).to_be_visible()


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_view_fits_the_screen_and_can_be_read(opened, viewport):
    page = opened("overview", viewport=viewport)
    for view in ("overview", "images", "image/12"):
        page.evaluate("(view) => { location.hash = view; }", view)
        expect(page.locator(f"#{view.split('/')[0]}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    columns = page.locator(".panels").evaluate("node => getComputedStyle(node).gridTemplateColumns.split(' ').length")
    assert columns == (2 if viewport == PHONE else 4)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        script = "body => [getComputedStyle(body).backgroundColor, getComputedStyle(body).color]"
        style = page.locator("body").evaluate(script)
        back, ink = (luminance([int(value) for value in re.findall(r"\d+", color)]) for color in style)
        assert (back > ink) == (scheme == "light")
        assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) > 7  # WCAG 2.2, contrast of text, level AAA


def luminance(rgb):
    """WCAG 2.2, relative luminance."""
    return linear_rgb(np.array(rgb)) @ (0.2126, 0.7152, 0.0722)


def test_every_picture_and_control_has_a_name(opened):
    for fragment in ("overview", "images", "image/40", "image/12"):  # 40 has nothing in it
        page = opened(fragment)
        for picture in page.locator("img, canvas.layer, svg.plot, svg.whisker").all():
            assert picture.get_attribute("alt") or picture.get_attribute("aria-label")
        nameless = page.evaluate(
            "[...document.querySelectorAll('main select, main input')].filter((node) => !node.labels.length).length"
        )
        assert nameless == 0
    assert page.locator('canvas[data-layer="truth"]').get_attribute("aria-label") == (
        f"ground truth: 1 {SKY_NAME}, 1 {SCRIPT_NAME}, 1 {CRATE_NAME}"
    )


def test_tapping_works_where_there_is_no_pointer_to_hover(opened):
    page = opened("image/12", viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator('figure[data-layer="truth"] .window').tap()
    expect(page.locator("#readout h3")).to_have_text(re.compile("Pixel 1[56], 1[12]"))


def test_a_budget_of_something_else_than_what_was_fused_says_so(opened, small_report, tmp_path):
    budget = small_report.root / "metrics" / "error_budget.csv"
    budget.write_text(budget.read_text().replace("as fused", "by the heuristic"))
    page = opened("overview", base=small_report.write(tmp_path / "report").as_uri())
    heading = page.get_by_role("heading", name="Error budget")
    expect(heading).to_have_text("Error budget of the fusion, by the heuristic")


def test_browsers_without_newer_functions_show_every_view_and_keep_the_address(opened):
    """The oldest browsers that the page is for: before Chrome 92 and 113, Safari 15.4 and 17."""
    page = opened("overview", locale="en-US")  # a context of its own, as the script stays in it
    page.context.add_init_script("delete Array.prototype.at; delete URLSearchParams.prototype.size;")
    opened.tabs[0].go("overview")
    expect(page.locator("#overview svg.plot")).to_have_count(2)
    page.locator(".bars a", has_text="crate").click()
    expect(page.locator("#found")).to_have_text("1 image of 3")
    assert shown_images(page) == [12]
    assert "category=1" in page.url
    opened.tabs[0].go("image/13?category=1")  # not in this selection
    expect(page.locator("#previous")).to_have_attribute("href", re.compile("^#image/12[?]category=1$"))


def test_a_crowd_is_shown_as_not_counted(opened, small_report, tmp_path):
    annotations = small_report.root / "val.json"
    document = json.loads(annotations.read_text())
    (row,) = (row for row in document["annotations"] if row["image_id"] == 13)
    (ring,) = (segment for segment in row["segments_info"] if segment["area"] == 64)
    ring["iscrowd"] = 1
    annotations.write_text(json.dumps(document))
    page = opened("image/13?system=e_ups&layers=errors", base=small_report.write(tmp_path / "report").as_uri())
    assert pixel(page, "errors", 5, 5) == (100, 100, 100, 255)
    point_at(page, "errors", 5, 5)
    assert page.locator("#tooltip b").text_content() == "not counted (crowd)"
