"""The built-in data set: a small painted world with everything that panoptic segmentation finds hard.

Every picture is a landscape of textured stuff under a sky, with things that occlude and touch one another. Balls and
melons differ in their pattern alone, crates and logs in their proportions. Some boundaries and objects are void; some
clusters of tiny things are one crowd segment. A picture is a pure function of seed, image id and size.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.progress import progress
from antvisionps.datasets import painting
from antvisionps.datasets.painting import Canvas, Fields, Layer
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import rgb_to_segment_ids, write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, Segment, measure_segments
from antvisionps.panoptic.splits import write_splits

# Ids have gaps and mix things with stuff, as COCO's do: code that takes an id for an index fails.
CATEGORIES = CategorySet.from_json(
    [
        {"id": 2, "name": "sky", "isthing": 0, "color": [135, 190, 235]},
        {"id": 3, "name": "ball", "isthing": 1, "color": [220, 60, 60]},
        {"id": 5, "name": "grass", "isthing": 0, "color": [95, 160, 60]},
        {"id": 8, "name": "crate", "isthing": 1, "color": [190, 140, 80]},
        {"id": 9, "name": "tent", "isthing": 1, "color": [240, 170, 40]},
        {"id": 13, "name": "water", "isthing": 0, "color": [40, 100, 170]},
        {"id": 14, "name": "ring", "isthing": 1, "color": [240, 90, 150]},
        {"id": 21, "name": "wall", "isthing": 0, "color": [150, 80, 65]},
        {"id": 22, "name": "melon", "isthing": 1, "color": [60, 130, 70]},
        {"id": 34, "name": "log", "isthing": 1, "color": [120, 85, 50]},
        {"id": 40, "name": "sand", "isthing": 0, "color": [225, 205, 150]},
    ],
    where="built-in scenes",
)

FIRST_VAL_SCENE = 1_000_001
"""Val scenes count from here, train scenes from 1: a larger train split leaves val unchanged, and the reverse."""

FIRST_MONITOR_SCENE = 2_000_001
"""Monitor scenes are painted beside train's, so that they change neither train nor heldout."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A photo (H, W, 3) uint8 RGB, its (H, W) int32 segment ids and what each segment is."""

    photo: np.ndarray
    segment_ids: np.ndarray
    segments: tuple[Segment, ...]


def prepare_scenes(
    out: Path,
    *,
    train_images: int,
    val_images: int,
    height: int,
    width: int,
    heldout_images: int,
    monitor_images: int = 0,
    seed: int,
    workers: int = 1,
) -> None:
    """Renders the built-in data set into the folder `out` and splits it; `train_images` includes the held-out ones,
    `monitor_images` come beside them."""
    monitor_ids = range(FIRST_MONITOR_SCENE, FIRST_MONITOR_SCENE + monitor_images)
    with atomic_folder(out) as folder:
        train, val = (
            PanopticDataset(
                annotations=folder / f"{name}.json",
                images_dir=folder / "images",
                panoptic_dir=folder / "panoptic",
                categories=CATEGORIES,
                images=write_scenes(
                    folder,
                    seed=seed,
                    image_ids=progress(image_ids, description=f"render {name}", total=None, unit="image"),
                    height=height,
                    width=width,
                ),
            )
            for name, image_ids in (
                ("train", (*range(1, train_images + 1), *monitor_ids)),
                ("val", range(FIRST_VAL_SCENE, FIRST_VAL_SCENE + val_images)),
            )
        )
        write_splits(
            folder,
            train=train,
            val=val,
            root=None,
            heldout_images=heldout_images,
            monitor_ids=monitor_ids,
            seed=seed,
            workers=workers,
        )


