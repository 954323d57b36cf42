"""A page of several runs: the systems of the small report, each as a run of its own, one of them without maps."""

import numpy as np
import pytest
from playwright.sync_api import expect

from antvisionps.core.errors import DataError
from antvisionps.evaluation.panoptic_quality import count_matches
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.predictions.fused_files import open_fused
from antvisionps.report.comparison import ComparedRun, write_comparison
from antvisionps.report.page import PhotoSizes
from tests.report.conftest import CRATE, LAPTOP, NAMES, PHONE, RING
from tests.report.test_page import point_at, shown_images
from tests.report.test_page_data import unpacked
from tests.report.test_views import AXE, assert_sound, violations


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    from tests.report.conftest import SmallReport

    return SmallReport(tmp_path_factory.mktemp("compared") / "sources").root


def truth_of(root):
    return read_panoptic(root / "val.json", images_dir=root / "photos", panoptic_dir=root / "panoptic")


def run_of(root, system, *, name, has_maps=True, **facts):
    truth = truth_of(root)
    fused = open_fused(root / "fused" / system, truth)
    counts = {
        image.source_id: count_matches(
            gt_runs=find_runs(truth.load_segment_ids(image), image.segments),
            gt=image.segments,
            predicted_runs=find_runs(fused.load_segment_ids(described), described.segments),
            predicted=described.segments,
        )
        for image, described in zip(truth.images, fused.images, strict=True)
    }
    return ComparedRun(name, counts, fused if has_maps else None, {"system": system} | facts)


def write(root, out, runs):
    draws = np.ones((5, 3), np.int64)
    sizes = PhotoSizes(photo_long_side_px=20, thumbnail_long_side_px=10, photo_quality=90)
    provenance = {"dataset": "fingerprint", "weights": {}, "versions": {}}
    write_comparison(out, runs, truth_of(root), draws=draws, sizes=sizes, provenance=provenance, workers=1)
    return out


@pytest.fixture(scope="module")
def comparison(sources, tmp_path_factory):
    changes = ["fuse.method=auto", "<b>=1"]
    runs = [
        run_of(sources, "e_ups", name="HEAD"),
        run_of(sources, "fusion", name="low: a, b", params=changes),
        run_of(sources, "fusion", name="far", has_maps=False),
    ]
    return write(sources, tmp_path_factory.mktemp("comparison") / "page", runs)


def test_a_run_is_scored_alike_with_and_without_its_maps(comparison):
    overview = unpacked(comparison / "data" / "overview.js")
    assert overview["metrics"]["summary"]["far"] == overview["metrics"]["summary"]["low: a, b"]
    differences = {(row["group"], row["system"], row["minus"]): row for row in overview["metrics"]["intervals"]}
    pq = {name: groups["All"]["PQ"] for name, groups in overview["metrics"]["summary"].items()}
    difference = differences["All", "low: a, b", "HEAD"]
    assert difference["PQ"] == pytest.approx(pq["low: a, b"] - pq["HEAD"], abs=1e-4)
    assert difference["low"] == pytest.approx(difference["high"])  # every sample was every image once


def test_the_page_names_the_changes_and_sorts_images_by_the_difference(opened, comparison):
    page = opened("overview", base=comparison.as_uri())
    expect(page.locator(".compared")).to_contain_text("fuse.method=auto")
    expect(page.locator(".compared")).to_contain_text("<b>=1")
    assert page.locator("#overview h2").all_inner_texts() == [
        "Runs", "Panoptic quality", "By category", "Differences of PQ", "PQ lost, by kind of error",
        "Confusion of categories", "Provenance",
    ]  # fmt: skip
    page.locator("#tab-images").click()
    assert shown_images(page) == [12, 13, 40]  # where the last run lost most against the first, and then its gain


def test_the_maps_of_two_runs_stand_beside_each_other(opened, comparison):
    page = opened("image/12", base=comparison.as_uri())
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split("\n")[0] for caption in captions] == [
        "photo", "ground truth", "HEAD", "low: a, b", "errors of HEAD", "errors of low: a, b",
    ]  # fmt: skip
    expect(page.locator("#image")).to_contain_text("The maps of far are not at hand.")
    for layer, title in (("map:HEAD", NAMES[CRATE]), ("map:low: a, b", NAMES[RING])):
        point_at(page, layer, 23, 5)
        assert page.locator("#tooltip b").text_content() == title
    point_at(page, "errors:low: a, b", 23, 5)
    assert page.locator("#tooltip b").text_content() == "wrong and missed"
    page.locator("#layer-photo").uncheck()
    expect(page.locator("figure.view")).to_have_count(5)  # a name with a comma too
    page.keyboard.press("s")
    expect(page.locator("#segments h2")).to_have_text("Segments of HEAD")


def test_a_key_enlarges_the_map_of_the_run_that_is_chosen(opened, comparison):
    page = opened("image/12?system=low%3A%20a%2C%20b", base=comparison.as_uri())
    views = page.locator("figure.view")
    page.keyboard.press("e")
    expect(views).to_have_count(1)
    expect(views).to_have_attribute("data-layer", "map:low: a, b")
    page.keyboard.press("e")
    expect(views).to_have_count(6)
    page = opened.tabs[0].go("image/12?system=far")  # without maps
    page.keyboard.press("e")
    expect(views).to_have_attribute("data-layer", "map:HEAD")


def test_a_run_without_maps_is_not_drawn_as_all_wrong(opened, comparison):
    page = opened("images?thumbs=errors&system=far", base=comparison.as_uri())
    expect(page.locator(".card img")).to_have_count(3)
    expect(page.locator(".card .thumbnail")).to_have_count(0)
    page = opened.tabs[0].go("images?thumbs=errors&system=HEAD")
    expect(page.locator(".card .thumbnail")).to_have_count(3)


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_view_of_a_comparison_is_sound(opened, comparison, viewport):
    page = opened("overview", base=comparison.as_uri(), viewport=viewport)
    page.evaluate(AXE)
    for view in ("overview", "images?error=fp", "image/12", "image/12?mode=overlaid&system=HEAD"):
        page.evaluate("(fragment) => { location.hash = fragment; }", view)
        page.wait_for_selector(f'html[data-shown="#{view}"]')
        assert_sound(page, view, viewport["width"])
        assert violations(page, "light") == []


def test_runs_of_other_images_or_another_truth_are_refused(sources, tmp_path):
    run = run_of(sources, "fusion", name="mine")
    other = ComparedRun("other", run.counts | {99: run.counts[12]}, None, {})
    with pytest.raises(DataError, match=r"run other was scored on image 99, which .*val.json has not"):
        write(sources, tmp_path / "page", [run, other])
    other = ComparedRun("other", run.counts | {13: run.counts[12]}, None, {})
    with pytest.raises(DataError, match="run other was scored against other true segments of image 13 than"):
        write(sources, tmp_path / "page", [run, other])
    assert not (tmp_path / "page").exists()
