import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import DataError
from antvisionps.report.score_tables import CURVES_FILE, CURVES_SCHEMA, read_metrics
from tests.drawing import category_set

CATEGORIES = category_set({1: "cat, or kitten", 2: "dog"}, {3: "sky"})
SYSTEMS = ["e_ups", "fusion"]
LRP = "LRP,localisation,FP,FN,optimal_LRP,optimal_localisation,optimal_FP,optimal_FN"
CURVE = [{"end": "e_ups", "category_id": 2, "recall": n / 100, "precision": 1 - n / 100} for n in range(101)]
QUALITY = {"PQ": 63.5, "SQ": 80, "RQ": None}
SUMMARY = {system: dict.fromkeys(("All", "Things", "Stuff"), QUALITY) for system in SYSTEMS}
TABLES = {
    "panoptic.json": json.dumps(SUMMARY),
    "intervals.csv": "group,system,minus,PQ,low,high\nAll,e_ups,,63.456789,1e-05,66.0\nAll,fusion,e_ups,-1.5,-2.5,\n",
    "per_class.csv": 'category,system,PQ,SQ,RQ,tp,fp,fn\n"cat, or kitten",e_ups,20,80.0,,3,2,1\n',
    "per_size.csv": "system,size,PQ,SQ,RQ,tp,fp,fn\nfusion,small,,,,0,0,0\n",
    "error_budget.csv": "perfect,PQ,PQ_things,PQ_stuff\nas fused,63.4,40.0,\n",
    "boundary_panoptic.json": "{}",
    "boundary_per_class.csv": "category,system,PQ,SQ,RQ,tp,fp,fn\n",
    "boundary_per_size.csv": "system,size,PQ,SQ,RQ,tp,fp,fn\n",
    "lrp.csv": f"group,system,{LRP}\nAll,fusion,35.5,12.5,2,10,34.5,,1,11\n",
    "lrp_per_class.csv": f"category,system,{LRP},min_score\ndog,fusion,35.5,12.5,2,10,34.5,12,1,11,0.5\n",
    "ends.json": '{"e_ups": {"AP": 41.5, "AP50": null}}',
    "per_class_ap.csv": "category,end,AP,AP50,n_gt\ndog,e_ups,41.5,60.5,7\n",
    "calibration_error.csv": "name,of,count,ECE\ne_ups,instances,0,\n",
    "reliability.csv": "name,of,low,high,count,confidence,right\ne_ups,instances,0.0000,0.0667,3,0.05,0.25\n"
    "e_ups,instances,0.0667,0.1333,3,0.1,0.25\n",
    "slices.csv": "attribute,value,images,group,system,minus,PQ,low,high\ntime,night,3,All,fusion,,40.5,,\n",
}


@pytest.fixture
def metrics(tmp_path):
    def read(**changed):
        for name, text in TABLES.items():
            text = changed.get(name.partition(".")[0], text)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        curves = pa.Table.from_pylist(changed.get("precision_recall_per_class", CURVE), schema=CURVES_SCHEMA)
        pq.write_table(curves, tmp_path / CURVES_FILE)
        return read_metrics(tmp_path, scores=tmp_path, systems=SYSTEMS, ends=["e_ups"], categories=CATEGORIES)

    return read


def test_tables_are_read_as_numbers(metrics):
    read = metrics()
    assert read["summary"] == SUMMARY
    assert read["intervals"][0] == {
        "group": "All",
        "system": "e_ups",
        "minus": "",
        "PQ": 63.4568,
        "low": 0,
        "high": 66.0,
    }
    assert read["per_class"][0] == {"category": "cat, or kitten", "system": "e_ups"} | {
        "PQ": 20, "SQ": 80.0, "RQ": None, "tp": 3, "fp": 2, "fn": 1,
    }  # fmt: skip
    assert read["error_budget"] == [{"perfect": "as fused", "PQ": 63.4, "PQ_things": 40.0, "PQ_stuff": None}]
    assert read["lrp_per_class"][0]["min_score"] == 0.5
    assert read["lrp"][0]["optimal_localisation"] is None
    assert read["reliability"][1] == {"name": "e_ups", "of": "instances", "low": 0.0667, "high": 0.1333} | {
        "count": 3, "confidence": 0.1, "right": 0.25,
    }  # fmt: skip
    assert read["ends"] == {"e_ups": {"AP": 41.5, "AP50": None}}
    (curve,) = read["curves"]
    assert (curve["end"], curve["class"], len(curve["precision"])) == ("e_ups", 1, 101)
    assert curve["precision"][:2] == [1000, 990]


