"""An end as a folder of files that any tool can write, into the cache and back.

The folder holds files of instances or of semantics or both, or else of both at once, in any of the formats of READERS,
under our names or the tools' own; and `labels.json` if the tool numbers categories in a way of its own.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.checksums import file_sha256
from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.input_files import files_below, is_hidden
from antvisionps.core.progress import progress
from antvisionps.interchange.coco_results import read_coco_results, write_coco_results
from antvisionps.interchange.label_check import check_labels
from antvisionps.interchange.label_table import LABELS, read_label_table
from antvisionps.interchange.mmdet_dumps import read_mmdet_dump
from antvisionps.interchange.panoptic_results import read_panoptic_results
from antvisionps.interchange.query_files import read_query_files
from antvisionps.interchange.semantic_files import read_semantic_files, write_semantic_files
from antvisionps.interchange.semantic_results import read_semantic_results
from antvisionps.interchange.tool_arrays import Predicted
from antvisionps.interchange.written_files import read_written
from antvisionps.interchange.yolo_labels import read_yolo_labels
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import given_ids
from antvisionps.predictions.cache_file import CacheWriter
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter

INSTANCES, SEMANTIC = "instances.json", "semantic"
PANOPTIC, PANOPTIC_MAPS = "panoptic.json", "panoptic"

OF_WRITER = "write the folder again with Writer(…, labels=…)"
WRITTEN = {INSTANCES_FILE, SEMANTIC_FILE}
"""What `Writer` writes, one or both; nothing else stands beside them."""

PART = "part"
"""The weights of a cache of the first images alone."""

Kind = Literal["instances", "semantics", "both"]
Read = Callable[..., Iterator[Any]]

READERS: tuple[tuple[str, Kind, Read], ...] = (
    (INSTANCES, "instances", read_coco_results),
    (INSTANCES_FILE, "instances", read_written),  # our Writer
    ("coco_instances_results.json", "instances", read_coco_results),  # detectron2's COCOEvaluator
    ("predictions.json", "instances", read_coco_results),  # Ultralytics' save_json
    ("*.segm.json", "instances", read_coco_results),  # mmdet's CocoMetric
    ("labels", "instances", read_yolo_labels),  # Ultralytics' save_txt
    (SEMANTIC, "semantics", read_semantic_files),
    (SEMANTIC_FILE, "semantics", read_written),
    ("sem_seg_predictions.json", "semantics", read_semantic_results),  # detectron2's SemSegEvaluator
    (PANOPTIC, "both", read_panoptic_results),
    ("*.pkl", "both", read_mmdet_dump),  # mmdet's DumpDetResults
    ("queries", "both", read_query_files),
)
"""Name of a file or folder, what it is of, and what reads it; both stand alone."""


def import_end(
    source: Path,
    out: Path,
    *,
    dataset: PanopticDataset,
    identity: CacheIdentity,
    has_truth: bool = True,
    first: int | None = None,
) -> None:
    """Writes the folder's predictions of the split, or of so many `first` images, as a cache, `out`, whole or not at
    all.

    Raises PredictionsError on whatever does not fit the split, and, where the split `has_truth`, where labels are
    plainly no category ids; a doubt about them is a line on stderr. `mask_probs` are null, so that the panoptic head
    cannot take this end, unless they are in the files: raw queries have them, and what `Writer` wrote of such.
    """
    found = _contents(source)
    is_written = found <= WRITTEN
    if is_written and (source / LABELS).exists():
        raise PredictionsError(f"{source / LABELS}: has no effect on what Writer wrote; remove it, and {OF_WRITER}")
    part = replace(dataset, images=dataset.images[:first])
    labels = read_label_table(source / LABELS, dataset.categories)
    with atomic_folder(out) as folder:
        weights = folder_sha256(source) if first is None else PART
        header = CacheHeader(**vars(identity), weights_sha256=weights, given_ids=given_ids(dataset.images))
        for name, kind, read in _readers(found):
            predicted = map(_PREDICTED[kind], islice(read(source / name, dataset=dataset, labels=labels), first))
            bar = progress(predicted, description=name, total=len(part.images), unit="image")
            _write(bar, folder, header, where=source / name)
        is_told = (source / LABELS).exists() or is_written
        remedy = OF_WRITER if is_written else f"say which is which in {LABELS} beside them"
        checked = check_labels(folder, source, dataset=part, is_told=is_told, remedy=remedy) if has_truth else ()
        for warning in checked:
            print(f"warning: {warning}", file=sys.stderr)


_PREDICTED: dict[Kind, Callable[[Any], Predicted]] = {
    "instances": lambda instances: Predicted(instances, None),
    "semantics": lambda semantics: Predicted(None, semantics),
    "both": lambda pair: Predicted(*pair),
}
"""Of what a reader gives for an image."""


def _write(images: Iterable[Predicted], folder: Path, header: CacheHeader, *, where: Path) -> None:
    """Raises PredictionsError unless every image has the kinds of predictions that the first one has."""
    with ExitStack() as files:
        writers: dict[str, Any] = {}
        for position, predicted in enumerate(images):
            there = {kind: found for kind, found in predicted._asdict().items() if found is not None}
            if not position:
                writers = {kind: files.enter_context(_WRITERS[kind](folder, header)) for kind in there}
            if there.keys() != writers.keys():
                raise PredictionsError(
                    f"{where}: {_listed(writers)} of the first image, {_listed(there)} of the one at place "
                    f"{position + 1}; give every image the same kinds of predictions"
                )
            for kind, found in there.items():
                writers[kind].write(found)


def _listed(kinds: Iterable[str]) -> str:
    return " and ".join(kinds) or "nothing"


_WRITERS: dict[str, Callable[[Path, CacheHeader], CacheWriter[Any]]] = {
    "instances": lambda folder, header: InstancesWriter(folder / INSTANCES_FILE, header),
    "semantics": lambda folder, header: SemanticWriter(folder / SEMANTIC_FILE, header),
}


def export_end(cache: Path, out: Path, *, dataset: PanopticDataset, identity: CacheIdentity) -> None:
    """Writes a cache as a folder that `import_end` reads. Raises CacheError on an unfit cache, PredictionsError where
    `out` exists already."""
    if out.exists():
        raise PredictionsError(f"{out} exists already; name a new folder, or remove it")
    images = {image.image_id: (image.height, image.width) for image in dataset.images}
    with ExitStack() as stack:
        instances, semantics = cache / INSTANCES_FILE, cache / SEMANTIC_FILE
        if not instances.exists() and not semantics.exists():
            raise CacheError(f"{cache}: neither {INSTANCES_FILE} nor {SEMANTIC_FILE}; run `dvc repro`")
        folder = stack.enter_context(atomic_folder(out))
        if instances.exists():
            reader = stack.enter_context(InstancesReader(instances, identity, images=images, mask_probs=False))
            write_coco_results(folder / INSTANCES, reader, dataset=dataset)
        if semantics.exists():
            planes = stack.enter_context(SemanticReader(semantics, identity, images=images))
            write_semantic_files(folder / SEMANTIC, planes, dataset=dataset)


def folder_sha256(folder: Path) -> str:
    """sha256 (hex) over names and contents of all files below the folder that are not hidden."""
    digest = hashlib.sha256()
    for path in (path for path in files_below(folder) if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _contents(source: Path) -> set[str]:
    """What stands in the folder beside LABELS. Raises PredictionsError on what is no set of files to import."""
    if not source.is_dir():
        raise PredictionsError(f"{source}: no such folder; put the end's predictions of this split there")
    found = {path.name for path in source.iterdir() if not is_hidden(Path(path.name))} - {LABELS}
    files = found - {PANOPTIC_MAPS} if PANOPTIC in found else found
    kinds = [kind for _, kind, _ in _readers(files)]
    is_whole = len(kinds) == len(files) and kinds in _TOGETHER and (PANOPTIC in found) == (PANOPTIC_MAPS in found)
    if not is_whole or found & WRITTEN not in (set(), found):
        raise PredictionsError(
            f"{source}: expected {INSTANCES} or {SEMANTIC}/ or both, or {PANOPTIC} and {PANOPTIC_MAPS}/, and {LABELS} "
            "if need be, or the files of another tool that docs/your_own_data.md lists, or what antvisionps.Writer "
            f"writes; got {sorted(found)}"
        )
    return found


_TOGETHER = (["instances"], ["semantics"], ["instances", "semantics"], ["both"])


def _readers(found: set[str]) -> list[tuple[str, Kind, Read]]:
    """Name in the folder, what it is of and its reader, in the order of READERS."""
    return [
        (name, kind, read) for pattern, kind, read in READERS for name in sorted(found) if fnmatchcase(name, pattern)
    ]
