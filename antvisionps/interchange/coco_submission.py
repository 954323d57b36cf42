"""A submission to COCO's panoptic server: a zip of one JSON and one folder of PNGs, named after test set and algorithm.

Rules: https://cocodataset.org/#upload (names, both at the top of the zip) and https://cocodataset.org/#format-results
(an annotation for every image of the test set, with the id and category_id of each segment; PNGs as in the ground
truth).
"""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_file, atomic_folder
from antvisionps.core.errors import PredictionsError
from antvisionps.core.progress import progress
from antvisionps.panoptic.dataset import PanopticDataset

IMAGES_OF_SET = {"val2017": 5000, "test-dev2017": 20288}
"""COCO's own numbers of images."""

THINGS_AND_STUFF = (80, 53)
"""COCO's numbers of panoptic categories."""

_NAME = re.compile(r"[A-Za-z0-9-]+")
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


@dataclass(frozen=True)
class Submission:
    """Fused maps and the names that they are handed in under. Raises PredictionsError if the server would refuse it."""

    fused: PanopticDataset
    test_set: str
    algorithm: str

    def __post_init__(self) -> None:
        for what, name in (("split", self.test_set), ("algorithm", self.algorithm)):
            if not _NAME.fullmatch(name):
                raise PredictionsError(
                    f"--{what} {name!r}: expected letters, digits and hyphens; the server splits at _"
                )
        if self.test_set in IMAGES_OF_SET:
            self._refuse_part_of_coco(IMAGES_OF_SET[self.test_set])

    @property
    def name(self) -> str:
        return f"panoptic_{self.test_set}_{self.algorithm}_results"

    def write_zip(self, to: Path) -> Path:
        """Writes `to`/NAME.zip and returns its path; the same maps give the same bytes."""
        path = to / f"{self.name}.zip"
        with atomic_file(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
            _add(archive, f"{self.name}.json", self._document(), zipfile.ZIP_DEFLATED)
            for file_name, source in self._checked_maps():
                # A PNG is compressed already.
                _add(archive, f"{self.name}/{file_name}", source.read_bytes(), zipfile.ZIP_STORED)
        return path

    def write_folder(self, to: Path) -> Path:
        """Writes JSON and PNGs, unzipped, into the new folder `to` and returns it."""
        if to.exists():
            raise PredictionsError(f"{to} exists already; name a new folder, or remove it")
        with atomic_folder(to) as folder:
            (folder / self.name).mkdir()
            (folder / f"{self.name}.json").write_bytes(self._document())
            for file_name, source in self._checked_maps():
                shutil.copyfile(source, folder / self.name / file_name)
        return to

    def _checked_maps(self) -> Iterator[tuple[str, Path]]:
        """Name and file of every map, whose pixels and size fit the JSON."""
        for image in progress(self.fused.images, description=self.name, total=len(self.fused.images), unit="image"):
            self.fused.load_segment_ids(image)
            yield _map_name(image.image_id), self.fused.panoptic_path(image)

    def _document(self) -> bytes:
        annotations: list[dict[str, Any]] = [
            {
                "image_id": image.source_id,
                "file_name": _map_name(image.image_id),
                "segments_info": [
                    {"id": segment.segment_id, "category_id": segment.category_id} for segment in image.segments
                ],
            }
            for image in self.fused.images
        ]
        return json.dumps({"annotations": annotations}, separators=(",", ":")).encode()

    def _refuse_part_of_coco(self, images: int) -> None:
        if len(self.fused.images) != images:
            raise PredictionsError(
                f"{self.fused.annotations}: expected the {images} images of {self.test_set}, got "
                f"{len(self.fused.images)}; the server takes the whole set only"
            )
        categories = self.fused.categories
        if (len(categories.things), len(categories.stuff)) != THINGS_AND_STUFF:
            raise PredictionsError(
                f"{self.fused.annotations}: expected COCO's {THINGS_AND_STUFF[0]} things and {THINGS_AND_STUFF[1]} "
                f"stuff categories, got {len(categories.things)} and {len(categories.stuff)}"
            )


def _map_name(image_id: int) -> str:
    return f"{image_id:012d}.png"


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.external_attr, entry.create_system, entry.compress_type = _REGULAR_FILE, _UNIX, compression
    archive.writestr(entry, content)
