"""A submission as COCO's server takes it, with panopticapi in the server's place."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from antvisionps.cli import main as cli
from antvisionps.core.errors import DataError, PredictionsError
from antvisionps.interchange.coco_submission import Submission
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from tests.drawing import category_set
from tests.pipeline.workspace import PROJECT

CATEGORIES = category_set({3: "cat"}, {9: "sky"})
NAME = "panoptic_test-dev2017_ours_results"


def write_split(folder, seed):
    """Three images of blocks, as stage fuse writes them: panoptic.json and panoptic/."""
    rng = np.random.default_rng(seed)
    (folder / "panoptic").mkdir(parents=True)
    images = []
    for image_id in (7, 139, 5001):
        ids = np.kron(rng.integers(0, 4, (3, 4)), np.ones((6, 6), int))
        segments = measure_segments(ids, category_ids={1: 3, 2: 3, 3: 9})
        name = f"{image_id:012d}.png"
        write_segment_ids_png(folder / "panoptic" / name, ids)
        images.append(PanopticImage(image_id, f"{image_id}.jpg", name, 18, 24, segments))
    write_panoptic_json(folder / "panoptic.json", categories=CATEGORIES, images=images)
    return read_panoptic(folder / "panoptic.json", images_dir=folder, panoptic_dir=folder / "panoptic")


@pytest.fixture
def fused(tmp_path) -> PanopticDataset:
    return write_split(tmp_path / "data" / "fused" / "fusion", seed=1)


@pytest.fixture
def coco_has_three_images(monkeypatch):
    monkeypatch.setattr("antvisionps.interchange.coco_submission.IMAGES_OF_SET", {"test-dev2017": 3})
    monkeypatch.setattr("antvisionps.interchange.coco_submission.THINGS_AND_STUFF", (1, 1))


@pytest.mark.usefixtures("coco_has_three_images")
def test_panopticapi_scores_the_unzipped_submission_as_the_maps_themselves(tmp_path, fused, panopticapi_pq):
    truth = write_split(tmp_path / "truth", seed=2)
    path = Submission(fused, "test-dev2017", "ours").write_zip(tmp_path / "out")
    assert path == tmp_path / "out" / f"{NAME}.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unzipped")
    assert {entry.name for entry in (tmp_path / "unzipped").iterdir()} == {f"{NAME}.json", NAME}

    def score(annotations, maps):
        return panopticapi_pq(*map(str, (truth.annotations, annotations, truth.panoptic_dir, maps)))

    expected = score(fused.annotations, fused.panoptic_dir)
    assert score(tmp_path / "unzipped" / f"{NAME}.json", tmp_path / "unzipped" / NAME) == expected
    assert expected["All"]["pq"] > 0


@pytest.mark.usefixtures("coco_has_three_images")
def test_the_json_has_what_the_format_names_and_no_more(tmp_path, fused):
    out = Submission(fused, "test-dev2017", "ours").write_folder(tmp_path / "out")
    document = json.loads((out / f"{NAME}.json").read_text())
    assert list(document) == ["annotations"]
    assert [row["image_id"] for row in document["annotations"]] == [7, 139, 5001]
    for row in document["annotations"]:
        assert set(row) == {"image_id", "file_name", "segments_info"}
        assert (out / NAME / row["file_name"]).is_file()
        assert all(set(segment) == {"id", "category_id"} for segment in row["segments_info"])
    assert len(list((out / NAME).iterdir())) == 3


def test_the_same_maps_give_the_same_bytes(tmp_path, fused):
    first = Submission(fused, "mine", "ours").write_zip(tmp_path / "a").read_bytes()
    for path in fused.panoptic_dir.iterdir():
        path.touch()
        path.chmod(0o600)
    assert Submission(fused, "mine", "ours").write_zip(tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize(("split", "algorithm"), [("val_2017", "ours"), ("", "ours"), ("mine", "a/b"), ("mine", "a b")])
def test_names_that_the_server_cannot_take_apart_are_refused(fused, split, algorithm):
    with pytest.raises(PredictionsError, match="letters, digits and hyphens"):
        Submission(fused, split, algorithm)


def test_a_part_of_cocos_images_or_other_categories_are_refused(fused, monkeypatch):
    with pytest.raises(PredictionsError, match="expected the 5000 images of val2017, got 3"):
        Submission(fused, "val2017", "ours")
    monkeypatch.setattr("antvisionps.interchange.coco_submission.IMAGES_OF_SET", {"val2017": 3})
    with pytest.raises(PredictionsError, match="80 things and 53 stuff categories, got 1 and 1"):
        Submission(fused, "val2017", "ours")


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_map_that_does_not_fit_its_json_is_refused_and_nothing_is_left(tmp_path, fused, kind):
    write_segment_ids_png(fused.panoptic_dir / f"{139:012d}.png", np.full((18, 24), 77))
    submission = Submission(fused, "mine", "ours")
    with pytest.raises(DataError, match="segment 77"):
        getattr(submission, f"write_{kind}")(tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if "results" in path.name or "unfinished" in path.name]


def test_it_is_a_command(tmp_path, fused, monkeypatch, capsys):
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["export", "coco", "--split", "mine", "--to", "out", "--system"]
    cli.main([*command, "fusion", "--zip"])
    assert "3 images of fusion are in out/panoptic_mine_antvisionps_results.zip" in capsys.readouterr().out
    assert zipfile.is_zipfile(tmp_path / "out" / "panoptic_mine_antvisionps_results.zip")
    missing = "data/fused/nothing/panoptic.json: no readable COCO panoptic JSON (no such file)"
    for arguments, message in ((["fusion"], "out exists already"), (["nothing", "--to", "other"], missing)):
        with pytest.raises(SystemExit):
            cli.main([*command, *arguments])
        assert f"error: {message}" in capsys.readouterr().err
