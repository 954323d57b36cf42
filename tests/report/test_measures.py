"""The cards of what is measured beside PQ, and where each of their numbers leads."""

import pytest
from playwright.sync_api import expect

from antvisionps.evaluation.error_kinds import KINDS
from antvisionps.evaluation.segment_scores import SegmentMaps, SegmentScores, score_segments
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.predictions.fused_files import open_fused
from tests.report.conftest import CRATE, NAMES, SYSTEMS
from tests.report.test_page import chosen, shown_images
from tests.report.test_page_data import unpacked


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """System → category ids or None for all → kind → PQ lost, in percent, as stage score counts it."""
    from tests.report.conftest import SmallReport

    root = SmallReport(tmp_path_factory.mktemp("losses") / "sources").root
    truth = read_panoptic(root / "val.json", images_dir=root / "photos", panoptic_dir=root / "panoptic")
    sizes = [(image.height, image.width) for image in truth.images]

    def errors(system):
        datasets = (truth, open_fused(root / "fused" / system, truth))
        parts = []
        for index, hw in enumerate(sizes):
            maps = []
            for dataset in datasets:
                image = dataset.images[index]
                runs = find_runs(dataset.load_segment_ids(image), image.segments)
                maps.append(SegmentMaps.of(runs, [image.segments], sizes_hw=[hw], with_bands=False))
            parts.append(score_segments(*maps))
        return SegmentScores.join(parts).errors

    found = {system: errors(system) for system in SYSTEMS}
    everything = [category.category_id for category in truth.categories.categories]

    def lost(system, category_ids=None):
        shares = found[system].of_categories(category_ids or everything)[1]
        return {kind: f"{100 * share:.1f}" for kind, share in zip(map(str, KINDS), shares, strict=True)}

    return lost


def kinds_shown(page):
    rows = page.get_by_role("table", name="PQ lost by kind of error").locator("tbody tr").all()
    cells = [(row.locator("th").inner_text(), row.locator("td").all_inner_texts()) for row in rows]
    return {system: {kind: values[place] for kind, values in cells} for place, system in enumerate(SYSTEMS)}


def test_what_pq_is_lost_to_is_what_stage_score_counts_and_leads_to_its_images(opened, losses):
    page = opened("overview")
    assert kinds_shown(page) == {system: losses(system) for system in SYSTEMS}
    chosen(page, "Of").select_option(label=NAMES[CRATE])
    assert kinds_shown(page)["fusion"] == losses("fusion", [CRATE])
    page.get_by_role("link", name="PQ of fusion lost to kind class").click()
    assert shown_images(page) == [12]
    expect(chosen(page, "Error")).to_have_value("class")
    expect(chosen(page, "Category")).to_have_value("1")


def test_boundary_pq_stands_beside_pq_and_is_a_measure_of_categories(opened):
    page = opened("overview")
    expect(page.get_by_role("table", name="Panoptic quality of every system")).to_contain_text("52.1")
    expect(page.get_by_role("table", name="Quality of things by size")).to_contain_text("41.5")
    chosen(page, "Measure").select_option("boundary PQ")
    expect(page.locator(".bars .bar output").first).to_have_text("20.3")


def test_lrp_says_which_threshold_is_best_and_leads_to_what_it_counts(opened):
    page = opened("overview")
    rows = page.get_by_role("table", name="LRP of every category").locator("tbody tr")
    assert [row.locator("td").last.inner_text() for row in rows.all()] == ["–", "0.63", "–"]
    assert rows.nth(1).locator("th").inner_text() == NAMES[CRATE]  # worst first
    rows.nth(1).get_by_role("link", name="FN 10.0").click()
    expect(chosen(page, "Error")).to_have_value("fn")
    assert shown_images(page) == [12]


def test_the_ends_have_their_ap_on_val_and_held_out_and_a_curve(opened):
    page = opened("overview")
    rows = page.get_by_role("table", name="AP of every end").locator("tbody tr")
    assert rows.nth(0).locator("td").all_inner_texts() == ["41.5", "60.5", "30.0", "31.5", "–", "–"]
    assert rows.nth(1).locator("td").all_inner_texts() == ["51.5", "70.5", "25.0", "–", "–", "12.5"]
    curve = page.get_by_role("img", name="Precision by recall")
    expect(curve).to_have_attribute("aria-label", "Precision by recall: e_ups ends at 0.5, lwl_htc ends at 0.5")
    chosen(page, "Precision of").select_option(label=NAMES[CRATE])
    expect(curve).to_have_attribute("aria-label", "Precision by recall: e_ups ends at 0.5")
    rows.nth(1).get_by_role("link").click()
    assert shown_images(page) == [12, 13]


def test_a_bin_that_is_too_sure_leads_to_what_is_wrong_in_it(opened):
    page = opened("overview")
    expect(page.locator(".diagrams h3")).to_have_text(["e_ups instances", "fusion segments"])  # of nothing none
    page.get_by_role("link", name="fusion segments, 0.80 to 0.87: 50.0 % of 2 are right").click()
    expect(page.locator("#bin")).to_have_text("wrong fusion segments, confidence 0.80 to 0.87 ✕")
    assert shown_images(page) == [12]  # the crate that is called a ring, with 0.8
    page.locator("#bin").click()
    assert sorted(shown_images(page)) == [12, 13, 40]


def test_the_script_of_bins_counts_what_is_wrong_in_each_image(page_folder):
    wrong = unpacked(page_folder / "data" / "wrong.js")["of"]
    counted = {key: {place: bins for place, bins in enumerate(of) if bins} for key, of in wrong.items()}
    assert counted["fusion/segments"] == {12: [0, 1]}
    assert counted["e_ups/segments"] == {}
    assert counted["lwl_htc/instances"] == {12: [0, 1]}  # a ring of 0.8 on a crate
    assert counted["e_ups/instances"] == {}
    # Things that are called sky, and the six rows of sky below them that are not.
    assert counted["hrnet/semantics"] == {14: [0, 128 + 6 * 32, 1, 64 + 6 * 32]}


def test_a_slice_leads_to_its_images(opened):
    page = opened("overview")
    rows = page.get_by_role("table", name="PQ of slices").locator("tbody tr")
    assert [row.locator("th").inner_text() for row in rows.all()] == ["time night", "time day"]
    assert rows.first.locator("td").all_inner_texts()[:3] == ["2", "40.5", "45.5"]
    rows.first.get_by_role("link").click()
    assert sorted(shown_images(page)) == [12, 13]
    expect(chosen(page, "Slice")).to_have_value("time=night")
