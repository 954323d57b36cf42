"""Data sets that are in the COCO panoptic format already, to take a val out of one JSON; Mapillary Vistas' layout."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from antvisionps.core.errors import DataError
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted, same_categories
from antvisionps.datasets.instance_ids import SegmentMap
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset, check_files
from antvisionps.panoptic.segments import PanopticImage

VISTAS_FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, slots=True)
class PanopticFiles:
    """A split: its JSON, the folder of its PNGs, that of its photos."""

    annotations: Path
    maps: Path
    photos: Path

    def read(self) -> PanopticDataset:
        """Raises what `read_panoptic` does."""
        return read_panoptic(self.annotations, images_dir=self.photos, panoptic_dir=self.maps, is_foreign=True)


def read_panoptic_files(splits: dict[str, PanopticFiles], wanted: Wanted) -> SourceSet:
    """Raises DataError on splits of different categories and what `read_panoptic` and `check_files` do."""
    found = {name: _read(files) for name, files in splits.items()}
    given = same_categories({dataset.annotations: dataset.categories for dataset in found.values()})
    categories = wanted.of_rows(given.to_json(), where=str(splits["train"].annotations))
    return SourceSet(categories, {name: _images(dataset) for name, dataset in found.items()})


def _images(dataset: PanopticDataset) -> list[SourceImage]:
    reader = replace(dataset, images=())  # small, as every image takes it to another process
    return [
        SourceImage(
            image.source_id,
            dataset.photo_path(image),
            image.height,
            image.width,
            read_map=partial(_read_map, reader, image),
        )
        for image in dataset.images
    ]


def find_vistas(root: Path, version: str | None) -> dict[str, PanopticFiles]:
    """Train and val of Mapillary Vistas, the newest version that is there unless one is asked for.

    SPLIT/images/*.jpg, SPLIT/VERSION/panoptic/panoptic_YEAR.json and the PNGs beside it; before v1.2 without VERSION.
    """
    found = {}
    for name, folder in VISTAS_FOLDERS.items():
        pattern = f"{version}/panoptic/panoptic_*.json" if version else "**/panoptic/panoptic_*.json"
        jsons = sorted((root / folder).glob(pattern), key=lambda path: path.name)
        if not jsons:
            raise DataError(
                f"{root / folder}: expected {pattern} there, as Mapillary Vistas has it; unpack its zip into {root}"
            )
        found[name] = PanopticFiles(jsons[-1], jsons[-1].parent, root / folder / "images")
    return found


def _read(files: PanopticFiles) -> PanopticDataset:
    dataset = files.read()
    check_files(dataset)
    return dataset


def _read_map(dataset: PanopticDataset, image: PanopticImage) -> SegmentMap:
    return SegmentMap(
        dataset.load_segment_ids(image),
        {segment.segment_id: segment.category_id for segment in image.segments},
        {segment.segment_id for segment in image.segments if segment.is_crowd},
    )
