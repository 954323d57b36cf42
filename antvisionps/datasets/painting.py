"""The paint of the built-in scenes: a canvas, textures of stuff and looks of things.

Shapes are signed distances (negative inside): one function gives the antialiased edge that the photo shows and the hard
edge that the map has. Lengths are in units; the shorter side of every picture has 128.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

UNITS = 128
"""Length of a picture's shorter side in units."""

Fields = tuple[np.ndarray, np.ndarray]
"""Signed distance (H, W) and colours (H, W, 3) in a window of the canvas."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One painted shape: its category, or None where it is unlabelled."""

    category: str | None
    is_crowd: bool = False


class Canvas:
    """The picture in the making: colours from 0 to 1, and for every pixel the layer on top of it (0: void)."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.px_per_unit = min(height, width) / UNITS
        self.height, self.width = height / self.px_per_unit, width / self.px_per_unit
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        self.x, self.y = (columns + 0.5) / self.px_per_unit, (rows + 0.5) / self.px_per_unit
        self.rgb = np.zeros((height, width, 3), dtype=np.float32)
        self.layer_of = np.zeros((height, width), dtype=np.int32)
        self.layers = [Layer(None)]
        self.light_side = float(rng.choice([-1, 1]))

    def noise(self, cell_y: float, cell_x: float) -> np.ndarray:
        """Smooth noise of unit variance whose blobs are about that many units high and wide."""
        rows, columns = int(self.height / cell_y) + 3, int(self.width / cell_x) + 3
        grid = self.rng.standard_normal((rows, columns)).astype(np.float32)
        fine = cv2.resize(grid, self.layer_of.shape[::-1], interpolation=cv2.INTER_CUBIC)
        return fine / max(float(fine.std()), 1e-6)

    def paint(
        self,
        distance: np.ndarray,
        rgb: np.ndarray,
        layer: Layer,
        *,
        window: tuple[slice, slice] = (slice(None), slice(None)),
        void_band: float = 0.0,
    ) -> None:
        """Puts a layer on top where the signed distance is negative; a band of that width outside becomes void."""
        self.blend(distance, rgb, window)
        layer_of = self.layer_of[window]
        layer_of[distance < void_band] = 0
        layer_of[distance < 0] = len(self.layers)
        self.layers.append(layer)

    def blend(self, distance: np.ndarray, rgb: np.ndarray, window: tuple[slice, slice]) -> None:
        """Colours the pixels of negative signed distance, with soft edges, and leaves the layers alone."""
        cover = np.clip(0.5 - distance * self.px_per_unit, 0, 1)[..., None]
        self.rgb[window] += cover * (rgb - self.rgb[window])

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels at most `reach` from (x, y); empty off the canvas."""

        def pixels(center: float) -> slice:
            first, last = (int((center + side * reach) * self.px_per_unit) for side in (-1, 1))
            return slice(max(first, 0), max(last + 2, 0))

        return pixels(y), pixels(x)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)


# Stuff: textures over the whole canvas, (H, W, 3).


