"""One way from the predictions of all ends to a panoptic map: what stage `fuse` does to every image, and `calibrate`
tries out."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from antvisionps.fusion.doubt import pixel_doubt
from antvisionps.fusion.heuristic import FusedImage, HeuristicRules, fuse_image
from antvisionps.fusion.mask_union import JoinedInstances, UnionRules, join_instances
from antvisionps.fusion.panoptic_head import fuse_image_by_head
from antvisionps.fusion.rejected import NOTHING_REJECTED, RejectedCandidates
from antvisionps.fusion.segment_voting import Acceptance, fuse_by_probability, thing_features
from antvisionps.fusion.semantic_average import AverageOf, SemanticAverage, average_semantics
from antvisionps.fusion.temperature import temper
from antvisionps.panoptic.categories import CategorySet
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

Method = Literal["heuristic", "panoptic_head", "auto"]


@dataclass(frozen=True)
class FusionSettings:
    """`weight_of_end`: whose predictions, and how much their semantics count · `average_of`: what of the semantics is
    averaged · `end_of_category`: whose instances of each category are taken; None: everybody's · `union`: how
    everybody's are joined first; None: not · `acceptance`: what `auto` was fitted to · `temperature_of_end`: that of
    its semantics; an end without an entry has 1 · `with_doubt`: whether the map comes with each pixel's doubt."""

    method: Method
    rules: HeuristicRules
    weight_of_end: Mapping[str, float]
    average_of: AverageOf
    end_of_category: Mapping[int, str] | None
    union: UnionRules | None
    acceptance: Acceptance | None = None
    temperature_of_end: Mapping[str, float] = field(default_factory=dict)
    with_doubt: bool = False

    @property
    def needs_mask_probs(self) -> bool:
        return self.method == "panoptic_head" or self.union is not None

    def semantic_ends(self) -> list[str]:
        """Those whose semantics count."""
        return [end for end, weight in self.weight_of_end.items() if weight > 0]


def load_kernels() -> None:
    """Loads the compiled parts of fusing, or compiles them, before worker processes are forked.

    What is loaded is no garbage: neither this process nor its workers look through it again.
    """
    gc.disable()
    import antvisionps.fusion.map_kernels
    import antvisionps.fusion.semantic_kernels
    import antvisionps.panoptic.rle_kernels  # noqa: F401

    gc.freeze()
    gc.enable()


def fuse_predictions(
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    *,
    categories: CategorySet,
    settings: FusionSettings,
) -> FusedImage:
    """The panoptic map of one image from end → instances and end → semantics."""
    (fused,) = fuse_by_each(instances, semantics, categories=categories, settings=[settings])
    return fused


def fuse_by_each(
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    *,
    categories: CategorySet,
    settings: Sequence[FusionSettings],
) -> Iterator[FusedImage]:
    """What `fuse_predictions` makes of one image by each of the settings. What some of them share, they join and
    average once."""
    joined: dict[str, JoinedInstances] = {}
    averages: dict[str, SemanticAverage] = {}
    for tried in settings:
        union, average = (
            repr((tried.union, list(tried.weight_of_end))),
            repr((tried.average_of, tried.weight_of_end, tried.temperature_of_end)),
        )
        if union not in joined:
            own = {end: instances[end] for end in tried.weight_of_end if end in instances}
            joined[union] = join(own, tried)
        if average not in averages:
            averages[average] = average_weighted(semantics, categories=categories, settings=tried)
        yield fuse_average(joined[union], averages[average], categories=categories, settings=tried)


def average_weighted(
    semantics: Mapping[str, ImageSemantics], *, categories: CategorySet, settings: FusionSettings
) -> SemanticAverage:
    """The average of end → semantics by the weights of the settings, which count an end that they do not name as 0."""
    present = {
        end: temper(semantics[end], settings.temperature_of_end.get(end, 1.0))
        for end in settings.semantic_ends()
        if end in semantics
    }
    weights = [settings.weight_of_end[end] for end in present]
    average = average_semantics(
        list(present.values()), weights=weights, categories=categories, average_of=settings.average_of
    )
    return replace(average, end="+".join(present))


def join(instances: Mapping[str, ImageInstances], settings: FusionSettings) -> JoinedInstances:
    """End → instances, joined where the settings have a union."""
    return (
        JoinedInstances(instances, NOTHING_REJECTED)
        if settings.union is None
        else join_instances(instances, settings.union)
    )


def fuse_average(
    joined: JoinedInstances, average: SemanticAverage, *, categories: CategorySet, settings: FusionSettings
) -> FusedImage:
    """The panoptic map of one image from joined instances and averaged semantics."""
    if settings.method == "panoptic_head":
        fused = fuse_image_by_head(
            joined.instances,
            average,
            categories=categories,
            end_of_category=settings.end_of_category,
            rules=settings.rules,
        )
    elif settings.acceptance is not None:
        ends = list(settings.weight_of_end)
        fused = fuse_by_probability(
            joined,
            thing_features(joined, average, ends=ends, categories=categories),
            average,
            acceptance=settings.acceptance,
            categories=categories,
            rules=settings.rules,
        )
    else:
        fused = fuse_image(
            joined.instances,
            average.class_map,
            categories=categories,
            end_of_category=settings.end_of_category,
            semantic_end=average.end,
            rules=settings.rules,
            confidence=average.confidence() if settings.rules.min_stuff_confidence > 0 else None,
        )
    rejected = RejectedCandidates.join([joined.rejected, joined.at_their_ends(fused.rejected)])
    doubt = pixel_doubt(fused, average, categories) if settings.with_doubt else None
    return replace(fused, rejected=rejected, doubt=doubt)
