"""Values of section fuse that a run does not use, since a preset, the calibration or the method takes their place."""

import json
from collections.abc import Sequence

from antvisionps.fusion.system import FusionSettings
from antvisionps.params.fusion import Calibrate, Fuse
from antvisionps.params.whole import Params

_LONGEST = 60
"""Characters of a value that are shown."""


def why_ignored(params: Params, settings: Sequence[FusionSettings]) -> dict[str, str]:
    """Key of section fuse → why none of the systems with these settings, which are made of it, uses its value.

    A key that holds what is used anyway, or an empty table, misleads nobody and is not listed.
    """
    fuse = params.fuse
    if all(one.method == "auto" for one in settings):
        return _why_auto_ignores(fuse, params.calibrate)
    reasons: dict[str, str] = {}
    if fuse.instance_weights and all(one.union is None for one in settings):
        reasons["instance_weights"] = "only a union has weights of instances"
    if fuse.semantic_weights and all(len(one.weight_of_end) == 1 for one in settings):
        reasons["semantic_weights"] = "no system has several ends"
    by_thresholds = [one for one in settings if one.method != "auto"]
    if all(one.method == "panoptic_head" for one in by_thresholds):
        set_by_user = {"order": fuse.order == "learned", "min_stuff_confidence": fuse.min_stuff_confidence > 0}
        reasons |= {key: "the panoptic head has none" for key, is_set in set_by_user.items() if is_set}
    replaced = {
        key
        for key, value in fuse.thresholds().items()
        if any(getattr(one.rules, key) != value for one in by_thresholds)
    }
    if fuse.calibrated:
        replaced |= {key for key in ("preset", "min_scores", "semantic_weights") if getattr(fuse, key)}
        if any(bool(one.rules.on_top) != (fuse.order == "learned") for one in by_thresholds):
            replaced.add("order")
    by = "fuse.calibrated=true" if fuse.calibrated else f"fuse.preset={fuse.preset}"
    return reasons | dict.fromkeys(sorted(replaced), f"{by} takes its place")


def _why_auto_ignores(fuse: Fuse, begin: Calibrate) -> dict[str, str]:
    """What is set beside `method: auto`; a threshold is where it differs from section calibrate's."""
    is_set = {
        "min_score": fuse.min_score != begin.min_score,
        "min_stuff_area_px": fuse.min_stuff_area_px != begin.min_stuff_area_px,
        "preset": fuse.preset is not None,
        "max_nms_iou": fuse.max_nms_iou is not None,
        "min_stuff_confidence": fuse.min_stuff_confidence > 0,
        "order": fuse.order != "score",
        "calibrated": fuse.calibrated,
    }
    is_set |= {key: bool(getattr(fuse, key)) for key in ("min_scores", "semantic_weights", "instance_weights")}
    return {key: "fuse.method=auto fits its own" for key, value in sorted(is_set.items()) if value}


def describe_ignored(params: Params, settings: Sequence[FusionSettings]) -> str:
    """`fuse.min_score=0.3 (fuse.preset=upsnet takes its place)`, a group a reason; empty if all is used."""
    keys_of_reason: dict[str, list[str]] = {}
    for key, reason in why_ignored(params, settings).items():
        keys_of_reason.setdefault(reason, []).append(f"fuse.{key}={_written(getattr(params.fuse, key))}")
    return "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in keys_of_reason.items())


def _written(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
