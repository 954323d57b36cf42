"""Which changes of the params make the rows of the tables."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dvc.utils.hydra import apply_overrides

from antvisionps.core.errors import ParamsError
from antvisionps.experiments.dvc_experiments import Experiment
from antvisionps.experiments.markdown import Result
from antvisionps.experiments.run_tables import Plan
from antvisionps.experiments.tables import TABLES, Row, Table, changes_of
from antvisionps.params import profiles, whole
from antvisionps.params.whole import Params

PROJECT = Path(__file__).parents[2]
PAPER, BUILT_IN, FACADES = (PROJECT / "profiles" / f"{name}.yaml" for name in ("coco_paper", "built_in", "facades"))

compose, load_params = cache(profiles.compose), cache(whole.load_params)


@cache
def changed(profile: Path, changes: tuple[str, ...]) -> Params:
    """The params as `dvc exp run -S` leaves them."""
    with TemporaryDirectory() as folder:
        params = Path(folder, "params.yaml")
        params.write_text(compose(profile))
        apply_overrides(params, list(changes))
        return whole.load_params(params)


def table_on(profile, name):
    return TABLES[name](load_params(profile))


def params_of_rows(profile, name):
    params = load_params(profile)
    return [changed(profile, changes_of(row, params, seed=None)) for row in TABLES[name](params).rows]


@pytest.mark.parametrize("profile", [PAPER, BUILT_IN, FACADES], ids=lambda path: path.stem)
@pytest.mark.parametrize("name", TABLES)
def test_every_row_makes_valid_params_that_predict_the_rows_ends_alone(profile, name):
    before = load_params(profile)
    rows = table_on(profile, name).rows
    for row, params in zip(rows, params_of_rows(profile, name), strict=True):
        assert params.ends == params.predict.separate_ends == row.ends
        assert row.system in params.fuse.systems
        assert params.prepare == before.prepare
    assert len({row.name for row in rows}) == len(rows)
    assert len({row.label for row in rows}) == len({(row.label, row.changes) for row in rows})


def test_on_the_papers_profile_a_row_of_table_1_is_the_member_of_that_name():
    assert not table_on(PAPER, "1").left_out
    *single, ensemble = params_of_rows(PAPER, "1")
    members = [name for params in single for name in params.train_e_ups.members]
    own = [f"r101_dcn{v}" for v in ("", "_bfp", "_lsh", "_bfp_lsh")]
    assert members == own + [f"se154{v}" for v in ("", "_lsh", "_bfp", "_bfp_lsh")]
    assert [params.predict.member_weights["e_ups"] for params in single] == [{name: 1.0} for name in members]
    weights = {"r50": 0.4, "r101_dcn": 1.2, "r101_dcn_bfp_lsh": 1.1, "se154_lsh": 1.3}
    assert ensemble.predict.member_weights["e_ups"] == weights


def test_the_papers_networks_stay_what_they_are():
    before = load_params(PAPER)
    for after in params_of_rows(PAPER, "1") + params_of_rows(PAPER, "3"):
        assert after.train_e_ups.networks == before.train_e_ups.networks
        assert after.train_lwl_htc == before.train_lwl_htc


def test_elsewhere_a_row_of_table_1_changes_the_profiles_own_network():
    table = table_on(BUILT_IN, "1")
    networks = [params.train_e_ups.networks["base"] for params in params_of_rows(BUILT_IN, "1")]
    levels_and_headers = [(n.balanced_pyramid_level, n.location_sensitive_header) for n in networks]
    assert levels_and_headers[:4] == [(None, False), (2, False), (None, True), (2, True)]
    names = [row.name.removeprefix("efficientnet_lite0 ") for row in table.rows]
    assert names == ["vanilla", "+ BFP", "+ LSH", "+ BFP + LSH", "all members"]
    assert table.left_out[0] == "SENet-154 vanilla (train_e_ups.networks describes no se154)"
    assert len(table.left_out) == 4


@pytest.mark.parametrize(("profile", "plain_level", "dc_level"), [(PAPER, 1, 2), (BUILT_IN, 0, 0)])
def test_table_2_switches_uncertainty_and_the_dc_head(profile, plain_level, dc_level):
    networks = [params.train_lwl_htc.networks["base"] for params in params_of_rows(profile, "2")]
    assert [(n.uncertainty, n.deformable_semantic_head, n.semantic_level) for n in networks] == [
        (None, None, plain_level),
        ("task", None, plain_level),
        (None, "per_level", dc_level),
        ("task", "per_level", dc_level),
    ]


def test_table_3_is_one_experiment():
    rows = table_on(PAPER, "3").rows
    assert len({(row.label, row.changes) for row in rows}) == 1
    assert [row.system for row in rows] == ["e_ups", "lwl_htc", "fusion"]


def test_the_fusion_table_is_of_two_experiments_each_plain_calibrated_and_auto():
    rows, params = table_on(FACADES, "fusion").rows, params_of_rows(FACADES, "fusion")
    assert len({(row.label, row.changes) for row in rows}) == 6
    assert [one.fuse.method for one in params] == ["heuristic"] * 8 + ["auto"] * 4
    assert [one.fuse.calibrated for one in params][:8] == [False] * 4 + [True] * 4
    assert [one.train_hrnet_aspp.members for one in params] == [(), (), (), ("base",)] * 3
    assert params[3].fuse.systems == ("e_ups", "lwl_htc", "fusion")


def test_the_fusion_table_names_what_is_imported_and_keeps_no_exception_of_its_systems():
    exceptions = ("++fuse.methods={fusion: heuristic, e_ups: panoptic_head, yolo: heuristic}",)
    params = changed(FACADES, ("import_end.ends=[yolo]", *exceptions))
    rows = TABLES["fusion"](params).rows
    fused = [row.name for row in rows if row.system == "fusion"]
    assert fused[-2:] == ["fusion of e_ups, lwl_htc, yolo, auto", "fusion of e_ups, lwl_htc, hrnet_aspp, yolo, auto"]
    for row in rows:
        fuse = changed(FACADES, ("import_end.ends=[yolo]", *exceptions, *changes_of(row, params, seed=None))).fuse
        assert fuse.method_of(row.system) == ("auto" if row.name.endswith(", auto") else "heuristic")
        assert fuse.methods == {"yolo": "heuristic"}


@pytest.mark.parametrize(("name", "end"), [("1", "e_ups"), ("2", "lwl_htc")])
def test_a_table_of_an_end_without_members_is_refused(name, end):
    other = "lwl_htc" if end == "e_ups" else "e_ups"
    only_other = (f"ends=[{other}]", f"predict.separate_ends=[{other}]", f"fuse.systems=[{other}]")
    params = changed(BUILT_IN, (*only_other, f"train_{end}.members=[]"))
    with pytest.raises(ParamsError, match=rf"train_{end}\.members is empty; list there"):
        TABLES[name](params)


@pytest.mark.parametrize(
    ("name", "seeds"), [("1", (7, 2, 3)), ("2", (1, 7, 3)), ("3", (701, 702, 3)), ("fusion", (701, 702, 703))]
)
def test_a_seed_changes_all_trainings_and_nothing_else(name, seeds):
    params = load_params(BUILT_IN)
    row = TABLES[name](params).rows[-1]
    own, seeded = (changed(BUILT_IN, changes_of(row, params, seed=seed)) for seed in (None, 7))
    sections = ("train_e_ups", "train_lwl_htc", "train_hrnet_aspp")
    assert tuple(getattr(seeded, section).seed for section in sections) == seeds
    assert own.model_copy(update={section: getattr(seeded, section) for section in sections}) == seeded


def test_a_table_tells_the_iterations_of_every_end_that_one_of_its_rows_trains(tmp_path):
    rows = [Row(end, end, (end,), (), end) for end in ("e_ups", "lwl_htc")]
    params = changed(BUILT_IN, ("train_e_ups.schedule.iterations=70", "train_lwl_htc.schedule.iterations=90"))
    experiments = [(Experiment(row.name, params, {}, ()),) for row in rows]
    summary = {row.system: {group: {"PQ": 1.0} for group in ("All", "Things", "Stuff")} for row in rows}
    results = [Result(row, [row.name], [summary]) for row in rows]
    Plan(Table("Ends", rows), BUILT_IN, experiments).write(tmp_path / "table.md", results, ["command"])
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "e_ups 70 iterations of 4 images, lwl_htc 90 iterations of 4 images" in written
