"""A profile for a data set, from what the data set is like: every value with its reason, and only what differs.

Sizes are for two CPU cores. What photos want of training, and cannot be read off a data set, is street.yaml's.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from antvisionps.datasets.conversion.panoptic import PanopticFiles
from antvisionps.panoptic.splits import check_splits
from antvisionps.params.profiles import EXTENDS, read_params
from antvisionps.params.section import parse, read_text
from antvisionps.preflight.survey import Survey, survey

CPU_SHORT_PX = 224
"""To which two cores shrink a photo's short side."""

MANY_PX = 150_000
"""Of a batch: more than so many take two cores longer than the built-in scenes do."""

COCO_STUFF_FRAC = 4096 / (640 * 480)
"""The smallest stuff segment of Kirillov et al. 2019, section 7, as a part of a photo of COCO's."""

MAX_HELDOUT, USUAL_HELDOUT = 5000, 40
MAX_MONITOR = 500
FEW_HELDOUT = 20
"""Held-out images, below which they tell too little of the probability of segments."""

STREET_PHOTOS = 369
"""Those that street.yaml trains on."""

SMALL_PHOTO_ITERATIONS = 250
"""Of photos as small as the built-in scenes, which this brings close to what they reach."""

LEAST_ITERATIONS_FRAC = 0.3
"""Of street.yaml's, however few the photos."""

TRAINED = ("train_e_ups", "train_lwl_htc", "train_hrnet_aspp")
NETWORKS = {section: f"{section}.networks.base" for section in ("train_e_ups", "train_lwl_htc")}
"""The ends that find instances → the key of what their networks have in common."""

MEMBERSHIP = ("ends", "predict.separate_ends")
"""Which ends there are, beside the members of each."""


@dataclass(frozen=True, slots=True)
class Setting:
    value: Any
    reason: str = ""


def profile_text(splits: Mapping[str, PanopticFiles], *, root: Path, out: Path, profiles: Path) -> tuple[str, Survey]:
    """The profile's text, as it stands in `out`, and what it is made of. `profiles` has built_in.yaml and street.yaml.

    Raises DataError on a data set that `prepare` would refuse for its annotations.
    """
    found, datasets = survey(splits)
    settings = describe(found, splits, root, street=read_profile(profiles / "street.yaml"))
    counts = (settings[f"prepare.{name}_images"].value for name in ("heldout", "monitor"))
    check_splits(datasets["train"], datasets["val"], *counts)
    built_in = read_params(profiles / "built_in.yaml")
    kept = {key: one for key, one in settings.items() if _value(built_in, key) != one.value}
    extends = os.path.relpath(profiles / "built_in.yaml", out.parent)
    return _first_lines(found, root) + _dump({EXTENDS: Setting(extends)} | kept), found


def read_profile(path: Path) -> dict[str, Any]:
    """Dotted key → value of what the profile itself holds. Raises ParamsError."""
    profile = parse(path, read_text(path), kind="rt")
    return dict(_leaves(profile, ())) if isinstance(profile, dict) else {}


def _leaves(node: Any, place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*place, str(key)))
    else:
        yield ".".join(place), list(node) if isinstance(node, list) else node


def describe(
    found: Survey, splits: Mapping[str, PanopticFiles], root: Path, *, street: Mapping[str, Any]
) -> dict[str, Setting]:
    """Dotted key → what it should be for this data set, whether the built-in run has the same or not. `street` is what
    profiles/street.yaml itself holds."""
    parts = (
        _data(found, splits, root),
        _photos(found, street),
        _method(found),
        _without_monitor(found),
        _sizes(found),
        _anchors(found),
        _instances(found),
        _stuff(found),
    )
    return dict(chain.from_iterable(parts))


def _data(found: Survey, splits: Mapping[str, PanopticFiles], root: Path) -> Iterator[tuple[str, Setting]]:
    yield "prepare.source", Setting("coco_panoptic")
    yield "prepare.scenes", Setting(None)
    yield from _counts(found)
    yield "prepare.coco_panoptic.root", Setting(str(root), "the files below are relative to it")
    for name, places in splits.items():
        names = {"annotations": places.annotations, "panoptic_dir": places.maps, "images_dir": places.photos}
        value = {key: os.path.relpath(path, root) for key, path in names.items()}
        yield f"prepare.coco_panoptic.{name}", Setting(value)


