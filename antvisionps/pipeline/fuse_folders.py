"""Panoptic maps from folders of several models' predictions, without a project, calibrated on held-out images if there
are any."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from antvisionps.core.atomic import atomic_folder, refuse_other_files
from antvisionps.core.checksums import file_sha256
from antvisionps.core.errors import ParamsError, PredictionsError
from antvisionps.core.file_names import stays_below
from antvisionps.core.json_files import write_json
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.system import FusionSettings, load_kernels
from antvisionps.fusion.voting_document import AutoRules
from antvisionps.interchange.import_end import import_end
from antvisionps.interchange.tool_arrays import no_semantics
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.splits import SplitName
from antvisionps.parallel.images import Workers
from antvisionps.pipeline.calibrate import HeldoutPQ, calibrate_and_validate
from antvisionps.pipeline.calibrate_auto import calibrate_auto
from antvisionps.pipeline.ensemble import EnsembleSettings
from antvisionps.pipeline.fuse import FILES_OF_SYSTEM
from antvisionps.pipeline.fuse import fuse as fuse_caches
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import SemanticWriter
from antvisionps.predictions.split_caches import SplitCaches, refuse_other_kinds

SYSTEM = "fused"
"""What all models together are called."""

VOID = "void"
"""The weights of semantics that are void everywhere, where no model has any."""

CALIBRATION = "calibration.json"

Location = str | PathLike[str]


def fuse_folders(
    folders: Mapping[str, Location],
    *,
    gt: Location,
    gt_maps: Location | None = None,
    out: Location,
    calibrate_on: tuple[Location, Location, Mapping[str, Location]] | None = None,
    workers: Workers = 1,
    **settings: Any,
) -> int:
    """Fuses model → folder, each as of `Writer` or of docs/your_own_data.md, into the folder `out`, as stage fuse does;
    returns the number of images.

    `gt` is a COCO panoptic JSON of the images; with its maps in `gt_maps` labels are compared with the truth.
    `calibrate_on`: JSON, maps and model → folder of held-out images, on which stage calibrate's values are fitted; what
    was found is OUT/calibration.json. Raises what `fuse` and `import_end` do, ParamsError on a name with folders, and
    OutputError where `out` holds anything but a former result.
    """
    for name in folders:
        if PurePosixPath(name).parts != (name,) or not stays_below(name):
            raise ParamsError(f"fuse: expected models' names without folders, as {{'a': folder}}, got {str(name)!r}")
    chosen = EnsembleSettings.of(settings)
    chosen.refuse_unfitted(is_calibrated=calibrate_on is not None)
    parts: dict[SplitName, _Part] = {"val": _Part.of(gt, gt_maps, folders)}
    if calibrate_on is not None:
        parts["heldout"] = _heldout(calibrate_on, parts["val"])
    fusion = chosen.fusion(list(folders), parts["val"].dataset.categories)
    refuse_other_files(Path(out), names=(*FILES_OF_SYSTEM, CALIBRATION))
    with atomic_folder(Path(out)) as folder:
        imported = folder / ".imported"
        caches = {split: part.import_all(split, imported) for split, part in parts.items()}
        for name in folders:
            refuse_other_kinds(name, [imported / name / split for split in parts])
        for of_split in caches.values():
            _fill_semantics(of_split, fusion)
        with_instances = [name for name in folders if (imported / name / "val" / INSTANCES_FILE).exists()]
        fusion = chosen.with_union_min_score(fusion, with_instances)
        if "heldout" in caches:
            found = _calibrate(chosen, fusion, caches["heldout"], workers=workers, to=folder / CALIBRATION)
            fusion = replace(found, with_doubt=chosen.doubt)
        fuse_caches({SYSTEM: folder}, settings={SYSTEM: fusion}, caches=caches["val"], workers=workers)
        shutil.rmtree(imported)
    return len(parts["val"].dataset.images)


@dataclass(frozen=True)
class _Part:
    """Images, and model → folder of what it predicted of them."""

    dataset: PanopticDataset
    folders: Mapping[str, Path]
    has_truth: bool

    @classmethod
    def of(cls, gt: Location, maps: Location | None, folders: Mapping[str, Location]) -> _Part:
        parent = Path(gt).parent
        dataset = read_panoptic(
            Path(gt),
            images_dir=parent,
            panoptic_dir=parent if maps is None else Path(maps),
            is_foreign=True,
            needs_truth=maps is not None,
        )
        return cls(dataset, {name: Path(folder) for name, folder in folders.items()}, maps is not None)

    def import_all(self, split: SplitName, imported: Path) -> SplitCaches:
        """The caches of every model, below `imported`."""
        fingerprint = file_sha256(self.dataset.annotations)
        for name, source in self.folders.items():
            identity = CacheIdentity(name, split, fingerprint, self.dataset.categories)
            out = imported / name / split
            import_end(source, out, dataset=self.dataset, identity=identity, has_truth=self.has_truth)
        return SplitCaches(imported, split, fingerprint, self.dataset)


def _heldout(calibrate_on: tuple[Location, Location, Mapping[str, Location]], part: _Part) -> _Part:
    """Raises ParamsError on other models, PredictionsError on other categories."""
    annotations, maps, folders = calibrate_on
    if set(folders) != set(part.folders):
        raise ParamsError(
            f"the models {sorted(part.folders)} are fused, and {sorted(folders)} predicted the held-out images; give "
            "both of each model, under one name"
        )
    heldout = _Part.of(annotations, maps, folders)
    if heldout.dataset.categories.named != part.dataset.categories.named:
        raise PredictionsError(f"{annotations}: other categories than {part.dataset.annotations} has; use one data set")
    return heldout


def _fill_semantics(caches: SplitCaches, fusion: FusionSettings) -> None:
    """With void ones, where none of the models whose semantics count has any."""
    paths = [caches.predictions_dir / end / caches.split / SEMANTIC_FILE for end in fusion.semantic_ends()]
    if any(path.exists() for path in paths):
        return
    categories = caches.dataset.categories
    header = CacheHeader(fusion.semantic_ends()[0], caches.split, caches.dataset_fingerprint, categories, VOID)
    with SemanticWriter(paths[0], header) as writer:
        for image in caches.dataset.images:
            writer.write(no_semantics(image, categories))


def _calibrate(
    chosen: EnsembleSettings, fusion: FusionSettings, heldout: SplitCaches, *, workers: Workers, to: Path
) -> FusionSettings:
    """The settings with what the held-out images say in place of theirs; it begins at their thresholds and weights."""
    load_kernels()
    rules = fusion.rules
    if chosen.method == "auto":
        auto = AutoRules(rules.max_overlap_frac, chosen.min_joined_iou, chosen.semantic_average)
        voting = calibrate_auto(SYSTEM, list(fusion.weight_of_end), heldout, rules=auto, workers=workers)
        write_json(to, voting.model_dump(mode="json"))
        return voting.settings(max_overlap_frac=rules.max_overlap_frac, average_of=chosen.semantic_average)
    plain = HeuristicRules(rules.min_score, rules.max_overlap_frac, rules.min_stuff_area_px)
    images = HeldoutPQ(heldout, heldout.dataset.images, workers, chosen.min_heldout_instances)
    found = calibrate_and_validate(SYSTEM, replace(fusion, rules=plain), images)
    write_json(to, found.model_dump(mode="json"))
    return found.apply(fusion)
