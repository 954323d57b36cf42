"""Whether HEAD's run is one to compare with: another kind of machine trains other weights from the same inputs."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from antvisionps.core.errors import AntVisionPSError
from antvisionps.core.programs import git

METRICS = "metrics"
LOCK = "dvc.lock"
INPUTS = ("params.yaml", "dvc.yaml", "stages", "antvisionps")


def foreign_baseline(project: Path) -> str:
    """What to tell a user whose results are others than HEAD's though nothing changed; empty where a change explains
    it, where nothing differs, and outside of git.

    A change is one of params or code, or of the params that the results are of: an experiment's stay, though its
    params.yaml is taken back. A stage whose command, deps and params are those of HEAD, but not its outputs, ran on
    another machine there. Without such a stage HEAD's results are another machine's, or of code that HEAD has no more.
    """
    head, now = _head_lock(project), locked_stages(project)
    try:
        if not _differs(project, METRICS):
            return ""
        is_changed = _differs(project, *INPUTS) or _has_other_params(head, now)
    except AntVisionPSError:
        return ""
    stages = list(_stages_with_other_outputs(head, now))
    if is_changed and not stages:
        return ""
    whose = "another machine's"
    if not stages:
        whose += ", or of other code: neither params nor code differ from HEAD"
    else:
        whose += f": {', '.join(stages)} gave something else there from the same inputs"
    first = "run `make repro` without your changes, then " if is_changed else ""
    return (
        f"HEAD's results are {whose}. `dvc metrics diff` and `dvc exp show` compare with them; to compare with your "
        f"own run, {first}`git commit -am 'My baseline'`"
    )


def _differs(project: Path, *paths: str) -> bool:
    """Whether files that git has are others than in HEAD."""
    return bool(git(project, "diff", "--name-only", "HEAD", "--", *paths))


def _head_lock(project: Path) -> Mapping[str, Any]:
    with suppress(AntVisionPSError):  # HEAD may have none
        return _stages(git(project, "show", f"HEAD:./{LOCK}"))
    return {}


def locked_stages(project: Path) -> Mapping[str, Any]:
    """Stage → its entry in dvc.lock, which says what it ran with; without the file, none."""
    with suppress(FileNotFoundError):
        return _stages((project / LOCK).read_text(encoding="utf-8"))
    return {}


def _stages(lock: str) -> Mapping[str, Any]:
    """Stage → its entry; of a file that DVC did not write, none."""
    with suppress(YAMLError, TypeError, KeyError):
        return YAML(typ="safe").load(lock)["stages"]
    return {}


def _has_other_params(head: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a stage of both ran with others."""
    return any(head[name].get("params") != now[name].get("params") for name in head.keys() & now.keys())


def _stages_with_other_outputs(head: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, here in now.items():
        there = head.get(name, {})
        is_alike = {key: there.get(key) == here.get(key) for key in ("cmd", "deps", "params", "outs")}
        if not is_alike.pop("outs") and all(is_alike.values()):
            yield name
