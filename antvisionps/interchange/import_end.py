"""An end as a folder of files that any tool can write, into the cache and back.

The folder holds `instances.json` (COCO results) or `semantic/` (a file an image) or both, or else `panoptic.json` with
`panoptic/`; and `labels.json` if the tool numbers categories in a way of its own. Or it is what writer.py writes.
"""

import hashlib
import sys
from contextlib import ExitStack
from pathlib import Path

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.input_files import files_below, is_hidden
from antvisionps.core.progress import progress
from antvisionps.interchange.checksums import file_sha256
from antvisionps.interchange.coco_results import read_coco_results, write_coco_results
from antvisionps.interchange.label_check import check_labels
from antvisionps.interchange.label_table import LabelTable, read_label_table
from antvisionps.interchange.panoptic_results import read_panoptic_results
from antvisionps.interchange.semantic_files import read_semantic_files, write_semantic_files
from antvisionps.interchange.written_files import import_written
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import given_ids
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter

LABELS, INSTANCES, SEMANTIC = "labels.json", "instances.json", "semantic"
PANOPTIC, PANOPTIC_MAPS = "panoptic.json", "panoptic"

WRITTEN = ({INSTANCES_FILE}, {SEMANTIC_FILE}, {INSTANCES_FILE, SEMANTIC_FILE})
ALLOWED = ({INSTANCES}, {SEMANTIC}, {INSTANCES, SEMANTIC}, {PANOPTIC, PANOPTIC_MAPS}, *WRITTEN)
"""What may stand in the folder together, beside LABELS."""


def import_end(
    source: Path, out: Path, *, dataset: PanopticDataset, identity: CacheIdentity, has_truth: bool = True
) -> None:
    """Writes the folder's predictions of the split as a cache, `out`, whole or not at all.

    Raises PredictionsError on whatever does not fit the split, and, where the split `has_truth`, where labels are
    plainly no category ids; a doubt about them is a line on stderr. `mask_probs` are null, so that the panoptic head
    cannot take this end, unless `Writer` wrote it and has them.
    """
    found = _contents(source)
    labels = read_label_table(source / LABELS, dataset.categories)
    with atomic_folder(out) as folder:
        header = CacheHeader(
            identity.end,
            identity.split,
            identity.dataset_fingerprint,
            identity.categories,
            folder_sha256(source),
            given_ids(dataset.images),
        )
        if found in WRITTEN:
            import_written(source, folder, dataset, header)
        if PANOPTIC in found:
            _import_panoptic(source, folder, dataset, labels, header)
        if INSTANCES in found:
            instances = read_coco_results(source / INSTANCES, dataset=dataset, labels=labels)
            with InstancesWriter(folder / INSTANCES_FILE, header) as writer:
                for image in progress(instances, description=INSTANCES, total=len(dataset.images), unit="image"):
                    writer.write(image)
        if SEMANTIC in found:
            semantics = read_semantic_files(source / SEMANTIC, dataset=dataset, labels=labels)
            with SemanticWriter(folder / SEMANTIC_FILE, header) as semantic_writer:
                for planes in progress(semantics, description=SEMANTIC, total=len(dataset.images), unit="image"):
                    semantic_writer.write(planes)
        is_told = (source / LABELS).exists() or found in WRITTEN
        for warning in check_labels(folder, source, dataset=dataset, is_told=is_told) if has_truth else ():
            print(f"warning: {warning}", file=sys.stderr)


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
    if not source.is_dir():
        raise PredictionsError(f"{source}: no such folder; put the end's predictions of this split there")
    found = {path.name for path in source.iterdir() if not is_hidden(Path(path.name))} - {LABELS}
    if found not in ALLOWED:
        raise PredictionsError(
            f"{source}: expected {INSTANCES} or {SEMANTIC}/ or both, or {PANOPTIC} and {PANOPTIC_MAPS}/, and {LABELS} "
            f"if need be, or what antvisionps.Writer writes; got {sorted(found)}"
        )
    return found


def _import_panoptic(
    source: Path, folder: Path, dataset: PanopticDataset, labels: LabelTable, header: CacheHeader
) -> None:
    results = read_panoptic_results(source / PANOPTIC, source / PANOPTIC_MAPS, dataset=dataset, labels=labels)
    with (
        InstancesWriter(folder / INSTANCES_FILE, header) as instances,
        SemanticWriter(folder / SEMANTIC_FILE, header) as semantics,
    ):
        for found, planes in progress(results, description=PANOPTIC, total=len(dataset.images), unit="image"):
            instances.write(found)
            semantics.write(planes)