def write_scenes(
    folder: Path, *, seed: int, image_ids: Iterable[int], height: int, width: int
) -> tuple[PanopticImage, ...]:
    """Renders the pictures of `image_ids` into folder/images and folder/panoptic and returns their annotations."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = []
    for image_id in image_ids:
        scene = render_scene(seed=seed, image_id=image_id, height=height, width=width)
        file_name = f"{image_id:012d}.png"
        (folder / "images" / file_name).write_bytes(cv2.imencode(".png", scene.photo[..., ::-1])[1].tobytes())
        write_segment_ids_png(folder / "panoptic" / file_name, scene.segment_ids)
        images.append(PanopticImage(image_id, file_name, file_name, height, width, scene.segments))
    return tuple(images)


def render_scene(*, seed: int, image_id: int, height: int, width: int) -> Scene:
    """One picture, a pure function of the arguments: no other picture changes it."""
    rng = np.random.default_rng([seed, image_id])
    canvas = Canvas(rng, height, width)
    horizon = _paint_land(canvas)
    _paint_things(canvas, horizon)
    return _finish(canvas)


GROUNDS: dict[str, Callable[[Canvas], np.ndarray]] = {"grass": painting.grass, "sand": painting.sand}


def _paint_land(canvas: Canvas) -> float:
    """Paints all stuff from far to near and returns the mean height of the horizon."""
    rng = canvas.rng

    def void_band() -> float:
        return float(rng.choice([0.0, 1.5], p=[0.7, 0.3]))

    horizon = rng.uniform(0.2, 0.5) * canvas.height if rng.random() < 0.85 else -0.2 * canvas.height
    skyline = horizon + rng.uniform(1, 5) * canvas.noise(canvas.height, 40)[:1]
    near, far = rng.permutation(list(GROUNDS))
    canvas.paint(np.full_like(canvas.y, -1e3), painting.sky(canvas), Layer("sky"))
    canvas.paint(skyline - canvas.y, GROUNDS[far](canvas), Layer(far), void_band=void_band())
    if rng.random() < 0.65:
        canvas.paint(_lake(canvas, skyline), painting.water(canvas), Layer("water"), void_band=void_band())
    if rng.random() < 0.6:
        canvas.paint(_front(canvas, max(horizon, 0.0)), GROUNDS[near](canvas), Layer(near), void_band=void_band())
    if rng.random() < 0.6:
        canvas.paint(
            _upright_box(canvas, max(horizon, 12.0)), painting.wall(canvas), Layer("wall"), void_band=void_band()
        )
    if rng.random() < 0.12:
        canvas.paint(_puddle(canvas, horizon), painting.gravel(canvas), Layer(None))
    return horizon


def _lake(canvas: Canvas, skyline: np.ndarray) -> np.ndarray:
    """A sea at the level of the skyline or a pond on the ground."""
    rng = canvas.rng
    if rng.random() < 0.5:
        level = float(skyline.mean())
        shore = level + rng.uniform(15, 40) + rng.uniform(1, 5) * canvas.noise(canvas.height, 30)[:1]
        return np.maximum(level - canvas.y, canvas.y - shore)
    return _puddle(canvas, float(skyline.mean()), grow=2.0)


def _puddle(canvas: Canvas, horizon: float, *, grow: float = 1.0) -> np.ndarray:
    rng = canvas.rng
    center_x, center_y = rng.uniform(0, canvas.width), rng.uniform(max(horizon, 0) + 20, canvas.height)
    half_w, half_h = grow * rng.uniform(18, 35), grow * rng.uniform(7, 13)
    ellipse = np.hypot((canvas.x - center_x) / half_w, (canvas.y - center_y) / half_h) - 1
    shore = np.maximum(ellipse * half_h + 1.2 * canvas.noise(10, 14), max(horizon, 0) + 3 - canvas.y)
    return shore


def _front(canvas: Canvas, horizon: float) -> np.ndarray:
    rng = canvas.rng
    edge = rng.uniform(horizon + 25, canvas.height - 12) + rng.uniform(-0.25, 0.25) * (canvas.x - canvas.width / 2)
    return edge + rng.uniform(1, 4) * canvas.noise(canvas.height, 30)[:1] - canvas.y


def _upright_box(canvas: Canvas, horizon: float) -> np.ndarray:
    rng = canvas.rng
    half_w, left_edge = rng.uniform(20, 50), rng.uniform(-15, canvas.width - 25)
    top, bottom = horizon - rng.uniform(6, 28), horizon + rng.uniform(8, 26)
    across = np.abs(canvas.x - left_edge - half_w) - half_w
    return np.maximum(across, np.maximum(top - canvas.y, canvas.y - bottom))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a thing is painted, how far it leans at most (radians), its relative size, whether it is shaded as a ball."""

    category: str | None
    paint: Callable[[np.random.Generator, np.ndarray, np.ndarray], Fields]
    max_lean: float
    relative_size: float = 1.0
    is_sphere: bool = False


