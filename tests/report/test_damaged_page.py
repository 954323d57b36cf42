"""What the page says where a part of it is missing or damaged."""

import re
import shutil

import pytest
from playwright.sync_api import expect


@pytest.fixture
def copy_of_page(page_folder, tmp_path):
    return shutil.copytree(page_folder, tmp_path / "report")


def damaged(script):
    """What a broken copy may make of a script of data: other characters, a part, nothing."""
    return [script.replace("A", "B"), script[: len(script) // 2], ""]


def test_a_missing_or_damaged_image_is_named_and_the_others_are_shown(opened, copy_of_page):
    script = copy_of_page / "images" / "13.js"
    whole, other = script.read_text(), (copy_of_page / "images" / "12.js").read_text()
    page = opened("overview", base=copy_of_page.as_uri())

    def show(image_id):
        page.evaluate("(id) => { location.hash = `image/${id}`; }", image_id)

    for text in (None, other, *damaged(whole)):
        script.unlink() if text is None else script.write_text(text)
        show(13)
        complaint = r"13\.js cannot be loaded" if text is None else r"images/13\.js is .*damaged.*dvc repro"
        expect(page.locator("#image [role=alert]")).to_contain_text(re.compile(complaint))
        show(12)
        page.wait_for_selector("#image .panels")
    script.write_text(whole)
    show(13)
    expect(page.locator("#image h2").first).to_have_text("b.png")
    opened.tabs[0].problems.clear()  # the browser, too, says what is no script


def test_a_damaged_overview_is_named(opened, copy_of_page):
    script = copy_of_page / "data" / "overview.js"
    for text in damaged(script.read_text()):
        script.write_text(text)
        page = opened("", base=copy_of_page.as_uri(), ready="#message:visible")
        expect(page.locator("#message")).to_contain_text(re.compile(r"data/overview\.js is .*damaged.*dvc repro"))
        opened.tabs[-1].problems.clear()
