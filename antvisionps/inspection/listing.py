"""What a data folder holds, of every stage, and what in it does not belong together."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from antvisionps.core.checksums import file_sha256
from antvisionps.core.errors import AntVisionPSError, DataError, first_line
from antvisionps.core.json_files import read_json
from antvisionps.inspection.fused import open_fused_maps
from antvisionps.inspection.predictions import open_predictions
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.splits import MANIFEST, dataset_fingerprint, open_split, prepared_splits
from antvisionps.predictions.schema import SCHEMA_VERSION

_SHORT = 12
"""Characters of a checksum that are shown."""

Listing = dict[str, list[dict[str, Any]]]


def list_data(data_dir: Path) -> tuple[Listing, list[str]]:
    """`splits`, `networks`, `caches` and `systems` as rows, and what is wrong, a sentence each.

    Raises DataError where the folder has none of them.
    """
    problems: list[str] = []
    listing: Listing = {
        "splits": _rows(_list_splits, [data_dir / "prepared"], problems),
        "networks": _rows(_list_network, _folders_with(data_dir / "models", "*/*/network.json"), problems),
        "caches": _rows(_list_cache, _folders_with(data_dir / "predictions", "*/*/*.parquet"), problems),
        "systems": _rows(_list_system, _folders_with(data_dir / "fused", "*/panoptic.json"), problems),
    }
    if not any(listing.values()) and not problems:
        raise DataError(
            f"{data_dir}: nothing that a stage wrote; run `dvc repro`, or name the folder with --data (commands run "
            "from the project's root)"
        )
    problems += _misfits(listing, data_dir)
    return listing, problems


def _folders_with(folder: Path, pattern: str) -> list[Path]:
    return sorted({path.parent for path in folder.glob(pattern)})


def _rows(
    list_one: Callable[[Path], Iterable[dict[str, Any]]], folders: Iterable[Path], problems: list[str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for folder in folders:
        try:
            rows += list_one(folder)
        except AntVisionPSError as error:
            problems.append(str(error))
    return rows


def _list_splits(prepared_dir: Path) -> Iterable[dict[str, Any]]:
    if not (prepared_dir / MANIFEST).exists():
        return
    fingerprint = dataset_fingerprint(prepared_dir)
    for split in prepared_splits(prepared_dir):
        dataset = open_split(prepared_dir, split)
        yield {
            "split": split,
            "images": len(dataset.images),
            "first image": dataset.images[0].source_id,
            "last image": dataset.images[-1].source_id,
            "height x width": _name_sizes(dataset),
            "things": len(dataset.categories.things),
            "stuff": len(dataset.categories.stuff),
            "data": fingerprint[:_SHORT],
        }


def _name_sizes(dataset: PanopticDataset) -> str:
    sizes = sorted({(image.height, image.width) for image in dataset.images})
    if len(sizes) == 1:
        return "{} x {}".format(*sizes[0])
    heights, widths = ([size[axis] for size in sizes] for axis in (0, 1))
    return f"{min(heights)}-{max(heights)} x {min(widths)}-{max(widths)} ({len(sizes)} sizes)"


def _list_network(folder: Path) -> Iterable[dict[str, Any]]:
    weights = folder / "weights.pth"
    described = read_json(folder / "network.json", what="network", remedy="train it again", error=DataError)
    try:
        checksum = file_sha256(weights)
        backbone = described["network"]["backbone"].get("name")  # HRNet's has none
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not a trained network ({first_line(error)}); train it again") from error
    yield {
        "end": folder.parent.name,
        "member": folder.name,
        "backbone": backbone,
        "MB": weights.stat().st_size / 1e6,
        "weights": checksum[:_SHORT],
    }


def _list_cache(folder: Path) -> Iterable[dict[str, Any]]:
    with open_predictions(folder) as cache:
        header = cache.header
        has = cache.tables
        instances = cache.to_arrow("instances", ["image_id"]).num_rows if "instances" in has else None
        yield {
            "end": header.end,
            "split": header.split,
            "images": len(cache),
            "instances": instances,
            "semantic": "yes" if "semantic" in has else "no",
            "schema": SCHEMA_VERSION,
            "MB": sum(path.stat().st_size for path in folder.glob("*.parquet")) / 1e6,
            "data": header.dataset_fingerprint[:_SHORT],
            "weights": header.weights_sha256[:_SHORT],
        }


def _list_system(folder: Path) -> Iterable[dict[str, Any]]:
    maps = open_fused_maps(folder)
    yield {
        "system": maps.system,
        "images": len(maps),
        "segments": maps.to_arrow("segments").num_rows,
        "rejected candidates": maps.to_arrow("candidates").num_rows,
    }


def _misfits(listing: Listing, data_dir: Path) -> list[str]:
    prepared = {row["data"] for row in listing["splits"]}
    return [
        f"{data_dir / 'predictions' / row['end'] / row['split']}: predicted from data {row['data']}, but "
        f"{data_dir / 'prepared'} holds {', '.join(prepared)}; run `dvc repro`"
        for row in listing["caches"]
        if prepared and row["data"] not in prepared
    ]
