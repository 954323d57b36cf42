"""What `antvisionps sweep` does: PQ of many values of fusion's params."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

from antvisionps.core.errors import ParamsError
from antvisionps.evaluation.panoptic_quality import total_counts
from antvisionps.evaluation.summary import summarize
from antvisionps.fusion.system import FusionSettings
from antvisionps.parallel.images import Workers
from antvisionps.params.fusion import FusionChoices
from antvisionps.params.whole import Params
from antvisionps.pipeline.ignored import why_ignored
from antvisionps.pipeline.try_settings import count_by_each
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.pq_table import SUFFIX_OF_GROUP
from antvisionps.report.sweep_report import Pq

Changes = Mapping[str, object]
"""Dotted key of params.yaml → value."""

_REMEDY = "sweep other keys, or with fuse.method=heuristic fuse.preset=null fuse.calibrated=false"


def grid(values_of_key: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Every combination of one value of each key; the last key changes fastest."""
    return [dict(zip(values_of_key, values, strict=True)) for values in product(*values_of_key.values())]


def is_fitted(system: str, params: Params) -> bool:
    """Whether the system is fused by what stage calibrate found on the held-out images."""
    fuse = params.fuse
    return fuse.method_of(system) == "auto" or fuse.calibrated or fuse.order == "learned"


def refuse_unfitted(system: str, params: Params, points: Sequence[Changes], variants: Sequence[Params]) -> None:
    """Raises ParamsError if a point uses what stage calibrate found for `params` and changes what it was fitted to."""
    for point, changed in zip(points, variants, strict=True):
        fuse = changed.fuse
        if not is_fitted(system, changed):
            continue
        for key, value in point.items():
            name = _in_section(key)
            if name in FusionChoices.model_fields and getattr(fuse, name) != getattr(params.fuse, name):
                raise ParamsError(
                    f"{key}={value} needs a new fit by stage calibrate, which `dvc exp run -S` makes; sweep other "
                    "keys, or with fuse.method=heuristic fuse.calibrated=false fuse.order=score"
                )


def refuse_idle(points: Sequence[Changes], variants: Sequence[Params], settings: Sequence[FusionSettings]) -> None:
    """Raises ParamsError if a key is without effect: two of the points fuse alike, or none of them uses it.

    `variants` and `settings` are the params and the system's settings at each point.
    """
    ignored = [why_ignored(params, [of_point]) for params, of_point in zip(variants, settings, strict=True)]
    reasons = {key: reason for of_point in ignored for key, reason in of_point.items()}
    for (one, other), (of_one, of_other) in zip(combinations(points, 2), combinations(settings, 2), strict=True):
        if of_one == of_other:
            changed = [key for key in one if one[key] != other[key]]
            listed = ", ".join(f"{key}={one[key]} and {other[key]}" for key in changed)
            known = [reasons[_in_section(key)] for key in changed if _in_section(key) in reasons]
            reason = known[0] if known else "this system does not use it"
            raise ParamsError(f"{listed} fuse alike: {reason}; {_REMEDY}")
    for key, value in points[0].items():
        if all(_in_section(key) in of_point for of_point in ignored):
            raise ParamsError(f"{key}={value} has no effect: {reasons[_in_section(key)]}; {_REMEDY}")


def _in_section(key: str) -> str:
    """`min_scores` of fuse.min_scores.ring."""
    return key.split(".")[1]


def sweep(settings: Sequence[FusionSettings], caches: SplitCaches, *, workers: Workers) -> list[Pq]:
    """PQ on the split with each of the settings, of the same ends: that of stages fuse and score."""
    dataset = caches.dataset
    counts = count_by_each(settings, caches, dataset.images, workers=workers, description=f"sweep {caches.split}")
    summaries = [summarize(total_counts(of_settings), dataset.categories) for of_settings in counts]
    return [{f"PQ{SUFFIX_OF_GROUP[group]}": of["PQ"] for group, of in summary.items()} for summary in summaries]


def best(pq: Sequence[Pq]) -> int:
    """Position of the highest PQ, the first of equal ones; one with nothing to measure is lowest."""
    return max(range(len(pq)), key=lambda position: (pq[position]["PQ"] or 0.0, -position))
