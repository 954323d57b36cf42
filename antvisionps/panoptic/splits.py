"""Train, heldout, val and monitor: written by `prepare`, opened by every stage after it.

`prepare` makes one folder: `train.json`, `heldout.json` and `val.json` in the COCO panoptic format, the maps of val as
runs, and the manifest `dataset.json` with the categories, the fingerprint and where photos and PNGs are; also
`train_instances.parquet` and `heldout_instances.parquet`, where things are annotated apart from the maps. Held-out
images come out of train and are never trained on: what the fusion learns from predictions, it learns from theirs. Nor
are those of `monitor.json`, where there is one: a training is measured on them while it runs.

Every file is opened, decoded whole and hashed here, once, so that no stage dies hours later of a truncated photo, and
the same photo under two names, in whatever encoding of its pixels, cannot stand on both sides of a split.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.checksums import file_sha256
from antvisionps.core.documents import Document, read_document
from antvisionps.core.errors import DataError
from antvisionps.core.json_files import write_json
from antvisionps.core.progress import progress
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset, check_files
from antvisionps.panoptic.gt_instances import REMEDY, GtInstances, Instance, write_gt_instances
from antvisionps.panoptic.heldout import refuse_unusable_counts, take_out
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.photo import SWAPS_SIDES, warn_of_turned_photos
from antvisionps.panoptic.segment_runs import SegmentRuns, write_runs
from antvisionps.panoptic.segments import PanopticImage, number_images

SplitName = Literal["train", "heldout", "val", "monitor"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

MANIFEST = "dataset.json"
_NO_MONITOR = (
    "prepare.monitor_images is 0; raise it and run `dvc repro`, or set evaluate_interval of the trainings to null"
)

InstancesReader = Callable[[PanopticDataset], Mapping[ImageId, Sequence[Instance]]]
"""The true instances of train's images that have any, by the data set's own ids."""

SCORED_SPLIT: SplitName = "val"
"""The split whose true maps `prepare` keeps as runs too, as they are scored against again and again."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """One split of a COCO-panoptic folder, relative to the folder: the JSON, its PNGs, its photos."""

    annotations: str
    panoptic_dir: str
    images_dir: str


class _SplitPlaces(Document):
    images: int
    images_dir: str
    panoptic_dir: str
    instances: str | None = None


class _Manifest(Document):
    """What `write_splits` writes of the whole folder."""

    fingerprint: str
    categories: list[dict[str, Any]]
    root: str | None
    splits: dict[SplitName, _SplitPlaces]


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image with whole segments; sha256 (hex) of its two files; sha256 of the size and the decoded pixels of its
    photo, upright and as they are stored; its EXIF orientation; the runs of its map, until they are written."""

    image: PanopticImage
    photo: str
    panoptic: str
    pixels: bytes
    stored_pixels: bytes
    orientation: int
    runs: SegmentRuns | None


_Split = tuple[PanopticDataset, Sequence[CheckedImage]]
"""A split and its images as they were checked, in the same order."""


def prepare_coco_panoptic(
    out: Path,
    *,
    root: str,
    train: SplitFiles,
    val: SplitFiles,
    heldout_images: int,
    monitor_images: int = 0,
    seed: int,
    workers: int = 1,
    read_instances: InstancesReader | None = None,
) -> None:
    """Splits a COCO-panoptic folder. Only annotations are written to `out`; photos and PNGs are used where they lie.

    `read_instances` gives instances that are annotated apart from the maps.

    Raises DataError on whatever `read_folder`, `load_photo`, `load_segment_ids` and `measure` refuse, on train and
    val of different categories, and on a photo in both.
    """
    with atomic_folder(out) as folder:
        datasets = read_folder(root, train=train, val=val)
        write_splits(
            folder,
            train=datasets[0],
            val=datasets[1],
            root=root,
            heldout_images=heldout_images,
            monitor_images=monitor_images,
            seed=seed,
            workers=workers,
            read_instances=read_instances,
        )


def read_folder(root: str, *, train: SplitFiles, val: SplitFiles) -> tuple[PanopticDataset, PanopticDataset]:
    """Train and val from their JSONs. Raises DataError on what is not there, and what `read_panoptic` does."""
    for files in (train, val):
        for path in (files.annotations, files.panoptic_dir, files.images_dir):
            refuse_missing(Path(root, path), what="prepare.coco_panoptic")
    of_train, of_val = (
        read_panoptic(
            Path(root, files.annotations),
            images_dir=Path(root, files.images_dir),
            panoptic_dir=Path(root, files.panoptic_dir),
            is_foreign=True,
        )
        for files in (train, val)
    )
    return of_train, of_val


def refuse_missing(path: Path, *, what: str) -> None:
    """Raises DataError, with the whole path, where there is no such file or folder; `what` of the params names it."""
    if not path.exists():
        whole = "" if path.is_absolute() else f" (that is {path.absolute()}: a relative root starts at {Path.cwd()})"
        raise DataError(f"{path}: no such file or folder{whole}; put it there, or correct {what} in params.yaml")


