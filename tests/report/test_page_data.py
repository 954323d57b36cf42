"""What the page is made of: files, their bytes, and what they say of images whose every segment is known."""

import base64
import csv
import json
import re
import shutil
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from antvisionps.core.errors import CacheError, DataError
from antvisionps.fusion.routing import CLASS_AP_SCHEMA
from antvisionps.report.overview_data import MAX_CURVE_POINTS, read_curves
from tests.pipeline.workspace import bytes_below
from tests.report.conftest import CRATE, ENDS, RING, SKY, TRUTH

ONE_CALL = re.compile(r'antvisionps\.receive\("([A-Za-z0-9+/=]+)"\);\n')


def unpacked(script):
    return json.loads(zlib.decompress(base64.b64decode(ONE_CALL.fullmatch(script.read_text())[1])))


def painted(lengths_and_values):
    return np.repeat(lengths_and_values[1::2], lengths_and_values[::2])


def test_no_text_of_the_data_set_stands_in_the_html_or_names_a_file(page_folder):
    for path, content in bytes_below(page_folder).items():
        assert re.fullmatch(r"[a-z0-9_./]+", str(path))
        if path.suffix in (".html", ".js"):
            assert b"hacked" not in content
    assert ONE_CALL.fullmatch((page_folder / "data" / "overview.js").read_text())
    overview = unpacked(page_folder / "data" / "overview.js")
    assert "<script>window.hacked = 1</script>" in [category["name"] for category in overview["categories"]]


def test_the_page_without_images_is_small_and_photos_are_shrunk(page_folder):
    fixed = [path for path in page_folder.rglob("*.*") if path.parent.name not in ("images", "thumbnails")]
    assert sum(path.stat().st_size for path in fixed) < 150_000
    for folder, size in (("images", (20, 15)), ("thumbnails", (10, 8))):
        with Image.open(page_folder / folder / "12.jpg") as photo:
            assert photo.size == size


def test_maps_and_segments_are_those_of_the_files(page_folder):
    page = unpacked(page_folder / "images" / "12.js")
    assert np.array_equal(painted(page["map"]).reshape(24, 32), TRUTH[12][0])
    assert [segment["area"] for segment in page["segments"]] == [18 * 32 - 128, 64, 64]
    semantic = painted(page["ends"]["hrnet"]["semantic"]).reshape(24, 32)
    assert np.unique(semantic[:11]).tolist() == [3]  # 1 + class index of the sky
    assert np.unique(semantic[13:21]).tolist() == [4]
    assert page["disagreement"] == [24 * 32, 0]  # the ends say the same
    assert page["ends"]["lwl_htc"]["semantic"] is None
    assert page["ends"]["hrnet"]["instances"] is None


def test_the_confusion_counts_every_pixel_once(page_folder):
    overview = unpacked(page_folder / "data" / "overview.js")
    pixels = {(gt, predicted): number for gt, predicted, number in overview["confusion"]["fusion"]}
    assert sum(pixels.values()) == 3 * 24 * 32
    assert pixels[1, 0] == 64  # the crate that is called a ring
    assert pixels[4, 3] == 6 * 32  # void that is called something
    with (page_folder / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["system"] == "fusion" and row["truth"].startswith('"crate"')]
    assert [(int(row["pixels"]), float(row["share"])) for row in rows] == [(64, 1.0)]


def test_long_curves_are_thinned_and_keep_their_end(tmp_path):
    folder = tmp_path / "e" / "base" / "curves" / "plots" / "metrics" / "s0"
    folder.mkdir(parents=True)
    (folder / "loss.tsv").write_text("step\ts0/loss\n" + "".join(f"{step}\t{step / 7}\n" for step in range(1, 1000)))
    (curve,) = read_curves(tmp_path, {"e": ["base"], "not_here": ["base"]})
    assert (curve["end"], curve["member"], curve["name"]) == ("e", "base", "s0/loss")
    assert len(curve["steps"]) <= MAX_CURVE_POINTS
    assert curve["steps"][-1] == 999


def test_the_table_of_curves_has_every_network_of_the_run(small_report, tmp_path):
    of_end = small_report.root / "models" / "lwl_htc"
    folder = of_end / "r50" / "curves" / "plots" / "metrics"
    (folder / "s0").mkdir(parents=True)
    (folder / "loss.tsv").write_text("step\tloss\n10\t2.5\n20\t0.5\n")
    (folder / "s0" / "loss_mask.tsv").write_text("step\ts0/loss_mask\n20\t0.25\n")
    shutil.copytree(of_end / "r50", of_end / "of_another_profile")
    written = small_report.write(tmp_path / "report") / "curves.csv"
    assert written.read_text() == (
        "end,member,step,loss,s0/loss_mask\n"
        "e_ups,base,10,3.5,\ne_ups,base,20,1.25,\nlwl_htc,r50,10,2.5,\nlwl_htc,r50,20,0.5,0.25\n"
    )


