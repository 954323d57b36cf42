"""The page of stage report shows what the stages before it found."""

import base64
import json
import re
import zlib

import pyarrow.parquet as pq
import pytest

from antvisionps.panoptic.splits import open_split
from tests.pipeline.workspace import bytes_below, succeed, write_params


def overview_of(page):
    packed = re.search(r'"(.+)"', (page / "data" / "overview.js").read_text())[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_the_report_counts_what_score_counts_and_looks_the_same_from_any_number_of_workers(done, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    succeed(done.run("report", out=one))
    succeed(done.run("report", out=two, params=write_params(tmp_path / "params.yaml", workers=2)))
    assert bytes_below(one) == bytes_below(two)

    overview = overview_of(one)
    dataset = open_split(done.prepared, "val")
    counted = {}
    for image_id, _, _, _, tallies in overview["images"]:
        for system, tally in zip(overview["systems"], tallies, strict=True):
            for code, number, iou_sum in zip(*[iter(tally)] * 3, strict=True):
                key = system, image_id, dataset.categories.categories[code >> 8].category_id
                row = counted.setdefault(key, [0, 0, 0, 0.0])
                is_true_side = not code >> 4 & 1
                column = 0 if overview["outcomes"][code & 15] == "matched" else 1 + is_true_side
                row[column] += number
                row[3] += iou_sum
    expected = {
        (row["system"], row["image_id"], row["category_id"]): [row["tp"], row["fp"], row["fn"], row["iou_sum"]]
        for row in pq.read_table(done.scores / "per_image.parquet").to_pylist()
        if row["tp"] + row["fp"] + row["fn"]
    }
    assert counted.keys() == expected.keys()
    assert all(counted[key] == pytest.approx(row, abs=1e-3) for key, row in expected.items())


def test_the_report_begins_with_the_lowest_score_that_the_last_system_takes(done, tmp_path):
    fitted = json.loads((done.calibration / "fusion.json").read_text())
    thing = open_split(done.prepared, "val").categories.things[0].name
    for name, fuse, expected in (
        ("preset", {"preset": "mmdet"}, 0.6),
        ("class", {"preset": "mmdet", "min_scores": {thing: 0.2}}, 0.2),
        ("calibrated", {"calibrated": True}, min([fitted["min_score"], *fitted["min_scores"].values()])),
    ):
        params = write_params(tmp_path / "params.yaml", **fuse)
        succeed(done.run("report", params=params, out=tmp_path / name))
        assert overview_of(tmp_path / name)["min_score"] == expected
