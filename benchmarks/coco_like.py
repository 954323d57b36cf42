"""A split and the caches of two ends that look like COCO's to everything after `predict`.

480 x 640 px, 80 thing and 53 stuff categories. Truth: 4 stuff regions and 8 things an image, their sizes spread as
COCO's. Each end: 100 instances an image, some 9 of them above a score of 0.5, with wavy outlines; probabilities at
stride 4 and 8 of an 800 px input, soft at edges, with half a dozen confused classes and grain.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from antvisionps.fusion.routing import Route, RoutingReason, routes_to_json
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segment_runs import find_runs, write_runs
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.panoptic.splits import MANIFEST, SplitName, runs_path
from antvisionps.predictions.instances import ImageInstances, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, MASK_PROBS_SIZE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from antvisionps.preflight.images import coco_like_categories

HEIGHT, WIDTH = 480, 640
INPUT_HEIGHT, INPUT_WIDTH = 800, 1067
CATEGORIES = coco_like_categories()
THINGS, STUFF = len(CATEGORIES.things), len(CATEGORIES.stuff)
STRIDE_OF_END = {"e_ups": 4.0, "lwl_htc": 8.0}
INSTANCES = 100


@dataclass(frozen=True)
class Scene:
    """What is in an image: its true map, the category of each segment of it, and what each end says."""

    segment_ids: np.ndarray
    category_of_segment: dict[int, int]
    instances: dict[str, ImageInstances]
    semantics: dict[str, ImageSemantics]


def write_coco_like(root: Path, *, images: int, distinct: int, split: SplitName = "val") -> None:
    """Fills prepared/, predictions/ and routing/ below `root`; only `distinct` images differ."""
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng) for _ in range(min(distinct, images))]
    _write_prepared(root / "prepared", scenes, images, split)
    for end in STRIDE_OF_END:
        header = CacheHeader(end, split, "benchmark", CATEGORIES, "benchmark")
        folder = root / "predictions" / end / split
        open_instances = InstancesWriter(folder / INSTANCES_FILE, header)
        with open_instances as instances, SemanticWriter(folder / SEMANTIC_FILE, header) as semantics:
            for index in range(images):
                scene = scenes[index % len(scenes)]
                instances.write(replace(scene.instances[end], image_id=index))
                semantics.write(replace(scene.semantics[end], image_id=index))
    _write_routing(root / "routing")


def make_scene(rng: np.random.Generator) -> Scene:
    stuff = rng.choice(np.arange(1 + THINGS, 1 + THINGS + STUFF), 4, replace=False)
    fields = np.stack([_smooth_noise(rng, (6, 8), (HEIGHT, WIDTH)) for _ in stuff])
    segment_ids = fields.argmax(axis=0).astype(np.int32) + 1
    categories = dict(enumerate(stuff.tolist(), start=1))
    outlines = []
    for _ in range(rng.poisson(8)):
        category_id = int(rng.integers(1, 1 + THINGS))
        outline = _outline(rng)
        mask = _fill(outline)
        if not mask.any():
            continue
        segment_ids[mask] = len(categories) + 1
        categories[len(categories) + 1] = category_id
        outlines.append((category_id, outline))
    class_map = np.array([0, *categories.values()])[segment_ids] - 1
    segment_ids[_fill(_outline(rng))] = 0  # void
    categories = {segment_id: categories[segment_id] for segment_id in np.unique(segment_ids).tolist() if segment_id}
    return Scene(
        segment_ids,
        categories,
        {end: _predict_instances(rng, outlines) for end in STRIDE_OF_END},
        {end: _predict_semantics(rng, class_map, stride) for end, stride in STRIDE_OF_END.items()},
    )


def _outline(rng: np.random.Generator) -> np.ndarray:
    """(60, 2) float xy: an ellipse with waves, anywhere in the image; sqrt(area) log-normal around 60 px."""
    radius = np.exp(rng.normal(np.log(34), 0.9))
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = sum(rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 9))
    aspect = np.exp(rng.normal(0, 0.3))
    shape = np.stack([aspect * np.cos(angle), np.sin(angle) / aspect], axis=1)
    return rng.uniform((0, 0), (WIDTH, HEIGHT)) + radius * (1 + waves)[:, None] * shape


def _fill(outline: np.ndarray) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    return mask.astype(bool)


def _smooth_noise(rng: np.random.Generator, coarse_hw: tuple[int, int], hw: tuple[int, int]) -> np.ndarray:
    return cv2.resize(rng.normal(size=coarse_hw).astype(np.float32), hw[::-1], interpolation=cv2.INTER_CUBIC)


def _predict_instances(rng: np.random.Generator, outlines: list[tuple[int, np.ndarray]]) -> ImageInstances:
    """Every true thing once, rather well; the rest are repeats, confusions and inventions of low score."""
    found = []
    for index in range(INSTANCES):
        if index < len(outlines):
            category_id, outline = outlines[index]
            score = rng.beta(5, 1)
        else:
            repeats = outlines and rng.random() < 0.6
            category_id, outline = outlines[rng.integers(len(outlines))] if repeats else (0, _outline(rng))
            if not repeats or rng.random() < 0.5:
                category_id = int(rng.integers(1, 1 + THINGS))
            score = 0.05 + 0.95 * rng.beta(0.4, 4)
        size = outline.std()
        found.append(
            (category_id, score, outline + rng.normal(0, 0.03 * size, outline.shape) + rng.normal(0, 0.05 * size, 2))
        )
    outlines_found = [outline for _, _, outline in found]
    return ImageInstances(
        image_id=0,
        height=HEIGHT,
        width=WIDTH,
        category_ids=np.array([category_id for category_id, _, _ in found], np.int32),
        scores=np.array([score for _, score, _ in found], np.float32),
        boxes_xywh=np.array([_box_xywh(outline) for outline in outlines_found], np.float32),
        rles=encode_masks(np.array([_fill(outline) for outline in outlines_found])),
        mask_probs=np.array([_mask_probs(outline) for outline in outlines_found]),
    ).sorted_by_score()


def _box_xywh(outline: np.ndarray) -> np.ndarray:
    corners = np.clip([outline.min(axis=0), outline.max(axis=0)], 0, (WIDTH, HEIGHT))
    return np.concatenate([corners[0], np.maximum(corners[1] - corners[0], 1)])


def _mask_probs(outline: np.ndarray) -> np.ndarray:
    x, y, width, height = _box_xywh(outline)
    grid = np.zeros((MASK_PROBS_SIZE, MASK_PROBS_SIZE), dtype=np.uint8)
    inside = (outline - (x, y)) / (width, height) * MASK_PROBS_SIZE
    cv2.fillPoly(grid, [np.rint(inside * 16).astype(np.int32)], 255, shift=4)
    return cv2.GaussianBlur(grid, (0, 0), 1.0)


def _predict_semantics(rng: np.random.Generator, class_map: np.ndarray, stride: float) -> ImageSemantics:
    grid = int(np.ceil(INPUT_HEIGHT / stride)), int(np.ceil(INPUT_WIDTH / stride))
    gt = cv2.resize(class_map.astype(np.uint8), grid[::-1], interpolation=cv2.INTER_NEAREST)
    present = np.unique(gt)
    others = np.setdiff1d(rng.choice(THINGS + STUFF, 6, replace=False), present)
    classes = np.concatenate([present, others])
    logits = np.stack([2.0 * _smooth_noise(rng, (7, 9), grid) for _ in classes])
    logits += 0.1 * rng.normal(size=logits.shape)
    logits += 8.0 * np.stack([cv2.GaussianBlur((gt == c).astype(np.float32), (0, 0), 6 / stride) for c in classes])
    probs = np.exp(logits - logits.max(axis=0))
    return ImageSemantics.from_probs(
        0,
        hw=(HEIGHT, WIDTH),
        input_hw=(INPUT_HEIGHT, INPUT_WIDTH),
        stride=stride,
        category_ids=classes + 1,
        probs=probs / probs.sum(axis=0),
    )


def _write_prepared(folder: Path, scenes: list[Scene], images: int, split: SplitName) -> None:
    maps = folder / f"panoptic_{split}"
    maps.mkdir(parents=True)
    described = [measure_segments(s.segment_ids, category_ids=s.category_of_segment) for s in scenes]
    for index in range(images):
        path = maps / _png_name(index)
        if index < len(scenes):
            write_segment_ids_png(path, scenes[index].segment_ids)
        else:
            path.hardlink_to(maps / _png_name(index % len(scenes)))
    runs = [find_runs(scene.segment_ids, segments) for scene, segments in zip(scenes, described, strict=True)]
    with write_runs(runs_path(folder)) as write:
        for index in range(images):
            write(runs[index % len(runs)])
    listed = [
        PanopticImage(n, f"{n:012d}.jpg", _png_name(n), HEIGHT, WIDTH, described[n % len(described)])
        for n in range(images)
    ]
    write_panoptic_json(folder / f"{split}.json", categories=CATEGORIES, images=listed)
    splits = {split: {"images": images, "images_dir": split, "panoptic_dir": maps.name}}
    manifest = {"fingerprint": "benchmark", "categories": CATEGORIES.to_json(), "root": None, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _png_name(index: int) -> str:
    return f"{index:012d}.png"


def _write_routing(folder: Path) -> None:
    folder.mkdir(parents=True)
    ends = list(STRIDE_OF_END)
    routes = {c.category_id: Route(ends[c.category_id % 2], RoutingReason.BETTER_AP) for c in CATEGORIES.things}
    ap = {end: dict.fromkeys(routes, 0.4) for end in ends}
    (folder / "routing.json").write_text(json.dumps(routes_to_json(routes, ap=ap, categories=CATEGORIES, leads={})))


def cache_paths(root: Path, file_name: str) -> list[Path]:
    """A file of the val split's cache of each end."""
    return [root / "predictions" / end / "val" / file_name for end in STRIDE_OF_END]
