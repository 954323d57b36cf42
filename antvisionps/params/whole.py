"""The whole params.yaml: a section for each stage, and what has to fit between sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from antvisionps.core.errors import ParamsError
from antvisionps.params.fusion import Calibrate, EvaluateHeldout, Fuse, Report, Score
from antvisionps.params.prediction import ImportEnd, Predict, PredictionKind
from antvisionps.params.prepare import Prepare
from antvisionps.params.profiles import read_params
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import Name, Section, check, refuse_empty, refuse_repeats, refuse_zeros
from antvisionps.params.training import TRAINING_OF_END, TrainEUps, TrainHrnetAspp, TrainLwlHtc

FUSION_SYSTEM = "fusion"
"""Name of the system that takes all ends; every other system is the end it is named after."""

SEMANTIC_ENDS = ("hrnet_aspp",)
"""Trained ends that have no instances."""


class Params(Section):
    ends: tuple[Name, ...]
    prepare: Prepare
    train_e_ups: TrainEUps
    train_lwl_htc: TrainLwlHtc
    train_hrnet_aspp: TrainHrnetAspp
    import_end: ImportEnd
    predict: Predict
    evaluate_heldout: EvaluateHeldout
    calibrate: Calibrate
    fuse: Fuse
    score: Score
    report: Report
    runtime: Runtime

    @property
    def all_ends(self) -> tuple[str, ...]:
        """Whatever fills the cache: the ends that are predicted here, then the imported ones."""
        return (*self.ends, *self.import_end.ends)

    def promised_kinds(self) -> dict[str, tuple[PredictionKind, ...]]:
        """What each end that is trained here predicts; of the others nobody knows."""
        both: tuple[PredictionKind, ...] = ("instances", "semantics")
        return {end: ("semantics",) if end in SEMANTIC_ENDS else both for end in self.ends if end in TRAINING_OF_END}

    def refuse_unknown_system(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end with instances or of the fusion."""
        if reason := self._why_no_system(name):
            raise ParamsError(f"--system {name}: {reason}")

    def _why_no_system(self, name: str) -> str:
        """Empty where the name is a system's."""
        if name not in (*self.all_ends, FUSION_SYSTEM):
            return f"expected {FUSION_SYSTEM} or one of ends {list(self.all_ends)}"
        if name in SEMANTIC_ENDS:
            return f"it has semantics but no instances, and so no panoptic map; {FUSION_SYSTEM} averages its semantics"
        return ""

    def weight_of_member(self, end: str) -> dict[str, float]:
        """How much each of the end's networks counts, in the order in which they are listed."""
        members = getattr(self, f"train_{end}").members if end in TRAINING_OF_END else ()
        return self.predict.weight_of_member(end, members)

    @model_validator(mode="after")
    def _names_fit(self) -> Params:
        for place, names in (("ends", self.all_ends), ("fuse.systems", self.fuse.systems)):
            refuse_empty(place, names)
            refuse_repeats(place, names)
        if FUSION_SYSTEM in self.all_ends:
            raise ValueError(f"an end cannot be called {FUSION_SYSTEM}: that is the system of all ends")
        for end in set(self.ends) & set(TRAINING_OF_END):
            if not getattr(self, f"train_{end}").members:
                raise ValueError(
                    f"ends lists {end}, but train_{end}.members is empty; list there what to train, as [base]"
                )
        if trained := [name for name in self.import_end.ends if name in TRAINING_OF_END]:
            raise ValueError(
                f"import_end.ends lists {trained[0]}, the name of an end that is trained here; choose another"
            )
        self._every_end_is_predicted_once()
        self._evaluations_have_images()
        self._member_weights_fit()
        self._fusion_fits()
        return self

    def _every_end_is_predicted_once(self) -> None:
        pairs = self.predict.shared_backbone
        predicted = [*self.predict.separate_ends, *(end for pair in pairs for end in (pair.first, pair.second))]
        if sorted(predicted) != sorted(self.ends):
            raise ValueError(
                f"predict.separate_ends and predict.shared_backbone list {predicted}; expected each of ends "
                f"{list(self.ends)} once, in one of the two"
            )

    def _evaluations_have_images(self) -> None:
        if self.prepare.monitor_images:
            return
        for name in TRAINING_OF_END:
            training = getattr(self, f"train_{name}")
            if training.members and training.evaluate_interval is not None:
                raise ValueError(
                    f"train_{name}.evaluate_interval is {training.evaluate_interval}, but prepare.monitor_images is 0, "
                    "so that there is nothing to evaluate on; raise monitor_images, or set evaluate_interval to null"
                )

    def _member_weights_fit(self) -> None:
        _refuse_unknown("predict.member_weights", self.predict.member_weights, {*self.ends, *TRAINING_OF_END})
        for end in self.ends:
            place, weight_of_member = f"predict.member_weights.{end}", self.weight_of_member(end)
            _refuse_unknown(place, self.predict.member_weights.get(end, {}), set(weight_of_member))
            refuse_zeros(place, weight_of_member.values())

    def _fusion_fits(self) -> None:
        for name in self.fuse.systems:
            if reason := self._why_no_system(name):
                raise ValueError(f"fuse.systems lists {name}; {reason}")
        ends = {*self.all_ends, *TRAINING_OF_END}
        _refuse_unknown("fuse.methods", self.fuse.methods, {*ends, FUSION_SYSTEM})
        _refuse_unknown("fuse.instance_weights", self.fuse.instance_weights, ends)
        with_instances = [end for end in self.all_ends if end not in SEMANTIC_ENDS]
        if with_instances:
            refuse_zeros("fuse.instance_weights", self.fuse.instance_weight_of_end(with_instances).values())
        _refuse_unknown("fuse.semantic_weights", self.fuse.semantic_weights, ends)
        refuse_zeros("fuse.semantic_weights", self.fuse.semantic_weight_of_end(self.all_ends).values())


def _refuse_unknown(place: str, table: Mapping[str, object], known: set[str]) -> None:
    """An entry for an end that is switched off waits for it; other names are mistakes."""
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{place} has {unknown}; expected only names of {sorted(known)}")


def load_params(path: Path, *, changes: Mapping[str, object] | None = None) -> Params:
    """The checked parameters of a params.yaml or a profile, with `changes` (dotted key → value) in place of its own.

    Raises ParamsError that names the file, the key, and what was expected and got.
    """
    document = read_params(path)
    for key, value in (changes or {}).items():
        _change(path, document, key, value)
    return check(path, document, Params)


def _change(path: Path, document: Any, key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: {key}: no such key; mend its spelling")
    old = document.get(name)
    document[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value  # as `++` of DVC
