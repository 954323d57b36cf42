import json

import pytest

from antvisionps.core.errors import DataError
from antvisionps.report.score_tables import read_metrics
from tests.drawing import category_set

CATEGORIES = category_set({1: "cat, or kitten", 2: "dog"}, {3: "sky"})
SYSTEMS = ["e_ups", "fusion"]
QUALITY = {"PQ": 63.5, "SQ": 80, "RQ": None}
SUMMARY = {system: dict.fromkeys(("All", "Things", "Stuff"), QUALITY) for system in SYSTEMS}
TABLES = {
    "panoptic.json": json.dumps(SUMMARY),
    "intervals.csv": "group,system,minus,PQ,low,high\nAll,e_ups,,63.456789,1e-05,66.0\nAll,fusion,e_ups,-1.5,-2.5,\n",
    "per_class.csv": 'category,system,PQ,SQ,RQ,tp,fp,fn\n"cat, or kitten",e_ups,20,80.0,,3,2,1\n',
    "per_size.csv": "system,size,PQ,SQ,RQ,tp,fp,fn\nfusion,small,,,,0,0,0\n",
    "error_budget.csv": "perfect,PQ,PQ_things,PQ_stuff\nas fused,63.4,40.0,\n",
    "error_kinds.csv": "group,system,kind,segments,PQ_lost\nAll,fusion,merged,3,1.5\n",
}


@pytest.fixture
def metrics(tmp_path):
    def read(**changed):
        for name, text in TABLES.items():
            text = changed.get(name.partition(".")[0], text)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_metrics(tmp_path, systems=SYSTEMS, categories=CATEGORIES)

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
    row = {"group": "All", "system": "fusion", "kind": "merged", "segments": 3, "PQ_lost": 1.5}
    assert read["error_kinds"] == [row]


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
        ("error_kinds", TABLES["error_kinds.csv"].replace("merged", "odd"), "line 2, kind: expected one of"),
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