def write_splits(
    folder: Path,
    *,
    train: PanopticDataset,
    val: PanopticDataset,
    root: str | None,
    heldout_images: int,
    monitor_images: int = 0,
    monitor_ids: Collection[int] = (),
    seed: int,
    workers: int,
    read_instances: InstancesReader | None = None,
) -> None:
    """Takes held-out and monitor images out of `train`, checks every file, and writes annotations and manifest into
    `folder`.

    The monitor's images are `monitor_ids`, which are never held out, or `monitor_images` that are drawn. The manifest
    names the folders of photos and PNGs relative to `root`; without one they lie in `folder` itself.
    """
    check_splits(train, val, heldout_images, monitor_images)
    val = replace(val, categories=train.categories)  # their colours may differ
    instances = None if read_instances is None else read_instances(train)
    checked = {"train": _check_images(train, "train", workers)}
    with write_runs(runs_path(folder)) as write:
        checked["val"] = _check_images(val, "val", workers, keep_runs=write)
    refuse_shared_photos(train, checked["train"], val, checked["val"])
    warn_of_turned_photos(
        (dataset.photo_path(one.image), one.orientation)
        for dataset, images in ((train, checked["train"]), (val, checked["val"]))
        for one in images
        if one.orientation not in SWAPS_SIDES or one.image.height == one.image.width
    )
    taken = take_out(
        {one.image.image_id: one.pixels for one in checked["train"] if one.image.image_id not in monitor_ids},
        heldout_images=heldout_images,
        monitor_images=monitor_images,
        seed=seed,
    )
    splits = _split(train, val, checked, taken | {"monitor": taken["monitor"].union(monitor_ids)})
    fingerprint = _fingerprint(train.categories, splits)
    datasets = {name: dataset for name, (dataset, _) in splits.items()}
    if instances is not None:
        datasets = {
            name: replace(dataset, instances=None if name == "val" else folder / f"{name}_instances.parquet")
            for name, dataset in datasets.items()
        }
        fingerprint.update(_write_instances(datasets.values(), instances).encode())
    for name, dataset in datasets.items():
        write_panoptic_json(folder / f"{name}.json", categories=dataset.categories, images=dataset.images)
    manifest = {
        "fingerprint": fingerprint.hexdigest(),
        "categories": train.categories.to_json(),
        "root": root,
        "splits": {name: _describe(dataset, Path(root or folder)) for name, dataset in datasets.items()},
    }
    write_json(folder / MANIFEST, manifest)


def check_splits(train: PanopticDataset, val: PanopticDataset, heldout_images: int, monitor_images: int) -> None:
    """Raises DataError on what is wrong with the two together or with the lists of their files; opens none of them."""
    _refuse_other_categories(train, val)
    for dataset in (train, val):
        check_files(dataset)
    refuse_unusable_counts(len(train.images), heldout_images, monitor_images)


def open_split(prepared_dir: Path, split: SplitName) -> PanopticDataset:
    """A split that `prepare` wrote. Raises DataError when there is none or its annotations break the format."""
    manifest = _read_manifest(prepared_dir)
    root = prepared_dir if manifest.root is None else Path(manifest.root)
    if split not in manifest.splits:
        remedy = _NO_MONITOR if split == "monitor" else REMEDY
        raise DataError(f"{prepared_dir / MANIFEST}: no split {split}; {remedy}")
    places = manifest.splits[split]
    dataset = read_panoptic(
        prepared_dir / f"{split}.json", images_dir=root / places.images_dir, panoptic_dir=root / places.panoptic_dir
    )
    described = CategorySet.from_json(manifest.categories, where=str(prepared_dir / MANIFEST))
    if len(dataset.images) != places.images or dataset.categories != described:
        raise DataError(f"{dataset.annotations}: other images or categories than {MANIFEST} beside it says; {REMEDY}")
    return dataset if places.instances is None else replace(dataset, instances=prepared_dir / places.instances)


def prepared_splits(prepared_dir: Path) -> tuple[SplitName, ...]:
    """The splits that `prepare` wrote."""
    return tuple(_read_manifest(prepared_dir).splits)


def runs_path(prepared_dir: Path) -> Path:
    """Where the true maps of SCORED_SPLIT are as runs."""
    return prepared_dir / f"{SCORED_SPLIT}_runs.parquet"


def dataset_fingerprint(prepared_dir: Path) -> str:
    """sha256 (hex) over categories, annotations, instances, photos and PNGs of all splits as `prepare` found them.

    Equal contents have equal fingerprints, wherever they lie and whatever the files are called.
    """
    return _read_manifest(prepared_dir).fingerprint


def _describe(dataset: PanopticDataset, root: Path) -> dict[str, Any]:
    def below_root(path: Path) -> str:
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()

    described = {
        "images": len(dataset.images),
        "images_dir": below_root(dataset.images_dir),
        "panoptic_dir": below_root(dataset.panoptic_dir),
    }
    return described if dataset.instances is None else described | {"instances": dataset.instances.name}


