"""What notebooks show of caches and maps, and that the notebook of docs/ runs."""

import base64
import html
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from nbclient import NotebookClient

import antvisionps
from antvisionps.core.errors import CacheError, DataError, PredictionsError
from antvisionps.fusion.heuristic import coco_segments
from antvisionps.inspection.fused import open_fused_maps
from antvisionps.inspection.predictions import open_predictions
from antvisionps.panoptic.splits import open_split
from antvisionps.report.overlays import draw_panoptic
from tests.drawing import category_set
from tests.pipeline.workspace import PROJECT
from tests.programs import TEST_PACKAGES

NOTEBOOK = PROJECT / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def val(done):
    return open_split(done.prepared, "val")


@pytest.fixture
def cache(done):
    with open_predictions(done.predictions / "e_ups" / "val") as cache:
        yield cache


@pytest.fixture
def image(cache, val):
    return cache[val.images[0].source_id]


@pytest.fixture
def fused(done, val):
    return open_fused_maps(done.fused / "fusion")[val.images[0].source_id]


def test_a_photo_is_the_data_sets(image, fused, val, done, tmp_path):
    photo = val.load_photo(val.images[0])
    np.testing.assert_array_equal(image.photo, photo)
    np.testing.assert_array_equal(fused.photo, photo)
    elsewhere = open_fused_maps(done.fused / "fusion", prepared=tmp_path)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        _ = elsewhere[val.images[0].source_id].photo
    assert str(tmp_path) in elsewhere[val.images[0].source_id]._repr_html_()
    with open_predictions(done.predictions / "e_ups" / "val", prepared=done.prepared) as cache:
        cache.header = replace(cache.header, split="heldout")
        with pytest.raises(CacheError, match="so no photo"):
            _ = cache[val.images[0].source_id].photo


def test_everything_has_a_line_and_a_picture(image, fused):
    best = image.instances[0]
    for shown, line in (
        (image, rf"<e_ups val, image {image.image_id}: {len(image.instances)} instances and semantic>"),
        (best, rf"<{best.category.name} {best.score:.3f}, {best.area_px} px>"),
        (image.semantic, r"<semantic: \d+ categories on 24 x 32 cells>"),
        (fused, rf"<fusion, image {image.image_id}: {len(fused.segments)} segments, {len(fused.rejected)} rejected>"),
    ):
        assert re.fullmatch(line, repr(shown))
        text, encoded = re.fullmatch(r'<p>(.*)</p><img src="data:image/png;base64,(.*)">', shown._repr_html_()).groups()
        assert html.unescape(text) == repr(shown)
        png = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(png, shown.picture())
        axes = shown.plot()
        np.testing.assert_array_equal(axes.images[0].get_array(), png)
        assert axes.get_title() == repr(shown)
        assert shown.plot(axes) is axes
        pyplot.close(axes.figure)
    assert not np.array_equal(best.picture(), image.picture())
    assert repr(fused.maps) == "<fusion: 5 panoptic maps>"
    assert re.fullmatch(r"<image \d+, 96 x 128 px: \d+ instances>", repr(image.instance_arrays))
    assert re.fullmatch(r"<image \d+, 96 x 128 px: \d+ categories on 24 x 32 cells>", repr(image.semantic.arrays))


def test_tables_are_data_frames(image, fused):
    rows = image.to_pandas()
    assert rows["score"].tolist() == [one.score for one in image.instances]
    assert set(image.semantic.to_pandas()["category"]) == {one.name for one in image.semantic.categories}
    assert fused.to_pandas()["segment_id"].tolist() == [one.segment_id for one in fused.segments]
    assert len(fused.to_pandas("candidates")) == len(fused.rejected)
    pd.testing.assert_frame_equal(fused.maps.to_pandas(), fused.maps.to_arrow().to_pandas())


