"""Train, heldout and val: written by `prepare`, opened by every stage after it.

`prepare` makes one folder: `train.json`, `heldout.json` and `val.json` in the COCO panoptic format, the maps of val as
runs, and the manifest `dataset.json` with the categories, the fingerprint and where photos and PNGs are; also
`train_instances.parquet` and `heldout_instances.parquet`, where things are annotated apart from the maps. Held-out
images come out of train and are never trained on: what the fusion learns from predictions, it learns from theirs.

Every file is opened, decoded whole and hashed here, once, so that no stage dies hours later of a truncated photo, and
the same photo under two names, in whatever encoding of its pixels, cannot stand on both sides of a split.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import DataError
from antvisionps.core.json_files import read_json
from antvisionps.core.progress import progress
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset, check_files
from antvisionps.panoptic.photo import SWAPS_SIDES, warn_of_turned_photos
from antvisionps.panoptic.segment_runs import SegmentRuns, find_runs, write_runs
from antvisionps.panoptic.segments import PanopticImage

SplitName = Literal["train", "heldout", "val"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

MANIFEST = "dataset.json"

InstancesWriter = Callable[[Mapping[Path, PanopticDataset]], str]
"""Writes the true instances of each split's images to its file; returns the sha256 (hex) of them all."""

SCORED_SPLIT: SplitName = "val"
"""The split whose true maps `prepare` keeps as runs too, as they are scored against again and again."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """One split of a COCO-panoptic folder, relative to the folder: the JSON, its PNGs, its photos."""

    annotations: str
    panoptic_dir: str
    images_dir: str


@dataclass(frozen=True, slots=True)
class _Hashes:
    """sha256 (hex) of an image's two files; sha256 of the size and the decoded pixels of its photo, upright and as they
    are stored; its EXIF orientation."""

    photo: str
    panoptic: str
    pixels: bytes
    stored_pixels: bytes
    orientation: int


def prepare_coco_panoptic(
    out: Path,
    *,
    root: str,
    train: SplitFiles,
    val: SplitFiles,
    heldout_images: int,
    seed: int,
    workers: int = 1,
    write_instances: InstancesWriter | None = None,
) -> None:
    """Splits a COCO-panoptic folder. Only annotations are written to `out`; photos and PNGs are used where they lie.

    `write_instances` gives train and heldout instances that are annotated apart from the maps.

    Raises DataError on whatever `read_panoptic`, `load_photo`, `load_segment_ids` and `check_areas` refuse, on train
    and val of different categories, and on an image in both.
    """
    datasets = [
        read_panoptic(
            Path(root, files.annotations),
            images_dir=Path(root, files.images_dir),
            panoptic_dir=Path(root, files.panoptic_dir),
        )
        for files in (train, val)
    ]
    with atomic_folder(out) as folder:
        write_splits(
            folder,
            train=datasets[0],
            val=datasets[1],
            root=root,
            heldout_images=heldout_images,
            seed=seed,
            workers=workers,
            write_instances=write_instances,
        )


def write_splits(
    folder: Path,
    *,
    train: PanopticDataset,
    val: PanopticDataset,
    root: str | None,
    heldout_images: int,
    seed: int,
    workers: int,
    write_instances: InstancesWriter | None = None,
) -> None:
    """Holds some of `train` out, checks every file, and writes annotations and manifest into `folder`.

    The manifest names the folders of photos and PNGs relative to `root`; without one they lie in `folder` itself.
    """
    _refuse_other_categories(train, val)
    for dataset in (train, val):
        check_files(dataset)
    heldout_ids = choose_heldout((image.image_id for image in train.images), count=heldout_images, seed=seed)
    splits: dict[SplitName, PanopticDataset] = {
        "train": replace(train, images=tuple(i for i in train.images if i.image_id not in heldout_ids)),
        "heldout": replace(train, images=tuple(i for i in train.images if i.image_id in heldout_ids)),
        "val": val,
    }
    _refuse_shared_ids(splits)
    instances = None
    if write_instances is not None:
        for name in ("train", "heldout"):
            splits[name] = replace(splits[name], instances=folder / f"{name}_instances.parquet")
        instances = write_instances({d.instances: d for d in splits.values() if d.instances is not None})
    hashes = {name: _check_and_hash(dataset, name, workers) for name, dataset in splits.items() if name != SCORED_SPLIT}
    with write_runs(runs_path(folder)) as write:
        hashes[SCORED_SPLIT] = _check_and_hash(splits[SCORED_SPLIT], SCORED_SPLIT, workers, keep_runs=write)
    _refuse_shared_photos(splits, hashes)
    warn_of_turned_photos(
        [
            (dataset.photo_path(image), files.orientation)
            for name, dataset in splits.items()
            for image, files in zip(dataset.images, hashes[name], strict=True)
            if files.orientation not in SWAPS_SIDES or image.height == image.width
        ]
    )
    for name, dataset in splits.items():
        write_panoptic_json(folder / f"{name}.json", categories=dataset.categories, images=dataset.images)
    manifest = {
        "fingerprint": _fingerprint(splits, hashes, instances),
        "categories": train.categories.to_json(),
        "root": root,
        "splits": {name: _describe(dataset, Path(root or folder)) for name, dataset in splits.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def open_split(prepared_dir: Path, split: SplitName) -> PanopticDataset:
    """A split that `prepare` wrote. Raises DataError when there is none or its annotations break the format."""
    manifest = _read_manifest(prepared_dir)
    root = prepared_dir if manifest["root"] is None else Path(manifest["root"])
    folders = manifest["splits"][split]
    instances = folders.get("instances")
    dataset = read_panoptic(
        prepared_dir / f"{split}.json",
        images_dir=root / folders["images_dir"],
        panoptic_dir=root / folders["panoptic_dir"],
    )
    return dataset if instances is None else replace(dataset, instances=prepared_dir / instances)


def runs_path(prepared_dir: Path) -> Path:
    """Where the true maps of SCORED_SPLIT are as runs."""
    return prepared_dir / f"{SCORED_SPLIT}_runs.parquet"


def dataset_fingerprint(prepared_dir: Path) -> str:
    """sha256 (hex) over categories, annotations, instances, photos and PNGs of all splits as `prepare` found them.

    Equal contents have equal fingerprints, wherever they lie and whatever the files are called.
    """
    return str(_read_manifest(prepared_dir)["fingerprint"])


def choose_heldout(image_ids: Iterable[int], *, count: int, seed: int) -> frozenset[int]:
    """The image ids to hold out: a pure function of the set of ids and the seed.

    Raises DataError when `count` leaves nothing held out or nothing to train on.
    """
    ordered = sorted(image_ids)
    if not 1 <= count < len(ordered):
        raise DataError(
            f"prepare.heldout_images is {count} and the train annotations have {len(ordered)} images; expected 1 to "
            f"{len(ordered) - 1}, so that some are left to train on"
        )
    chosen = np.random.default_rng(seed).choice(len(ordered), size=count, replace=False)
    return frozenset(ordered[index] for index in chosen)


def _describe(dataset: PanopticDataset, root: Path) -> dict[str, Any]:
    def below_root(path: Path) -> str:
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()

    described = {
        "images": len(dataset.images),
        "images_dir": below_root(dataset.images_dir),
        "panoptic_dir": below_root(dataset.panoptic_dir),
    }
    return described if dataset.instances is None else described | {"instances": dataset.instances.name}


def _check_and_hash(
    dataset: PanopticDataset, split: str, workers: int, *, keep_runs: Callable[[SegmentRuns], None] | None = None
) -> list[_Hashes]:
    """Decodes every photo and map whole and returns their hashes in the order of `images`.

    Threads do: reading, decoding and hashing all run outside Python's lock.
    """

    def check(image: PanopticImage) -> tuple[_Hashes, SegmentRuns | None]:
        opened = dataset.read_photo(image)
        pixels = stored_pixels = _hash_pixels(opened.rgb)
        if opened.stored is not opened.rgb:
            stored_pixels = _hash_pixels(opened.stored)
        segment_ids = dataset.load_segment_ids(image)
        dataset.check_areas(image, segment_ids)
        runs = None if keep_runs is None else find_runs(segment_ids, image.segments)
        photo, panoptic = (_sha256(path(image)) for path in (dataset.photo_path, dataset.panoptic_path))
        return _Hashes(photo, panoptic, pixels, stored_pixels, opened.orientation), runs

    hashes = []
    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(check, dataset.images)
        for found, runs in progress(checked, description=f"check {split}", total=len(dataset.images), unit="image"):
            hashes.append(found)
            if keep_runs is not None:
                keep_runs(runs)
    return hashes


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_pixels(rgb: np.ndarray) -> bytes:
    digest = hashlib.sha256(np.array(rgb.shape).tobytes())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.digest()


def _fingerprint(
    splits: Mapping[SplitName, PanopticDataset], hashes: Mapping[SplitName, Sequence[_Hashes]], instances: str | None
) -> str:
    digest = hashlib.sha256(json.dumps(splits["train"].categories.to_json()).encode())
    for name, dataset in splits.items():
        digest.update(name.encode())
        for image, files in zip(dataset.images, hashes[name], strict=True):
            row = (image.image_id, image.height, image.width, files.photo, files.panoptic, image.segments)
            digest.update(json.dumps(row).encode())
    if instances is not None:
        digest.update(instances.encode())
    return digest.hexdigest()


def _refuse_other_categories(train: PanopticDataset, val: PanopticDataset) -> None:
    ours, theirs = ({(c.category_id, c.name, c.is_thing) for c in d.categories.categories} for d in (train, val))
    if ours != theirs:
        category_id, name, is_thing = min(ours ^ theirs)
        kind = "thing" if is_thing else "stuff"
        raise DataError(
            f"{train.annotations} and {val.annotations}: expected the same categories in both, but category "
            f"{category_id} ({name!r}, {kind}) is only in {'train' if (category_id, name, is_thing) in ours else 'val'}"
        )


def _refuse_shared_ids(splits: Mapping[SplitName, PanopticDataset]) -> None:
    split_of: dict[int, SplitName] = {}
    for name, dataset in splits.items():
        for image in dataset.images:
            other = split_of.setdefault(image.image_id, name)
            if other != name:
                raise DataError(
                    f"leak: image {image.image_id} ({image.file_name}) is in {other} ({splits[other].annotations}) and "
                    f"in {name} ({dataset.annotations}); remove or renumber one"
                )


def _refuse_shared_photos(
    splits: Mapping[SplitName, PanopticDataset], hashes: Mapping[SplitName, Sequence[_Hashes]]
) -> None:
    seen: dict[bytes, tuple[SplitName, Path]] = {}
    for name, dataset in splits.items():
        for image, files in zip(dataset.images, hashes[name], strict=True):
            path = dataset.photo_path(image)
            for pixels in {files.pixels, files.stored_pixels}:
                other, other_path = seen.setdefault(pixels, (name, path))
                if other != name:
                    raise DataError(
                        f"leak: {other_path} in {other} and {path} in {name} are the same photo, pixel by pixel; "
                        "remove one from its annotations"
                    )


def _read_manifest(prepared_dir: Path) -> dict[str, Any]:
    remedy = "run `dvc repro -f prepare`"
    manifest: dict[str, Any] = read_json(prepared_dir / MANIFEST, what="manifest", remedy=remedy, error=DataError)
    return manifest
