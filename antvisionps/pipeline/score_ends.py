"""The part of stage `score` on what the ends predicted before any fusion: AP and precision by recall of instances, and
how reliable scores and probabilities are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.csv_files import write_csv
from antvisionps.core.json_files import write_json
from antvisionps.evaluation.average_precision import (
    RECALL_POINTS,
    CategoryAP,
    CategoryMatches,
    ImageMatches,
    average_precision,
    match_image,
    matches_of_categories,
    precision_at_recall,
)
from antvisionps.evaluation.disagreement import (
    DISAGREEMENT_COLUMNS,
    DisagreementCounts,
    disagreement,
    disagreement_rows,
)
from antvisionps.evaluation.lrp import SystemLrp, detection_lrp
from antvisionps.evaluation.reliability import Reliability, instance_reliability
from antvisionps.evaluation.score_rows import CLASS_LRP_COLUMNS, class_lrp_rows
from antvisionps.evaluation.semantic_reliability import semantic_reliability
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import GtInstances
from antvisionps.pipeline.try_settings import GtImage
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics
from antvisionps.report.score_tables import CURVES_FILE, CURVES_SCHEMA

AP_COLUMNS = ("category", "end", "AP", "AP50", "n_gt")
END_LRP_COLUMNS = tuple("end" if name == "system" else name for name in CLASS_LRP_COLUMNS)
CURVE_COLUMNS = ("end", "recall", "precision")


@dataclass(frozen=True, eq=False)
class EndsQuality:
    """By end: category_id → AP, category_id → (101,) precision at IoU 0.5, LRP, and the reliability of instances'
    scores, of the ends that have instances; the reliability of probabilities, of those that have semantics.
    `disagreement` is of these together, where there are two."""

    ap: Mapping[str, Mapping[int, CategoryAP]]
    precision: Mapping[str, Mapping[int, np.ndarray]]
    lrp: Mapping[str, SystemLrp]
    instances: Mapping[str, Reliability]
    semantics: Mapping[str, Reliability]
    disagreement: DisagreementCounts | None

    def reliabilities(self) -> dict[tuple[str, str], Reliability]:
        """(end, what of it) → reliability."""
        of_each = {"instances": self.instances, "semantics": self.semantics}
        return {(end, of): found for of, of_ends in of_each.items() for end, found in of_ends.items()}


NO_ENDS = EndsQuality({}, {}, {}, {}, {}, None)


MeasuredEnds = tuple[dict[str, ImageMatches], dict[str, Reliability], DisagreementCounts | None]
"""Of an image, what EndsQuality has of all."""


def measure_ends(
    gt: GtImage,
    gt_instances: GtInstances,
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    categories: CategorySet,
) -> MeasuredEnds:
    """Of an image, from its true instances and end → predictions."""
    matches = {end: match_image(found, gt_instances) for end, found in instances.items()}
    of_map = (gt.segment_ids, gt.image, categories)
    reliabilities = {end: semantic_reliability(planes, *of_map) for end, planes in semantics.items()}
    if len(semantics) < 2:
        return matches, reliabilities, None
    found = disagreement([*semantics.values()], categories, grid="coarsest")
    return matches, reliabilities, DisagreementCounts.of(found, *of_map)


def total_ends(images: Sequence[MeasuredEnds], categories: CategorySet) -> EndsQuality:
    matches, semantics, differences = zip(*images, strict=True)
    thing_ids = [category.category_id for category in categories.things]
    of_ends = {
        end: matches_of_categories([of_image[end] for of_image in matches], category_ids=thing_ids)
        for end in matches[0]
    }
    return EndsQuality(
        {end: {key: average_precision(of) for key, of in of_end.items()} for end, of_end in of_ends.items()},
        {end: {key: precision_at_recall(of)[0] for key, of in of_end.items()} for end, of_end in of_ends.items()},
        {end: _lrp_of_classes(of_end) for end, of_end in of_ends.items()},
        {end: Reliability.total([instance_reliability(of_image[end]) for of_image in matches]) for end in of_ends},
        {end: Reliability.total([of_image[end] for of_image in semantics]) for end in semantics[0]},
        DisagreementCounts.total(differences) if differences[0] else None,
    )


def _lrp_of_classes(matches: Mapping[int, CategoryMatches]) -> SystemLrp:
    """Of those that have a true or a predicted instance."""
    of_class = {key: detection_lrp(of_category) for key, of_category in matches.items()}
    known = {key: found for key, found in of_class.items() if not math.isnan(found[0].lrp)}
    return SystemLrp({key: plain for key, (plain, _) in known.items()}, {key: best for key, (_, best) in known.items()})


def write_ends(folder: Path, quality: EndsQuality, categories: CategorySet) -> None:
    """ends.json, per_class_ap.csv, precision_recall.csv, lrp_of_ends.csv and disagreement.csv."""
    differences = disagreement_rows(quality.disagreement, categories) if quality.disagreement else ()
    write_csv(folder / "lrp_of_ends.csv", END_LRP_COLUMNS, class_lrp_rows(quality.lrp, categories))
    write_csv(folder / "disagreement.csv", DISAGREEMENT_COLUMNS, differences)
    write_json(folder / "ends.json", _summary(quality))
    write_csv(folder / "per_class_ap.csv", AP_COLUMNS, _ap_rows(quality, categories))
    write_csv(folder / "precision_recall.csv", CURVE_COLUMNS, _curve_rows(quality))


def write_curves(folder: Path, quality: EndsQuality) -> None:
    """precision_recall_per_class.parquet."""
    table = pa.Table.from_pylist([*_class_curve_rows(quality)], schema=CURVES_SCHEMA)
    pq.write_table(table, folder / CURVES_FILE, compression="zstd", write_page_checksum=True)


def _summary(quality: EndsQuality) -> dict[str, dict[str, float | None]]:
    """End → AP and AP50, in percent; None where there is nothing to measure."""
    return {
        end: {
            "AP": _mean([one.ap for one in of_class.values()]),
            "AP50": _mean([one.ap50 for one in of_class.values()]),
        }
        for end, of_class in quality.ap.items()
    }


def _mean(fractions: Sequence[float]) -> float | None:
    """In percent, of those that are known."""
    known = [fraction for fraction in fractions if not math.isnan(fraction)]
    return 100 * float(np.mean(known)) if known else None


def _ap_rows(quality: EndsQuality, categories: CategorySet) -> Iterator[list[object]]:
    """In percent; of things that have a true instance."""
    for category in categories.things:
        for end, of_end in quality.ap.items():
            found = of_end[category.category_id]
            if found.n_gt:
                yield [category.name, end, 100 * found.ap, 100 * found.ap50, found.n_gt]


def _curve_rows(quality: EndsQuality) -> Iterator[list[object]]:
    """The mean over the categories that have a true instance, fractions of 1."""
    for end, of_class in quality.precision.items():
        known = [precision for precision in of_class.values() if not np.isnan(precision).any()]
        if known:
            for recall, precision in zip(RECALL_POINTS.tolist(), np.mean(known, axis=0).tolist(), strict=True):
                yield [end, f"{recall:.2f}", precision]


def _class_curve_rows(quality: EndsQuality) -> Iterator[dict[str, object]]:
    for end, of_class in quality.precision.items():
        for category_id, precisions in of_class.items():
            if not np.isnan(precisions).any():
                for recall, precision in zip(RECALL_POINTS.tolist(), precisions.tolist(), strict=True):
                    yield {"end": end, "category_id": category_id, "recall": recall, "precision": precision}
