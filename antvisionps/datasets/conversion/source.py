"""What the reader of any format hands over: categories, and images of regions that are to become panoptic maps."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import read_file
from antvisionps.datasets.instance_ids import SegmentMap
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import Instance
from antvisionps.panoptic.heldout import choose_heldout, group_equal
from antvisionps.panoptic.ids import ImageId


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One photo; what lies at the bottom of its map, read where it is needed; the regions on top of that.

    A photo that is no file, as it stands in the annotation, has `read_photo`, and in `photo` the path that it would
    have.
    """

    image_id: ImageId
    photo: Path
    height: int
    width: int
    regions: tuple[Instance, ...] = ()
    read_map: Callable[[], SegmentMap] | None = None
    read_photo: Callable[[], bytes] | None = None

    def photo_bytes(self) -> bytes:
        return read_file(self.photo) if self.read_photo is None else self.read_photo()


@dataclass(frozen=True)
class SourceSet:
    """`splits`: the images of train, and those of val where they are given."""

    categories: CategorySet
    splits: Mapping[str, Sequence[SourceImage]]


@dataclass(frozen=True)
class Wanted:
    """What a user says of the categories: rows of `id`, `name` and `isthing`, and the names of stuff among others."""

    rows: Sequence[Mapping[str, Any]] = ()
    stuff: Sequence[str] = ()

    @classmethod
    def of(cls, document: Any, stuff: Iterable[str], *, where: str) -> "Wanted":
        """Raises DataError on a document that is no list of categories, and no object that has one."""
        rows = document.get("categories") if isinstance(document, dict) else document
        if not isinstance(rows, list):
            raise DataError(f"{where}: expected a list of categories, [{{id: 1, name: cat, isthing: 1}}, …]")
        CategorySet.from_json(rows, where=where)
        return cls(rows, tuple(stuff))

    def of_names(self, names: Iterable[str], *, where: str) -> CategorySet:
        """The categories of names without numbers: the table's, or numbered from 1 in alphabetical order."""
        names = sorted(set(names))
        if not self.rows:
            return self.of_rows([{"id": i, "name": name} for i, name in enumerate(names, start=1)], where=where)
        listed = {str(row["name"]) for row in self.rows}
        if missing := [name for name in names if name not in listed]:
            raise DataError(f"{where}: label {missing[0]!r} is not in --categories; add it there")
        return self.of_rows([], where=where)

    def of_rows(self, rows: Iterable[Mapping[str, Any]], *, where: str) -> CategorySet:
        """The categories of a file, with the table's in place of those of the same id; without `isthing` they are
        things, but for the named stuff. Raises DataError on a name of stuff that is none of theirs."""
        in_table = {str(row["id"]) for row in self.rows}
        all_rows = [*(row for row in rows if str(row.get("id")) not in in_table), *self.rows]
        names = {str(row.get("name")) for row in all_rows}
        if unknown := [name for name in self.stuff if name not in names]:
            raise DataError(f"{where}: --stuff {unknown[0]}: expected names of {sorted(names)}")
        stuff = [{"isthing": 0} if str(row.get("name")) in self.stuff else {} for row in all_rows]
        described = [{"isthing": 1} | dict(row) | kind for row, kind in zip(all_rows, stuff, strict=True)]
        return CategorySet.from_json(described, where=where)


def number_from_1(categories: CategorySet, splits: Mapping[str, Sequence[SourceImage]]) -> SourceSet:
    """Of a format without image ids: the images get some in the order that they stand in, train's first."""
    ids = itertools.count(1)
    numbered = {name: [replace(image, image_id=next(ids)) for image in images] for name, images in splits.items()}
    return SourceSet(categories, numbered)


def same_categories(sets: Mapping[Path, CategorySet]) -> CategorySet:
    """Those of all splits, by their JSONs. Raises DataError where they differ."""
    (first, categories), *others = sets.items()
    for path, other in others:
        if other.named != categories.named:
            raise DataError(f"{path}: other categories than in {first}; give both the same ids, names and kinds")
    return categories


def split_off_val(source: SourceSet, *, val_frac: float, seed: int) -> SourceSet:
    """Where no val is given, a part of train's images is, whatever their order; photos of equal bytes stay on one side.

    Raises DataError on a part that is none, and where train has no two different photos.
    """
    if "val" in source.splits or not val_frac:
        return source
    if not 0 < val_frac < 1:
        raise DataError(f"--val-frac {val_frac:g}: expected a part of the images, from 0 to below 1")
    images = sorted(source.splits["train"], key=lambda image: str(image.photo))
    if len(images) < 2:
        raise DataError(f"{len(images)} image: expected at least 2, so that one can be val; give more, or --val")
    count = min(max(1, round(val_frac * len(images))), len(images) - 1)
    equal = group_equal({i: sha256(image.photo_bytes()).digest() for i, image in enumerate(images)})
    drawn = choose_heldout(range(len(images)), count=count, seed=seed, equal_photos=equal)
    splits = {
        "train": [image for i, image in enumerate(images) if i not in drawn],
        "val": [image for i, image in enumerate(images) if i in drawn],
    }
    return replace(source, splits=splits)
