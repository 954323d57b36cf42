"""DVC's experiments, as git has them: what each changed, and the PQ it came to."""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from antvisionps.core.errors import AntVisionPSError, DataError
from antvisionps.core.programs import git
from antvisionps.experiments.baseline import locked_stages
from antvisionps.experiments.dvc_experiments import LAST_STAGE
from antvisionps.params.changes import param_changes
from antvisionps.params.section import parse
from antvisionps.pipeline.paths import METRICS, PARAMS
from antvisionps.report.pq_table import GROUP_OF_PQ, pq_difference

MOST_CHANGES, LONGEST_CHANGE = 12, 100
_REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")

Json = dict[str, Any]


def experiment_rows(project: Path, *, system: str | None) -> list[Json]:
    """A row for the workspace, for HEAD, and for each experiment, the oldest first: name, changed params, PQ of all,
    things and stuff in percent, and how far they lie above those of the same system in the commit that it began on.

    `system` None is each run's last. The workspace has no PQ where its metrics are of other params. Raises
    AntVisionPSError outside of git.
    """
    head = git(project, "rev-parse", "HEAD")
    rows = [_row("HEAD", head[:7], _commit(project, head), None, system)]
    if workspace := _workspace(project):
        rows.insert(0, _row("workspace", head[:7], workspace, _commit(project, head), system))
    for name, base, commit in experiments(project):
        rows.append(_row(name, base[:7], _commit(project, commit), _commit(project, base), system))
    return rows


def experiments(project: Path) -> Iterator[tuple[str, str, str]]:
    """(name, the commit that it began on, its own), the oldest first."""
    listed = git(project, "for-each-ref", "--sort=creatordate", "--format=%(refname) %(objectname)", "refs/exps")
    for line in listed.splitlines():
        ref, _, commit = line.rpartition(" ")
        if found := _REF.fullmatch(ref):
            yield found[3], found[1] + found[2], commit


Run = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Params, and the summary of metrics; empty where there is none."""


def _workspace(project: Path) -> Run | None:
    """Without one of the two files, or with both as HEAD has them, there is nothing to show."""
    with suppress(FileNotFoundError):
        texts = [(project / name).read_text(encoding="utf-8") for name in (PARAMS, METRICS)]
        if git(project, "diff", "--name-only", "HEAD", "--", PARAMS, METRICS):
            params, summary = _parsed("the workspace", *texts)
            return params, summary if _ran(params, locked_stages(project)) else {}
    return None


def _ran(params: Mapping[str, Any], stages: Mapping[str, Any]) -> bool:
    """Whether the metrics are of these params, as far as dvc.lock says with which its stages ran.

    It keeps the entries of networks that are trained no more, so one stage with a value is enough; but stage score
    writes the metrics.
    """
    ran: dict[str, list[Any]] = {}
    for name, stage in sorted(stages.items(), key=lambda item: item[0] == LAST_STAGE):
        for key, value in stage.get("params", {}).get(PARAMS, {}).items():
            ran[key] = [value] if name == LAST_STAGE else [*ran.get(key, []), value]
    return all(_stands_in(params, key, values) for key, values in ran.items())


def _stands_in(params: Any, key: str, values: Sequence[Any]) -> bool:
    """Whether the dotted key has one of the values; true of a key that params.yaml has no more."""
    for part in key.split("."):
        if not isinstance(params, Mapping) or part not in params:
            return True
        params = params[part]
    return params in values


def _commit(project: Path, commit: str) -> Run:
    return _parsed(commit, *(_file(project, commit, name) for name in (PARAMS, METRICS)))


@functools.lru_cache
def _file(project: Path, commit: str, name: str) -> str:
    """Empty where the commit has no such file."""
    with suppress(AntVisionPSError):
        return git(project, "show", f"{commit}:./{name}")
    return ""


@functools.lru_cache
def _parsed(where: str, params: str, metrics: str) -> Run:
    try:
        return parse(f"{PARAMS} of {where}", params) or {}, json.loads(metrics or "{}")
    except ValueError as error:
        raise DataError(f"{METRICS} of {where}: not JSON ({error}); run `dvc repro score` there") from error


def _row(name: str, base: str, run: Run, before: Run | None, system: str | None) -> Json:
    shown = system or next(reversed(list(run[1])), "")
    now = _figures(run[1], shown)
    then = _figures(before[1], shown) if before else dict.fromkeys(GROUP_OF_PQ)
    changed = param_changes(run[0], before[0]) if before else []
    return (
        {"run": name, "on": base, "changed params": _listed(changed)}
        | now
        | {f"Δ {measure}": pq_difference(now[measure], then[measure]) for measure in GROUP_OF_PQ}
    )


def _figures(summary: Mapping[str, Any], system: str) -> dict[str, float | None]:
    of_groups = summary.get(system, {})
    return {measure: of_groups.get(group, {}).get("PQ") for measure, group in GROUP_OF_PQ.items()}


def _listed(changes: Sequence[str]) -> str:
    shown = [shorten(change, LONGEST_CHANGE, placeholder="…") for change in changes[:MOST_CHANGES]]
    more = len(changes) - len(shown)
    return ", ".join(shown) + (f", … {more} more" if more else "")
