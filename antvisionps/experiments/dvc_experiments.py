"""DVC experiments by name, each run once, in a clone of the project of its own.

The clone shares git's objects and DVC's cache with the project, so that what either has trained is not trained again;
the experiments themselves are fetched into the project, for `dvc exp show`. The project's own files stay as they are,
whatever ends a run: params.yaml, outputs and dvc.lock are the clone's. What an interrupted training has left lies
there too, and the next run goes on from it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from antvisionps.core.errors import AntVisionPSError, ParamsError, first_line
from antvisionps.core.locks import open_locked
from antvisionps.core.programs import dvc, experiment_ref, git
from antvisionps.interchange.import_end import folder_sha256
from antvisionps.params.profiles import compose, read_params
from antvisionps.params.section import check, parse, read_text
from antvisionps.params.whole import Params
from antvisionps.pipeline.paths import METRICS, PARAMS, read_pipeline_paths

LAST_STAGE = "score"


@dataclass(frozen=True)
class Experiment:
    """A name that is the same only for the same params, code and imported files; the params, as checked and as they
    stand in the file; and the changes that made them."""

    name: str
    params: Params
    document: Mapping[str, Any]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentClone:
    """The clone in `folder` of the project in `project`, whose code is that of `commit`, and the open file whose lock
    makes it this process's; see `open_clone`."""

    project: Path
    folder: Path
    commit: str
    lock: FileIO

    def describe(self, label: str, profile: Path, changes: Sequence[str]) -> Experiment:
        """The experiment `label` on a profile with these changes, in the syntax of `dvc exp run -S`.

        Raises ParamsError where the changed params are invalid.
        """
        with tempfile.TemporaryDirectory() as folder:
            changed = Path(folder) / profile.name
            changed.write_text(compose(profile), encoding="utf-8")
            _apply(changes, changed)
            document = _read(changed)
        params = check(Path(f"{profile}, changed by the row and -S"), document, Params)
        settings = {name: section for name, section in document.items() if name != "runtime"}  # it changes no result
        code = git(self.project, "ls-tree", "-r", self.commit, "--", *_code(self.project))
        imports = read_pipeline_paths(self.project).imports
        imported = [(end, folder_sha256(imports / end)) for end in params.import_end.ends]
        digest = hashlib.sha256(json.dumps([settings, code, imported], sort_keys=True).encode()).hexdigest()
        return Experiment(f"{profile.stem}-{label}-{digest[:7]}", params, document, tuple(changes))

    def run(self, experiment: Experiment, profile: Path) -> None:
        """Runs it to its end, or raises AntVisionPSError; what DVC and the stages say goes to the terminal."""
        if experiment_ref(self.folder, experiment.name) is None:  # else a kill came before it was fetched
            self._run(experiment, profile)
        ref = experiment_ref(self.folder, experiment.name)
        git(self.project, "fetch", "--quiet", str(self.folder.resolve()), f"{ref}:{ref}")

    def _run(self, experiment: Experiment, profile: Path) -> None:
        self._restore(profile)
        for path in (*_paths_of(read_params(profile)), str(read_pipeline_paths(Path()).imports)):
            self._link(path)
        changes = [word for change in experiment.changes for word in ("-S", change)]
        command = [sys.executable, "-m", "dvc", "exp", "run", "--name", experiment.name, *changes, LAST_STAGE]
        # DVC holds the lock, too: it goes on where this process alone is killed.
        lock = [self.lock.fileno()]
        ran = subprocess.run(command, cwd=self.folder, env=_environment(), check=False, pass_fds=lock)
        if ran.returncode or experiment_ref(self.folder, experiment.name) is None:
            raise AntVisionPSError(
                f"experiment {experiment.name} failed (exit status {ran.returncode}), for the reason above; what is "
                "finished stays, and the next run goes on from there"
            )

    def result_of(self, experiment: Experiment) -> dict[str, Any] | None:
        """metrics/panoptic.json as the experiment wrote it; None if it has not run, on whatever commit."""
        ref = experiment_ref(self.project, experiment.name)
        return json.loads(git(self.project, "show", f"{ref}:{METRICS}")) if ref else None

    def _restore(self, profile: Path) -> None:
        """The commit with this profile's params, and no output of another experiment.

        Checkpoints of unfinished trainings stay, and so does `prepared`. An empty dvc.lock lets DVC's run cache decide
        what has to run.
        """
        _remove_stale_locks(self.folder)
        git(self.folder, "checkout", "--quiet", "--force", "--detach", self.commit)
        git(self.folder, "clean", "--quiet", "--force", "-d")
        (self.folder / PARAMS).write_text(compose(profile), encoding="utf-8")
        (self.folder / "dvc.lock").unlink(missing_ok=True)
        paths = read_pipeline_paths(self.folder)
        for path in (paths.models, paths.predictions, paths.routing, paths.calibration, paths.fused):
            shutil.rmtree(path, ignore_errors=True)

    def _link(self, path: str) -> None:
        """Makes a file or folder of the project that git does not hold, as data/coco, be found in the clone too."""
        source, target = self.project / path, self.folder / path
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(source.resolve())