@pytest.mark.parametrize(("package", "call"), [("pandas", "to_pandas()"), ("matplotlib", "plot()")])
def test_a_package_that_is_missing_names_its_extra(done, val, package, call):
    script = f"import sys; sys.modules['{package}'] = None\n"
    script += "from antvisionps.inspection.predictions import open_predictions\n"
    script += f"image = open_predictions({str(done.predictions / 'e_ups' / 'val')!r})[{val.images[0].source_id}]\n"
    script += f"try:\n    image.{call}\nexcept Exception as error:\n    print(type(error).__name__, error)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"AntVisionPSError {package} is not installed; `pip install 'antvisionps[notebooks]'`" in ran.stdout


def test_images_of_caches_are_fused_as_their_arrays_are(image, done):
    with open_predictions(done.predictions / "lwl_htc" / "val") as other:
        both = {"e_ups": image, "lwl_htc": other[image.image_id]}
        fused = antvisionps.fuse(both, categories=image.cache.categories, hw=image.hw, min_stuff_area_px=32)
        shape = {"categories": other.categories, "hw": image.hw, "min_stuff_area_px": 32}
        arrays = {name: one.instance_arrays for name, one in both.items()}
        as_dicts = {
            name: {
                "masks": [{"size": image.hw, "counts": rle} for rle in found.rles],
                "scores": found.scores,
                "category_ids": found.category_ids,
                "boxes_xywh": found.boxes_xywh,
                "mask_probs": found.mask_probs,
                "semantic": both[name].semantic.arrays.planes,
                "semantic_labels": both[name].semantic.arrays.category_ids,
            }
            for name, found in arrays.items()
        }
        np.testing.assert_array_equal(fused.segment_ids, antvisionps.fuse(as_dicts, **shape).segment_ids)
        assert repr(fused).startswith("<panoptic map of 96 x 128 px: ")
        on_photo = antvisionps.fuse(both, **shape, photo=image.photo)
        expected = draw_panoptic(image.photo, fused.segment_ids, coco_segments(fused.segments), other.categories)
        np.testing.assert_array_equal(on_photo.picture(), expected)
        assert on_photo._repr_html_().startswith(f"<p>{html.escape(repr(fused))}</p><img src=")
        grey = np.full_like(image.photo, 128)
        on_grey = draw_panoptic(grey, fused.segment_ids, coco_segments(fused.segments), other.categories)
        np.testing.assert_array_equal(fused.picture(), on_grey)
        rows = fused.to_pandas()
        assert rows["segment_id"].tolist() == [one.segment_id for one in fused.segments]
        assert rows["category"].tolist() == [other.categories.by_id(one.category_id).name for one in fused.segments]
        reasons = [one.reason.value for one in fused.rejected]
        assert fused.to_pandas("candidates")["reason"].tolist() == reasons != []
        with pytest.raises(PredictionsError, match=r"photo: expected \(96, 128, 3\) uint8 RGB, got \(9, 9, 3\) uint8"):
            antvisionps.fuse(both, **shape, photo=image.photo[:9, :9])
        with pytest.raises(PredictionsError, match=r"^e_ups: .* other categories than those to fuse"):
            antvisionps.fuse(both, categories=category_set({1: "cat"}, {2: "sky"}), hw=image.hw)
        with pytest.raises(PredictionsError, match=r"^e_ups: .* expected 9 x 9 px"):
            antvisionps.fuse(both, categories=other.categories, hw=(9, 9))


def test_the_notebook_of_the_docs_runs(done, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TEST_PACKAGES)  # the kernel is a program of its own
    (tmp_path / "data").symlink_to(done.root)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    kinds_of = {
        source.split("\n")[-1]: {kind for output in outputs_of for kind in output.get("data", {})}
        for source, outputs_of in outputs.items()
    }
    for line in ("image", "image.to_pandas()", "image.semantic"):
        assert "text/html" in kinds_of[line]
    assert "image/png" in kinds_of["ensemble[image.image_id].plot(axes[1])"]
    fused = tmp_path / "ensemble"
    truth = (done.prepared / "val.json", done.prepared / "panoptic")
    found = antvisionps.panoptic_quality(truth, (fused / "panoptic.json", fused / "panoptic"))
    (shown,) = (outputs_of[-1] for source, outputs_of in outputs.items() if source.endswith("found.all.pq"))
    assert float(shown["data"]["text/plain"]) == pytest.approx(found.all.pq, abs=1e-9)
