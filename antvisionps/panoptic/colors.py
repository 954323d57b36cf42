"""The report page's colours of categories, which people with any kind of colour blindness can tell apart.

`report/site/colors.js` has the same, and says how they were chosen.
"""

from __future__ import annotations

from antvisionps.panoptic.categories import CategorySet

Rgb = tuple[int, int, int]

DISTINCT_RGB: tuple[Rgb, ...] = (
    (0, 114, 178),
    (255, 119, 0),
    (0, 255, 187),
    (102, 51, 34),
    (153, 17, 255),
    (255, 187, 255),
    (170, 238, 119),
    (187, 119, 85),
    (68, 34, 170),
    (153, 34, 102),
    (255, 85, 255),
    (204, 34, 0),
    (85, 187, 170),
    (221, 238, 0),
    (238, 170, 136),
    (170, 136, 187),
    (187, 34, 85),
    (102, 34, 119),
    (255, 68, 136),
    (170, 51, 221),
    (153, 187, 85),
    (153, 238, 221),
    (238, 204, 68),
    (51, 119, 17),
)


def page_colors(categories: CategorySet) -> list[Rgb]:
    """The colour of each class index. The more vivid ones go to things, as stuff covers most of an image; more
    categories than there are distinct colours keep their own."""
    if len(categories) > len(DISTINCT_RGB):
        return [category.color_rgb for category in categories.categories]
    return sorted(DISTINCT_RGB[: len(categories)], key=lambda rgb: min(rgb) - max(rgb))
