"""What the report page shows of a whole split, as plain values, from the files that the stages before it wrote."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.csv_files import write_csv
from antvisionps.core.errors import CacheError, DataError
from antvisionps.core.input_files import open_file
from antvisionps.core.json_files import read_json
from antvisionps.panoptic.categories import CategorySet

Json = dict[str, Any]

_TEXT_COLUMNS = {"group", "system", "minus", "category", "size", "perfect"}
SCORE_REMEDY = "run `dvc repro score`"
MAX_CURVE_POINTS = 300
"""Of each curve; a wider plot than the page's has no more pixels to show."""


def read_metrics(folder: Path) -> Json:
    """The tables that stage score wrote. Raises DataError on a missing or broken one."""
    return {
        "summary": read_json(folder / "panoptic.json", what="summary", remedy=SCORE_REMEDY, error=DataError),
        "intervals": read_table(folder / "intervals.csv", ("group", "system", "minus", "PQ", "low", "high")),
        "per_class": read_table(folder / "per_class.csv", ("category", "system", "PQ", "SQ", "RQ", "tp", "fp", "fn")),
        "per_size": read_table(folder / "per_size.csv", ("system", "size", "PQ", "SQ", "RQ", "tp", "fp", "fn")),
        "error_budget": read_table(folder / "error_budget.csv", ("perfect", "PQ", "PQ_things", "PQ_stuff")),
    }


def read_table(path: Path, columns: Sequence[str]) -> list[Json]:
    """Rows of a CSV with just these columns; numbers as numbers, an empty one as None."""
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise ValueError(f"expected the columns {list(columns)}, got {reader.fieldnames}")
            return [
                {name: row[name] if name in _TEXT_COLUMNS else _number(row[name]) for name in columns} for row in reader
            ]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not the table that stage score writes ({error}); {SCORE_REMEDY}") from error


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    value = float(text)
    return int(value) if value.is_integer() and "." not in text else round(value, 4)


def read_routing(folder: Path, categories: CategorySet) -> Json:
    """The routing table, each category with the AP of every end. Raises CacheError on a missing or broken file."""
    table = read_json(folder / "routing.json", what="routing table", remedy="run `dvc repro evaluate_heldout`")
    path = folder / "class_ap.parquet"
    try:
        with open_file(path) as opened, pq.ParquetFile(opened) as file:
            rows = file.read(["category_id", "end", "AP", "n_gt"]).to_pylist()
        ap_of: dict[int, Json] = {}
        n_gt: dict[int, int] = {}
        for row in rows:
            ap_of.setdefault(row["category_id"], {})[row["end"]] = None if np.isnan(row["AP"]) else row["AP"]
            n_gt[row["category_id"]] = row["n_gt"]
        return {
            "mean_ap": table["mean_ap"],
            "better_overall": table["better_overall"],
            "categories": [
                {
                    "class": categories.class_index(row["category_id"]),
                    "end": row["end"],
                    "reason": row["reason"],
                    "lead": row["lead"],
                    "ap": ap_of[row["category_id"]],
                    "n_gt": n_gt[row["category_id"]],
                }
                for row in table["categories"]
            ],
        }
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not what stage evaluate_heldout writes ({error!r}); run `dvc repro`") from error


def read_curves(models: Path, ends: Sequence[str]) -> list[Json]:
    """Every training curve of the ends that were trained here: {end, member, name, steps, values}."""
    curves = []
    for end in ends:
        for path in sorted((models / end).glob("*/curves/plots/metrics/**/*.tsv")):
            member, _, _, _, *name = path.relative_to(models / end).with_suffix("").parts
            steps, values = _read_curve(path)
            curves.append({"end": end, "member": member, "name": "/".join(name), "steps": steps, "values": values})
    return curves


def _read_curve(path: Path) -> tuple[list[int], list[float]]:
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t")
        step, value = header.index("step"), len(header) - 1
        points = [(int(row[step]), float(row[value])) for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a curve of DVCLive ({error}); run `dvc repro`") from error
    every = -(-len(points) // MAX_CURVE_POINTS) or 1
    shown = points[::-1][::every][::-1]  # the last point stays
    return [step for step, _ in shown], [float(f"{value:.5g}") for _, value in shown]


def write_curves_csv(path: Path, curves: Sequence[Json]) -> None:
    """A row for each network and step: end, member, step, and every curve by its name, empty where a network lacks it.

    The total loss comes first, then the rest by name.
    """
    names = sorted({curve["name"] for curve in curves} | {"loss"}, key=lambda name: (name != "loss", name))
    rows: defaultdict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for curve in curves:
        for step, value in zip(curve["steps"], curve["values"], strict=True):
            rows[curve["end"], curve["member"], step][curve["name"]] = value
    of_all = ([*of_step, *(values.get(name) for name in names)] for of_step, values in rows.items())
    write_csv(path, ["end", "member", "step", *names], of_all)


def confusion_triples(confused_px: np.ndarray) -> list[list[int]]:
    """[true class index, predicted class index, pixels] of the pairs that occur; the last class index is void."""
    gt, predicted = np.nonzero(confused_px)
    return np.stack([gt, predicted, confused_px[gt, predicted]], axis=1).tolist()


def describe_categories(categories: CategorySet) -> list[Json]:
    """In class-index order."""
    return [
        {"name": category.name, "thing": category.is_thing, "color": list(category.color_rgb)}
        for category in categories.categories
    ]


def write_confusion_csv(path: Path, confused_px: Mapping[str, np.ndarray], categories: CategorySet) -> None:
    """A row for each system and pair of categories that share pixels: truth, prediction, pixels, share of the truth's.

    Void comes last on both sides: what nobody labelled, and what nobody predicted.
    """
    names = [*(category.name for category in categories.categories), "(void)"]
    rows = (
        [system, names[gt], names[predicted], pixels, f"{pixels / confused[gt].sum():.4f}"]
        for system, confused in confused_px.items()
        for gt, predicted, pixels in confusion_triples(confused)
    )
    write_csv(path, ["system", "truth", "prediction", "pixels", "share"], rows)