def check_image(dataset: PanopticDataset, image: PanopticImage) -> CheckedImage:
    """Decodes an image's photo and map whole. Raises what `load_photo` and `load_runs` do."""
    opened = dataset.read_photo(image)
    pixels = stored_pixels = _hash_pixels(opened.rgb)
    if opened.stored is not opened.rgb:
        stored_pixels = _hash_pixels(opened.stored)
    runs, image = dataset.load_runs(image)
    photo, panoptic = (file_sha256(path(image)) for path in (dataset.photo_path, dataset.panoptic_path))
    return CheckedImage(image, photo, panoptic, pixels, stored_pixels, opened.orientation, runs)


def _check_images(
    dataset: PanopticDataset, split: str, workers: int, *, keep_runs: Callable[[SegmentRuns], None] | None = None
) -> list[CheckedImage]:
    """All images in the order of `images`; their runs go to `keep_runs`.

    Threads do: reading, decoding and hashing all run outside Python's lock.
    """
    checked = []
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(partial(check_image, dataset), dataset.images)
        for one in progress(found, description=f"check {split}", total=len(dataset.images), unit="image"):
            checked.append(replace(one, runs=None))
            if keep_runs is not None:
                keep_runs(one.runs)
    return checked


def _split(
    train: PanopticDataset,
    val: PanopticDataset,
    checked: Mapping[str, Sequence[CheckedImage]],
    taken: Mapping[str, Collection[int]],
) -> dict[SplitName, _Split]:
    """All that have an image, their images numbered anew and as the check made them whole."""
    place_of = {image_id: name for name, image_ids in taken.items() for image_id in image_ids}
    found: dict[str, list[CheckedImage]] = {name: [] for name in SPLITS} | {"val": list(checked["val"])}
    for one in checked["train"]:
        found[place_of.get(one.image.image_id, "train")].append(one)
    return {
        name: (
            replace(val if name == "val" else train, images=number_images(one.image for one in found[name])),
            found[name],
        )
        for name in SPLITS
        if found[name]
    }


def _hash_pixels(rgb: np.ndarray) -> bytes:
    digest = hashlib.sha256(np.array(rgb.shape).tobytes())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.digest()


def _fingerprint(categories: CategorySet, splits: Mapping[SplitName, _Split]) -> "hashlib._Hash":
    digest = hashlib.sha256(json.dumps(categories.to_json()).encode())
    for name, (dataset, checked) in splits.items():
        digest.update(name.encode())
        for image, files in zip(dataset.images, checked, strict=True):
            row = (image.source_id, image.height, image.width, files.photo, files.panoptic, image.segments)
            digest.update(json.dumps(row).encode())
    return digest


def _write_instances(datasets: Iterable[PanopticDataset], instances: Mapping[ImageId, Sequence[Instance]]) -> str:
    """Writes the file of each split that has one; returns the sha256 (hex) of what is in them all."""
    digest = hashlib.sha256()
    for dataset in datasets:
        if dataset.instances is None:
            continue
        found = [(image, instances.get(image.source_id, ())) for image in dataset.images]
        write_gt_instances(dataset.instances, ((image.image_id, GtInstances.of(rows)) for image, rows in found))
        for image, rows in found:
            for category_id, is_crowd, rle in rows:
                digest.update(json.dumps([image.source_id, category_id, is_crowd, rle.decode()]).encode())
    return digest.hexdigest()


def _refuse_other_categories(train: PanopticDataset, val: PanopticDataset) -> None:
    ours, theirs = train.categories.named, val.categories.named
    if ours != theirs:
        category_id, name, is_thing = min(ours ^ theirs)
        kind = "thing" if is_thing else "stuff"
        raise DataError(
            f"{train.annotations} and {val.annotations}: expected the same categories in both, but category "
            f"{category_id} ({name!r}, {kind}) is only in {'train' if (category_id, name, is_thing) in ours else 'val'}"
        )


def refuse_shared_photos(
    train: PanopticDataset, of_train: Iterable[CheckedImage], val: PanopticDataset, of_val: Iterable[CheckedImage]
) -> None:
    """Raises DataError, a line for each two of these images of train and val that are equal, pixel by pixel, turned
    upright or not."""
    in_train: dict[bytes, list[Path]] = {}
    for one in of_train:
        for pixels in {one.pixels, one.stored_pixels}:
            in_train.setdefault(pixels, []).append(train.photo_path(one.image))
    leaks = {
        (path, val.photo_path(one.image))
        for one in of_val
        for pixels in (one.pixels, one.stored_pixels)
        for path in in_train.get(pixels, ())
    }
    if leaks:
        raise DataError(
            "\n".join(
                f"leak: {ours} in train and {theirs} in val are the same photo, pixel by pixel; remove one from its "
                "annotations"
                for ours, theirs in sorted(leaks)
            )
        )


def _read_manifest(prepared_dir: Path) -> _Manifest:
    return read_document(prepared_dir / MANIFEST, _Manifest, what="manifest", remedy=REMEDY, error=DataError)