@pytest.mark.parametrize(
    "curves",
    [CURVE[:-1], [row | {"precision": 1.5} for row in CURVE], [row | {"end": "mine"} for row in CURVE],
     [row | {"category_id": 3} for row in CURVE], [row | {"precision": None} for row in CURVE]],
)  # fmt: skip
def test_curves_that_cannot_be_are_refused(metrics, curves):
    with pytest.raises(DataError, match=r"precision_recall_per_class.parquet: [^\n]*; run `dvc repro score`$"):
        metrics(precision_recall_per_class=curves)


PER_CLASS = TABLES["per_class.csv"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("per_class", PER_CLASS.replace("20", "nan"), "line 2, PQ: expected a number, got 'nan'"),
        ("per_class", PER_CLASS.replace("20", "1_0"), "line 2, PQ: expected a number, got '1_0'"),
        ("per_class", PER_CLASS.replace("20", "1e999"), "line 2, PQ: expected a number, got '1e999'"),
        ("per_class", PER_CLASS.replace("20", "101"), "line 2, PQ: expected a number from 0 to 100, got '101'"),
        ("per_class", PER_CLASS.replace("20", "-1"), "line 2, PQ: expected a number from 0 to 100, got '-1'"),
        ("per_class", PER_CLASS.replace("20", "9" * 5000), "line 2, PQ: expected a number"),
        ("per_class", PER_CLASS.replace(",3,", ",3.5,"), "line 2, tp: expected a whole number from 0 on, got '3.5'"),
        ("per_class", PER_CLASS.replace("e_ups", "mine"), "line 2, system: expected one of .*, got 'mine'"),
        ("per_class", PER_CLASS.replace("kitten", "lion"), "line 2, category: expected one of"),
        ("per_class", PER_CLASS.replace(",1\n", "\n"), "line 2: expected 8 cells, got 7"),
        ("per_class", PER_CLASS.replace(",1\n", ",1,1\n"), "line 2: expected 8 cells, got 9"),
        ("per_class", PER_CLASS + PER_CLASS.partition("\n")[2], "the row of cat, or kitten, e_ups stands twice"),
        ("per_class", PER_CLASS.replace("PQ", "QP"), "expected the columns"),
        ("per_class", PER_CLASS[:-2], "its end is missing"),
        ("per_class", "", "its end is missing"),
        ("per_class", PER_CLASS.replace('"cat', 'x"cat').replace('kitten"', 'kitten"x"'), "expected"),
        ("per_class", b"\xff\xfe" + PER_CLASS.encode("utf-16"), "decode"),
        ("intervals", TABLES["intervals.csv"].replace("All", "Every"), "line 2, group: expected one of"),
        (
            "intervals",
            TABLES["intervals.csv"].replace("-2.5", "-250"),
            "line 3, low: expected a number from -100 to 100",
        ),
        ("per_size", TABLES["per_size.csv"].replace("small", "huge"), "line 2, size: expected one of"),
        ("error_budget", TABLES["error_budget.csv"].replace("as fused", ""), "line 2, perfect: expected a name"),
        (
            "lrp_per_class",
            TABLES["lrp_per_class.csv"].replace("0.5\n", "1.5\n"),
            "line 2, min_score: expected .* from 0 to 1",
        ),
        (
            "reliability",
            TABLES["reliability.csv"].replace("0.0667,0", "0.0000,0"),
            "e_ups, instances, 0.0 stands twice",
        ),
        ("slices", TABLES["slices.csv"].replace("night", ""), "line 2, value: expected a name"),
        ("ends", '{"e_ups": {"AP": 141.5, "AP50": null}}', "e_ups.AP: .*got 141.5"),
        ("panoptic", "{}", "expected the systems .*, got"),
        ("panoptic", "null", "not the summary that is expected"),
        ("panoptic", json.dumps(SUMMARY).replace("63.5", "NaN"), "e_ups.All.PQ: .*got nan"),
        ("panoptic", json.dumps(SUMMARY).replace("63.5", "635"), "e_ups.All.PQ: .*got 635"),
        ("panoptic", json.dumps(SUMMARY).replace("63.5", '"x"'), "e_ups.All.PQ: .*got 'x'"),
        ("panoptic", json.dumps(SUMMARY | {"mine": SUMMARY["fusion"]}), "expected the systems"),
    ],
)
def test_a_table_that_stage_score_cannot_have_written_is_refused(metrics, tmp_path, name, text, problem):
    with pytest.raises(DataError, match=rf"^{tmp_path}/{name}\.[a-z]*: [^\n]*{problem}[^\n]*; run `dvc repro score`$"):
        metrics(**{name: text})
