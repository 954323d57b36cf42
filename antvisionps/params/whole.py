"""The whole params.yaml: a section for each stage, and what has to fit between sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from antvisionps.core.errors import ParamsError
from antvisionps.params.fusion import Calibrate, EvaluateHeldout, Fuse, Report, Score
from antvisionps.params.prediction import ImportEnd, Predict
from antvisionps.params.prepare import Prepare
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import Name, Section, check, read_document, refuse_empty, refuse_repeats, refuse_zeros
from antvisionps.params.training import TrainEUps, TrainHrnetAspp, TrainLwlHtc

FUSION_SYSTEM = "fusion"
"""Name of the system that takes all ends; every other system is the end it is named after."""

TRAINED_ENDS = ("e_ups", "lwl_htc", "hrnet_aspp")
"""Ends with a stage of their own; the tables of `predict` and `fuse` may describe them where `ends` has them not."""

SEMANTIC_ENDS = ("hrnet_aspp",)
"""Those of them that have no instances."""

ONLY_MEMBER = "base"
"""Name of the network of an end that is no ensemble."""


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

    def refuse_unknown_end(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end that is predicted here."""
        if name not in self.ends:
            raise ParamsError(f"--end {name}: expected one of ends {list(self.ends)}")

    def refuse_unknown_system(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end or of the fusion, and has a method."""
        if name not in (*self.all_ends, FUSION_SYSTEM):
            raise ParamsError(f"--system {name}: expected {FUSION_SYSTEM} or one of ends {list(self.all_ends)}")
        if name not in self.fuse.method:
            raise ParamsError(f"--system {name}: fuse.method names no method for it; add one, or name another system")

    @model_validator(mode="after")
    def _names_fit(self) -> Params:
        for place, names in (("ends", self.all_ends), ("fuse.systems", self.fuse.systems)):
            refuse_empty(place, names)
            refuse_repeats(place, names)
        if FUSION_SYSTEM in self.all_ends:
            raise ValueError(f"an end cannot be called {FUSION_SYSTEM}: that is the system of all ends")
        if "hrnet_aspp" in self.ends and not self.train_hrnet_aspp.members:
            raise ValueError(
                "ends lists hrnet_aspp, but train_hrnet_aspp.members is empty; list there what to train, as [base]"
            )
        if trained := [name for name in self.import_end.ends if name in TRAINED_ENDS]:
            raise ValueError(
                f"import_end.ends lists {trained[0]}, the name of an end that is trained here; choose another"
            )
        self._every_end_is_predicted_once()
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

    def _member_weights_fit(self) -> None:
        _refuse_unfit_keys("predict.member_weights", self.predict.member_weights, self.ends)
        for end in self.ends:
            weights = self.predict.member_weights[end]
            members: tuple[str, ...] = tuple(weights)
            if end == "e_ups":
                members = self.train_e_ups.members
            elif end == "lwl_htc":
                members = (ONLY_MEMBER,)
            elif end == "hrnet_aspp":
                members = self.train_hrnet_aspp.members
            place = f"predict.member_weights.{end}"
            if set(weights) != set(members):
                raise ValueError(f"{place} has {sorted(weights)}; expected a weight for each of {sorted(members)}")
            refuse_zeros(place, weights.values())

    def _fusion_fits(self) -> None:
        systems = (*self.all_ends, FUSION_SYSTEM)
        for name in self.fuse.systems:
            if name not in systems:
                raise ValueError(
                    f"fuse.systems lists {name}; expected {FUSION_SYSTEM} or one of ends {list(self.all_ends)}"
                )
            if name in SEMANTIC_ENDS:
                raise ValueError(
                    f"fuse.systems lists {name}, which has semantics but no instances and so makes no panoptic map of "
                    f"its own; take it off the list: {FUSION_SYSTEM} averages its semantics in"
                )
        _refuse_unfit_keys("fuse.method", self.fuse.method, (FUSION_SYSTEM, *self.fuse.systems), known=systems)
        with_instances = tuple(end for end in self.all_ends if end not in SEMANTIC_ENDS)
        _refuse_unfit_keys("fuse.instance_weights", self.fuse.instance_weights, with_instances)
        if with_instances:
            refuse_zeros("fuse.instance_weights", [self.fuse.instance_weights[end] for end in with_instances])
        _refuse_unfit_keys("fuse.semantic_weights", self.fuse.semantic_weights, self.all_ends)
        refuse_zeros("fuse.semantic_weights", [self.fuse.semantic_weights[end] for end in self.all_ends])


def _refuse_unfit_keys(
    place: str, table: Mapping[str, object], needed: tuple[str, ...], known: tuple[str, ...] = ()
) -> None:
    """An entry for each that is needed. One for an end that is switched off waits for it; other names are mistakes."""
    if not set(needed) <= set(table):
        raise ValueError(f"{place} has {sorted(table)}; expected an entry for each of {sorted(set(needed))}")
    allowed = {*needed, *known, *TRAINED_ENDS}
    if not set(table) <= allowed:
        raise ValueError(f"{place} has {sorted(set(table) - allowed)}; expected only names of {sorted(allowed)}")


def load_params(path: Path, *, changes: Mapping[str, object] | None = None) -> Params:
    """The checked parameters, with `changes` (dotted key → value) in place of what the file says.

    Raises ParamsError that names the file, the key, and what was expected and got.
    """
    document = read_document(path)
    for key, value in (changes or {}).items():
        _change(path, document, key, value)
    return check(path, document, Params)


def _change(path: Path, document: Any, key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, dict) else None
    if not isinstance(document, dict) or name not in document:
        raise ParamsError(f"{path}: {key}: no such key; mend its spelling")
    document[name] = value
