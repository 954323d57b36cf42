"""What `antvisionps import` does: another tool's predictions become an end of the project."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from antvisionps.core.atomic import atomic_file, atomic_folder
from antvisionps.core.copying import copy_files
from antvisionps.core.errors import ParamsError
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.splits import SplitName, dataset_fingerprint, open_split
from antvisionps.params.edits import with_one_more
from antvisionps.params.whole import load_params
from antvisionps.pipeline.paths import PipelinePaths, read_pipeline_paths
from antvisionps.predictions.schema import CacheIdentity
from antvisionps.predictions.split_caches import PREDICTED_SPLITS, refuse_other_kinds

CHECKED_IMAGES = 16
"""The first of each split; stage import_end reads all."""


def add_end(name: str, given: Mapping[SplitName, Path]) -> list[str]:
    """Copies the folders to data/imports/NAME/<split> and adds NAME to import_end.ends of params.yaml, or does nothing;
    returns what was done, in lines.

    A split that is not given may lie there already; params.yaml is changed once both are there. Raises ParamsError on a
    name that cannot be an end's, and what `import_end` does on what does not fit the split.
    """
    params, paths = Path("params.yaml"), read_pipeline_paths(Path())
    ends = load_params(params).import_end.ends
    is_new = name not in ends
    load_params(params, changes={"import_end.ends": [*ends, name] if is_new else list(ends)})
    place_of: dict[SplitName, Path] = {split: paths.imports / name / split for split in PREDICTED_SPLITS}
    sources = {split: given.get(split, place) for split, place in place_of.items() if split in given or place.is_dir()}
    if not given:
        raise ParamsError(f"import {name}: expected --val DIR, --heldout DIR or both, got none")
    done = _check(name, sources, paths)
    with ExitStack() as written:
        for split, source in given.items():
            if source.resolve() != place_of[split].resolve():
                copy_files(source, written.enter_context(atomic_folder(place_of[split])))
                done.append(f"{source} is copied to {place_of[split]}")
        if missing := [place for split, place in place_of.items() if split not in sources]:
            return [*done, f"first: the same of the other split; `dvc repro` needs {missing[0]} too"]
        if is_new:
            unfinished = written.enter_context(atomic_file(params))
            unfinished.write_text(with_one_more(params, "import_end", "ends", name), encoding="utf-8")
            done.append(f"{params} lists {name} in import_end.ends; add it to fuse.systems to score it alone, too")
    return [*done, "`dvc repro` takes it in"]


def _check(name: str, sources: Mapping[SplitName, Path], paths: PipelinePaths) -> list[str]:
    """Reads a part of each split as stage import_end does, and keeps nothing of it."""
    said = []
    with tempfile.TemporaryDirectory() as folder:
        for split, source in sources.items():
            dataset = open_split(paths.prepared, split)
            identity = CacheIdentity(name, split, dataset_fingerprint(paths.prepared), dataset.categories)
            import_end(source, Path(folder, split), dataset=dataset, identity=identity, first=CHECKED_IMAGES)
            images = len(dataset.images)
            said.append(f"{source}: {min(CHECKED_IMAGES, images)} of {images} images of {split} are read and fit")
        refuse_other_kinds(name, [Path(folder, split) for split in sources])
    return said
