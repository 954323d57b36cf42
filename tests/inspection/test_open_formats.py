"""Every Parquet file of a run opens in other people's programs as it is."""

from __future__ import annotations

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

FILES = (
    "data/predictions/e_ups/val/instances.parquet",
    "data/predictions/lwl_htc/heldout/semantic.parquet",
    "data/fused/fusion/segments.parquet",
    "data/fused/fusion/candidates.parquet",
    "data/routing/class_ap.parquet",
    "metrics/per_image.parquet",
)


@pytest.fixture(params=FILES)
def path(tiny_run, request):
    return tiny_run / request.param


@pytest.fixture
def rows(path):
    return pq.read_table(path).to_pylist()


def test_polars(path, rows):
    frame = pl.read_parquet(path)
    read = [{name: as_list(value) for name, value in row.items()} for row in frame.to_dicts()]
    assert read == rows


def test_duckdb(path, rows):
    with duckdb.connect() as connection:
        cursor = connection.execute("select * from read_parquet(?)", [str(path)])
        names = [column[0] for column in cursor.description]
        read = [{name: as_list(value) for name, value in zip(names, row, strict=True)} for row in cursor.fetchall()]
    assert read == rows


def test_pandas(path, rows):
    frame = pd.read_parquet(path)
    assert list(frame.columns) == list(rows[0])
    for name in {"image_id", "category_id", "height", "end", "tp"} & set(rows[0]):
        assert frame[name].tolist() == [row[name] for row in rows]


@pytest.mark.parametrize("name", [FILES[0], FILES[1]])
def test_hugging_face_datasets(tiny_run, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(tiny_run / name), cache_dir=str(tmp_path))
    assert dataset.to_list() == pq.read_table(tiny_run / name).to_pylist()


def test_a_question_in_sql(tiny_run):
    """Mean score of every category: the same by DuckDB over the file as by hand."""
    path = tiny_run / FILES[0]
    with duckdb.connect() as connection:
        found = connection.execute(
            "select category_id, count(*), avg(score) from read_parquet(?) group by all order by all", [str(path)]
        ).fetchall()
    rows = pq.read_table(path, columns=["category_id", "score"]).to_pylist()
    for category_id, count, mean in found:
        scores = [row["score"] for row in rows if row["category_id"] == category_id]
        assert (count, mean) == (len(scores), pytest.approx(sum(scores) / len(scores)))


def as_list(value):
    return list(value) if isinstance(value, tuple | pl.Series) else value
