"""What stage `calibrate` writes of a system whose method is `auto`, and how it is fused by that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from antvisionps.core.documents import Document, Fraction, Weight, read_document
from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.segment_voting import Acceptance, PasteBy, thing_feature_count
from antvisionps.fusion.semantic_average import AverageOf
from antvisionps.fusion.system import FusionSettings
from antvisionps.panoptic.categories import CategorySet

REMEDY = "run `dvc repro calibrate`"


@dataclass(frozen=True)
class AutoRules:
    """What is not fitted. `average_of`: what of the semantics is averaged."""

    max_overlap_frac: float
    min_joined_iou: float
    average_of: AverageOf
    temperature_of_end: Mapping[str, float] = field(default_factory=dict)

    def settings(self, semantic_weights: Mapping[str, float], acceptance: Acceptance | None = None) -> FusionSettings:
        """Settings of these ends, whose instances weigh alike. `acceptance` None: only the weights are fitted yet."""
        union = UnionRules(dict.fromkeys(semantic_weights, 1.0), self.min_joined_iou)
        rules, temperatures = HeuristicRules(0.0, self.max_overlap_frac, 0), self.temperature_of_end
        return FusionSettings("auto", rules, semantic_weights, self.average_of, None, union, acceptance, temperatures)


class ChoiceOfEnds(Document):
    """Whose segments could be taken, and how instances are pasted. `heldout_pq`: cross-validated, a fraction of 1, None
    of a single image · `lead` and `standard_error`: of its difference to the first choice."""

    ends: tuple[str, ...]
    paste_by: PasteBy
    heldout_pq: Fraction | None
    lead: Annotated[float, Field(ge=-1, le=1)] | None
    standard_error: Annotated[float, Field(ge=0)] | None


class VotingDocument(Document):
    """All choices, the `ends` of the one to take, in ascending order, and what was fitted for it. `semantic_weights`:
    how much the semantics of each of those ends count."""

    choices: tuple[ChoiceOfEnds, ...]
    ends: tuple[str, ...]
    semantic_weights: dict[str, Weight]
    min_joined_iou: Fraction
    acceptance: Acceptance

    def settings(self, *, max_overlap_frac: float, average_of: AverageOf) -> FusionSettings:
        rules = AutoRules(max_overlap_frac, self.min_joined_iou, average_of)
        return rules.settings(self.semantic_weights, self.acceptance)


def read_voting(path: Path, *, categories: CategorySet, ends: Iterable[str]) -> VotingDocument:
    """What stage calibrate wrote of a system. Raises CacheError unless it is of these categories and ends."""
    document = read_document(path, VotingDocument, what="calibration of method auto", remedy=REMEDY)
    if problem := _misfit(document, categories, set(ends)):
        raise CacheError(f"{path}: {problem}; {REMEDY}")
    return document


def _misfit(document: VotingDocument, categories: CategorySet, ends: set[str]) -> str:
    """What does not fit to the categories and ends, or contradicts itself; empty where nothing does."""
    if set(document.choices[0].ends) != ends if document.choices else True:
        return f"fitted for other ends than {sorted(ends)}"
    if list(document.ends) not in [list(choice.ends) for choice in document.choices]:
        return f"ends {list(document.ends)} are none of its choices"
    if list(document.semantic_weights) != list(document.ends):
        return f"semantic_weights are not of ends {list(document.ends)}"
    accepted = document.acceptance
    stuff_ids = {category.category_id for category in categories.stuff}
    expected = (
        (accepted.things, categories.thing_ids, thing_feature_count(len(document.ends)), "things"),
        (accepted.stuff, stuff_ids, 2, "stuff"),
    )
    for model, category_ids, features, name in expected:
        if set(model.bias_of_category) != set(category_ids):
            return f"acceptance.{name} is of other categories than this data set's"
        if not len(model.means) == len(model.deviations) == len(model.weights) == features:
            return f"acceptance.{name} is not of {features} features"
        if min(model.deviations) <= 0:
            return f"acceptance.{name}.deviations are not all positive"
    if set(accepted.min_probabilities) != set(categories.category_ids.tolist()):
        return "acceptance.min_probabilities is of other categories than this data set's"
    return ""
