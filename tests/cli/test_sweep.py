"""`antvisionps sweep` beside stages fuse and score, on a small data set whose ends are noisy copies of the truth."""

import shutil
from xml.etree import ElementTree

import pytest

from antvisionps.cli import main as cli
from antvisionps.cli.sweep import experiment_line, parse_sweeps
from antvisionps.core.errors import ParamsError
from antvisionps.params.whole import load_params
from antvisionps.pipeline.sweep import best
from antvisionps.report.sweep_report import sweep_svg
from tests.pipeline.workspace import ENDS, PROJECT, write_params


@pytest.fixture
def project(done, tmp_path, monkeypatch):
    """The folder of a project after evaluate_heldout, in which the test runs; nothing is predicted on val yet."""
    folder = tmp_path / "project"
    for end in ENDS:
        (folder / "data" / "predictions" / end).mkdir(parents=True)
    for name in ("prepared", "routing", *(f"predictions/{end}/heldout" for end in ENDS)):
        (folder / "data" / name).symlink_to(done.root / name)
    shutil.copy(PROJECT / "dvc.yaml", folder)
    shutil.copy(done.params, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    return folder


def rows_of(printed, keys):
    """The rows of the table: as many values as keys, PQ, PQTh, PQSt, bar, mark."""
    lines = [line.split() for line in printed.splitlines() if "█" in line]
    return {tuple(cells[:keys]): cells[keys : keys + 3] for cells in lines}, [c[:keys] for c in lines if "best" in c]


def test_a_sweep_gives_what_the_stages_give(done, project, tmp_path, capsys):
    for end in ENDS:
        (project / "data" / "predictions" / end / "val").symlink_to(done.predictions / end / "val")
    keys = ["fuse.max_overlap_frac=0.2,0.95", "fuse.semantic_weights.e_ups=0.0,1.0"]
    cli.main(["sweep", *keys, "--split", "val"])
    printed = capsys.readouterr().out
    rows, marked = rows_of(printed, keys=2)
    assert list(rows) == [("0.2", "0.0"), ("0.2", "1.0"), ("0.95", "0.0"), ("0.95", "1.0")]
    assert len({tuple(row) for row in rows.values()}) == 4
    for overlap, weight in (("0.2", "1.0"), ("0.95", "0.0")):
        weights = {"e_ups": float(weight), "lwl_htc": 0.5}
        choices = {"max_overlap_frac": float(overlap), "semantic_weights": weights}
        fused = done.fuse(tmp_path / f"fused with {weight}", "fusion", **choices)
        scores = done.score(tmp_path / f"scores with {weight}", fused)["fusion"]
        assert rows[overlap, weight] == [f"{scores[group]['PQ']:.2f}" for group in ("All", "Things", "Stuff")]
    (highest,) = marked
    assert float(rows[tuple(highest)][0]) == max(float(row[0]) for row in rows.values())
    last = printed.splitlines()[-1]
    assert last == f"dvc exp run -S fuse.max_overlap_frac={highest[0]} -S ++fuse.semantic_weights.e_ups={highest[1]}"
    assert "tuned on the scoring data" in printed


def test_it_is_held_out_by_default_and_val_is_never_read(project, capsys):
    cli.main(["sweep", "fuse.min_score=0.1,0.9", "--system", "e_ups", "--plot", "plots/sweep.svg"])
    printed = capsys.readouterr().out
    assert "e_ups on heldout" in printed
    assert "warning" not in printed
    plot = ElementTree.parse(project / "plots" / "sweep.svg")
    assert len(plot.findall(".//{http://www.w3.org/2000/svg}polyline")) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("fuse.max_overlap_frac", "expected fuse.KEY=VALUE"),
        ("predict.min_score=0.1,0.2", "expected fuse.KEY=VALUE"),
        ("fuse.min_score=0.1 fuse.min_score=0.2", "each key once"),
        ("fuse.min_skore=0.1,0.2", "fuse.min_skore: unknown key"),
        ("fuse.min_score.deep=0.1", "no such key"),
        ("fuse.min_score=0.1,1.5", "less than or equal to 1"),
        ("fuse.min_score=0.1,0.2 --system hrnet", "expected fusion or one of ends"),
        (
            "fuse.min_score=0.1,0.2 fuse.preset=upsnet",
            "fuse.min_score=0.1 and 0.2 fuse alike: fuse.preset=upsnet takes its place",
        ),
        ("fuse.min_score=0.1 fuse.preset=upsnet", "fuse.min_score=0.1 has no effect: fuse.preset=upsnet takes its"),
        ("fuse.instance_ensemble=best_overall,best_of_class --system e_ups", "fuse alike: this system does not use it"),
        ("fuse.instance_weights.e_ups=2", "has no effect: only a union has weights of instances"),
        ("fuse.calibrated=true", "no readable calibration"),
        (
            "fuse.calibrated=true fuse.semantic_average=probabilities,log_probabilities",
            "fuse.semantic_average=log_probabilities needs a new fit by stage calibrate, which `dvc exp run -S` makes",
        ),
        ("fuse.order=learned fuse.instance_weights.e_ups=2", "fuse.instance_weights.e_ups=2 needs a new fit"),
        ("fuse.method=auto fuse.max_overlap_frac=0.3", "fuse.method=auto needs a new fit"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_cannot_be_swept_is_one_line(arguments, complaint, refused):
    assert complaint in refused("sweep", *arguments.split())


def test_a_place_where_no_plot_can_be_is_told_before_the_sweep(project, refused, capsys):
    (project / "file").touch()
    (project / "folder").mkdir()
    assert "file/a.svg: Not a directory" in refused("sweep", "fuse.min_score=0.1,0.9", "--plot", "file/a.svg")
    assert "folder: expected a file to write, got a folder" in refused(
        "sweep", "fuse.min_score=0.1,0.9", "--plot", "folder"
    )
    assert capsys.readouterr().out == ""


def test_values_are_read_as_dvc_reads_them():
    assert parse_sweeps(["fuse.a=1e-4,no,null,true,3"]) == {"fuse.a": [1e-4, "no", None, True, 3]}
    with pytest.raises(ParamsError, match="not valid YAML"):
        parse_sweeps(["fuse.min_score=0.1,["])
    assert parse_sweeps(["fuse.a={b: 1, c: 2},{}", "fuse.d=[e, f]"]) == {
        "fuse.a": [{"b": 1, "c": 2}, {}],
        "fuse.d": [["e", "f"]],
    }
    assert experiment_line({"fuse.a": None, "fuse.b": True, "fuse.c": 0.5, "fuse.d": "x y"}) == (
        "dvc exp run -S fuse.a=null -S fuse.b=true -S fuse.c=0.5 -S 'fuse.d=x y'"
    )
    assert experiment_line({"fuse.a": {"b c": 0.5}, "fuse.d.Tür": 0.5}) == (
        "dvc exp run -S '++fuse.a={b c: 0.5}'  # after writing into params.yaml fuse.d.Tür: 0.5"
    )


def test_a_table_joins_the_one_of_the_params_as_in_an_experiment(done, project, tmp_path):
    changed = write_params(tmp_path / "params.yaml", min_scores={"ring": 0.2})
    params = load_params(changed, changes={"fuse.min_scores": {"ball": 0.4}, "fuse.systems": ("e_ups",)})
    assert params.fuse.min_scores == {"ring": 0.2, "ball": 0.4}
    assert params.fuse.systems == ("e_ups",)


def test_the_first_of_equal_ones_is_best_and_nothing_to_measure_is_worst():
    pq = [{"PQ": value, "PQTh": None, "PQSt": value} for value in (None, 40.0, 41.0, 41.0)]
    assert best(pq) == 2
    svg = sweep_svg([{"fuse.a<b": index} for index in range(4)], pq, best=2, title="a & b")
    assert "a &amp; b" in svg
    ElementTree.fromstring(svg)


def test_settings_that_are_fitted_on_the_images_beside_some_that_are_not_are_warned_of(done, project, capsys):
    (project / "data" / "calibration").symlink_to(done.calibration)
    cli.main(["sweep", "fuse.calibrated=false,true"])
    assert "fitted some of these to the held-out images" in capsys.readouterr().out
    cli.main(["sweep", "fuse.calibrated=true"])
    assert "warning" not in capsys.readouterr().out
