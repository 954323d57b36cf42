"""Which changes of the params make the rows of the report's tables, and how the tables are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from antvisionps.experiments.markdown import Result, document, figures_of, section
from antvisionps.experiments.report_tables import TABLES, Figures, LeftOut, trials
from antvisionps.params.profiles import compose
from antvisionps.params.whole import Params, load_params

PROJECT = Path(__file__).parents[2]
PAPER, BUILT_IN, FACADES = (
    PROJECT / name for name in ("profiles/coco_paper.yaml", "params.yaml", "profiles/facades.yaml")
)
TABLE_1, TABLE_2, TABLE_3 = TABLES


def changed(profile: Path, changes: tuple[str, ...], folder: Path) -> Params:
    """The params as `dvc exp run -S` leaves them."""
    copy = folder / "params.yaml"
    copy.write_text(compose(profile))
    apply_overrides(copy, list(changes))
    return load_params(copy)


def found_on(profile: Path, table):
    return trials(table, load_params(profile))


@pytest.mark.parametrize("profile", [PAPER, BUILT_IN, FACADES], ids=lambda path: path.stem)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"table{table.number}")
def test_every_row_makes_valid_params_that_predict_the_tables_ends_alone(profile, table, tmp_path):
    found, left_out = found_on(profile, table)
    assert len(found) + len(left_out) == len(table.rows)
    for trial in found:
        params = changed(profile, trial.changes, tmp_path)
        assert params.ends == params.predict.separate_ends == table.ends
        assert trial.row.system in params.fuse.systems
        assert params.prepare == load_params(profile).prepare


def test_on_the_papers_profile_a_row_of_table_1_is_the_member_of_that_name(tmp_path):
    found, left_out = found_on(PAPER, TABLE_1)
    assert not left_out
    *single, ensemble = [changed(PAPER, trial.changes, tmp_path) for trial in found]
    members = [params.train_e_ups.members for params in single]
    assert members == [
        *(("r101_dcn",), ("r101_dcn_bfp",), ("r101_dcn_lsh",), ("r101_dcn_bfp_lsh",)),
        *(("se154",), ("se154_lsh",), ("se154_bfp",), ("se154_bfp_lsh",)),
    ]
    assert [params.predict.member_weights["e_ups"] for params in single] == [{name: 1.0} for (name,) in members]
    weights = {"r50": 0.4, "r101_dcn": 1.2, "r101_dcn_bfp_lsh": 1.1, "se154_lsh": 1.3}
    assert ensemble.predict.member_weights["e_ups"] == weights


def test_the_papers_networks_stay_what_they_are(tmp_path):
    before = load_params(PAPER)
    for table in (TABLE_1, TABLE_3):
        for trial in found_on(PAPER, table)[0]:
            after = changed(PAPER, trial.changes, tmp_path)
            assert after.train_e_ups.networks == before.train_e_ups.networks
            assert after.train_lwl_htc == before.train_lwl_htc


def test_elsewhere_a_row_of_table_1_changes_the_profiles_own_network(tmp_path):
    found, left_out = found_on(BUILT_IN, TABLE_1)
    networks = [changed(BUILT_IN, trial.changes, tmp_path).train_e_ups.networks["base"] for trial in found]
    assert [(n.balanced_pyramid_level, n.location_sensitive_header) for n in networks] == [
        (None, False),
        (2, False),
        (None, True),
        (2, True),
    ]
    assert {n.backbone.name for n in networks} == {"efficientnet_lite0"} == {trial.network for trial in found}
    assert [left.row.variant for left in left_out] == ["vanilla", "+ LSH", "+ BFP", "+ BFP + LSH", "ensemble"]
    assert "describes no se154" in left_out[0].reason


@pytest.mark.parametrize(("profile", "plain_level", "dc_level"), [(PAPER, 1, 2), (BUILT_IN, 0, 0)])
def test_table_2_switches_uncertainty_and_the_dc_head(profile, plain_level, dc_level, tmp_path):
    found, _ = found_on(profile, TABLE_2)
    networks = [changed(profile, trial.changes, tmp_path).train_lwl_htc.network for trial in found]
    assert [(n.uncertainty, n.deformable_semantic_head, n.semantic_level) for n in networks] == [
        (None, None, plain_level),
        ("task", None, plain_level),
        (None, "per_level", dc_level),
        ("task", "per_level", dc_level),
    ]


def test_table_3_is_one_experiment():
    found, _ = found_on(PAPER, TABLE_3)
    assert len({(trial.slug, trial.changes) for trial in found}) == 1
    assert [trial.row.system for trial in found] == ["e_ups", "lwl_htc", "fusion"]


def test_names_of_experiments_differ_where_their_changes_do():
    for profile in (PAPER, BUILT_IN):
        found = [trial for table in TABLES for trial in found_on(profile, table)[0]]
        assert len({trial.slug for trial in found}) == len({(trial.slug, trial.changes) for trial in found})


def test_ours_stands_beside_the_reports_with_the_difference():
    row = TABLE_2.rows[1]
    text = section(TABLE_2, [Result(row, "resnet101", "name-1", Figures(45.0, 58.25, 30.0))], [])
    assert text.splitlines()[:5] == [
        "## Table 2: LWL-HTC",
        "",
        "| network | variant | PQ | report | difference | experiment |",
        "|---|---|---:|---:|---:|---|",
        "| resnet101 | + uncertainty | 45.0 (58.2 / 30.0) | 46.8 (57.2 / 31.0) | −1.8 (+1.0 / −1.0) | `name-1` |",
    ]


def test_a_figure_that_the_report_does_not_have_has_no_difference():
    without_parts, without_any = TABLE_1.rows[0], TABLE_1.rows[6]
    ours = Figures(46.0, 50.0, 40.0)
    lines = section(TABLE_1, [Result(row, "n", "e", ours) for row in (without_parts, without_any)], []).splitlines()
    assert "| 46.0 (50.0 / 40.0) | 45.0 | +1.0 |" in lines[4]
    assert "| 46.0 (50.0 / 40.0) | – | – |" in lines[5]


def test_a_row_that_has_not_run_and_one_that_cannot_are_told():
    text = section(TABLE_1, [Result(TABLE_1.rows[0], "n", "e", None)], [LeftOut(TABLE_1.rows[4], "no such network")])
    assert "| not run yet | 45.0 | – |" in text
    assert "Left out: SENet-154 vanilla (no such network)." in text


def test_figures_are_those_of_the_system():
    summary = {"fusion": {group: {"PQ": pq} for group, pq in (("All", 1.5), ("Things", None), ("Stuff", 2.5))}}
    assert figures_of(summary, "fusion") == Figures(1.5, 0.0, 2.5)


def test_the_document_names_the_profile_and_ends_in_one_newline():
    text = document("profiles/mine.yaml", "make table1", ["## A\n", "## B\n"])
    assert text.startswith("# The report's tables on `profiles/mine.yaml`\n")
    assert text.endswith("## B\n")
