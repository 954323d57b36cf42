"""Any picture through the whole system: the same maps as the pipeline's own."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from antvisionps.cli.main import main as cli
from antvisionps.core.errors import CacheError, DataError, ModelError, ParamsError
from antvisionps.inspection.fused import open_fused_maps
from antvisionps.panoptic.splits import open_split
from antvisionps.pipeline.predictor import open_predictor
from tests.pipeline.workspace import Workspace, change_params, succeed


@pytest.fixture(autouse=True)
def _in_the_run(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def val(tiny_run):
    return open_split(tiny_run / "data" / "prepared", "val")


def described(fused):
    segments = [
        (s.segment_id, s.category_id, s.area_px, s.bbox_xywh, s.end, s.score and np.float32(s.score))
        for s in fused.segments
    ]
    return fused.segment_ids.tolist(), segments, [(c.category_id, c.end, c.reason) for c in fused.rejected]


@pytest.mark.parametrize(
    "fuse",
    [
        {"systems": ["lwl_htc"]},
        {"calibrated": True},
        {"methods": {"fusion": "panoptic_head"}},
        {"semantic_weights": {"e_ups": 0.0, "lwl_htc": 1.0, "hrnet_aspp": 2.0}, "instance_ensemble": "best_overall"},
        {"instance_ensemble": "union", "semantic_average": "log_probabilities"},
    ],
)
def test_a_photo_gets_the_pipelines_own_map(val, tiny_run, tmp_path, fuse):
    params = change_params(Path("params.yaml"), tmp_path / "params.yaml", fuse={"systems": ["fusion"]} | fuse)
    succeed(Workspace(tiny_run / "data").run("fuse", params=params, out=tmp_path / "fused"))
    (folder,) = (tmp_path / "fused").iterdir()
    maps = open_fused_maps(folder)
    assert any(len(image.segments) > 2 for image in maps)
    predict = open_predictor("data/models", system=folder.name, params_path=params)
    for image in val.images:
        assert described(predict(val.load_photo(image))) == described(maps[image.image_id])


def test_an_end_that_auto_leaves_out_is_not_asked(val, tiny_run, tmp_path):
    auto = {"method": "auto", "systems": ["fusion"]}
    two = {"ends": ["e_ups", "lwl_htc"], "predict": {"separate_ends": ["e_ups", "lwl_htc"]}}
    fitted_on_two = change_params(
        Path("params.yaml"), tmp_path / "two.yaml", fuse=auto, train_hrnet_aspp={"members": []}, **two
    )
    run = Workspace(tiny_run / "data").run
    calibration = tmp_path / "calibration"
    succeed(run("calibrate", params=fitted_on_two, out=calibration))
    document = json.loads((calibration / "fusion.json").read_text())
    document["choices"][0]["ends"].append("hrnet_aspp")  # as if all three had been tried
    (calibration / "fusion.json").write_text(json.dumps(document))
    params = change_params(Path("params.yaml"), tmp_path / "params.yaml", fuse=auto)
    succeed(run("fuse", params=params, calibration=calibration, out=tmp_path / "fused"))
    maps = open_fused_maps(tmp_path / "fused" / "fusion")
    predict = open_predictor("data/models", params_path=params, calibration_dir=calibration)
    assert "hrnet_aspp" not in predict.ends
    for image in val.images:
        assert described(predict(val.load_photo(image))) == described(maps[image.image_id])


def test_the_command_writes_the_maps_of_stage_fuse_and_overlays(val, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    shutil.copytree("data/prepared/images", pictures, ignore=shutil.ignore_patterns("00000000*", "000002*"))
    for name in ("notes.txt", "a.HEIC", ".DS_Store"):
        (pictures / name).touch()
    out = tmp_path / "out"
    cli(["predict", str(pictures), "--out", str(out)])
    printed = capsys.readouterr()
    assert "skipped, as no pictures: 1 .heic (a.HEIC), 1 .txt (notes.txt)\n" in printed.err
    assert "predict: 100%" in printed.err
    assert f"{len(val.images)} panoptic maps: {out}/panoptic.json" in printed.out
    written, expected = (json.loads((f / "panoptic.json").read_text()) for f in (out, Path("data/fused/fusion")))
    assert written["categories"] == expected["categories"]
    for image, ours, theirs in zip(val.images, written["annotations"], expected["annotations"], strict=True):
        name = Path(image.file_name).with_suffix(".png").name
        assert (ours["segments_info"], ours["file_name"]) == (theirs["segments_info"], name)
        expected_png = Path("data/fused/fusion/panoptic", theirs["file_name"])
        assert (out / "panoptic" / name).read_bytes() == expected_png.read_bytes()
        overlay = cv2.imread(str(out / "overlays" / name))
        assert overlay.shape[0] % image.height == 0
        assert overlay.shape[1] > image.width * (overlay.shape[0] // image.height)  # the legend
    names = [(Path(image.file_name).name, image.height) for image in val.images]
    assert [(image["file_name"], image["height"]) for image in written["images"]] == names


def test_any_size_and_kind_of_picture_gets_a_map_of_its_size(val, tmp_path, capsys):
    photo = Image.fromarray(val.load_photo(val.images[0]))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(pictures / "turned.png", exif=exif)
    photo.convert("L").save(pictures / "grey é.png")
    expected = {"dot.png": (1, 1), "large.jpg": (1024, 768), "line.png": (700, 3)}
    for name, size in expected.items():
        photo.resize(size).save(pictures / name)
    expected |= {"turned.png": photo.size, "grey é.png": photo.size}
    cli(["predict", str(pictures), "--out", str(tmp_path / "out")])
    assert "5 panoptic maps" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert {image["file_name"]: (image["width"], image["height"]) for image in document["images"]} == expected
    for annotation in document["annotations"]:
        with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as png:
            ids = np.asarray(png).astype(int) @ [1, 256, 256**2]
        areas = {int(i): int((ids == i).sum()) for i in np.unique(ids) if i}
        assert {s["id"]: s["area"] for s in annotation["segments_info"]} == areas
    upright = open_fused_maps("data/fused/fusion")[val.images[0].image_id]
    turned = Path(tmp_path, "out", "panoptic", "turned.png").read_bytes()
    assert turned == Path("data/fused/fusion/panoptic", upright.image.panoptic_file_name).read_bytes()


def test_bad_pictures_and_folders_leave_nothing_behind(tmp_path, refused):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    predict, out = ("predict", f"data/prepared/images/{1_000_001:012d}.png"), tmp_path / "out"
    for message, *arguments in (
        ("broken.jpg: cannot be read as a picture", tmp_path / "broken.jpg", "--out", out),
        ("holds thesis.txt, and is replaced whole", "--out", tmp_path / "mine"),
        ("expected a folder to write, got a file", "--out", tmp_path / "broken.jpg"),
        ("network.json: no readable network (no such file); train that", "--out", out, "--models", tmp_path),
    ):
        assert message in refused(*predict, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jpg", "mine"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_former_result_is_replaced(val, tmp_path):
    out = tmp_path / "out"
    for image in val.images[:2]:
        cli(["predict", str(val.photo_path(image)), "--out", str(out), "--system", "e_ups"])
        (out / ".DS_Store").touch()  # as macOS leaves it in a folder that was looked at
        assert [path.stem for path in (out / "panoptic").iterdir()] == [Path(image.file_name).stem]


def test_arrays_and_settings_that_do_not_fit_are_refused(tmp_path):
    predict = open_predictor("data/models", system="e_ups")
    for photo in (np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(DataError, match="expected a photo"):
            predict(photo)
    ends, fuse = ["hrnet_aspp"], {"systems": ["fusion"], "instance_ensemble": "union"}
    alone = tmp_path / "alone.yaml"
    change_params(Path("params.yaml"), alone, ends=ends, predict={"separate_ends": ends}, fuse=fuse)
    imported = change_params(Path("params.yaml"), tmp_path / "imported.yaml", import_end={"ends": ["mine"]})
    for error, message, choice in (
        (ParamsError, "--system hrnet_aspp: it has semantics but no instances", {"system": "hrnet_aspp"}),
        (ParamsError, "hrnet_aspp: predicts no instances, so there is no panoptic map", {"params_path": alone}),
        (ParamsError, "mine is imported, with no network to run; name another system", {"params_path": imported}),
        (ParamsError, "expected fusion or one of ends", {"system": "nobody"}),
        (CacheError, "no readable routing table", {"routing_dir": tmp_path}),
        (ModelError, "sees no CUDA device", {"device": "cuda"}),
    ):
        with pytest.raises(error, match=message):
            open_predictor("data/models", **choice)
