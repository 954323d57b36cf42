"""`antvisionps sweep` beside stages fuse and score, on a small data set whose ends are noisy copies of the truth."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.cli.sweep import experiment_line, parse_sweeps
from antvisionps.core.errors import ParamsError
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.whole import load_params
from antvisionps.pipeline.evaluate_heldout import evaluate_heldout
from antvisionps.pipeline.fuse import fuse_systems
from antvisionps.pipeline.score import score
from antvisionps.pipeline.sweep import best, grid
from antvisionps.predictions.instances import ImageInstances, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from antvisionps.report.sweep_report import sweep_svg

PROJECT = Path(__file__).parents[2]
ENDS = ("e_ups", "lwl_htc")


def noisy_instances(dataset, image, rng):
    ids = dataset.load_segment_ids(image)
    things = [s for s in image.segments if dataset.categories.by_id(s.category_id).is_thing] * 2
    masks = [np.roll(ids == s.segment_id, rng.integers(-2, 3, 2), axis=(0, 1)) for s in things]
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.array([s.category_id for s in things], np.int32),
        scores=rng.random(len(things)).astype(np.float32),
        boxes_xywh=np.array([s.bbox_xywh for s in things], np.float32).reshape(-1, 4),
        rles=encode_masks(np.array(masks)) if masks else [],
        mask_probs=None,
    )


def noisy_semantics(dataset, image, rng):
    classes = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)[2::4, 2::4]
    probs = np.eye(256)[classes][..., : len(dataset.categories)].transpose(2, 0, 1)
    probs = 0.55 * probs + 0.45 * rng.dirichlet(np.ones(len(probs)), classes.shape).transpose(2, 0, 1)
    return ImageSemantics.from_probs(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        input_height=image.height,
        input_width=image.width,
        stride=4.0,
        category_ids=dataset.categories.category_ids,
        probs=probs,
    )


def write_caches(prepared, predictions):
    rng = np.random.default_rng(5)
    for end in ENDS:
        for split in ("heldout", "val"):
            dataset = open_split(prepared, split)
            header = CacheHeader(end, split, dataset_fingerprint(prepared), dataset.categories, "weights")
            folder = predictions / end / split
            with (
                InstancesWriter(folder / INSTANCES_FILE, header) as instances,
                SemanticWriter(folder / SEMANTIC_FILE, header) as semantics,
            ):
                for image in dataset.images:
                    instances.write(noisy_instances(dataset, image, rng))
                    semantics.write(noisy_semantics(dataset, image, rng))


def write_params(path, **fuse):
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(PROJECT / "params.yaml")
    document["fuse"] |= {"min_score": 0.3, "min_stuff_area_px": 32} | fuse
    document["evaluate_heldout"] |= {"min_heldout_instances": 2, "bootstrap_samples": 20}
    document["score"] |= {"overlay_images": 0, "bootstrap_samples": 20}
    document["runtime"]["workers"] = 1
    yaml.dump(document, path)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after evaluate_heldout; tests change nothing in it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    write_params(folder / "params.yaml")
    data = folder / "data"
    prepare_scenes(
        data / "prepared", train_images=10, val_images=4, height=64, width=96, heldout_images=6, seed=3, workers=1
    )
    write_caches(data / "prepared", data / "predictions")
    places = {"prepared": data / "prepared", "predictions": data / "predictions"}
    evaluate_heldout(load_params(folder / "params.yaml"), **places, out=data / "routing")
    return folder


@pytest.fixture
def in_project(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "160")
    return project


def pq_of_stages(project, folder, **fuse):
    """What stages fuse and score make of the fusion with these parameters: PQ, PQTh, PQSt as the table prints them."""
    params = load_params(write_params(folder / "params.yaml", systems=["fusion"], **fuse))
    places = {name: project / "data" / name for name in ("prepared", "predictions", "routing", "calibration")}
    fuse_systems(params, **places, out=folder / "fused")
    written = {"out": folder / "metrics", "overlays": folder / "overlays"}
    summary = score(params, **places, fused=folder / "fused", **written, with_budget=False)["fusion"]
    return [f"{summary[group]['PQ']:.2f}" for group in ("All", "Things", "Stuff")]


def rows_of(printed, keys):
    """The rows of the table: as many values as keys, PQ, PQTh, PQSt, bar, mark."""
    lines = [line.split() for line in printed.splitlines() if "█" in line]
    return {tuple(cells[:keys]): cells[keys : keys + 3] for cells in lines}, [c[:keys] for c in lines if "best" in c]


def test_a_sweep_gives_what_the_stages_give(in_project, tmp_path, capsys):
    keys = ["fuse.max_overlap_frac=0.2,0.6", "fuse.semantic_weights.e_ups=0.0,1.0"]
    cli.main(["sweep", *keys, "--split", "val"])
    printed = capsys.readouterr().out
    rows, marked = rows_of(printed, keys=2)
    assert list(rows) == [("0.2", "0.0"), ("0.2", "1.0"), ("0.6", "0.0"), ("0.6", "1.0")]
    assert len({tuple(row) for row in rows.values()}) == 4
    for overlap, weight in (("0.2", "1.0"), ("0.6", "0.0")):
        weights = {"e_ups": float(weight), "lwl_htc": 1.0}
        folder = tmp_path / overlap
        folder.mkdir()
        expected = pq_of_stages(in_project, folder, max_overlap_frac=float(overlap), semantic_weights=weights)
        assert rows[overlap, weight] == expected
    (highest,) = marked
    assert float(rows[tuple(highest)][0]) == max(float(row[0]) for row in rows.values())
    last = printed.splitlines()[-1]
    assert last == f"dvc exp run -S fuse.max_overlap_frac={highest[0]} -S ++fuse.semantic_weights.e_ups={highest[1]}"
    assert "tuned on the scoring data" in printed


def test_it_is_held_out_by_default_and_val_is_never_read(project, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(project, tmp_path / "copy")
    for end in ENDS:
        shutil.rmtree(copy / "data" / "predictions" / end / "val")
    monkeypatch.chdir(copy)
    cli.main(["sweep", "fuse.min_score=0.1,0.9", "--system", "e_ups", "--plot", "plots/sweep.svg"])
    printed = capsys.readouterr().out
    assert "e_ups on heldout" in printed
    assert "warning" not in printed
    plot = ElementTree.parse(copy / "plots" / "sweep.svg")
    assert len(plot.findall(".//{http://www.w3.org/2000/svg}polyline")) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fuse.max_overlap_frac"], "expected fuse.KEY=VALUE"),
        (["predict.min_score=0.1,0.2"], "expected fuse.KEY=VALUE"),
        (["fuse.min_score=0.1", "fuse.min_score=0.2"], "each key once"),
        (["fuse.min_score=0.1,["], "no YAML"),
        (["fuse.min_skore=0.1,0.2"], "fuse.min_skore: unknown key"),
        (["fuse.min_score.deep=0.1"], "no such key"),
        (["fuse.min_score=0.1,1.5"], "less than or equal to 1"),
        (["fuse.min_score=0.1,0.2", "--system", "hrnet"], "expected fusion or one of ends"),
        (["fuse.min_score=0.1,0.2", "fuse.preset=upsnet"], "fuse.min_score=0.1 and 0.2 fuse alike"),
        (["fuse.instance_ensemble=best_overall,best_of_class", "--system", "e_ups"], "fuse alike"),
        (["fuse.calibrated=true"], "no readable calibration"),
    ],
)
@pytest.mark.usefixtures("in_project")
def test_what_cannot_be_swept_is_one_line(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sweep", *arguments])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert complaint in error


def test_values_are_read_as_dvc_reads_them():
    assert parse_sweeps(["fuse.a=1e-4,no,null,true,3"]) == {"fuse.a": [1e-4, "no", None, True, 3]}
    assert experiment_line({"fuse.a": None, "fuse.b": True, "fuse.c": 0.5, "fuse.d": "x y"}) == (
        "dvc exp run -S fuse.a=null -S fuse.b=true -S fuse.c=0.5 -S 'fuse.d=x y'"
    )


def test_the_last_key_of_a_grid_changes_fastest():
    points = grid({"a": [1, 2], "b": "xy"})
    assert [tuple(point.values()) for point in points] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_the_first_of_equal_ones_is_best_and_nothing_to_measure_is_worst():
    values = [None, 40.0, 41.0, 41.0]
    pq = [{"PQ": value, "PQTh": None, "PQSt": value} for value in values]
    assert best(pq) == 2
    svg = sweep_svg([{"fuse.a<b": index} for index in range(4)], pq, best=2, title="a & b")
    assert "a &amp; b" in svg
    ElementTree.fromstring(svg)


def test_changes_need_a_key_of_the_file(in_project):
    assert load_params(in_project / "params.yaml", changes={"fuse.min_score": 0.25}).fuse.min_score == 0.25
    with pytest.raises(ParamsError, match=r"fuse\.nothing: unknown key"):
        load_params(in_project / "params.yaml", changes={"fuse.nothing": 1})
