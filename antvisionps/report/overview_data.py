"""What the report page shows of a whole split, as plain values, from the files that the stages before it wrote."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.csv_files import write_csv
from antvisionps.core.errors import CacheError, DataError, first_line
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.fusion.routing import CLASS_AP_FILE, CLASS_AP_SCHEMA, read_routing
from antvisionps.fusion.routing import REMEDY as ROUTING_REMEDY
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.slices import Slices
from antvisionps.report.score_tables import parse_count, parse_number, read_cells

Json = dict[str, Any]

MAX_CURVE_POINTS = 300
"""Of each curve; a wider plot than the page's has no more pixels to show."""


def read_page_routing(folder: Path, *, categories: CategorySet, ends: Sequence[str]) -> Json:
    """The routing table, each category with the AP of every end. Raises CacheError on a missing or broken file."""
    table = read_routing(folder, categories=categories, ends=ends)
    rows = _read_class_ap(folder / CLASS_AP_FILE, categories, ends)
    ap_of: dict[int, Json] = {row["category_id"]: {} for row in rows}
    for row in rows:
        ap_of[row["category_id"]][row["end"]] = None if math.isnan(row["AP"]) else row["AP"]
    n_gt = {row["category_id"]: row["n_gt"] for row in rows}
    if any(row["n_gt"] != n_gt[row["category_id"]] for row in rows):
        raise CacheError(f"{folder / CLASS_AP_FILE}: n_gt of a category differs between ends; {ROUTING_REMEDY}")
    if absent := {row.category_id for row in table.categories} - set(n_gt):
        raise CacheError(f"{folder / CLASS_AP_FILE}: no AP of category {min(absent)}; {ROUTING_REMEDY}")
    return {
        "mean_ap": table.mean_ap,
        "better_overall": table.better_overall,
        "categories": [
            {
                "class": categories.class_index(row.category_id),
                "end": row.end,
                "reason": row.reason,
                "lead": None if row.lead is None else row.lead.model_dump(),
                "ap": ap_of[row.category_id],
                "n_gt": n_gt[row.category_id],
            }
            for row in table.categories
        ],
    }


def _read_class_ap(path: Path, categories: CategorySet, ends: Sequence[str]) -> list[Json]:
    with ParquetReader(path, CLASS_AP_SCHEMA, remedy=ROUTING_REMEDY, error=CacheError) as file:
        rows = file.read().to_pylist()
    seen = set()
    for row in rows:
        is_known = row["category_id"] in categories.thing_ids and row["end"] in ends
        is_in_range = all(
            row[name] is not None and (math.isnan(row[name]) or 0 <= row[name] <= 1) for name in ("AP", "AP50")
        )
        if not is_known or not is_in_range or row["n_gt"] is None or row["n_gt"] < 0:
            raise CacheError(f"{path}: a row that cannot be: {row}; {ROUTING_REMEDY}")
        if (row["category_id"], row["end"]) in seen:
            raise CacheError(f"{path}: category {row['category_id']} of {row['end']} stands twice; {ROUTING_REMEDY}")
        seen.add((row["category_id"], row["end"]))
    return rows


def read_curves(models: Path, members: Mapping[str, Sequence[str]]) -> list[Json]:
    """Every training curve of the members (end → names): {end, member, name, steps, values}. Folders of other members
    are another run's."""
    curves = []
    for end, member in ((end, member) for end, of_end in members.items() for member in sorted(of_end)):
        folder = models / end / member / "curves" / "plots" / "metrics"
        for path in sorted(folder.rglob("*.tsv")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            steps, values = _read_curve(path)
            curves.append({"end": end, "member": member, "name": name, "steps": steps, "values": values})
    return curves


def _read_curve(path: Path) -> tuple[list[int], list[float]]:
    try:
        header, *rows = read_cells(path, delimiter="\t")
        step, value = header.index("step"), len(header) - 1
        points = [(parse_count(row[step]), parse_number(row[value])) for row in rows]
        steps = [at for at, _ in points]
        if steps != sorted(set(steps)):
            raise ValueError("expected ascending steps")
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{path}: not a curve of DVCLive ({first_line(error)}); run `dvc repro`") from error
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


def describe_categories(categories: CategorySet) -> list[Json]:
    """In class-index order."""
    return [
        {"name": category.name, "thing": category.is_thing, "color": list(category.color_rgb)}
        for category in categories.categories
    ]


def describe_slices(slices: Slices, *, images: int) -> list[Json]:
    """Of each attribute its values, and of every image the place of its value among them, -1 without one."""
    values: dict[str, list[str]] = {}
    for attribute, value in slices:
        values.setdefault(attribute, []).append(value)
    described = []
    for attribute, of_attribute in values.items():
        of_images = np.full(images, -1)
        for place, value in enumerate(of_attribute):
            of_images[slices[attribute, value]] = place
        described.append({"attribute": attribute, "values": of_attribute, "of_images": of_images.tolist()})
    return described