def sky(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    hue, saturation = rng.uniform(0.53, 0.62), rng.uniform(0.35, 0.6)
    high = _hsv(hue, saturation, rng.uniform(0.75, 0.95))
    low = _hsv(rng.uniform(0.05, 0.12), 0.25, 0.95) if rng.random() < 0.3 else _hsv(hue, 0.15, 0.95)
    depth = np.clip(canvas.y / (0.5 * canvas.height), 0, 1)[..., None]
    clouds = np.clip(0.5 * canvas.noise(10, 30) + 0.3 * canvas.noise(5, 12) - rng.uniform(0.0, 0.5), 0, 1)[..., None]
    clear = high + depth * (low - high)
    return clear + 0.8 * clouds * (np.float32(0.97) - clear)


def grass(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    base = _hsv(rng.uniform(0.22, 0.33), rng.uniform(0.45, 0.7), rng.uniform(0.4, 0.6))
    blades = 0.14 * canvas.noise(3.0, 1.0) + 0.08 * canvas.noise(25, 25)
    dry = 0.05 * canvas.noise(12, 18)[..., None] * np.array([1.0, 0.5, 0.0], dtype=np.float32)
    return base * (1 + blades)[..., None] + dry


def sand(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    base = _hsv(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.45), rng.uniform(0.75, 0.9))
    grains = 0.05 * canvas.noise(0.9, 0.9) + 0.05 * canvas.noise(7, 35) + 0.03 * canvas.noise(30, 30)
    return base * (1 + grains)[..., None]


def water(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    base = _hsv(rng.uniform(0.5, 0.61), rng.uniform(0.5, 0.75), rng.uniform(0.4, 0.65))
    period = rng.uniform(3.5, 5.5) * (0.6 + 0.8 * canvas.y / canvas.height)
    phase = 2 * np.pi * canvas.y / period + 1.2 * canvas.noise(6, 18)
    waves = 0.13 * np.sin(phase) + 0.05 * canvas.noise(1.5, 6)
    glints = 0.25 * np.clip(np.sin(phase) + 0.5 * canvas.noise(2, 6) - 1.1, 0, 1)
    return base * (1 + waves)[..., None] + glints[..., None]


def wall(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    brick_h, brick_w = rng.uniform(4.5, 6.5), rng.uniform(10, 14)
    base = _hsv(rng.uniform(0.0, 0.06), rng.uniform(0.35, 0.65), rng.uniform(0.45, 0.65))
    mortar = np.float32(rng.uniform(0.6, 0.75))
    row_at, row = np.modf(canvas.y / brick_h)
    column_at, column = np.modf(canvas.x / brick_w + 0.5 * (row % 2))
    tones = rng.uniform(-0.16, 0.16, size=(int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    bricks = base * (1 + tones[row.astype(int), column.astype(int)] + 0.05 * canvas.noise(1, 1))[..., None]
    is_joint = (row_at * brick_h < 1.0) | (column_at * brick_w < 1.0)
    return np.where(is_joint[..., None], mortar, bricks)


def gravel(canvas: Canvas) -> np.ndarray:
    """Unlabelled ground."""
    tone = canvas.rng.uniform(0.4, 0.6) * (1 + 0.15 * canvas.noise(2, 2) + 0.1 * canvas.noise(0.9, 0.9))
    return np.repeat(tone[..., None], 3, axis=2)


# Things: from local coordinates (u right, v down, 1 = the thing's radius) to distance in radii and colours.


def ball(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    hue = rng.uniform(0, 1)
    wedges = np.floor((np.arctan2(v, u) / np.pi + 1) * 3) % 2 == 0
    light = _hsv(rng.uniform(0.1, 0.17), rng.uniform(0.0, 0.5), 0.95)
    return np.hypot(u, v) - 1, np.where(wedges[..., None], _hsv(hue, 0.8, 0.8), light)


def melon(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    """A ball's outline with stripes that bend around it."""
    stripes = np.sin(9 * v / np.sqrt(np.clip(1.15 - u**2, 0.1, None)) + rng.uniform(0, 6))
    hue = rng.uniform(0.22, 0.4)
    dark, light = _hsv(hue, 0.75, 0.35), _hsv(hue - 0.05, 0.55, rng.uniform(0.65, 0.8))
    return np.hypot(u, v * 1.08) - 1, light + np.clip(0.5 + 2 * stripes, 0, 1)[..., None] * (dark - light)


def crate(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    half_h = rng.uniform(0.62, 0.8)
    edge = np.maximum(np.abs(u) - 0.8, np.abs(v) - half_h)
    boards = np.floor((v / half_h + 1) * 2).astype(int).clip(0, 3)
    tone = rng.uniform(0.85, 1.1, size=4).astype(np.float32)[boards]
    gap = np.abs((v / half_h + 1) * 2 % 1 - 0.5) > 0.43
    tone = np.where(edge > -0.16, 1.25, np.where(gap, 0.5, tone))
    return edge, _wood(rng) * tone[..., None]


def log(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    """A crate's colours in a long, round-ended outline, with a cut end."""
    half_h = rng.uniform(0.24, 0.32)
    straight = 1 - half_h
    edge = np.hypot(np.maximum(np.abs(u) - straight, 0), v) - half_h
    bark = 0.9 + 0.2 * np.sin(v / half_h * 7 + 2 * np.sin(3 * u + rng.uniform(0, 6)))
    cut = np.hypot((u - straight) * 1.3, v)
    tone = np.where(cut < 0.8 * half_h, 1.5 - 0.25 * np.sin(cut / half_h * 16), bark * (1 - 0.4 * (v / half_h).clip(0)))
    return edge, _wood(rng) * tone[..., None]


def tent(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    slope = rng.uniform(0.5, 0.62)
    edge = np.maximum(v - 0.7, (np.abs(u) - (v + 0.85) * slope) / np.hypot(1, slope))
    stripes = np.floor(u * 4 + 100) % 2 == 0
    hue = rng.choice([rng.uniform(0.0, 0.17), rng.uniform(0.55, 0.8)])
    cloth = np.where(stripes[..., None], _hsv(hue, 0.75, 0.85), _hsv(hue, 0.35, 0.95))
    is_door = np.abs(u) < (v + 0.2) * 0.28
    return edge, np.where(is_door[..., None], _hsv(hue, 0.6, 0.25), cloth)


def ring(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    thickness = rng.uniform(0.2, 0.28)
    from_middle = np.hypot(u, v) - (1 - thickness)
    bands = np.floor((np.arctan2(v, u) / np.pi + 1) * 4) % 2 == 0
    color = np.where(bands[..., None], _hsv(rng.uniform(-0.05, 0.08), 0.85, 0.85), np.float32(0.92))
    return np.abs(from_middle) - thickness, color * (1 - 0.35 * np.abs(from_middle / thickness)).clip(0.5)[..., None]


def rock(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> Fields:
    """An unlabelled object."""
    angle = np.arctan2(v, u)
    outline = 0.8 + 0.1 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.06 * np.sin(7 * angle + rng.uniform(0, 6))
    tone = rng.uniform(0.35, 0.55) * (1.1 - 0.4 * v + 0.1 * np.sin(9 * u + 4 * v))
    return np.hypot(u, v * 1.25) - outline, np.repeat(tone[..., None], 3, axis=2)


def _wood(rng: np.random.Generator) -> np.ndarray:
    return _hsv(rng.uniform(0.05, 0.11), rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.75))
