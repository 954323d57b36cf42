"""What differs between two caches, or between two fused systems, by category and by image.

Only images that both have are compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from antvisionps.core.errors import CacheError
from antvisionps.core.progress import progress
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.inspection import fused, predictions
from antvisionps.inspection.fused import FusedMaps
from antvisionps.inspection.image_scores import class_pq, image_pq, metrics_of, read_image_counts
from antvisionps.inspection.predictions import CachedPredictions, ImagePredictions
from antvisionps.inspection.revisions import fetch_revision
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.fused_files import PANOPTIC_FILE

Rows = list[dict[str, Any]]


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
    now = [Side(str(path), path, metrics_of(path)) for path in paths]
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


def compare(a: Side, b: Side) -> tuple[Rows, Rows]:
    """Rows of categories, and rows of images, each `changed` or not; what changed most comes first."""
    if a.is_fused != b.is_fused:
        raise CacheError(f"{a.name} and {b.name}: expected two caches or two fused systems, got one of each")
    if not a.is_fused:
        with predictions.open(a.folder) as cache_a, predictions.open(b.folder) as cache_b:
            return compare_caches(cache_a, cache_b)
    maps = fused.open(a.folder), fused.open(b.folder)
    counts = [
        read_image_counts(side.image_counts, system=opened.system) for side, opened in zip((a, b), maps, strict=True)
    ]
    return compare_fused(*maps, counts)


def compare_caches(a: CachedPredictions, b: CachedPredictions) -> tuple[Rows, Rows]:
    """Categories and images; images that differ most come first.

    Of a category: how many instances, their mean score, and the part of all pixels where it is the likeliest. Of an
    image: how many instances are in both (same category, score and mask) or in one only, and the part of its pixels
    whose likeliest class differs. None where one of the two predicts no instances, or no semantics.
    """
    _refuse_other_categories(a.categories, b.categories, str(a.folder), str(b.folder))
    with_instances = "instances" in a.tables and "instances" in b.tables
    with_semantics = "semantic" in a.tables and "semantic" in b.tables
    totals = [_CacheTotals(), _CacheTotals()]
    images = []
    for image_id in _with_progress(_common(a.image_ids, b.image_ids, str(a.folder), str(b.folder))):
        pair = a[image_id], b[image_id]
        row: dict[str, Any] = dict.fromkeys(("image", "in both", "only in A", "only in B", "changed pixels"))
        row["image"] = image_id
        if with_instances:
            found = [_instance_keys(image) for image in pair]
            both = (found[0] & found[1]).total()
            row |= {"in both": both, "only in A": found[0].total() - both, "only in B": found[1].total() - both}
        if with_semantics:
            maps = [image.semantic.class_map for image in pair]
            _refuse_other_sizes(image_id, maps)
            row["changed pixels"] = float((maps[0] != maps[1]).mean())
            for total, class_map in zip(totals, maps, strict=True):
                total.add_classes(class_map)
        if with_instances:
            for total, image in zip(totals, pair, strict=True):
                total.add_instances(image)
        row["changed"] = any(row[name] for name in ("only in A", "only in B", "changed pixels"))
        images.append(row)
    images.sort(key=lambda row: (-(row["changed pixels"] or 0), -((row["only in A"] or 0) + (row["only in B"] or 0))))
    classes = [
        {
            "category": category.name,
            **_beside(
                "instances",
                [total.instances[category.category_id] for total in totals],
                with_instances and category.is_thing,
            ),
            **_beside("mean score", [total.mean_score(category.category_id) for total in totals], with_instances),
            **_beside("share", [total.share(index) for total in totals], with_semantics),
        }
        for index, category in enumerate(a.categories.categories)
    ]
    return classes, images


def compare_fused(
    a: FusedMaps,
    b: FusedMaps,
    counts: Sequence[Mapping[int, MatchCounts] | None],
) -> tuple[Rows, Rows]:
    """Categories and images; images whose PQ fell most from A to B come first, then those that changed most.

    `counts` are those of A and of B, by image: without both, PQ is None.
    """
    _refuse_other_categories(a.categories, b.categories, str(a.folder), str(b.folder))
    common = _common(a.image_ids, b.image_ids, str(a.folder), str(b.folder))
    if any(of_images is None for of_images in counts):
        counts = [None, None]
    segments: list[Counter[int]] = [Counter(), Counter()]
    pixels: list[Counter[int]] = [Counter(), Counter()]
    images = []
    for image_id in _with_progress(common):
        pair = a[image_id], b[image_id]
        for one, count, area in zip(pair, segments, pixels, strict=True):
            count.update(segment.category_id for segment in one.image.segments)
            for segment in one.image.segments:
                area[segment.category_id] += segment.area_px
        maps = [class_index_map(one.segment_ids, one.image, a.categories) for one in pair]
        _refuse_other_sizes(image_id, maps)
        row: dict[str, Any] = {
            "image": image_id,
            **_beside("segments", [len(one.image.segments) for one in pair]),
            "changed pixels": float((maps[0] != maps[1]).mean()),
            **_with_change("PQ", [image_pq(of_images, image_id) for of_images in counts]),
        }
        row["changed"] = bool((pair[0].segment_ids != pair[1].segment_ids).any() or row["changed pixels"])
        images.append(row)
    images.sort(key=lambda row: (row["PQ B-A"] if row["PQ B-A"] is not None else 0.0, -row["changed pixels"]))
    pq_of = [class_pq(of_images, common) for of_images in counts]
    whole = sum(a[image_id].image.height * a[image_id].image.width for image_id in common)
    classes = [
        {
            "category": category.name,
            **_beside("segments", [count[category.category_id] for count in segments]),
            **_beside("share", [area[category.category_id] / whole for area in pixels]),
            **_with_change("PQ", [of_class.get(category.category_id) for of_class in pq_of]),
        }
        for category in a.categories.categories
    ]
    return classes, images


class _CacheTotals:
    """What is counted of one cache over all images."""

    def __init__(self) -> None:
        self.instances: Counter[int] = Counter()
        self._scores: defaultdict[int, float] = defaultdict(float)
        self._pixels = np.zeros(256, dtype=np.int64)

    def add_instances(self, image: ImagePredictions) -> None:
        arrays = image.instances.arrays
        self.instances.update(arrays.category_ids.tolist())
        for category_id, score in zip(arrays.category_ids.tolist(), arrays.scores.tolist(), strict=True):
            self._scores[category_id] += score

    def add_classes(self, class_map: np.ndarray) -> None:
        self._pixels += np.bincount(class_map.ravel(), minlength=256)

    def mean_score(self, category_id: int) -> float | None:
        count = self.instances[category_id]
        return self._scores[category_id] / count if count else None

    def share(self, class_index: int) -> float | None:
        whole = self._pixels.sum()
        return float(self._pixels[class_index] / whole) if whole else None


def _instance_keys(image: ImagePredictions) -> Counter[tuple[int, float, bytes]]:
    arrays = image.instances.arrays
    return Counter(zip(arrays.category_ids.tolist(), arrays.scores.tolist(), arrays.rles, strict=True))


def _beside(name: str, values: Sequence[Any], known: bool = True) -> dict[str, Any]:
    return {f"{name} {side}": value if known else None for side, value in zip("AB", values, strict=True)}


def _with_change(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    before, after = values
    change = None if before is None or after is None else after - before
    return {**_beside(name, values), f"{name} B-A": change}


def _with_progress(image_ids: Sequence[int]) -> Iterable[int]:
    """With a bar on a terminal, for as long as it takes."""
    total = len(image_ids)
    return progress(image_ids, description="compare", total=total, unit="image", leave=False, disable=None)


def _common(a: Sequence[int], b: Sequence[int], name_a: str, name_b: str) -> list[int]:
    common = sorted(set(a) & set(b))
    if not common:
        raise CacheError(f"{name_a} and {name_b}: no image is in both; compare caches of the same split")
    return common


def _refuse_other_categories(a: CategorySet, b: CategorySet, name_a: str, name_b: str) -> None:
    ours, theirs = ({(c.category_id, c.name, c.is_thing) for c in side.categories} for side in (a, b))
    if ours != theirs:
        category_id, name, _ = min(ours ^ theirs)
        raise CacheError(
            f"{name_a} and {name_b}: expected the same categories, but category {category_id} ({name}) is only in one"
        )


def _refuse_other_sizes(image_id: int, maps: Sequence[np.ndarray]) -> None:
    if maps[0].shape != maps[1].shape:
        raise CacheError(f"image {image_id} is of {maps[0].shape} pixels in A and of {maps[1].shape} in B")