def heldout_images(train: int) -> int:
    """A tenth of train, but at least 40 or, of few images, a fifth."""
    return min(max(train // 10, min(USUAL_HELDOUT, train // 5), 1), MAX_HELDOUT)


def monitor_images(train: int) -> int:
    """A twenty-fifth; none where that would be less than four."""
    return min(train // 25, MAX_MONITOR) if train >= 100 else 0


def _counts(found: Survey) -> Iterator[tuple[str, Setting]]:
    heldout = heldout_images(found.train)
    part = "a fifth" if heldout < USUAL_HELDOUT else "a tenth, or what thresholds need"
    yield "prepare.heldout_images", Setting(heldout, f"of the {found.train} of train: {part}")
    monitor = monitor_images(found.train)
    why = "one in twenty-five" if monitor else "train is too small to spare any"
    yield "prepare.monitor_images", Setting(monitor, why)


def input_side_px(found: Survey) -> int:
    """Of the short side that networks see: the photos', in steps of 32, up to CPU_SHORT_PX."""
    return min(CPU_SHORT_PX, max(64, 32 * round(found.short_px / 32)))


def _without_monitor(found: Survey) -> Iterator[tuple[str, Setting]]:
    if not monitor_images(found.train):
        for section in TRAINED:
            yield f"{section}.evaluate_interval", Setting(None, "there are no monitor images")


def _sizes(found: Survey) -> Iterator[tuple[str, Setting]]:
    side = input_side_px(found)
    step = 32 if side >= 192 else 16
    largest = side + step
    long_px = 32 * math.ceil(min(max(1.5, found.long_per_short), 2.0) * largest / 32)
    photos = f"photos have {found.long_px}x{found.short_px} px (median)"
    for section in TRAINED:
        yield f"{section}.augmentation.short_sides_px", Setting([side - step, side, largest])
        yield f"{section}.augmentation.max_long_side_px", Setting(long_px)
    yield "predict.short_sides_px", Setting([side], f"{photos}; a GPU takes up to 800")
    yield "predict.max_long_side_px", Setting(long_px, f"the long side is {found.long_per_short:.1f} of the short one")


def anchor_scale(found: Survey) -> float:
    """Such that the smallest anchors, of 4 x scale px, are as large as the median thing; 2, 4 or 8."""
    side_px = found.box_side_frac * input_side_px(found)
    return float(2 ** min(max(round(math.log2(max(side_px, 1) / 4)), 1), 3))


def _anchors(found: Survey) -> Iterator[tuple[str, Setting]]:
    side_px = found.box_side_frac * input_side_px(found)
    for network in NETWORKS.values():
        yield f"{network}.anchor_scale", Setting(anchor_scale(found), f"half of all things are below {side_px:.0f} px")


def _instances(found: Survey) -> Iterator[tuple[str, Setting]]:
    usual, many = (np.percentile(found.things_per_image, part) for part in (50, 99))
    rois = int(min(128, max(32, 2 ** math.ceil(math.log2(max(4 * usual, 1))))))
    for section, least in (("train_e_ups", 64), ("train_lwl_htc", 32)):
        reason = f"a quarter of them are of things, of which an image has {usual:.0f}"
        yield f"{NETWORKS[section]}.rois_per_image", Setting(max(least, rois), reason)
        yield f"{NETWORKS[section]}.train_proposals", Setting(200 if rois == 128 else 128)
    instances = int(min(300, max(100, 50 * math.ceil(1.5 * many / 50))))
    yield "predict.max_instances", Setting(instances, f"one image in a hundred has over {many:.0f} things")
    yield "predict.max_proposals", Setting(max(128, 2 * instances) if instances > 100 else 128)


def takes_small_batches(found: Survey) -> bool:
    return 4 * input_side_px(found) ** 2 * found.long_per_short > MANY_PX


def _photos(found: Survey, street: Mapping[str, Any]) -> Iterator[tuple[str, Setting]]:
    """What street.yaml has for photos that are too large for the built-in batches, and as many iterations as this
    number of photos is worth; for small ones more iterations than the built-in run has."""
    if not takes_small_batches(found):
        for section in NETWORKS:
            reason = "the built-in run has fewer, to end within minutes"
            yield f"{section}.schedule.iterations", Setting(SMALL_PHOTO_ITERATIONS, reason)
        return
    for key, value in street.items():
        if key.split(".")[0] in (*TRAINED, "fuse") or key in MEMBERSHIP:
            yield key, Setting(value, "as in street.yaml")
    photos = found.train - heldout_images(found.train) - monitor_images(found.train)
    part = min(1, max(LEAST_ITERATIONS_FRAC, photos / STREET_PHOTOS))
    for key in [f"{section}.schedule.iterations" for section in TRAINED]:
        if key in street:
            iterations = 10 * round(part * street[key] / 10)
            yield key, Setting(iterations, f"street.yaml's {street[key]}, by {photos} photos that are trained on")
            if monitor_images(found.train):
                yield key.replace("schedule.iterations", "evaluate_interval"), Setting(iterations // 4)


def _method(found: Survey) -> Iterator[tuple[str, Setting]]:
    heldout = heldout_images(found.train)
    if heldout < FEW_HELDOUT:
        yield "fuse.method", Setting("heuristic", f"{heldout} held-out images tell too little of probabilities")


def min_stuff_area_px(found: Survey) -> int:
    """COCO's limit at this size of photos, in powers of two, that at most a fifth of the true stuff segments miss."""
    limit = COCO_STUFF_FRAC * found.short_px * found.long_px
    if len(found.stuff_areas_px):
        limit = min(limit, float(np.percentile(found.stuff_areas_px, 20)))
    return int(2 ** math.floor(math.log2(max(limit, 16))))


def _stuff(found: Survey) -> Iterator[tuple[str, Setting]]:
    reason = "COCO's 4096 at 640x480, by the area of these photos; a fifth of the true segments at most are smaller"
    yield "calibrate.min_stuff_area_px", Setting(min_stuff_area_px(found))
    yield "fuse.min_stuff_area_px", Setting(min_stuff_area_px(found), reason)


def _value(document: Any, key: str) -> Any:
    """None where there is none, as of prepare.coco_panoptic.root in the built-in run."""
    for name in key.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _first_lines(found: Survey, root: Path) -> str:
    things, stuff = len(found.categories.things), len(found.categories.stuff)
    return (
        f"# {found.train} + {found.val} photos of about {found.long_px}x{found.short_px} px in {root.name}: {things} "
        f"categories of things, {stuff} of stuff.\n# Written by `antvisionps new-profile`, for two CPU cores; a GPU "
        "takes larger networks and sides, and more iterations.\n\n"
    )


def _dump(settings: Mapping[str, Setting]) -> str:
    """YAML of dotted keys, a reason behind its value; lists and tables of files in one line."""
    whole = CommentedMap()
    for key, setting in settings.items():
        *sections, name = key.split(".")
        table = whole
        for section in sections:
            table = table.setdefault(section, CommentedMap())
        table[name] = _in_one_line(setting.value)
        if setting.reason:
            table.yaml_add_eol_comment(setting.reason, name, column=0)
    for section in list(whole)[1:]:
        whole.yaml_set_comment_before_after_key(section, before="\n")
    text, yaml = StringIO(), YAML()
    yaml.width = 4096  # a line a setting
    yaml.Representer = _WithNull
    yaml.dump(whole, text)
    return text.getvalue()


class _WithNull(RoundTripRepresenter):
    """Writes `null` where there is no value; ruamel keeps its representers by class."""

    def represent_none(self, _: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_WithNull.add_representer(type(None), _WithNull.represent_none)


def _in_one_line(value: Any) -> Any:
    if not isinstance(value, list | dict):
        return value
    kept = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    kept.fa.set_flow_style()
    return kept
