"""COCO's instance annotations beside a panoptic data set: read and checked as `prepare` keeps them.

The JSON of COCO's train2017 has 860,000 instances in 470 MB. It is read one annotation at a time, and what is kept of
each is its mask as run lengths. Format: https://cocodataset.org/#format-data.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from antvisionps.core.errors import DataError
from antvisionps.core.json_files import iterate_json
from antvisionps.core.progress import progress
from antvisionps.core.skipped import SkippedRows
from antvisionps.panoptic.categories import CategorySet, json_flag
from antvisionps.panoptic.coco_json import parse_own_id, parse_value
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import Instance
from antvisionps.panoptic.ids import ImageId, parse_category_id, parse_image_id, whole_number
from antvisionps.panoptic.polygons import encode_polygons, has_area, is_flat, non_empty
from antvisionps.panoptic.rle import compress_counts
from antvisionps.panoptic.segments import PanopticImage

_REMEDY = "check prepare.instances in params.yaml: it names the instances of the same images, or is panoptic"


def read_coco_instances(path: Path, dataset: PanopticDataset) -> Mapping[ImageId, list[Instance]]:
    """The instances of the images of a panoptic data set that have any, by the data set's own ids.

    `area` and `bbox` are the mask's, whatever the file says; without `iscrowd` an instance is no crowd. Instances of
    other images and those without a pixel are skipped with a warning, as are polygons without area.

    Raises DataError on a JSON that is missing, broken or no COCO instances, on an image of the data set that it does
    not list or lists in another size, and on an instance of a category that is no thing, or whose segmentation is
    neither polygons nor run lengths of the image.
    """
    images = {image.source_id: image for image in dataset.images}
    for row in read_rows(path, "categories", remedy=_REMEDY):
        _check_category(path, row, dataset.categories)
    listed = {_check_image(path, row, images) for row in read_rows(path, "images", remedy=_REMEDY)}
    if missing := [image_id for image_id in images if image_id not in listed]:
        raise DataError(
            f"{path}: image {missing[0]} of the panoptic annotations ({len(missing)} like it) is not among `images`; "
            f"{_REMEDY}"
        )
    hw_of = {image_id: (image.height, image.width) for image_id, image in images.items()}
    return read_annotations(path, hw_of, dataset.categories.thing_ids, remedy=_REMEDY)


def read_annotations(
    path: Path, hw_of: Mapping[ImageId, tuple[int, int]], category_ids: Collection[int], *, remedy: str
) -> Mapping[ImageId, list[Instance]]:
    """The instances of images of these (H, W), which may be of these categories. `remedy` ends the errors of a file
    that is another one. Raises DataError as `read_coco_instances` does."""
    reader = _AnnotationReader(path, hw_of, category_ids, remedy)
    rows = read_rows(path, "annotations", remedy=remedy)
    for row in progress(rows, description=f"read {path.name}", total=None, unit="row"):
        reader.add(row)
    return reader.finish()


class _AnnotationReader:
    """Takes the annotations one by one."""

    def __init__(
        self, path: Path, hw_of: Mapping[ImageId, tuple[int, int]], category_ids: Collection[int], remedy: str
    ) -> None:
        self._path, self._hw_of, self._category_ids, self._remedy = path, hw_of, category_ids, remedy
        self._skipped = SkippedRows(str(path))
        self._seen: set[ImageId] = set()
        self._num_rows = 0
        self._instances: defaultdict[ImageId, list[Instance]] = defaultdict(list)

    def add(self, row: Any) -> None:
        name = self._name(row)
        image_id = parse_own_id(row, "image_id", self._hw_of, f"{self._path}: {name}")
        if image_id not in self._hw_of:
            self._skipped.add("annotations of images that are not listed are skipped", f"image {image_id}")
            return
        name = f"{name} of image {image_id}"
        where = f"{self._path}: {name}"
        category_id = parse_value(row, "category_id", parse_category_id, where)
        if category_id not in self._category_ids:
            raise DataError(f"{where}: expected a category of instances, got {category_id}; remove or renumber it")
        is_crowd = row.get("iscrowd") is not None and parse_value(row, "iscrowd", json_flag, where)
        try:
            rle = self._encode(row.get("segmentation"), *self._hw_of[image_id], name)
        except ValueError as error:
            raise DataError(f"{where}: segmentation: {error}; correct or remove it") from error
        if rle is None:
            self._skipped.add("annotations without a pixel are skipped", name)
        else:
            self._instances[image_id].append((category_id, is_crowd, rle))

    def finish(self) -> Mapping[ImageId, list[Instance]]:
        """Raises DataError where there is none."""
        self._skipped.tell()
        if not self._instances:
            raise DataError(
                f"{self._path}: none of its {self._num_rows} annotations is an instance of an image of the data set; "
                f"{self._remedy}"
            )
        return self._instances

    def _name(self, row: Any) -> str:
        """`annotation 3`; an id only names it here, so it may be text, or absent."""
        self._num_rows += 1
        if not isinstance(row, dict):
            raise DataError(f"{self._path}: expected annotations that are objects, got {str(row)[:80]}")
        if "segments_info" in row:
            raise DataError(
                f"{self._path}: expected a COCO instances JSON, got a COCO panoptic JSON: its annotations have "
                f"`segments_info` and no `segmentation`; {self._remedy}"
            )
        if row.get("id") is None:
            return f"annotation at position {self._num_rows - 1}"
        annotation_id = parse_value(row, "id", parse_image_id, f"{self._path}: an annotation")
        if annotation_id in self._seen:
            raise DataError(f"{self._path}: annotation {annotation_id} is there twice; every one must be unique")
        self._seen.add(annotation_id)
        return f"annotation {annotation_id}"

    def _encode(self, segmentation: Any, height: int, width: int, name: str) -> bytes | None:
        """COCO compressed counts, None without a pixel. Raises ValueError on what is neither polygons nor run lengths
        of the image."""
        if segmentation is None or segmentation == []:
            return None
        if isinstance(segmentation, list):
            if is_flat(segmentation):
                start = str(segmentation)[:80]
                raise ValueError(f"expected a list of polygons, [[x, y, x, y, ...]], got a flat one, {start}")
            polygons = [polygon for polygon in segmentation if has_area(polygon, height=height, width=width)]
            if 0 < len(polygons) < len(segmentation):
                self._skipped.add("annotations have polygons without area, which are left out", name)
            return encode_polygons(polygons, height=height, width=width)
        if not isinstance(segmentation, dict):
            raise ValueError(f"expected polygons or {{size, counts}}, got {str(segmentation)[:80]}")
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"expected run lengths of size {[height, width]}, got {segmentation.get('size')}")
        counts = compress_counts(segmentation.get("counts"), height=height, width=width)
        return non_empty(counts, height=height, width=width)


def read_rows(path: Path, key: str, *, remedy: str) -> Iterator[Any]:
    """The elements of a list of the JSON object, one at a time: whole, COCO's takes 3 GB."""
    row = None
    for row in iterate_json(path, f"{key}.item", what="COCO instances JSON", remedy=remedy, error=DataError):
        yield row
    if row is None:
        raise DataError(f"{path}: expected rows under {key!r}, got none; {remedy}")


def _check_image(path: Path, row: Any, images: Mapping[ImageId, PanopticImage]) -> ImageId:
    """Its id; its size has to be that of the panoptic annotations where it tells one."""
    image_id = parse_own_id(row, "id", images, f"{path}: an image")
    image = images.get(image_id)
    if image is None:
        return image_id
    height, width = (
        side if row.get(key) is None else parse_value(row, key, whole_number, f"{path}: image {image_id}")
        for key, side in (("height", image.height), ("width", image.width))
    )
    if (height, width) != (image.height, image.width):
        raise DataError(
            f"{path}: image {image_id}: expected {image.width}x{image.height} pixels (width x height) as in the "
            f"panoptic annotations, got {width}x{height}; give the instances of the same images"
        )
    return image_id


def _check_category(path: Path, row: Any, categories: CategorySet) -> None:
    category_id = parse_value(row, "id", parse_category_id, f"{path}: a category")
    if category_id in categories and str(row.get("name")) != categories.by_id(category_id).name:
        raise DataError(
            f"{path}: category {category_id}: expected the name {categories.by_id(category_id).name!r} as in the "
            f"panoptic annotations, got {row.get('name')!r}; give both the same numbers"
        )
