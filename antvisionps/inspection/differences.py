"""What differs between two caches, or between two fused systems, by category and by image.

Only images that both have are compared.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from antvisionps.core.errors import CacheError
from antvisionps.core.progress import progress
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.inspection.collection import ImagesById
from antvisionps.inspection.fused import FusedMap, FusedMaps, open_fused_maps
from antvisionps.inspection.image_scores import class_pq, counts_of, image_pq, read_image_counts
from antvisionps.inspection.predictions import CachedPredictions, ImagePredictions, open_predictions
from antvisionps.inspection.records import Record
from antvisionps.inspection.revisions import fetch_revision
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.fused_files import PANOPTIC_FILE
from antvisionps.report.pq_table import pq_difference

Comparison = tuple[list[Record], list[Record]]
"""A record of each category, and one of each image, `changed` or not; what changed most comes first."""

Counts = Sequence[Mapping[ImageId, MatchCounts] | None]
"""Of A and of B: image_id → what stage score counted."""


@dataclass(frozen=True)
class Side:
    """A folder that a stage wrote: a cache, or a fused system with the counts of its images if there are any."""

    name: str
    folder: Path
    image_counts: Path

    @property
    def is_fused(self) -> bool:
        return (self.folder / PANOPTIC_FILE).is_file()


@contextmanager
def fetched_sides(paths: Sequence[Path], revisions: Sequence[str]) -> Iterator[tuple[Side, Side]]:
    """The two sides of a comparison: two paths, or one path in a revision and now, or one path in two revisions.

    What comes out of a revision is gone when the block ends.
    """
    now = [Side(str(path), path, counts_of(path)) for path in paths]
    with TemporaryDirectory() as temporary:
        then = [_fetch(now[0], rev, Path(temporary, str(index))) for index, rev in enumerate(revisions)]
        a, b = [*then, *now][:2]
        yield a, b


def _fetch(side: Side, rev: str, into: Path) -> Side:
    into.mkdir()
    folder = fetch_revision(side.folder, rev=rev, into=into)
    fetched = Side(f"{side.name} in {rev}", folder, into / side.image_counts.name)
    if fetched.is_fused:
        with suppress(CacheError):  # a revision without counts is compared without PQ
            fetch_revision(side.image_counts, rev=rev, into=into)
    return fetched


def compare(a: Side, b: Side) -> Comparison:
    if a.is_fused != b.is_fused:
        raise CacheError(f"{a.name} and {b.name}: expected two caches or two fused systems, got one of each")
    if not a.is_fused:
        with open_predictions(a.folder) as cache_a, open_predictions(b.folder) as cache_b:
            return compare_caches(cache_a, cache_b)
    maps_a, maps_b = open_fused_maps(a.folder), open_fused_maps(b.folder)
    counts = [read_image_counts(a.image_counts, system=maps_a.system)]
    counts += [read_image_counts(b.image_counts, system=maps_b.system)]
    return compare_fused(maps_a, maps_b, counts)


def compare_caches(a: CachedPredictions, b: CachedPredictions) -> Comparison:
    """Images that differ most come first.

    Of a category: how many instances, their mean score, and the part of all pixels where it is the likeliest. Of an
    image: how many instances are in both (same category, score and mask) or in one only, and the part of its pixels
    whose likeliest class differs. None where one of the two predicts no instances, or no semantics.
    """
    tables = set(a.tables) & set(b.tables)
    totals = [_CacheTotals(), _CacheTotals()]
    images = []
    for image_id in _common_image_ids(a, b):
        pair = a[image_id], b[image_id]
        images.append(_cached_image_record(pair, tables))
        for total, image in zip(totals, pair, strict=True):
            total.add(image, tables)
    images.sort(key=lambda row: (-(row["changed pixels"] or 0), -((row["only in A"] or 0) + (row["only in B"] or 0))))
    classes: list[Record] = []
    for index, category in enumerate(a.categories.categories):
        counts = [total.instances[category.category_id] for total in totals]
        scores = [total.mean_score(category.category_id) for total in totals]
        shares = [total.share(index) for total in totals]
        has_instances = "instances" in tables
        classes.append(
            {"category": category.name}
            | _beside("instances", counts, known=has_instances and category.is_thing)
            | _beside("mean score", scores, known=has_instances)
            | _beside("share", shares, known="semantic" in tables)
        )
    return classes, images


def _cached_image_record(pair: tuple[ImagePredictions, ImagePredictions], tables: Collection[str]) -> Record:
    record: Record = dict.fromkeys(("image", "in both", "only in A", "only in B", "changed pixels"))
    record["image"] = pair[0].image_id
    if "instances" in tables:
        found_a, found_b = (_instance_keys(image) for image in pair)
        both = (found_a & found_b).total()
        record |= {"in both": both, "only in A": found_a.total() - both, "only in B": found_b.total() - both}
    if "semantic" in tables:
        record["changed pixels"] = _changed_frac(record["image"], *(image.semantic.class_map for image in pair))
    return record | {"changed": any(record[name] for name in ("only in A", "only in B", "changed pixels"))}


def _instance_keys(image: ImagePredictions) -> Counter[tuple[int, float, bytes]]:
    arrays = image.instance_arrays
    return Counter(zip(arrays.category_ids.tolist(), arrays.scores.tolist(), arrays.rles, strict=True))


class _CacheTotals:
    def __init__(self) -> None:
        self.instances: Counter[int] = Counter()
        self._scores: defaultdict[int, float] = defaultdict(float)
        self._pixels = np.zeros(256, dtype=np.int64)

    def add(self, image: ImagePredictions, tables: Collection[str]) -> None:
        if "instances" in tables:
            for instance in image.instances:
                self.instances[instance.category.category_id] += 1
                self._scores[instance.category.category_id] += instance.score
        if "semantic" in tables:
            self._pixels += np.bincount(image.semantic.class_map.ravel(), minlength=256)

    def mean_score(self, category_id: int) -> float | None:
        count = self.instances[category_id]
        return self._scores[category_id] / count if count else None

    def share(self, class_index: int) -> float | None:
        whole = self._pixels.sum()
        return float(self._pixels[class_index] / whole) if whole else None


def compare_fused(a: FusedMaps, b: FusedMaps, counts: Counts) -> Comparison:
    """Images whose PQ fell most from A to B come first, then those that changed most.

    `counts` are those of A and of B: without both, PQ is None.
    """
    if None in counts:
        counts = [None, None]
    segments: list[Counter[int]] = [Counter(), Counter()]
    pixels: list[Counter[int]] = [Counter(), Counter()]
    images = []
    for image_id in _common_image_ids(a, b):
        pair = a[image_id], b[image_id]
        images.append(_fused_image_record(pair, counts))
        for fused, number, area in zip(pair, segments, pixels, strict=True):
            for segment in fused.image.segments:
                number[segment.category_id] += 1
                area[segment.category_id] += segment.area_px
    common = [record["image"] for record in images]
    images.sort(key=lambda row: (row["PQ B-A"] or 0.0, -row["changed pixels"]))
    pq_of = [class_pq(of_images, common) for of_images in counts]
    whole = sum(a[image_id].image.height * a[image_id].image.width for image_id in common)
    classes = [
        {"category": category.name}
        | _beside("segments", [number[category.category_id] for number in segments])
        | _beside("share", [area[category.category_id] / whole for area in pixels])
        | _with_change("PQ", [of_class.get(category.category_id) for of_class in pq_of])
        for category in a.categories.categories
    ]
    return classes, images


def _fused_image_record(pair: tuple[FusedMap, FusedMap], counts: Counts) -> Record:
    image_id = pair[0].image_id
    maps = (class_index_map(fused.segment_ids, fused.image, fused.maps.categories) for fused in pair)
    changed = _changed_frac(image_id, *maps)
    return {
        "image": image_id,
        **_beside("segments", [len(fused.image.segments) for fused in pair]),
        "changed pixels": changed,
        **_with_change("PQ", [image_pq(of_images, image_id) for of_images in counts]),
        "changed": bool(changed or (pair[0].segment_ids != pair[1].segment_ids).any()),
    }


def _changed_frac(image_id: ImageId, class_map_a: np.ndarray, class_map_b: np.ndarray) -> float:
    if class_map_a.shape != class_map_b.shape:
        raise CacheError(f"image {image_id} is of {class_map_a.shape} pixels in A and of {class_map_b.shape} in B")
    return float((class_map_a != class_map_b).mean())


def _beside(name: str, values: Sequence[Any], known: bool = True) -> Record:
    return {f"{name} {side}": value if known else None for side, value in zip("AB", values, strict=True)}


def _with_change(name: str, values: Sequence[float | None]) -> Record:
    before, after = values
    return {**_beside(name, values), f"{name} B-A": pq_difference(after, before)}


def _common_image_ids(a: ImagesById[Any], b: ImagesById[Any]) -> Iterable[ImageId]:
    """Ascending, with a progress bar on a terminal. Raises CacheError where nothing can be compared."""
    of_a, of_b = ({(c.category_id, c.name, c.is_thing) for c in side.categories.categories} for side in (a, b))
    if of_a != of_b:
        category_id, name, _ = min(of_a ^ of_b)
        raise CacheError(
            f"{a.folder} and {b.folder}: expected the same categories, but only one has {category_id} ({name})"
        )
    common = sorted(set(a.image_ids) & set(b.image_ids))
    if not common:
        raise CacheError(f"{a.folder} and {b.folder}: no image is in both; compare caches of the same split")
    return progress(common, description="compare", total=len(common), unit="image", leave=False, disable=None)