KINDS = (
    _Kind("ball", painting.ball, max_lean=np.pi, is_sphere=True),
    _Kind("crate", painting.crate, max_lean=0.15),
    _Kind("tent", painting.tent, max_lean=0.08, relative_size=1.25),
    _Kind("ring", painting.ring, max_lean=np.pi),
    _Kind("melon", painting.melon, max_lean=0.6, is_sphere=True),
    _Kind("log", painting.log, max_lean=0.5, relative_size=1.35),
)
ROCK = _Kind(None, painting.rock, max_lean=0.3)


@dataclass(frozen=True, slots=True)
class _Place:
    kind: _Kind
    x: float
    y: float
    radius: float


def _paint_things(canvas: Canvas, horizon: float) -> None:
    rng = canvas.rng
    if rng.random() < 0.18:
        _paint_crowd(canvas, horizon)
    places = _arrange(canvas, horizon)
    if rng.random() < 0.3:
        places.append(_place(canvas, horizon, ROCK))
    # Far to near: what stands lower in the picture hides what stands higher.
    for place in sorted(places, key=lambda place: place.y + place.radius):
        _paint_thing(canvas, place, void_band=float(rng.choice([0.0, 1.0], p=[0.7, 0.3])))


def _arrange(canvas: Canvas, horizon: float) -> list[_Place]:
    """Three to nine things, some in rows of two or three of one kind that touch."""
    rng = canvas.rng
    places: list[_Place] = []
    wanted = rng.integers(3, 10)
    while len(places) < wanted:
        kind = KINDS[rng.integers(len(KINDS))]
        place = max((_place(canvas, horizon, kind) for _ in range(4)), key=lambda new: _clearance(new, places))
        in_row = rng.integers(2, 4) if rng.random() < 0.3 else 1
        step = 2 * place.radius * rng.uniform(0.75, 0.95)
        places += [replace(place, x=place.x + step * i, y=place.y + i * rng.uniform(-2, 2)) for i in range(in_row)]
    return places[:wanted]


def _clearance(new: _Place, places: Sequence[_Place]) -> float:
    return min((np.hypot(new.x - old.x, new.y - old.y) - new.radius - old.radius for old in places), default=0.0)


def _place(canvas: Canvas, horizon: float, kind: _Kind) -> _Place:
    """Somewhere on the ground; near things are larger than far ones, and one in seven is small."""
    rng = canvas.rng
    top = max(horizon, 0.0) + 4
    nearness = rng.uniform(0, 1)
    foot_y = top + nearness * (canvas.height - top) + 4
    radius = rng.uniform(6, 9) if rng.random() < 0.15 else rng.uniform(11, 25)
    radius *= (0.7 + 0.4 * nearness) * kind.relative_size
    return _Place(kind, rng.uniform(4, canvas.width - 4), foot_y - radius * 0.9, radius)


def _paint_thing(canvas: Canvas, place: _Place, *, void_band: float) -> None:
    _cast_shadow(canvas, place)
    window, distance, rgb = _look(canvas, place)
    canvas.paint(distance, rgb, Layer(place.kind.category), window=window, void_band=void_band)


