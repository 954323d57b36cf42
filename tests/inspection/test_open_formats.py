"""Every Parquet file of a run opens in other people's programs as it is."""

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

CACHES = ["data/predictions/e_ups/val/instances.parquet", "data/predictions/lwl_htc/heldout/semantic.parquet"]
OTHERS = [
    "data/fused/fusion/segments.parquet",
    "data/fused/fusion/candidates.parquet",
    "data/routing/class_ap.parquet",
    "data/scores/per_image.parquet",
]


@pytest.fixture(params=CACHES + OTHERS)
def path(tiny_run, request):
    return tiny_run / request.param


def listed(rows):
    """Boxes, which are tuples, Series or arrays, as lists."""
    nested = (tuple, pl.Series)
    return [{name: list(value) if isinstance(value, nested) else value for name, value in row.items()} for row in rows]


def test_polars_duckdb_and_pandas_read_the_rows(path):
    rows = pq.read_table(path).to_pylist()
    assert listed(pl.read_parquet(path).to_dicts()) == rows
    with duckdb.connect() as connection:
        cursor = connection.execute("select * from read_parquet(?)", [str(path)])
        names = [column[0] for column in cursor.description]
        assert listed(dict(zip(names, row, strict=True)) for row in cursor.fetchall()) == rows
    frame = pd.read_parquet(path)
    assert list(frame.columns) == names
    for name in {"image_id", "category_id", "height", "end", "tp"} & set(names):
        assert frame[name].tolist() == [row[name] for row in rows]


@pytest.mark.parametrize("name", CACHES)
def test_hugging_face_datasets(tiny_run, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(tiny_run / name), cache_dir=str(tmp_path))
    assert dataset.to_list() == pq.read_table(tiny_run / name).to_pylist()