@contextmanager
def open_clone(project: Path, folder: Path) -> Iterator[ExperimentClone]:
    """The project's clone for experiments, made at the first call; one process at a time has it.

    Raises AntVisionPSError where another one does, and where code is changed but not committed: an experiment is
    a commit with its code.
    """
    changed = git(project, "status", "--porcelain", "--untracked-files=all", "--", *_code(project))
    if changed:
        raise AntVisionPSError(
            f"code is changed but not committed; experiments are of committed code, so commit or stash:\n{changed}"
        )
    lock = open_locked(folder.with_suffix(".lock"))
    if lock is None:
        raise AntVisionPSError(
            f"{folder}: another process runs experiments there; wait for its end, or end it and its `dvc exp run`"
        )
    with lock:
        commit = git(project, "rev-parse", "HEAD")
        if not (folder / ".dvc" / "config.local").exists():
            _make_clone(project, folder, commit)
        yield ExperimentClone(project, folder, commit, lock)


def _code(project: Path) -> list[str]:
    """The files and folders that a result depends on beside params and data: dvc.yaml, and the deps that it names and
    no stage writes."""
    stages = _read(project / "dvc.yaml")["stages"].values()
    deps = {dep for stage in stages for dep in stage["deps"] if "${" not in dep}
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return sorted({"dvc.yaml", *deps} - {out if isinstance(out, str) else next(iter(out)) for out in outs})


def _remove_stale_locks(folder: Path) -> None:
    """The files by which git and DVC lock what is in the clone: whoever has the clone, nobody else does.

    DVC takes a killed process for alive until its parent has asked for its status, which may be never, and cannot read
    a lock file that a kill left empty.
    """
    for path in (folder / ".dvc" / "tmp" / "rwlock", *(folder / ".git").rglob("*.lock")):
        path.unlink(missing_ok=True)


def _make_clone(project: Path, folder: Path, commit: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    git(project, "clone", "--quiet", "--shared", "--no-checkout", ".", str(folder.resolve()))
    git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    dvc(folder, "config", "--local", "cache.dir", dvc(project, "cache", "dir"))


def _paths_of(node: Any) -> Iterator[str]:
    """Every string in the params that could be a relative path."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _paths_of(value)
    elif isinstance(node, str) and not Path(node).is_absolute():
        yield node


def _read(path: Path) -> dict[str, Any]:
    return parse(path, read_text(path))


def _apply(changes: Sequence[str], path: Path) -> None:
    """Raises ParamsError that names the change that cannot be made."""
    from dvc.utils.hydra import apply_overrides

    if not changes:
        return
    try:
        apply_overrides(path, list(changes))
    except ValueError as error:  # the file is as it was
        if len(changes) > 1:
            for change in changes:
                _apply([change], path)
        raise ParamsError(f"-S {' '.join(changes)}: {first_line(error.__cause__ or error)}") from error


def _environment() -> dict[str, str]:
    """Stages call `python`, which is this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