def _look(canvas: Canvas, place: _Place) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The window that holds a thing; its signed distance and its colours there, shaded from the side of the light."""
    kind, radius = place.kind, place.radius
    window = canvas.window(place.x, place.y, radius * 1.25 + 2)
    x, y = (canvas.x[window] - place.x) / radius, (canvas.y[window] - place.y) / radius
    lean = canvas.rng.uniform(-kind.max_lean, kind.max_lean)
    u, v = x * np.cos(lean) + y * np.sin(lean), y * np.cos(lean) - x * np.sin(lean)
    distance, rgb = kind.paint(canvas.rng, u, v)
    shade = 1 + 0.12 * canvas.light_side * x - 0.12 * y
    if kind.is_sphere:
        shade = shade * (1.1 - 0.45 * (x**2 + y**2).clip(0, 1))
    return window, distance * radius, rgb * shade[..., None]


def _cast_shadow(canvas: Canvas, place: _Place) -> None:
    """Darkens the ground at the foot, away from the light. The shadow belongs to the segment of the ground."""
    x, y = place.x - 0.25 * canvas.light_side * place.radius, place.y + 0.75 * place.radius
    window = canvas.window(x, y, 1.2 * place.radius)
    across = np.hypot((canvas.x[window] - x) / place.radius, (canvas.y[window] - y) / (0.3 * place.radius))
    canvas.rgb[window] *= (1 - 0.4 * np.clip(1.3 - across, 0, 1))[..., None]


def _paint_crowd(canvas: Canvas, horizon: float) -> None:
    """A cluster of things too small to tell apart: one crowd segment that covers them and the gaps between."""
    rng = canvas.rng
    kind = KINDS[rng.integers(len(KINDS))]
    center = _place(canvas, horizon, kind)
    cluster = np.full_like(canvas.y, np.inf)
    for _ in range(rng.integers(10, 22)):
        x, y = center.x + rng.normal(0, 11), center.y + rng.normal(0, 4)
        window, distance, rgb = _look(canvas, _Place(kind, x, y, rng.uniform(2.2, 3.6)))
        canvas.blend(distance, rgb, window)
        cluster = np.minimum(cluster, np.hypot(canvas.x - x, canvas.y - y) - 4.5)
    canvas.layer_of[cluster < 0] = len(canvas.layers)
    canvas.layers.append(Layer(kind.category, is_crowd=True))


def _finish(canvas: Canvas) -> Scene:
    segment_ids, category_ids, crowd_ids = _name_segments(canvas)
    segments = measure_segments(segment_ids, category_ids=category_ids, crowd_ids=crowd_ids)
    return Scene(_develop(canvas), segment_ids, segments)


def _name_segments(canvas: Canvas) -> tuple[np.ndarray, dict[int, int], set[int]]:
    """Gives every visible layer a segment id: a colour near its category's, so people can read the PNG.

    All stuff of one category is one segment; scraps of fewer than 16 square units become void.
    """
    id_of_layer = np.zeros(len(canvas.layers), dtype=np.int32)
    category_ids: dict[int, int] = {}
    crowd_ids: set[int] = set()
    id_of_stuff: dict[str, int] = {}
    areas = np.bincount(canvas.layer_of.ravel(), minlength=len(canvas.layers)) / canvas.px_per_unit**2
    by_name = {category.name: category for category in CATEGORIES.categories}
    for index, layer in enumerate(canvas.layers):
        if layer.category is None or areas[index] < 16:
            continue
        category = by_name[layer.category]
        segment_id = id_of_stuff.get(category.name) or _fresh_id(canvas.rng, category.color_rgb, category_ids)
        if not category.is_thing:
            id_of_stuff[category.name] = segment_id
        id_of_layer[index] = segment_id
        category_ids[segment_id] = category.category_id
        if layer.is_crowd:
            crowd_ids.add(segment_id)
    return id_of_layer[canvas.layer_of], category_ids, crowd_ids


def _fresh_id(rng: np.random.Generator, color_rgb: tuple[int, int, int], taken: Container[int]) -> int:
    while True:
        color = np.clip(np.array(color_rgb) + rng.integers(-30, 31, size=3), 0, 255).astype(np.uint8)
        segment_id = int(rgb_to_segment_ids(color[None, None])[0, 0])
        if segment_id != VOID_SEGMENT_ID and segment_id not in taken:
            return segment_id


def _develop(canvas: Canvas) -> np.ndarray:
    """Light, colour cast, lens blur and sensor noise, then 8 bits."""
    rng = canvas.rng
    gain = rng.uniform(0.65, 1.15) * rng.uniform(0.93, 1.07, size=3)
    slope = rng.uniform(-0.25, 0.25) * (canvas.x / canvas.width - 0.5)
    rgb = canvas.rgb * gain.astype(np.float32) * (1 + slope)[..., None]
    blur = rng.uniform(0.0, 0.8) * canvas.px_per_unit
    if blur > 0.3:
        rgb = cv2.GaussianBlur(rgb, (0, 0), blur)
    rgb = rgb + rng.uniform(0.01, 0.03) * rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
