"""What mmdet's DumpDetResults and mmengine's DumpResults write: a pickle of a list of samples, a dict an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.image_names import ImageFinder
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.safe_pickle import load_numbers
from antvisionps.interchange.tool_arrays import Predicted
from antvisionps.interchange.tool_results import ResultReader
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage

PREDICTED = ("pred_instances", "pred_panoptic_seg", "pred_sem_seg", "seg_logits")
"""What a sample may hold."""


def read_mmdet_dump(path: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[Predicted]:
    """Every image of the split, in ascending image_id; labels are mmdet's, which count from 0.

    Raises PredictionsError on a pickle of anything else, a missing or unknown image, and what does not fit it.
    """
    sample_of_image = _samples_by_image(path, dataset)
    reader = ResultReader(dataset.categories, labels)
    for image in dataset.images:
        if image.image_id not in sample_of_image:
            raise PredictionsError(f"{path}: image {image.source_id} is missing; every image is needed")
        try:
            yield reader.read(sample_of_image.pop(image.image_id), image)
        except PredictionsError as error:
            raise PredictionsError(f"{path}: {error}") from error


def _samples_by_image(path: Path, dataset: PanopticDataset) -> dict[int, Mapping[str, Any]]:
    samples = load_numbers(path)
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise PredictionsError(
            f"{path}: expected a list of samples, as DumpDetResults writes them, got {_kind(samples)}"
        )
    images = ImageFinder(dataset)
    found: dict[int, Mapping[str, Any]] = {}
    for position, sample in enumerate(samples):
        where = f"{path}: sample {position}"
        if not any(name in sample for name in PREDICTED):
            raise PredictionsError(f"{where}: expected one of {list(PREDICTED)}, got {sorted(map(str, sample))}")
        image = _find(images, sample, where)
        if image.image_id in found:
            raise PredictionsError(f"{path}: image {image.source_id} appears twice; keep one")
        found[image.image_id] = {name: sample[name] for name in PREDICTED if name in sample}
    return found


def _find(images: ImageFinder, sample: Mapping[str, Any], where: str) -> PanopticImage:
    """mmseg's samples have no id."""
    if "img_id" in sample:
        return images.find(sample["img_id"], where=where)
    return images.find_photo(sample.get("img_path"), where=where)


def _kind(samples: Any) -> str:
    return "a list with other things in it" if isinstance(samples, list) else f"a {type(samples).__name__}"
