"""How each system is fused: what params.yaml, the routing table and the calibration say, as FusionSettings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from antvisionps.core.errors import ParamsError
from antvisionps.fusion.calibration import Calibration, read_calibration
from antvisionps.fusion.heuristic import PRESETS, HeuristicRules
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.routing import read_routing
from antvisionps.fusion.system import FusionSettings
from antvisionps.fusion.temperature import read_temperatures
from antvisionps.fusion.voting_document import VotingDocument, read_voting
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.fusion import FusionChoices, InstanceEnsemble
from antvisionps.params.whole import Params

Value = TypeVar("Value")


def system_settings(
    system: str, params: Params, *, categories: CategorySet, routing: Path, calibration: Path
) -> FusionSettings:
    """How stage `fuse` fuses the system: by section fuse, with what stage calibrate found where it asks for that, and
    with the temperatures that it fitted.

    Raises ParamsError on an unknown system and on a min_score of no thing, CacheError where a stage left nothing, or
    nothing that fits.
    """
    params.refuse_unknown_system(system)
    settings = _system_settings(system, params, categories=categories, routing=routing, calibration=calibration)
    return replace(settings, temperature_of_end=read_temperatures(calibration), with_doubt=params.fuse.doubt)


def _system_settings(
    system: str, params: Params, *, categories: CategorySet, routing: Path, calibration: Path
) -> FusionSettings:
    fuse = params.fuse
    if fuse.method_of(system) == "auto":
        found = read_system_voting(system, params, categories=categories, calibration=calibration)
        return found.settings(max_overlap_frac=fuse.max_overlap_frac, average_of=fuse.semantic_average)
    rules = PRESETS[fuse.preset] if fuse.preset is not None else HeuristicRules(**fuse.thresholds())
    settings = plain_settings(
        system,
        fuse,
        rules=rules,
        weight_of_end=fuse.semantic_weight_of_end(params.all_ends),
        categories=categories,
        routing=routing,
    )
    if fuse.calibrated:
        return _read_calibration(system, settings, calibration, categories).apply(settings)
    on_top: frozenset[tuple[int, int]] = frozenset()
    if fuse.order == "learned":
        on_top = _read_calibration(system, settings, calibration, categories).learned_on_top
    rules = replace(
        settings.rules, min_scores=by_category_id(fuse.min_scores, categories, place="fuse.min_scores"), on_top=on_top
    )
    return replace(settings, rules=rules)


def read_system_voting(system: str, params: Params, *, categories: CategorySet, calibration: Path) -> VotingDocument:
    """What stage calibrate found for a system of method auto. Raises CacheError where there is nothing that fits."""
    ends = [system] if system in params.all_ends else params.all_ends
    return read_voting(calibration / f"{system}.json", categories=categories, ends=ends)


def plain_settings(
    system: str,
    choices: FusionChoices,
    *,
    rules: HeuristicRules,
    weight_of_end: Mapping[str, float],
    categories: CategorySet,
    routing: Path,
) -> FusionSettings:
    """The settings of an end of that name alone, else of all ends, of which `weight_of_end` has every one.

    Unless the instances are a union, raises CacheError on a missing or unfit routing table.
    """
    method = choices.method_of(system)
    if system in weight_of_end:
        return FusionSettings(method, rules, {system: 1.0}, choices.semantic_average, None, None)
    if choices.instance_ensemble == "union":
        union = UnionRules(choices.instance_weight_of_end(weight_of_end), choices.min_joined_iou)
        return FusionSettings(method, rules, weight_of_end, choices.semantic_average, None, union)
    routes = _read_routes(routing, list(weight_of_end), categories, choices.instance_ensemble)
    return FusionSettings(method, rules, weight_of_end, choices.semantic_average, routes, None)


def by_category_id(table: Mapping[str | int, Value], categories: CategorySet, *, place: str) -> dict[int, Value]:
    """The values of things by category_id, from a table by name or id. Raises ParamsError on what is no thing, and on
    one that is there by name and by id; `place` names the table."""
    things = categories.things
    thing_of_key: dict[str | int, int] = {str(thing.category_id): thing.category_id for thing in things}  # as of -S
    thing_of_key |= {key: thing.category_id for thing in things for key in (thing.name, thing.category_id)}
    found: dict[int, Value] = {}
    for key, value in table.items():
        if key not in thing_of_key:
            listed = ", ".join(f"{thing.name} ({thing.category_id})" for thing in things)
            raise ParamsError(f"{place} names {key!r}; expected things by name or id, of {listed}")
        if thing_of_key[key] in found:
            raise ParamsError(f"{place} names category {thing_of_key[key]} by name and by id; keep one")
        found[thing_of_key[key]] = value
    return found


def _read_calibration(system: str, settings: FusionSettings, folder: Path, categories: CategorySet) -> Calibration:
    return read_calibration(folder / f"{system}.json", categories=categories, ends=settings.weight_of_end)


def _read_routes(
    folder: Path, ends: list[str], categories: CategorySet, instance_ensemble: InstanceEnsemble
) -> Mapping[int, str]:
    table = read_routing(folder, categories=categories, ends=ends)
    if instance_ensemble == "best_of_class" or table.better_overall is None:
        return table.end_of_category
    return dict.fromkeys(table.end_of_category, table.better_overall)
