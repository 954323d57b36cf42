import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from antvisionps.cli import main as cli
from antvisionps.inspection.predictions import open_predictions
from tests.dvc_project import commit, dvc
from tests.tiny_run import PROJECT

pytestmark = pytest.mark.usefixtures("in_the_run")


@pytest.fixture
def inspect(capsys):
    """Runs the command and returns what it printed: with --json the document."""

    def run(*arguments):
        cli.main(["inspect", *map(str, arguments)])
        printed = capsys.readouterr().out
        return json.loads(printed) if "--json" in arguments else printed

    return run


@pytest.fixture(scope="module")
def val(tiny_run):
    return json.loads((tiny_run / "data/prepared/val.json").read_text())


@pytest.fixture(scope="module")
def image_id(val):
    return val["images"][1]["id"]


def table_in(text, first_column):
    """Rows of the table whose header begins with that column, as cells; of text columns without spaces only."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == [first_column])
    stop = lines.index("", start)
    return [line.split() for line in lines[start + 2 : stop]]


def test_the_list_names_all_that_the_stages_left(inspect, tiny_run):
    splits = {row[0]: row for row in table_in(inspect(), "split")}
    assert {name: int(row[1]) for name, row in splits.items()} == {"train": 6, "heldout": 3, "monitor": 2, "val": 4}
    assert splits["val"][4:7] == ["64", "x", "80"]
    fingerprint = json.loads((tiny_run / "data/prepared/dataset.json").read_text())["fingerprint"]
    assert splits["val"][-1] == fingerprint[:12]
    found = inspect("--json")
    caches = {(row["end"], row["split"]): row for row in found["caches"]}
    ends = ("e_ups", "lwl_htc", "hrnet_aspp")
    assert set(caches) == {(end, split) for end in ends for split in ("heldout", "val")}
    instances = pq.read_metadata("data/predictions/lwl_htc/val/instances.parquet").num_rows
    assert caches["lwl_htc", "val"]["instances"] == instances
    assert caches["hrnet_aspp", "val"]["instances"] is None
    assert [row["system"] for row in found["systems"]] == ["e_ups", "fusion", "lwl_htc"]
    backbones = {row["end"]: row["backbone"] for row in found["networks"]}
    assert backbones == {"e_ups": "efficientnet_lite0", "lwl_htc": "efficientnet_lite0", "hrnet_aspp": None}
    assert found["problems"] == []


def test_the_list_also_shows_what_is_not_damaged(tiny_run, tmp_path, capsys):
    data = shutil.copytree(tiny_run / "data", tmp_path / "data")
    (data / "predictions/e_ups/val/instances.parquet").write_bytes(b"PAR1")
    manifest = json.loads((data / "prepared/dataset.json").read_text())
    (data / "prepared/dataset.json").write_text(json.dumps(manifest | {"fingerprint": "f" * 64}))
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--data", str(data)])
    printed = capsys.readouterr()
    assert ["e_ups", "heldout"] in [row[:2] for row in table_in(printed.out[printed.out.index(": caches") :], "end")]
    assert "e_ups/val/instances.parquet: not a whole Parquet file" in printed.err
    assert "lwl_htc/val: predicted from data" in printed.err


def test_instances_are_those_of_the_file_best_first(inspect, image_id):
    frame = pd.read_parquet("data/predictions/e_ups/val/instances.parquet")
    own = frame[frame["image_id"] == image_id].sort_values("score", ascending=False)
    rows = inspect("instances", "e_ups", "val", "--image", image_id, "--json")
    assert [row["score"] for row in rows] == own["score"].tolist()
    assert [row["area"] for row in rows] == own["area_px"].tolist()
    boxes = [[row[side] for side in ("x", "y", "width", "height")] for row in rows]
    assert boxes == [box.tolist() for box in own["bbox_xywh"]]
    printed = table_in(inspect("instances", "e_ups", "val", "--image", image_id), "rank")
    assert [cells[1:3] for cells in printed] == [[row["category"], f"{row['score']:.3f}"] for row in rows]


def test_instances_can_be_chosen(inspect, image_id):
    ask = ("instances", "e_ups", "val", "--image", image_id, "--json")
    rows = inspect(*ask)
    one, other = sorted({row["category"] for row in rows})[:2]
    assert inspect(*ask, "--category", one) == [row for row in rows if row["category"] == one]
    both = [row for row in rows if row["category"] in (one, other)]
    assert inspect(*ask, "--category", one, "--category", other) == both
    middle = rows[len(rows) // 2]["score"]
    assert inspect(*ask, "--min-score", middle) == [row for row in rows if row["score"] >= middle]
    assert inspect(*ask, "--limit", 2) == rows[:2]
    assert "0 of" in inspect(*ask[:-1], "--min-score", 2)


def test_instances_are_drawn_where_they_are(inspect, image_id, tmp_path):
    ask = ("instances", "e_ups", "val", "--image", image_id)
    inspect(*ask, "--min-score", 2, "--png", tmp_path / "none.png")
    (row,) = inspect(*ask, "--limit", 1, "--png", tmp_path / "one.png", "--json")
    none, one = cv2.imread(tmp_path / "none.png"), cv2.imread(tmp_path / "one.png")
    photo = cv2.imread(f"data/prepared/images/{image_id:012d}.png")
    factor = none.shape[0] // photo.shape[0]
    assert np.array_equal(none[::factor, ::factor], photo)
    changed = (none != one).any(axis=2)
    x, y, width, height = (round(factor * row[side]) for side in ("x", "y", "width", "height"))
    outside = changed.copy()
    outside[max(0, y - 20) : y + height + 2, max(0, x - 2) : x + max(width, 140) + 2] = False
    assert changed.sum() > 100
    assert not outside.any()


def test_semantic_shares_are_of_all_pixels_and_the_map_has_the_colours(inspect, image_id, val, tmp_path):
    ask = ("semantic", "lwl_htc", "val", "--image", image_id)
    rows = inspect(*ask, "--json", "--png", tmp_path / "map.png")
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    with open_predictions("data/predictions/lwl_htc/val") as cache:
        semantic = cache[image_id].semantic
        means = {c.name: plane.mean() for c, plane in zip(semantic.categories, semantic.probs, strict=True)}
    assert {row["category"]: row["mean probability"] for row in rows} == pytest.approx(means)
    colors = {category["name"]: category["color"] for category in val["categories"]}
    drawn = cv2.imread(tmp_path / "map.png")[..., ::-1][:, :480]
    for row in rows:
        share = (drawn == colors[row["category"]]).all(axis=2).mean()
        assert share <= row["share"] + 1e-9
        assert share >= row["share"] - 0.1 * (row["share"] > 0)  # lines between classes are black
    assert "%" in inspect(*ask)


def test_fused_shows_segments_and_why_candidates_are_rejected(inspect, image_id, tmp_path):
    found = inspect("fused", "fusion", "--image", image_id, "--json", "--png", tmp_path / "fused.png")
    document = json.loads(Path("data/fused/fusion/panoptic.json").read_text())
    (segments,) = (one["segments_info"] for one in document["annotations"] if one["image_id"] == image_id)
    assert [(s["segment"], s["area"]) for s in found["segments"]] == [(s["id"], s["area"]) for s in segments]
    assert found["void"] == pytest.approx(1 - sum(s["area"] for s in found["segments"]) / (64 * 80))
    frame = pd.read_parquet("data/fused/fusion/candidates.parquet")
    assert [row["reason"] for row in found["rejected"]] == frame[frame["image_id"] == image_id]["reason"].tolist()
    counts = pd.read_parquet("data/scores/per_image.parquet").query(f"system == 'fusion' and image_id == {image_id}")
    assert [(row["TP"], row["FN"]) for row in found["quality"]] == list(zip(counts["tp"], counts["fn"], strict=True))
    assert cv2.imread(tmp_path / "fused.png").shape[0] > 64
    printed = inspect("fused", "fusion", "--image", image_id)
    for title in ("rejected candidates, and why", "against the truth"):
        assert title in printed


def test_a_cache_does_not_differ_from_itself(inspect):
    for path in ("data/predictions/e_ups/val", "data/fused/fusion"):
        images = inspect("diff", path, path, "--json")["images"]
        assert [row["changed"] for row in images] == [False] * 4
        assert "0 of 4 differ" in inspect("diff", path, path)


def test_two_caches_differ_by_class_and_image(inspect, val):
    a, b = (f"data/predictions/{end}/val" for end in ("e_ups", "lwl_htc"))
    found = inspect("diff", a, b, "--json")
    rows = {row["category"]: row for row in found["classes"]}
    names = {category["id"]: category["name"] for category in val["categories"]}
    for side, path in (("A", a), ("B", b)):
        frame = pd.read_parquet(f"{path}/instances.parquet")
        for category_id, (count, mean) in frame.groupby("category_id")["score"].agg(["count", "mean"]).iterrows():
            assert rows[names[category_id]][f"instances {side}"] == count
            assert rows[names[category_id]][f"mean score {side}"] == pytest.approx(mean)
        assert sum(row[f"share {side}"] for row in found["classes"]) == pytest.approx(1)
        per_image = {row["image"]: row["in both"] + row[f"only in {side}"] for row in found["images"]}
        assert per_image == frame.groupby("image_id").size().to_dict()
    changed = [row["changed pixels"] for row in found["images"]]
    assert changed == sorted(changed, reverse=True)
    assert len(table_in(inspect("diff", a, b, "--limit", 2), "image")) == 2


def test_an_end_of_semantics_alone_is_compared_by_what_it_has(inspect):
    found = inspect("diff", "data/predictions/e_ups/val", "data/predictions/hrnet_aspp/val", "--json")
    assert {row["only in A"] for row in found["images"]} == {None}
    assert {row["instances B"] for row in found["classes"]} == {None}
    for side in "AB":
        assert sum(row[f"share {side}"] for row in found["classes"]) == pytest.approx(1)


def test_two_systems_differ_in_pq_as_score_has_it(inspect):
    found = inspect("diff", "data/fused/e_ups", "data/fused/fusion", "--json")
    per_class = pd.read_csv("metrics/per_class.csv")
    for row in found["classes"]:
        own = per_class[per_class["category"] == row["category"]].set_index("system")["PQ"]
        for side, system in (("A", "e_ups"), ("B", "fusion")):
            assert row[f"PQ {side}"] == (pytest.approx(own[system]) if system in own else None)
        if row["PQ A"] is not None and row["PQ B"] is not None:
            assert row["PQ B-A"] == pytest.approx(row["PQ B"] - row["PQ A"])
    changes = [row["PQ B-A"] for row in found["images"]]
    assert changes == sorted(changes)


def test_systems_are_compared_without_metrics_too(inspect, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "data/fused", tmp_path / "data/fused")
    found = inspect("diff", tmp_path / "data/fused/e_ups", "data/fused/fusion", "--json")
    assert {row["PQ B-A"] for row in found["images"]} == {None}


E_UPS, FUSION = "data/predictions/e_ups/val", "data/fused/fusion"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--data {empty}", "nothing that a stage wrote; run `dvc repro`"),
        ("instances e_ups val --image 1 --data {empty}", "run `dvc repro`"),
        ("instances nobody val --image {image}", "there are data/predictions/e_ups/heldout"),
        ("fused nothing --image {image}", "there are e_ups, fusion, lwl_htc"),
        ("instances e_ups val --image 12", "nearest are 1000001"),
        ("semantic e_ups val --image 12", "nearest are 1000001"),
        ("fused fusion --image 12", "nearest are 1000001"),
        ("instances e_ups val --image {image} --category unicorn", "no thing of that name; there are"),
        ("instances hrnet_aspp val --image {image}", "hrnet_aspp has semantic only"),
        (f"diff {FUSION}", "expected two PATHs"),
        (f"diff {FUSION} {E_UPS}", "expected two caches or two fused systems"),
        (f"diff {E_UPS} data/predictions/e_ups/heldout", "no image is in both"),
        (f"diff {FUSION} --rev HEAD", "not in a DVC repository"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(refused, image_id, tmp_path, arguments, complaint):
    assert complaint in refused("inspect", *arguments.format(empty=tmp_path, image=image_id).split())


def test_names_cannot_steer_the_terminal(tiny_run, tmp_path, inspect, image_id):
    data = shutil.copytree(tiny_run / "data", tmp_path / "data")
    path = data / "fused/fusion/panoptic.json"
    document = json.loads(path.read_text())
    for category in document["categories"]:
        category["name"] = f"[red]\x1b[31m{category['name']}<script>"
    path.write_text(json.dumps(document))
    printed = inspect("fused", "fusion", "--image", image_id, "--data", data)
    assert "\x1b" not in printed
    assert "[red]\N{REPLACEMENT CHARACTER}[31m" in printed


def test_a_pipe_gets_whole_lines(tiny_run, image_id):
    command = [sys.executable, "-m", "antvisionps.cli.main", "inspect", "fused", "fusion", "--image", str(image_id)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "20"}
    ran = subprocess.run(command, cwd=tiny_run, env=environment, capture_output=True, text=True, check=True)
    assert "…" not in ran.stdout
    assert table_in(ran.stdout, "segment")


def test_a_revision_comes_out_of_the_dvc_cache(tiny_run, tmp_path, monkeypatch, inspect, refused):
    """The fused maps of two commits; then what is there at present against the first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    place = tmp_path / "data" / "fused" / "fusion"

    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc(tmp_path, "init", "--quiet")
    for system in ("e_ups", "fusion"):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tiny_run / "data" / "fused" / system, place)
        dvc(tmp_path, "add", "--quiet", "data/fused")  # as stage fuse has it: all systems
        commit(tmp_path)
    expected = inspect("diff", tiny_run / "data/fused/e_ups", tiny_run / "data/fused/fusion", "--json")["classes"]
    for revisions in (["HEAD~1"], ["HEAD~1", "HEAD"]):
        found = inspect("diff", FUSION, *(word for rev in revisions for word in ("--rev", rev)), "--json")
        assert found["a"] == "data/fused/fusion in HEAD~1"
        for column in ("segments A", "segments B"):
            assert [row[column] for row in found["classes"]] == [row[column] for row in expected]
    subprocess.run(["git", "update-ref", f"refs/exps/00/{'0' * 38}/calm-otter", "HEAD~1"], check=True)
    found = inspect("diff", FUSION, "--rev", "calm-otter", "--json")  # an experiment, as DVC names it
    assert [row["segments A"] for row in found["classes"]] == [row["segments A"] for row in expected]

    for nowhere in ("v1", "HEAD~9", "HEAD:data", "-x", "a b"):
        said = refused("inspect", "diff", FUSION, f"--rev={nowhere}")
        assert f"revision {nowhere}: no commit, tag, branch or experiment of that name here; `git log" in said
    (tmp_path / "metrics").mkdir()
    said = refused("inspect", "diff", "metrics", "--rev", "HEAD")
    assert "metrics of revision HEAD: that commit has no such output" in said
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    commit_of_it = subprocess.check_output(["git", "rev-parse", "HEAD~1"], text=True)[:10]
    said = refused("inspect", "diff", FUSION, "--rev", "calm-otter")
    assert "fusion of revision calm-otter: not in DVC's cache, as that commit was never run here; " in said
    assert f"`git checkout {commit_of_it}` and `dvc repro` run it" in said
    assert "`dvc fetch` may get it" in said


def test_why_a_folder_has_no_revisions(tiny_run, tmp_path, monkeypatch, refused):
    """Without DVC, without git, and in a shallow clone."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    place = tmp_path / "project"
    shutil.copytree(tiny_run / "data/fused/fusion", place / FUSION)
    monkeypatch.chdir(place)
    assert "not in a DVC repository" in refused("inspect", "diff", FUSION, "--rev", "HEAD")
    (place / ".dvc").mkdir()
    said = refused("inspect", "diff", FUSION, "--rev", "HEAD")
    assert "not in a git repository, so it has no revisions" in said
    assert said.endswith("(or any of the parent directories): .git)")
    monkeypatch.setenv("PATH", "")
    assert "git is not installed" in refused("inspect", "diff", FUSION, "--rev", "HEAD")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    subprocess.run(["git", "init", "--quiet"], check=True)
    for _ in range(2):
        (place / "note").write_text(str(_))
        commit(place)
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{place}", tmp_path / "shallow"], check=True)
    (tmp_path / "shallow" / ".dvc").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "shallow")
    assert "this clone is shallow, and `git fetch --unshallow`" in refused("inspect", "diff", FUSION, "--rev", "HEAD~1")
