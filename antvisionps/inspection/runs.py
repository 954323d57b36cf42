"""Runs by name: an experiment or a commit out of DVC's cache, or a folder that a run lies in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from antvisionps.core.errors import AntVisionPSError, CacheError
from antvisionps.core.programs import git
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.inspection.image_scores import read_image_counts
from antvisionps.inspection.revisions import commit_of, fetch_revision
from antvisionps.panoptic.ids import ImageId
from antvisionps.pipeline.paths import METRICS, PARAMS, read_pipeline_paths
from antvisionps.predictions.fused_files import PANOPTIC_FILE
from antvisionps.report.score_tables import IMAGE_COUNTS_FILE, REMEDY, read_summary


@dataclass(frozen=True)
class RunFiles:
    """What is at hand of a run: the folder of its system's maps, or None; the text of its params; its commit, or None
    of a folder."""

    name: str
    system: str
    counts: Mapping[ImageId, MatchCounts]
    fused: Path | None
    params: str
    commit: str | None


@contextmanager
def opened_runs(names: Sequence[str], *, project: Path, system: str | None) -> Iterator[list[RunFiles]]:
    """Each name is a folder, else a revision of the project; `system` None is each run's last.

    What comes out of a revision is gone when the block ends. Raises CacheError or DataError that names the run.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CacheError(f"{repeated[0]} is named twice; name each run once")
    with TemporaryDirectory() as temporary:
        places = [Path(temporary, str(index)) for index in range(len(names))]
        yield [_open(name, project, system, into) for name, into in zip(names, places, strict=True)]


def _open(name: str, project: Path, system: str | None, into: Path) -> RunFiles:
    if Path(name).is_dir():
        return _open_folder(name, Path(name), system)
    into.mkdir()
    commit = commit_of(name, project)
    params = _committed(project, commit, PARAMS, name)
    summary = into / METRICS
    summary.parent.mkdir()
    summary.write_text(_committed(project, commit, METRICS, name), encoding="utf-8")
    shown, paths = _chosen(system, summary, name), read_pipeline_paths(project)
    counts = fetch_revision(paths.scores / IMAGE_COUNTS_FILE, rev=commit, into=into)
    try:
        fused = fetch_revision(paths.fused / shown, rev=commit, into=into)
    except CacheError:
        fused = None
    return _described(name, shown, counts, fused, params, commit)


def _open_folder(name: str, folder: Path, system: str | None) -> RunFiles:
    shown, paths = _chosen(system, folder / METRICS, name), read_pipeline_paths(folder)
    fused = paths.fused / shown
    has_maps = (fused / PANOPTIC_FILE).is_file()
    params = (folder / PARAMS).read_text(encoding="utf-8")
    return _described(name, shown, paths.scores / IMAGE_COUNTS_FILE, fused if has_maps else None, params, None)


def _described(
    name: str, system: str, counts_file: Path, fused: Path | None, params: str, commit: str | None
) -> RunFiles:
    counts = read_image_counts(counts_file, system=system)
    if counts is None:
        raise CacheError(f"run {name}: {counts_file.name} counts nothing of system {system}; {REMEDY} there")
    return RunFiles(name, system, counts, fused, params, commit)


def _chosen(system: str | None, summary: Path, name: str) -> str:
    systems = list(read_summary(summary))
    if system is None:
        return systems[-1]
    if system not in systems:
        raise CacheError(f"run {name} has no system {system}, but {', '.join(systems)}")
    return system


def _committed(project: Path, commit: str, path: str, name: str) -> str:
    try:
        return git(project, "show", f"{commit}:./{path}") + "\n"
    except AntVisionPSError as error:
        raise CacheError(f"revision {name} has no {path}, so it is no run of the pipeline ({error})") from error
