"""What a system is: an end alone or all ends together, as its parameters, the routing and the calibration have it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from antvisionps.categories import CategorySet
from antvisionps.errors import CacheError, ParamsError
from antvisionps.fusion.calibration import Calibration
from antvisionps.fusion.heuristic import PRESETS, HeuristicRules
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.routing import Routing, routes_from_json
from antvisionps.fusion.semantic_average import AverageOf
from antvisionps.fusion.system import FusionSettings, Method

ROUTING_FILE = "routing.json"

Order = Literal["score", "learned"]


def fused_settings(
    name: str,
    *,
    categories: CategorySet,
    calibration_dir: Path | None,
    calibrated: bool,
    min_scores: Mapping[str | int, float],
    order: Order,
    **choices: Any,
) -> FusionSettings:
    """How stage fuse fuses the system: `plain_settings` by `choices`, then either what stage calibrate found, whole, or
    the score thresholds of single categories (by name or id) and the order of pasting.

    Raises ParamsError on a min_score of no thing, CacheError where stage calibrate left nothing for this system.
    """
    settings = plain_settings(name, categories=categories, **choices)
    if calibrated:
        return with_calibration(settings, _read_calibration(name, settings, calibration_dir))
    on_top: frozenset[tuple[int, int]] = frozenset()
    if order == "learned":
        on_top = _read_calibration(name, settings, calibration_dir).learned_on_top
    rules = replace(settings.rules, min_scores=_by_category_id(min_scores, categories), on_top=on_top)
    return replace(settings, rules=rules)


def plain_settings(
    name: str,
    *,
    ends: Sequence[str],
    categories: CategorySet,
    routing_dir: Path | None,
    routing: Routing,
    instance_weights: Mapping[str, float],
    min_joined_iou: float,
    method: Method,
    preset: str | None,
    semantic_average: AverageOf,
    semantic_weights: Mapping[str, float],
    **thresholds: Any,
) -> FusionSettings:
    """How the system is fused: an end of that name alone, else all ends.

    `thresholds` are HeuristicRules' own, unless a preset takes their place. Unless the routing is a union, raises
    ParamsError without the folder of the routing, CacheError on a missing or unfit routing table.
    """
    rules = HeuristicRules(**thresholds) if preset is None else PRESETS[preset]
    if name in ends:
        return FusionSettings(method, rules, {name: 1.0}, semantic_average, None, None)
    weight_of_end = {end: semantic_weights[end] for end in ends}
    if routing == "union":
        union = UnionRules(instance_weights, min_joined_iou)
        return FusionSettings(method, rules, weight_of_end, semantic_average, None, union)
    if routing_dir is None:
        raise ParamsError(f"--system {name} needs --routing, the folder that stage evaluate_heldout wrote")
    routes = _read_routing(routing_dir / ROUTING_FILE, ends=ends, categories=categories, routing=routing)
    return FusionSettings(method, rules, weight_of_end, semantic_average, routes, None)


def _by_category_id(min_scores: Mapping[str | int, float], categories: CategorySet) -> dict[int, float]:
    thing_of_key = {key: thing.category_id for thing in categories.things for key in (thing.name, thing.category_id)}
    found: dict[int, float] = {}
    for key, min_score in min_scores.items():
        if key not in thing_of_key:
            things = ", ".join(f"{thing.name} ({thing.category_id})" for thing in categories.things)
            raise ParamsError(f"fuse.min_scores names {key!r}; expected things by name or id, of {things}")
        if thing_of_key[key] in found:
            raise ParamsError(f"fuse.min_scores names category {thing_of_key[key]} by name and by id; keep one")
        found[thing_of_key[key]] = min_score
    return found


def _read_calibration(name: str, settings: FusionSettings, calibration_dir: Path | None) -> Calibration:
    if calibration_dir is None:
        raise ParamsError("what stage calibrate found needs --calibration, the folder that it wrote")
    path = calibration_dir / f"{name}.json"
    calibration = Calibration.from_json(_read_json(path, "calibrate"), where=str(path))
    if set(calibration.weight_of_end) != set(settings.weight_of_end):
        raise CacheError(
            f"{path}: fitted for other ends, {sorted(calibration.weight_of_end)}; run `dvc repro calibrate`"
        )
    return calibration


def with_calibration(settings: FusionSettings, calibration: Calibration) -> FusionSettings:
    """The settings with what was fitted in place of theirs; it was fitted without NMS, so there is none."""
    rules = HeuristicRules(
        min_score=calibration.min_score,
        max_overlap_frac=calibration.max_overlap_frac,
        min_stuff_area_px=calibration.min_stuff_area_px,
        max_nms_iou=None,
        min_stuff_confidence=calibration.min_stuff_confidence,
        min_scores=calibration.min_scores,
        on_top=calibration.on_top,
    )
    return replace(settings, rules=rules, weight_of_end=calibration.weight_of_end)


def _read_routing(path: Path, *, ends: Sequence[str], categories: CategorySet, routing: Routing) -> Mapping[int, str]:
    document = _read_json(path, "evaluate_heldout")
    routes = routes_from_json(document, categories=categories, ends=ends, where=str(path))
    if routing == "best_ap":
        return {category_id: route.end for category_id, route in routes.items()}
    single = document.get("better_overall")
    if routes and single not in ends:
        raise CacheError(f"{path}: names no end that is better overall; run `dvc repro evaluate_heldout`")
    return dict.fromkeys(routes, single)


def _read_json(path: Path, stage: str) -> Any:
    what = {"evaluate_heldout": "routing table", "calibrate": "calibration"}[stage]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: no readable {what} ({error}); run `dvc repro {stage}`") from error