@pytest.mark.parametrize(
    ("broken", "error", "remedy"),
    [
        ("metrics/per_class.csv", DataError, "dvc repro score"),
        ("metrics/panoptic.json", DataError, "dvc repro score"),
        ("metrics/ignored.json", DataError, "dvc repro score"),
        ("routing/class_ap.parquet", CacheError, "dvc repro"),
        ("fused/fusion/segments.parquet", CacheError, "dvc repro fuse"),
        ("models/e_ups/base/curves/plots/metrics/loss.tsv", DataError, "dvc repro"),
    ],
)
def test_a_broken_source_is_named_and_leaves_no_page(small_report, tmp_path, broken, error, remedy):
    (small_report.root / broken).write_bytes(b"no such,table\n1\n")
    with pytest.raises(error) as raised:
        small_report.write(tmp_path / "report")
    assert broken in str(raised.value)
    assert remedy in str(raised.value)
    assert not list(tmp_path.glob("*report*"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((RING, "e_ups", 3e38, 0.5, 9), "a row that cannot be"),
        ((RING, "e_ups", 0.5, None, 9), "a row that cannot be"),
        ((RING, "e_ups", 0.5, 0.5, -1), "a row that cannot be"),
        ((SKY, "e_ups", 0.5, 0.5, 9), "a row that cannot be"),
        ((RING, "mine", 0.5, 0.5, 9), "a row that cannot be"),
        ((RING, "e_ups", 0.5, 0.5, 9), "of e_ups stands twice"),
        ((CRATE, "lwl_htc", 0.5, 0.5, 9), "n_gt of a category differs between ends"),
    ],
)
def test_an_ap_that_cannot_be_is_refused(small_report, tmp_path, row, problem):
    path = small_report.root / "routing" / "class_ap.parquet"
    columns = [pa.array([value], field.type) for value, field in zip(row, CLASS_AP_SCHEMA, strict=True)]
    pq.write_table(pa.concat_tables([pq.read_table(path), pa.table(columns, schema=CLASS_AP_SCHEMA)]), path)
    with pytest.raises(CacheError, match=rf"{path}: [^\n]*{problem}"):
        small_report.write(tmp_path / "report")


@pytest.mark.parametrize(
    "points", ["10\tnan\n", "10\t1\n5\t1\n", "1\t2\t3\n", "1.5\t2\n", "10\t1_0\n", "10\t1.23", "x\n"]
)
def test_a_curve_that_cannot_be_is_refused(small_report, tmp_path, points):
    path = small_report.root / "models/e_ups/base/curves/plots/metrics/loss.tsv"
    path.write_text(f"step\tloss\n{points}")
    with pytest.raises(DataError, match=rf"{path}: not a curve of DVCLive [^\n]*; run `dvc repro`"):
        small_report.write(tmp_path / "report")


def test_a_candidate_that_its_end_did_not_find_is_refused(small_report, tmp_path):
    path = small_report.root / "fused/fusion/candidates.parquet"
    table = pq.read_table(path)
    instances = pa.array([2, None, None], pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("instance"), "instance", instances), path)
    with pytest.raises(CacheError, match="image 12 has no instance 2 of 'e_ups'; run `dvc repro fuse`"):
        small_report.write(tmp_path / "report")


def test_a_segment_of_an_unknown_end_is_refused(small_report, tmp_path):
    path = small_report.root / "fused/fusion/segments.parquet"
    table = pq.read_table(path)
    ends = pa.array(["mine+e_ups", *table["end"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.get_field_index("end"), "end", ends), path)
    with pytest.raises(CacheError, match="tables of system fusion, image 12: unknown end 'mine'; run `dvc repro fuse`"):
        small_report.write(tmp_path / "report")


def test_a_missing_photo_is_named(small_report, tmp_path):
    shutil.rmtree(small_report.root / "photos")
    with pytest.raises(DataError, match="photo of image 12"):
        small_report.write(tmp_path / "report")


def test_the_page_says_which_data_and_weights_it_is_of_and_nothing_of_the_machine(page_folder):
    provenance = unpacked(page_folder / "data" / "overview.js")["provenance"]
    assert provenance["dataset"] == "fingerprint"
    assert provenance["weights"] == dict.fromkeys(ENDS, "weights")
    assert provenance["versions"]["numpy"] == np.__version__
    assert set(provenance) == {"dataset", "weights", "versions"}


def test_pairs_of_an_image_are_what_lies_beside_the_diagonal(page_folder):
    pairs = unpacked(page_folder / "data" / "pairs.js")["systems"]
    first, second, third = pairs["fusion"]["segments"]
    assert np.reshape(first, (-1, 3)).tolist() == [[1, 0, 1]]  # the crate that is called a ring
    assert second == []
    assert third == []
    assert [1, 0, 64] in np.reshape(pairs["fusion"]["pixels"][0], (-1, 3)).tolist()
    assert pairs["e_ups"]["segments"][1] == [0, 4, 1]  # a missed ring
